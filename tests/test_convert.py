"""The verb `swinv2 convert`: what it writes, what it refuses, what it says."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from libraries import CONFIG, PLAIN, save_state, save_trained

from swinv2 import checkpoints, convert
from swinv2.artifact import ArtifactError
from swinv2.counts import parameter_shapes
from swinv2.model import SwinV2


@pytest.fixture
def trained(tmp_path) -> Path:
    return save_trained(tmp_path)


@pytest.mark.parametrize(
    ("result", "to", "written"),
    [
        ("a.safetensors", None, "swinv2"), ("a.pth", None, "microsoft"), ("a.pt", None, "microsoft"),
        ("a.pdparams", None, "paddle"), ("a", None, "transformers"), ("a.safetensors", "timm", "timm"),
        ("a.bin", "microsoft", "microsoft"), ("a.pth", "simmim", "simmim"),
    ],
)  # fmt: skip
def test_the_suffix_or_the_option_says_what_is_written(result, to, written, trained):
    done = convert.convert(trained, trained.parent / "out" / result, to=to)
    assert (done.recognised, done.written) == ("swinv2", written)
    again = checkpoints.read(trained.parent / "out" / result, image_size=64, window=4)
    assert again.dialect == written


@pytest.mark.parametrize(
    ("result", "to", "words"),
    [
        ("a.onnx", None, "which does not say what to write"), ("a.bin", None, "which does not say what to write"),
        ("a.pth", "swinv2", "ends in .safetensors"), ("a.pth", "paddle", "ends in .pdparams"),
        ("a.pth", "transformers", "a folder"), ("trained.safetensors", None, "is the source"),
    ],
)  # fmt: skip
def test_a_result_that_cannot_be_meant_is_refused_before_anything_is_written(result, to, words, trained):
    before = trained.read_bytes()
    with pytest.raises(ValueError, match=words):
        convert.convert(trained, trained.parent / result, to=to)
    assert [path.name for path in trained.parent.iterdir()] == ["trained.safetensors"]
    assert trained.read_bytes() == before


@pytest.mark.parametrize(
    ("to", "architecture", "words"),
    [
        ("torchvision", replace(CONFIG), "one window"),
        ("torchvision", replace(PLAIN, image_size=(64, 64)), "one window"),
        ("torchvision", replace(PLAIN, num_classes=0), "always have a head"),
        ("timm", replace(PLAIN, extra_norm_period=2), "no extra norm"),
        ("transformers", replace(PLAIN, extra_norm_period=2), "no extra norm"),
        ("microsoft", replace(PLAIN, image_size=(64, 128)), "windows are square"),
    ],
)
def test_what_a_library_cannot_express_is_not_written(to, architecture, words, tmp_path):
    checkpoints.save(SwinV2(architecture), tmp_path / "a.safetensors")
    with pytest.raises(ArtifactError, match=words):
        convert.convert(
            tmp_path / "a.safetensors", tmp_path / ("b" if to == "transformers" else "b.pth"), to=to
        )
    assert not (tmp_path / "b.pth").exists()


def test_extra_norms_survive_the_official_format(tmp_path):
    config = replace(PLAIN, extra_norm_period=2, depths=(1, 1, 4, 1))
    checkpoint = checkpoints.read(save_state(config, tmp_path / "h.pth"))
    assert checkpoint.record.config.extra_norm_period == 2
    assert "layers.2.blocks.3.norm3.bias" in checkpoint.tensors


def test_the_command_says_what_it_recognised_counted_and_dropped(tmp_path, capsys):
    path = save_state(PLAIN, tmp_path / "c.pth", "torchvision")
    assert convert.command(str(path), str(tmp_path / "out.safetensors"), num_classes=2) == 0
    printed = capsys.readouterr().out
    count = sum(math.prod(shape) for shape in parameter_shapes(replace(PLAIN, num_classes=2)).values())
    for words in (
        "torchvision: swinv2",
        f"{count:,} parameters",
        "k part of the qkv bias",
        "12 derived buffers",
        "head.weight",
    ):
        assert words in printed
    assert convert.command(str(path), str(tmp_path / "out.pth"), json=True) == 0
    assert json.loads(capsys.readouterr().out)["recognised"] == "torchvision"
