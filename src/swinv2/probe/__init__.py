"""Real pixels for comparing two runtimes: crops of three photographs, the same to the last bit on every machine.

Nothing is resampled, because resizing differs between versions of Pillow: photographs are mirrored until they are
large enough, cut, and normalised. That is no way to classify a picture, but it has a picture's statistics, and it
exercises the whole network at any size.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from swinv2.artifact import Record
    from swinv2.config import Pair

PHOTOGRAPHS = ("temple", "flower", "portrait")


def images(record: Record, count: int, size: Pair | None = None) -> np.ndarray:
    """float32 [count, in_chans, height, width], normalised as the record says.

    Args:
        size: (height, width); default: that of the record's preprocessing.

    The first images are the same whatever count is.
    """
    import numpy as np

    height, width = size or record.preprocess.size
    channels = record.config.in_chans
    mean, std = (
        np.resize(np.asarray(v, np.float32), channels)
        for v in (record.preprocess.mean, record.preprocess.std)
    )
    found = np.empty((count, channels, height, width), np.float32)
    for i in range(count):
        pixels = _photograph(PHOTOGRAPHS[i % len(PHOTOGRAPHS)])
        turn = i // len(
            PHOTOGRAPHS
        )  # further rounds see other crops of the same photographs, mirrored in turn
        if turn % 2:
            pixels = pixels[:, ::-1]
        top, left = 17 * turn, 29 * turn
        pixels = np.pad(pixels, ((0, top + height), (0, left + width), (0, 0)), mode="symmetric")
        crop = pixels[top : top + height, left : left + width].astype(np.float32) / np.float32(255)  # H W 3
        planes = crop.mean(-1, keepdims=True) if channels == 1 else crop[..., np.arange(channels) % 3]
        found[i] = ((planes - mean) / std).transpose(2, 0, 1)
    return found


@lru_cache(maxsize=len(PHOTOGRAPHS))
def _photograph(name: str) -> np.ndarray:
    """uint8 [192, 192, 3]."""
    import numpy as np
    from PIL import Image

    with resources.files(__name__).joinpath(f"{name}.png").open("rb") as file:
        return np.asarray(Image.open(file).convert("RGB"))
