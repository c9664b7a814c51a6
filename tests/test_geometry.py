"""Which architecture a file is: from names, shapes, buffers and what lies beside; contradictions are refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import timm
import torch
from libraries import CONFIG, PLAIN, TOLERANCE, difference, images, save_state, shuffled, timm_model
from torch import Tensor

from swinv2 import checkpoints
from swinv2.artifact import ArtifactError
from swinv2.checkpoints import buffers, geometry
from swinv2.config import VARIANTS, SwinV2Config
from swinv2.counts import parameter_shapes
from swinv2.preprocess import Preprocess

GEOMETRIES = {
    "w8 256": (256, 8, (0, 0, 0, 0)),
    "w16 256": (256, 16, (0, 0, 0, 0)),
    "w12to16": (256, 16, (12, 12, 12, 6)),
    "w12to24": (384, 24, (12, 12, 12, 6)),
    "w12 192": (192, 12, (0, 0, 0, 0)),
    "w16 512": (512, 16, (8, 8, 8, 8)),
}


@pytest.mark.parametrize("geometry_name", GEOMETRIES)
def test_buffers_are_those_of_timm_and_say_the_geometry(geometry_name):
    size, window, pretrained = GEOMETRIES[geometry_name]
    config = SwinV2Config(
        image_size=size, window=window, embed_dim=32, depths=(2, 2, 2, 1), heads=(1, 2, 4, 8),
        pretrained_windows=pretrained, num_classes=3,
    )  # fmt: skip
    state = {name: torch.zeros(shape) for name, shape in parameter_shapes(config).items()}
    ours, theirs = buffers.derive(config), dict(timm_model(config).named_buffers())
    theirs = {name: tensor for name, tensor in theirs.items() if not name.endswith("k_bias")}
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.allclose(tensor, theirs[name].reshape(tensor.shape), rtol=0, atol=1e-6), name
    assert geometry.infer(state | theirs, "file") == (config, "")


def test_every_variant_is_recognised_by_its_buffers():
    for variant in VARIANTS.values():
        shapes = {
            name: torch.empty(shape, device="meta") for name, shape in parameter_shapes(variant).items()
        }
        state = shapes | buffers.derive(variant)
        assert geometry.infer(state, "file") == (variant, "")


def test_a_file_without_odd_blocks_takes_the_smallest_size_and_says_so(tmp_path):
    config = replace(PLAIN, depths=(1, 1, 1, 1), image_size=(256, 256))
    checkpoint = checkpoints.read(save_state(config, tmp_path / "c.pth"))
    assert checkpoint.record.config == replace(config, image_size=(128, 128))
    assert checkpoint.assumed == "image size 128, the smallest that its windows fit in"
    assert checkpoints.read(tmp_path / "c.pth", image_size=256).record.config == config


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("swinv2_base_patch4_window12to24_192to384_22kto1k_ft.pth", "swinv2_base_window12to24_192to384"),
        ("my-swinv2_tiny_window16_256-v3.safetensors", "swinv2_tiny_window16_256"),
        ("microsoft--swinv2-small-patch4-window8-256.bin", "swinv2_small_window8_256"),
        (
            "SwinTransformerV2_large_patch4_window16_256_pretrained.pdparams",
            "swinv2_large_window12to16_192to256",
        ),
        ("swin_v2_s-637d8ceb.pth", "swinv2_small_window8_256"),
    ],
)
def test_a_name_inside_the_file_name_decides(name, expected):
    assert geometry.known_name([name]) == expected
    variant = VARIANTS[expected]
    state = {n: torch.empty(shape, device="meta") for n, shape in parameter_shapes(variant).items()}
    assert geometry.infer(state, "file", names=[name]) == (variant, "")


def test_the_folder_names_a_file_that_is_called_like_any_other(tmp_path):
    assert (
        geometry.names_of("a/swinv2_tiny_window8_256.ms_in1k/model.safetensors")[1]
        == "swinv2_tiny_window8_256.ms_in1k"
    )
    cached = "hub/models--timm--swinv2_tiny_window8_256.ms_in1k/snapshots/0123/model.safetensors"
    assert geometry.known_name(geometry.names_of(cached)) == "swinv2_tiny_window8_256"
    assert geometry.known_name(geometry.names_of("swinv2_tiny_window8_256/checkpoint_12.pth")) is None


def state_of(architecture: str) -> dict[str, Tensor]:
    shapes = parameter_shapes(VARIANTS[architecture])
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def test_an_ambiguous_file_lists_what_it_may_be_and_the_option_to_give():
    with pytest.raises(
        ArtifactError, match=r"may be any of swinv2_tiny_window8_256, swinv2_tiny_window16_256"
    ) as error:
        geometry.infer(state_of("swinv2_tiny_window8_256"), "file.pth")
    assert "--architecture" in str(error.value)
    found, _ = geometry.infer(state_of("swinv2_tiny_window8_256"), "file.pth", window=16)
    assert found.architecture == "swinv2_tiny_window16_256"
    found, _ = geometry.infer(
        state_of("swinv2_tiny_window8_256"),
        "file.pth",
        architecture="SwinTransformerV2_tiny_patch4_window16_256",
    )
    assert found.architecture == "swinv2_tiny_window16_256"


def test_a_variant_that_its_shapes_alone_decide_needs_no_name():
    assert (
        geometry.infer(state_of("swinv2_nano_window8_256"), "file")[0].architecture
        == "swinv2_nano_window8_256"
    )
    assert geometry.infer(state_of("swinv2_giant_window12_192"), "file")[0].extra_norm_period == 6


@pytest.mark.parametrize(
    "given", [{"names": ["swinv2_base_window8_256.pth"]}, {"architecture": "swinv2_base_window8_256"}]
)
def test_a_name_that_the_shapes_contradict_is_refused(given):
    with pytest.raises(ArtifactError, match=r"embed_dim 96.*128"):
        geometry.infer(state_of("swinv2_small_window8_256"), "file.pth", **given)


def test_a_name_that_the_buffers_contradict_is_refused():
    state = state_of("swinv2_tiny_window16_256") | buffers.derive(VARIANTS["swinv2_tiny_window16_256"])
    with pytest.raises(ArtifactError, match="buffers say window 16, 16, 16, 8"):
        geometry.infer(state, "file.pth", names=["swinv2_tiny_window8_256.pth"])


def test_a_custom_file_without_window_says_what_to_give(tmp_path):
    path = save_state(CONFIG, tmp_path / "c.safetensors", "timm")
    with pytest.raises(ArtifactError, match="does not say its window and image size"):
        checkpoints.load(path)
    checkpoint = checkpoints.read(path, image_size=128, window=8)
    assert checkpoint.record.config.trained_windows == ((8, 8), (8, 8), (8, 8), (4, 4))
    assert checkpoints.load(path, architecture=CONFIG).config == CONFIG


def test_timm_config_beside_the_weights_is_read(tmp_path):
    theirs = shuffled(
        timm.create_model("swinv2_tiny_window8_256", num_classes=4, img_size=128, window_size=4)
    )
    described = {
        "architecture": "swinv2_tiny_window8_256", "model_args": {"img_size": 128, "window_size": 4},
        "pretrained_cfg": {
            "input_size": [3, 128, 128], "crop_pct": 0.9, "interpolation": "bicubic", "crop_mode": "center",
            "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "label_names": ["a", "b", "c", "d"],
        },
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(described))
    checkpoints.files.write_tensors(tmp_path / "model.safetensors", theirs.state_dict())
    ours = checkpoints.load(tmp_path).eval()
    assert difference(ours, theirs, images(128)) <= TOLERANCE
    assert ours.record.classes == ("a", "b", "c", "d")
    expected = Preprocess((128, 128), "shorter", 142, "bicubic", (0.5,) * 3, (0.5,) * 3)
    assert ours.record.preprocess == expected
