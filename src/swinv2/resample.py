"""Pillow's enlargement in numpy, for the part of the result that a crop keeps.

A strip of 1 x 3000 pixels whose shorter side becomes 292 is 876,000 pixels long, of which a model sees 256.
Pillow would compute all; this computes what is looked at, in its fixed-point arithmetic, to the last bit.
Only enlargement: Pillow's order of the two passes, which shows in the last bits, is then the same in all
versions (columns first), while 13 goes by the shape where a side shrinks.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from PIL import Image

PRECISION = 22  # bits of a weight after the point: Pillow's 32 - 8 - 2

Filter = Literal["bicubic", "bilinear"]


def resize_crop(
    image: Image.Image, size: tuple[int, int], box: tuple[int, int, int, int], interpolation: Filter
) -> Image.Image:
    """image.resize(size).crop(box) of an L or RGB image. size is (width, height), box may reach beyond it."""
    assert min(size[0] - image.width, size[1] - image.height) > 0, (size, image.size)
    left, top, right, bottom = box
    x0, x1 = max(left, 0), min(right, size[0])
    y0, y1 = max(top, 0), min(bottom, size[1])
    x, across = _weights(image.width, size[0], x0, x1, interpolation)
    y, down = _weights(image.height, size[1], y0, y1, interpolation)
    values = np.asarray(image.crop((x, y, x + across.shape[1], y + down.shape[1])))
    values = _apply(across, values, axis=1)  # columns first, rounded to 8 bit in between, as Pillow does
    values = _apply(down, values, axis=0)
    return Image.fromarray(values).crop((left - x0, top - y0, right - x0, bottom - y0))


def _weights(
    length: int, resized: int, start: int, stop: int, interpolation: Filter
) -> tuple[int, np.ndarray]:
    """(first input, int64 [stop - start, inputs]): the weights of the outputs start..stop of one axis."""
    scale = length / resized
    curve, support = (_bicubic, 2.0) if interpolation == "bicubic" else (_bilinear, 1.0)
    rows: list[tuple[int, list[int]]] = []
    for out in range(start, stop):
        centre = (out + 0.5) * scale
        low = max(int(centre - support + 0.5), 0)
        high = min(int(centre + support + 0.5), length)
        raw = [curve(i - centre + 0.5) for i in range(low, high)]
        rows.append((low, [_fixed(weight / sum(raw)) for weight in raw]))
    first = min(low for low, _ in rows)
    weights = np.zeros((stop - start, max(low + len(row) for low, row in rows) - first), np.int64)
    for out, (low, row) in enumerate(rows):
        weights[out, low - first : low - first + len(row)] = row
    return first, weights


def _apply(weights: np.ndarray, values: np.ndarray, *, axis: int) -> np.ndarray:
    sums = np.moveaxis(np.tensordot(weights, values.astype(np.int64), (1, axis)), 0, axis)
    return np.clip((sums + (1 << (PRECISION - 1))) >> PRECISION, 0, 255).astype(np.uint8)


def _fixed(weight: float) -> int:
    return int(math.copysign(0.5, weight) + weight * (1 << PRECISION))


def _bicubic(x: float, a: float = -0.5) -> float:
    x = abs(x)
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0


def _bilinear(x: float) -> float:
    return max(1 - abs(x), 0.0)
