"""Shared by the tests of prediction: a session whose answers are known without a network, and pictures for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from swinv2.artifact import Record
from swinv2.config import SwinV2Config
from swinv2.preprocess import Preprocess
from swinv2.runtimes import Session

CLASSES = ("cat", "dog", "sea urchin", "[bold]bracket[/bold]", ":smile:", "\u732b", "last")
CONFIG = SwinV2Config(image_size=8, window=2, embed_dim=32, heads=(1, 2, 4, 8), num_classes=7)


class Colours(Session):
    """Logits from the mean colour of a picture: what it answers is known without a network."""

    runtime, device, precision = "colours", "cpu", "fp32"

    def __init__(self, classes: tuple[str, ...] = CLASSES, synsets: tuple[str, ...] = ()):
        config = replace(CONFIG, num_classes=len(classes) or 7)
        self.record = Record(
            config, Preprocess(size=(8, 8), resize_to=8, mean=(0,) * 3, std=(1,) * 3), classes, synsets
        )
        self.batches: list[int] = []
        self.closed = False

    def run(self, images: np.ndarray) -> np.ndarray:
        self.check(images)
        self.batches.append(len(images))
        red, green, blue = images.mean((2, 3)).T * 3
        return np.stack([red, green, blue, *[0 * red - k for k in range(4)]], 1)[
            :, : self.record.config.num_classes
        ]

    def close(self) -> None:
        self.closed = True


def picture(red: int, green: int = 0, blue: int = 0, size: tuple[int, int] = (20, 12)) -> Image.Image:
    return Image.new("RGB", size, (red, green, blue))


def save_photos(folder: Path) -> Path:
    """Ten pictures of rising red, one of which is cut off."""
    folder.mkdir()
    for i in range(10):
        picture(25 * i).save(folder / f"{i}.png")
    (folder / "5.png").write_bytes((folder / "5.png").read_bytes()[:50])
    return folder
