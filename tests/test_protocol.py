"""What an evaluation changes where it is asked to, against torchvision and against models loaded so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL, randomized
from PIL import Image
from torchvision import transforms as tv
from torchvision.transforms import InterpolationMode

import swinv2
from swinv2 import artifact
from swinv2.artifact import Record
from swinv2.cli import main
from swinv2.evaluate import Protocol, evaluate
from swinv2.evaluate.protocol import described
from swinv2.model import SwinV2
from swinv2.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from swinv2.runtimes import open_session

CLASSES = ("ash", "elm", "oak")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """12 photos of three classes, wider than high."""
    root, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name in CLASSES:
        (root / "val" / name).mkdir(parents=True)
        for i in range(4):
            pixels = random.integers(0, 255, (9, 14, 3), np.uint8)
            Image.fromarray(pixels).resize((140, 90)).save(root / "val" / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    model = randomized(SwinV2(replace(SMALL, num_classes=3)), seed=4)
    record = Record(model.config, Preprocess(size=(64, 64), resize_to=72), classes=CLASSES)
    artifact.write(path, record, model.state_dict())
    return path


NORMALISE = [tv.ToTensor(), tv.Normalize(IMAGENET_MEAN, IMAGENET_STD)]


@pytest.mark.parametrize(
    ("protocol", "pipeline"),
    [
        (Protocol(), [tv.Resize(72, InterpolationMode.BICUBIC), tv.CenterCrop(64)]),
        (Protocol(crop_pct=0.9), [tv.Resize(71, InterpolationMode.BICUBIC), tv.CenterCrop(64)]),
        (Protocol(crop_pct=1), [tv.Resize(64, InterpolationMode.BICUBIC), tv.CenterCrop(64)]),
        (Protocol(resize="squash"), [tv.Resize((64, 64), InterpolationMode.BICUBIC)]),
        (Protocol(interpolation="bilinear"), [tv.Resize(72, InterpolationMode.BILINEAR), tv.CenterCrop(64)]),
    ],
)
def test_a_protocol_is_the_pipeline_that_it_names(photos, saved, protocol, pipeline):
    transform, model = tv.Compose([*pipeline, *NORMALISE]), swinv2.load(saved).eval()
    files = sorted((photos / "val").glob("*/*.png"))
    with torch.inference_mode():
        logits = torch.cat([model(transform(Image.open(path))[None]) for path in files])
    result = evaluate(saved, photos, protocol=protocol)
    assert np.array_equal(result.measured.predictions, logits.argmax(1).numpy())
    np.testing.assert_allclose(result.measured.scores, logits.softmax(1).max(1).values, rtol=1e-3)


def test_the_protocol_of_the_weights_is_silent_and_another_is_said(photos, saved, capsys):
    evaluate(saved, photos)
    assert capsys.readouterr().err == ""
    evaluate(saved, photos, protocol=Protocol(crop_pct=0.875))
    said = capsys.readouterr().err
    assert "shorter side to 73, centre 64 x 64, bicubic; theirs: shorter side to 72" in " ".join(said.split())


@pytest.mark.parametrize("size", [96, 80])
def test_another_size_is_the_model_loaded_at_that_size(photos, saved, size):
    with open_session(saved) as session:
        assert session.record.preprocess.size == (64, 64)
    result = evaluate(saved, photos, protocol=Protocol(image_size=size))
    expected = evaluate(swinv2.load(saved, image_size=size), photos)
    assert result.record.preprocess.size == (size, size)
    assert result.record.preprocess == expected.record.preprocess
    np.testing.assert_allclose(result.measured.top_scores, expected.measured.top_scores, rtol=1e-5)


def test_a_window_that_is_not_that_of_the_weights_warns_with_what_it_costs(photos, saved, capsys):
    """SMALL at 64 pixels has maps of 16, 8, 4 and 2 tokens, and windows of 4."""
    theirs = evaluate(saved, photos)
    result = evaluate(saved, photos, protocol=Protocol(window=2))
    said = " ".join(capsys.readouterr().err.split())
    figures = result.window
    assert (figures["window"], figures["chosen"], figures["images"]) == (2, 4, 12)
    assert figures["with"] == pytest.approx(result.top1)
    assert figures["without"] == pytest.approx(theirs.top1)
    assert f"top-1 is {result.top1:.2f} % with it and {theirs.top1:.2f} % with theirs" in said
    assert "window 2 is not that of the weights at this size, 4" in said
    assert not np.allclose(result.measured.scores, theirs.measured.scores)


def test_the_window_of_the_weights_warns_of_nothing(photos, saved, capsys):
    result = evaluate(saved, photos, protocol=Protocol(window=4))
    assert result.window is None
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--crop-pct", "1.2"], "crop_pct is 1.2; give a share above 0, up to 1"),
        (["--crop-pct", "0.9", "--resize", "squash"], "squash crops nothing"),
        (["--image-size", "0"], "image_size is 0; give at least 1"),
        (["--window", "-1"], "window is -1; give at least 1"),
        (["--threshold", "0.4"], "threshold is for multi-label data"),
        (["--threshold", "4"], "threshold is 4.0; give a score between 0 and 1"),
        (["--workers", "0"], "workers is 0; give at least 1"),
        (["--parquet"], "give --output FOLDER"),
    ],
)
def test_what_cannot_be_meant_is_one_line(photos, saved, arguments, sentence, capsys):
    assert main(["evaluate", str(saved), str(photos), *arguments]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_an_open_session_keeps_its_network(photos, saved):
    with open_session(saved) as session, pytest.raises(ValueError, match="keeps its image size and window"):
        evaluate(session, photos, protocol=Protocol(image_size=96))


def test_protocols_are_said_in_words():
    assert described(Preprocess.official(256)) == "shorter side to 292, centre 256 x 256, bicubic"
    assert described(Preprocess.official(384)) == "squashed to 384 x 384, bicubic"
