"""Checkpoints of mmpretrain and mmcls: names, logits, and what mmengine and mmcv keep around the weights.

The figures in goldens/mmpretrain.json were written by mmpretrain itself; the package is not needed here.
"""

from __future__ import annotations

import json
import pickletools
import re
import sys
import types
import zipfile
from collections import Counter, OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import randomized
from goldens.recipe import image, weight
from libraries import CONFIG, PLAIN, TOLERANCE, images, save_state
from torch import Tensor

from swinv2 import checkpoints, convert
from swinv2.artifact import ArtifactError, Record
from swinv2.checkpoints import DIALECTS, buffers
from swinv2.checkpoints.mmengine import read_meta
from swinv2.config import VARIANTS, SwinV2Config
from swinv2.counts import parameter_shapes
from swinv2.model import SwinV2
from swinv2.preprocess import Preprocess

GOLDENS = json.loads((Path(__file__).parent / "goldens" / "mmpretrain.json").read_text())
SMALL = {"clamped window, trained with others": CONFIG, "one window": PLAIN}
THEIRS = DIALECTS["mmpretrain"]


def shaped(config: SwinV2Config) -> dict[str, Tensor]:
    """What we write for mmpretrain, without values."""
    state = {name: torch.empty(shape, device="meta") for name, shape in parameter_shapes(config).items()}
    return THEIRS.from_official(state, config)


def drawn(config: SwinV2Config) -> dict[str, Tensor]:
    """Weights as the goldens were computed with, by mmpretrain's names, and its buffers."""
    state = shaped(config)
    return {
        name: tensor
        if buffers.PATTERN.fullmatch(name)
        else torch.from_numpy(weight(name, tuple(tensor.shape)))
        for name, tensor in state.items()
    }


@pytest.mark.parametrize("model", GOLDENS["models"])
def test_names_and_shapes_are_those_of_mmpretrain(model):
    found = {name: list(tensor.shape) for name, tensor in shaped(VARIANTS[model]).items()}
    column = GOLDENS["models"].index(model)
    expected = {}
    for name, shapes in GOLDENS["shapes"].items():
        stage = re.match(r"backbone\.stages\.(\d)\.blocks", name)
        for block in range(VARIANTS[model].depths[int(stage[1])] if stage else 1):
            expected[name.replace("*", str(block))] = shapes[column]
    assert found == expected


@pytest.mark.parametrize("kind", SMALL)
def test_their_weights_give_their_logits(kind, tmp_path):
    torch.save({"meta": {}, "state_dict": drawn(SMALL[kind])}, tmp_path / "theirs.pth")
    model = checkpoints.load(tmp_path / "theirs.pth", image_size=128).eval()
    assert replace(model.config, architecture=SMALL[kind].architecture) == SMALL[kind]
    with torch.no_grad():
        logits = model(torch.from_numpy(image(128)))[0].numpy()
    golden = np.array(GOLDENS["logits"][kind])
    assert np.abs(logits - golden).max() <= TOLERANCE * np.abs(golden).max()


def test_what_is_written_holds_their_tensors_and_describes_the_model(tmp_path):
    """mmpretrain builds the model from the settings in it: Config.fromstring(meta["cfg"], ".py")."""
    torch.save({"state_dict": drawn(CONFIG)}, tmp_path / "theirs.pth")
    record = Record(CONFIG, Preprocess((128, 128), "shorter", 140, "bilinear"), classes=tuple("abcdefg"))
    checkpoints.save(checkpoints.load(tmp_path / "theirs.pth"), tmp_path / "ours.safetensors", record)
    convert.convert(tmp_path / "ours.safetensors", tmp_path / "back.pth", to="mmpretrain")
    saved = torch.load(tmp_path / "back.pth", weights_only=True)
    assert saved["state_dict"].keys() == drawn(CONFIG).keys()
    assert all(tensor.equal(saved["state_dict"][name]) for name, tensor in drawn(CONFIG).items())
    assert saved["meta"]["dataset_meta"] == {"classes": tuple("abcdefg")}
    settings: dict = {}
    exec(saved["meta"]["cfg"], settings)
    assert settings["model"]["backbone"] == {
        "type": "SwinTransformerV2",
        "arch": {
            "embed_dims": 32, "depths": [2, 1, 2, 1], "num_heads": [1, 2, 4, 8], "extra_norm_every_n_blocks": 0,
        },
        "img_size": 128, "patch_size": 4, "in_channels": 3, "window_size": [8, 8, 8, 4],
        "pretrained_window_sizes": [6, 6, 6, 3], "drop_path_rate": 0.0,
        "stage_cfgs": {"block_cfgs": {"ffn_ratio": 4.0}},
    }  # fmt: skip
    assert settings["data_preprocessor"]["mean"] == [123.675, 116.28, 103.53]
    back = checkpoints.read(tmp_path / "back.pth").record
    assert (back.config, back.preprocess, back.classes) == (record.config, record.preprocess, record.classes)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (replace(PLAIN, image_size=(64, 128)), "windows are square"),
        (
            replace(PLAIN, depths=(2, 2, 2, 2), extra_norm_period=2),
            "extra norm after every 2 blocks of any stage",
        ),
        (
            replace(PLAIN, depths=(1, 1), heads=(1, 2), pretrained_windows=(0, 0), image_size=(32, 32)),
            "4 stages",
        ),
    ],
)
def test_what_mmpretrain_cannot_express_is_not_written(config, words, tmp_path):
    checkpoints.save(SwinV2(config), tmp_path / "ours.safetensors")
    with pytest.raises(ArtifactError, match=words):
        convert.convert(tmp_path / "ours.safetensors", tmp_path / "theirs.pth", to="mmpretrain")
    with pytest.raises(ValueError, match=r"ends in \.pth or \.pt"):
        convert.convert(tmp_path / "ours.safetensors", tmp_path / "a.safetensors", to="mmpretrain")


