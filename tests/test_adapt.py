"""Trained weights for other classes, channels and sizes, and the record that goes with them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.models as torchvision_models
import transformers
from conftest import SMALL, randomized
from libraries import CONFIG, images, save_state, save_trained, transformers_config
from PIL import Image

from swinv2 import artifact, checkpoints, convert, labels, weights
from swinv2.artifact import ArtifactError, Record
from swinv2.config import VARIANTS
from swinv2.model import SwinV2, create_model
from swinv2.preprocess import Preprocess

# ---------------------------------------------------------------------- other classes, channels, sizes


@pytest.fixture
def trained(tmp_path) -> Path:
    return save_trained(tmp_path)


def test_an_artifact_comes_back_as_it_was(trained):
    model = checkpoints.load(trained)
    expected = randomized(SwinV2(SMALL)).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    assert model.record == artifact.read_record(trained)
    checkpoints.save(model, trained.with_name("again.safetensors"))
    assert artifact.read_record(trained.with_name("again.safetensors")) == model.record


def test_a_fresh_model_is_saved_with_the_official_preprocessing(tmp_path):
    checkpoints.save(create_model("swinv2_pico", in_chans=1, num_classes=3), tmp_path / "fresh.safetensors")
    record = artifact.read_record(tmp_path / "fresh.safetensors")
    assert record.preprocess == Preprocess.official(256, 1)
    assert record.classes == ()


@pytest.mark.parametrize("classes", [3, 1, 0])
def test_another_class_count_starts_a_new_head_and_forgets_the_names(classes, trained):
    model = checkpoints.load(trained, num_classes=classes)
    old = checkpoints.load(trained)
    assert model.config.num_classes == classes
    assert (model.record.classes, model.record.accuracy) == ((), {})
    body = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("head.")}
    assert all(torch.equal(tensor, old.state_dict()[name]) for name, tensor in body.items())
    assert model(images(64)).shape == (2, classes or 256)


def test_the_same_class_count_keeps_head_names_and_figures(trained):
    model = checkpoints.load(trained, num_classes=7, drop_path=0.3)
    assert model.record.classes == tuple("abcdefg")
    assert model.record.accuracy == {"imagenet-1k top-1": 81.8}
    assert model.config.drop_path == 0.3


def test_1000_classes_of_a_22k_model_are_its_mapped_rows(tmp_path):
    config = replace(SMALL, num_classes=21841, depths=(1, 1, 1, 1), heads=(1, 1, 1, 1))
    torch.save(randomized(SwinV2(config)).state_dict(), tmp_path / "22k.pth")
    whole = checkpoints.load(tmp_path / "22k.pth", architecture=config).eval()
    mapped = checkpoints.load(tmp_path / "22k.pth", architecture=config, num_classes=1000).eval()
    x = images(64)
    with torch.no_grad():
        assert torch.allclose(mapped(x), whole(x)[:, list(labels.map_22k_to_1k())], atol=1e-5)
    assert mapped.record.classes[:2] == ("tench, Tinca tinca", "goldfish, Carassius auratus")
    assert mapped.record.synsets[999] == "n15075141"


@pytest.mark.parametrize(("size", "window"), [(256, 16), (384, 24), (512, 32), (640, 12)])
def test_22k_weights_at_another_size_divide_by_what_they_were_trained_with(size, window, tmp_path):
    """P06: the spans are the official 12to16 and 12to24, through any number of changes and files."""
    config = replace(SMALL, image_size=(192, 192), window=12, depths=(1, 1, 1, 1))
    checkpoints.save(SwinV2(config), tmp_path / "a.safetensors")
    once = checkpoints.load(tmp_path / "a.safetensors", image_size=size)
    assert once.config.window == window
    checkpoints.save(once, tmp_path / "b.safetensors")
    twice = checkpoints.load(tmp_path / "b.safetensors", image_size=size, window=8)
    for model in (once, twice):
        assert model.config.trained_windows == ((12, 12), (12, 12), (12, 12), (6, 6))
        assert [stage.span for stage in model.config.stages(size, size)] == [(11, 11)] * 3 + [(5, 5)]
        assert model.record.preprocess == Preprocess.official(size)


def test_a_protocol_that_is_not_the_official_one_keeps_its_share(tmp_path):
    record = Record(SMALL, Preprocess((64, 64), "shorter", 80, "bilinear"))
    checkpoints.save(SwinV2(SMALL), tmp_path / "a.safetensors", record)
    model = checkpoints.load(tmp_path / "a.safetensors", image_size=96)
    assert model.record.preprocess == Preprocess((96, 96), "shorter", 120, "bilinear")


@pytest.mark.parametrize("channels", [1, 2, 4, 12])
@pytest.mark.parametrize("means", [((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0.5,) * 3, (0.5,) * 3)])
def test_a_grey_picture_has_the_same_logits_in_any_number_of_channels(channels, means, tmp_path):
    """P49: each model sees the picture as its own record says."""
    preprocess = replace(Preprocess.official(64), mean=means[0], std=means[1])
    checkpoints.save(randomized(SwinV2(SMALL)), tmp_path / "rgb.safetensors", Record(SMALL, preprocess))
    rgb = checkpoints.load(tmp_path / "rgb.safetensors").eval()
    other = checkpoints.load(tmp_path / "rgb.safetensors", in_chans=channels).eval()
    grey = np.random.default_rng(0).integers(0, 256, (80, 90), np.uint8)
    x = torch.from_numpy(rgb.record.preprocess(Image.fromarray(grey).convert("RGB")))[None]
    planes = Image.fromarray(grey) if channels == 1 else np.dstack([grey] * channels)
    y = torch.from_numpy(other.record.preprocess(planes))[None]
    assert y.shape == (1, channels, 64, 64)
    with torch.no_grad():
        assert float((other(y) - rgb(x)).abs().max()) <= 1e-4


# ---------------------------------------------------------------------- class names and records


def test_imagenet_names_are_taken_for_1000_classes_unless_told_otherwise(tmp_path):
    config = replace(SMALL, num_classes=1000)
    path = save_state(config, tmp_path / "c.pth")
    named = checkpoints.read(path)
    assert named.record.classes[0] == "tench, Tinca tinca"
    assert named.record.synsets[0] == "n01440764"
    assert checkpoints.read(path, classes="none").record.classes == ()
    (tmp_path / "names.txt").write_text("\n".join(f"thing {i}" for i in range(1000)))
    assert checkpoints.read(path, classes=str(tmp_path / "names.txt")).record.classes[3] == "thing 3"
    (tmp_path / "names.txt").write_text("one\ntwo\n")
    with pytest.raises(ArtifactError, match="1000 classes and 2 class names"):
        checkpoints.read(path, classes=str(tmp_path / "names.txt"))


def test_seven_classes_are_not_named_after_imagenet(tmp_path):
    assert checkpoints.read(save_state(SMALL, tmp_path / "c.pth")).record.classes == ()


def test_a_file_under_its_published_name_has_the_published_record(tmp_path):
    path = tmp_path / "swin_v2_t-b137f0e2.pth"
    torch.save(torchvision_models.swin_v2_t().state_dict(), path)
    record = checkpoints.read(path).record
    assert record.config == VARIANTS["swinv2_tiny_window8_256"]
    assert record.preprocess == Preprocess(resize_to=260)
    assert record.license == "BSD-3-Clause"
    assert record.accuracy == {"imagenet-1k top-1": 82.072, "imagenet-1k top-5": 96.132}
    assert record.provenance["dialect"] == "torchvision"
    assert len(record.provenance["source_sha256"]) == 64


def test_without_timm_a_model_loads_unnamed_and_says_so(monkeypatch, tmp_path):
    path = save_state(replace(SMALL, num_classes=1000), tmp_path / "c.pth")

    def missing(num_classes: int) -> labels.Labels:
        raise ImportError('needs timm -- pip install "swinv2[convert]"', name="timm")

    monkeypatch.setattr(labels, "imagenet", missing)
    with pytest.warns(UserWarning, match="no class names: ImageNet's needs timm"):
        model = checkpoints.load(path)
    assert model.record.classes == ()
    with pytest.raises(ImportError, match="needs timm"):
        convert.convert(path, tmp_path / "out.safetensors")


def test_a_repository_of_the_hub_is_fetched(monkeypatch, tmp_path):
    transformers.Swinv2ForImageClassification(transformers_config(CONFIG)).save_pretrained(tmp_path)
    asked = []
    monkeypatch.setattr(
        weights, "fetch_repository", lambda name: asked.append(name) or tmp_path / "model.safetensors"
    )
    assert checkpoints.load("somebody/some-swin").config == replace(CONFIG, drop_path=0.1)
    assert asked == ["somebody/some-swin"]
