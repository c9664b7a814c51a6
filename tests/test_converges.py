"""The default learns small sets of pictures without being told anything: from nothing, and from weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from training import SPECK, write_split

from swinv2 import config
from swinv2.train import Result, train


@pytest.fixture(autouse=True)
def speck(monkeypatch):
    monkeypatch.setitem(config.VARIANTS, SPECK.architecture, SPECK)


def stripes(kind: str, noise: np.random.Generator) -> np.ndarray:
    rows, columns = np.mgrid[:36, :36]
    along = {"flat": rows, "upright": columns, "slanted": 0.7 * (rows + columns)}[kind]
    wave = np.sin(noise.uniform(0.5, 0.9) * along + noise.uniform(0, 6.3))
    return 128 + noise.normal(0, 30, 3) + 60 * wave[..., None] + noise.normal(0, 20, (36, 36, 3))


def squares(kind: str, noise: np.random.Generator) -> np.ndarray:
    picture = noise.uniform(0, 100, (36, 36, 3))
    side = {"small": 6, "medium": 14, "large": 26}[kind]
    top, left = noise.integers(0, 36 - side, 2)
    picture[top : top + side, left : left + side] = noise.uniform(120, 255, 3)
    return picture


KINDS = {stripes: ("flat", "slanted", "upright"), squares: ("large", "medium", "small")}


def write_set(root: Path, draw: Callable, train: int, held_out: int = 20) -> Path:
    for part, count in (("train", train), ("val", held_out)):
        noise = np.random.default_rng(count)
        for kind in KINDS[draw]:
            (root / part / kind).mkdir(parents=True)
            for i in range(count):
                pixels = draw(kind, noise).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / part / kind / f"{i}.png")
    return root


def learn(data: Path, model: str | Path = "swinv2_speck") -> Result:
    is_name = isinstance(model, str)
    return train(
        data, model=str(model), output=data.parent / f"{data.name}-run", pretrained=not is_name, workers=0
    )


@pytest.mark.slow
def test_the_default_learns_small_sets_from_nothing_and_from_weights(tmp_path):
    """A third is chance."""
    colours = learn(write_split(tmp_path / "colours", held_out=20))
    assert colours.accuracy >= 90
    first = learn(write_set(tmp_path / "stripes", stripes, train=40))
    assert first.accuracy >= 90
    for draw, count in ((squares, 40), (squares, 15)):
        tuned = learn(write_set(tmp_path / f"{draw.__name__}{count}", draw, count), model=first.best)
        assert tuned.accuracy >= 80, (draw.__name__, count)