# ---------------------------------------------------------------------- files as people have them


@pytest.fixture
def history(monkeypatch) -> type:
    """mmengine's HistoryBuffer, as far as pickle sees it: arrays, and its own methods by getattr."""

    class HistoryBuffer:
        def __init__(self) -> None:
            self.log, self.max_length = np.array([0.7, 0.5]), 1_000_000
            self.statistics_methods = {"mean": HistoryBuffer.mean}

        def mean(self) -> np.float64:
            return self.log.mean()

    module = types.ModuleType("mmengine.logging.history_buffer")
    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = module.__name__, "HistoryBuffer"
    HistoryBuffer.mean.__module__, HistoryBuffer.mean.__qualname__ = module.__name__, "HistoryBuffer.mean"
    module.HistoryBuffer = HistoryBuffer  # type: ignore[attr-defined]
    for name in ("mmengine", "mmengine.logging", module.__name__):
        monkeypatch.setitem(sys.modules, name, module)
    return HistoryBuffer


PIPELINE = """[dict(type='LoadImageFromFile'),
    dict(backend='pillow', edge='short', interpolation='bicubic', scale=146, type='ResizeEdge'),
    dict(crop_size=128, type='CenterCrop'), dict(type='PackInputs')]"""
SETTINGS = f"""
auto_scale_lr = dict(base_batch_size=1024)
data_preprocessor = dict(mean=[127.5, 102.0, 51.0], num_classes=7, std=[51.0, 51.0, 51.0], to_rgb=True)
model = dict(backbone=dict(arch='tiny', type='SwinTransformerV2'), type='ImageClassifier')
test_dataloader = dict(batch_size=64, dataset=dict(pipeline={PIPELINE}, type='ImageNet'))
"""


def test_a_checkpoint_of_a_training_run_is_read_whole(history, tmp_path):
    state = drawn(CONFIG)
    saved = {
        "meta": {"epoch": 3, "cfg": SETTINGS, "dataset_meta": {"classes": tuple("abcdefg")}},
        "state_dict": OrderedDict(state),  # the averaged weights, where there are two sets
        "message_hub": {"log_scalars": {"train/loss": history()}, "runtime_info": {"eta": np.float64(0.0)}},
        "optimizer": {"state": {0: {"step": torch.tensor(12.0)}}, "param_groups": [{"lr": 0.01}]},
        "param_schedulers": [{"begin": 0, "by_epoch": False}],
        "ema_state_dict": {"steps": torch.tensor(3), **{f"module.{n}": t + 1 for n, t in state.items()}},
    }
    torch.save(saved, tmp_path / "epoch_3.pth")
    with zipfile.ZipFile(tmp_path / "epoch_3.pth") as file:
        pickled = file.read(next(name for name in file.namelist() if name.endswith("data.pkl")))
    asked = {name for code, name, _ in pickletools.genops(pickled) if code.name == "GLOBAL"}
    assert asked == set(GOLDENS["pickled"])  # as mmengine's own files
    checkpoint = checkpoints.read(tmp_path / "epoch_3.pth")
    assert checkpoint.tensors["norm.weight"].equal(state["backbone.norm3.weight"])
    assert checkpoint.record.classes == tuple("abcdefg")
    assert checkpoint.record.config == CONFIG
    expected = Preprocess((128, 128), "shorter", 146, "bicubic", (0.5, 0.4, 0.2), (0.2, 0.2, 0.2))
    assert checkpoint.record.preprocess == expected


