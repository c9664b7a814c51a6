"""Pictures and a model that train in a second, for the tests of data, train and evaluate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from swinv2.config import SwinV2Config

SPECK = SwinV2Config(
    architecture="swinv2_speck", image_size=32, window=4, embed_dim=32, depths=(1, 1), heads=(1, 2),
    pretrained_windows=((0, 0), (0, 0)), num_classes=3,
)  # fmt: skip
COLOURS = {"blue": (30, 60, 200), "green": (40, 180, 60), "red": (200, 40, 40)}


def write_pictures(
    folder: Path, count: int, *, classes: tuple[str, ...] = tuple(COLOURS), seed: int = 0
) -> Path:
    """folder/red/0.png ...: 24 x 20 pixels of noise around a colour of the class; sizes differ from the model's."""
    noise = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = np.array(COLOURS.get(name, (128, 128, 128))) + noise.normal(0, 40, (20, 24, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


def write_split(root: Path, *, train: int = 8, held_out: int = 3) -> Path:
    """root/train and root/val."""
    write_pictures(root / "train", train, seed=1)
    write_pictures(root / "val", held_out, seed=2)
    return root