def test_a_checkpoint_of_mmcls_gives_its_names_and_leaves_out_the_second_set_of_weights(tmp_path):
    state = drawn(CONFIG)
    second = {
        f"ema_{n.replace('.', '_')}": t + 1 for n, t in state.items() if not buffers.PATTERN.fullmatch(n)
    }
    meta = {
        "CLASSES": list("abcdefg"),
        "config": "model = dict(type='ImageClassifier')\n",
        "mmcls_version": "0.25",
    }
    torch.save({"meta": meta, "state_dict": state | second}, tmp_path / "epoch_3.pth")
    checkpoint = checkpoints.read(tmp_path / "epoch_3.pth")
    assert checkpoint.record.classes == tuple("abcdefg")
    assert "the second set of weights that mmcv keeps for averaging" in checkpoint.dropped
    assert checkpoint.tensors["head.weight"].equal(state["head.fc.weight"])


@pytest.mark.parametrize("prefix", ["backbone.", ""])
def test_a_backbone_alone_is_read_with_or_without_its_prefix(prefix, tmp_path):
    state = {n.replace("backbone.", prefix): t for n, t in drawn(CONFIG).items() if "head" not in n}
    state |= {f"{prefix}norm0.weight": torch.ones(32), f"{prefix}norm0.bias": torch.ones(32)}
    torch.save({"state_dict": state}, tmp_path / "backbone.pth")
    checkpoint = checkpoints.read(tmp_path / "backbone.pth")
    assert checkpoint.record.config == replace(CONFIG, num_classes=0)
    assert "the norms of earlier feature maps" in checkpoint.dropped


def test_a_head_of_another_kind_is_named_and_not_dropped(tmp_path):
    state = drawn(CONFIG) | {"neck.mlp.weight": torch.zeros(2)}
    torch.save({"state_dict": state}, tmp_path / "c.pth")
    with pytest.raises(ArtifactError, match=r"neck\.mlp\.weight"):
        checkpoints.read(tmp_path / "c.pth")


# ---------------------------------------------------------------------- the settings in it

TEST = "test_dataloader = dict(dataset=dict(pipeline=[{}]))\n"
RGB = "data_preprocessor = dict(mean=[127.5, 102, 51], std=[51, 51, 51], to_rgb=True)\n"
BOTH = {"mean": (0.5, 0.4, 0.2), "std": (0.2, 0.2, 0.2)}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (RGB + TEST.format("dict(type='Resize', scale=(96, 64), interpolation='bicubic')"),
         Preprocess((64, 96), "squash", 64, "bicubic", **BOTH)),
        (RGB + TEST.format("{'type': 'ResizeEdge', 'scale': 73, 'interpolation': 'bilinear'}, "
                           "{'type': 'CenterCrop', 'crop_size': (64, 64)}"),
         Preprocess((64, 64), "shorter", 73, "bilinear", **BOTH)),
        ("data = dict(val=dict(pipeline=[dict(type='Resize', size=(73, -1), interpolation='bicubic'), "
         "dict(type='CenterCrop', crop_size=64), "
         "dict(type='Normalize', mean=[127.5, 102, 51], std=[51, 51, 51], to_rgb=True)]))",
         Preprocess((64, 64), "shorter", 73, "bicubic", **BOTH)),
        (RGB + TEST.format("dict(type='ResizeEdge', scale=73, interpolation='area'), "
                           "dict(type='CenterCrop', crop_size=64)"), None),
        (RGB + TEST.format("dict(type='Resize', scale=64, keep_ratio=True, interpolation='bicubic')"), None),
        (RGB + TEST.format("dict(type='ResizeEdge', scale=side, interpolation='bicubic'), "
                           "dict(type='CenterCrop', crop_size=64)"), None),
        (RGB, None), ("", None), ("model = (", None), ("\0", None), ("x = " + "-" * 90_000 + "1", None), (7, None),
    ],
)  # fmt: skip
def test_preprocessing_is_read_from_the_settings_or_not_at_all(settings, expected):
    found = read_meta({"cfg": settings})
    assert found.preprocess == expected
    assert found.image_size == (expected.size if expected else None)


@pytest.mark.parametrize("names", [None, "abcdefg", ["a", None], [1, 2], {"a": 1}, [""]])
def test_what_is_no_list_of_names_names_nothing(names):
    assert read_meta({"dataset_meta": {"classes": names}}).classes == ()


def test_settings_are_parsed_and_never_run(tmp_path):
    canary = tmp_path / "canary"
    text = (
        f"import pathlib\nmodel = dict(x=pathlib.Path({str(canary)!r}).touch())\nopen({str(canary)!r}, 'w')\n"
    )
    torch.save({"meta": {"cfg": text + SETTINGS}, "state_dict": drawn(CONFIG)}, tmp_path / "c.pth")
    assert checkpoints.read(tmp_path / "c.pth").record.preprocess.resize_to == 146
    assert not canary.exists()


def test_weights_for_pictures_that_begin_with_blue_give_the_same_logits_for_red_first(tmp_path):
    state, x = drawn(CONFIG), images(128)
    blue_first = SETTINGS.replace("to_rgb=True", "to_rgb=False")
    for name, text in (("red", SETTINGS), ("blue", blue_first)):
        torch.save({"meta": {"cfg": text}, "state_dict": state}, tmp_path / f"{name}.pth")
    red, blue = (checkpoints.load(tmp_path / f"{name}.pth").eval() for name in ("red", "blue"))
    with torch.no_grad():
        assert torch.allclose(blue(x), red(x.flip(1)), atol=1e-5)
    assert blue.record.preprocess.mean == red.record.preprocess.mean[::-1]
    assert "blue first" in checkpoints.read(tmp_path / "blue.pth").dropped[-1]


def test_settings_and_windows_that_contradict_each_other_are_refused(tmp_path):
    for size, words in ((192, "pictures of 192x192"), (128, None)):
        text = SETTINGS.replace("crop_size=128", f"crop_size={size}")
        torch.save({"meta": {"cfg": text}, "state_dict": drawn(CONFIG)}, tmp_path / f"{size}.pth")
        if words:
            with pytest.raises(ArtifactError, match=words):
                checkpoints.read(tmp_path / f"{size}.pth")
        assert checkpoints.read(tmp_path / f"{size}.pth", architecture=CONFIG).record.config == CONFIG
    # Windows 4, 4, 4, 4 over a last grid of 3, as with pad_small_map=True.
    meta = {"cfg": SETTINGS.replace("=128", "=96")}
    torch.save({"meta": meta, "state_dict": drawn(PLAIN)}, tmp_path / "96.pth")
    with pytest.raises(ArtifactError, match=r"windows 4, 4, 4, 4 .* has 4, 4, 4, 3 for a picture of 96x96"):
        checkpoints.read(tmp_path / "96.pth")


# ---------------------------------------------------------------------- class names that are a guess


@pytest.mark.parametrize(
    ("name", "classes", "words"),
    [
        ("mine.pth", "auto", "the names of imagenet-1k, from the number of classes alone"),
        ("mine.pth", "imagenet", ""), ("mine.pth", "none", ""),
        ("swinv2_tiny_patch4_window8_256.pth", "auto", ""),
        ("models--timm--swinv2_tiny_window8_256.ms_in1k/snapshots/0/model.safetensors", "auto", ""),
    ],
)  # fmt: skip
def test_names_taken_from_the_number_of_classes_are_called_a_guess(name, classes, words, tmp_path, capsys):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    path = save_state(replace(PLAIN, num_classes=1000), tmp_path / name)
    done = checkpoints.read(path, classes=classes, architecture=replace(PLAIN, num_classes=1000))
    assert done.guessed == words
    assert bool(done.record.classes) is (classes != "none")
    assert ("class_names" in done.record.provenance) is bool(words)


def test_convert_says_in_one_line_that_it_guessed_names_and_how_to_decide(tmp_path, capsys):
    path = save_state(replace(PLAIN, num_classes=1000), tmp_path / "mine.pth")
    said = Counter()
    for options in ({}, {"classes": "none"}, {"classes": "imagenet"}, {"num_classes": 3}):
        convert.command(str(path), str(tmp_path / "out.safetensors"), **options)
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("guessed")]
        said[str(options)] = len(lines)
        assert all("--classes imagenet, none or names.txt" in line for line in lines)
    assert list(said.values()) == [1, 0, 0, 0]
    assert "class_names" not in checkpoints.read(tmp_path / "out.safetensors").record.provenance


def test_names_in_the_file_are_no_guess(tmp_path):
    config = replace(CONFIG, num_classes=1000)
    names = tuple(f"part {i}" for i in range(1000))
    state = THEIRS.from_official(randomized(SwinV2(config)).state_dict(), config)
    torch.save({"meta": {"dataset_meta": {"classes": names}}, "state_dict": state}, tmp_path / "c.pth")
    checkpoint = checkpoints.read(tmp_path / "c.pth")
    assert (checkpoint.record.classes, checkpoint.guessed) == (names, "")
