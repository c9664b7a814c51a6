"""Maps of a model laid over the picture that they belong to; Pillow and numpy only."""

from __future__ import annotations

import numpy as np
from PIL import Image

from swinv2.preprocess import Preprocess

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the picture

# From where little speaks to where most does; also told apart in grey and by the colour-blind.
COLOURS = ((59, 15, 112), (183, 55, 121), (237, 105, 37), (252, 255, 164))
OPACITY = 0.75  # of the most
UNSEEN = 0.4  # brightness of what the crop leaves out


def over_picture(grid: np.ndarray, stride: int, preprocess: Preprocess, size: tuple[int, int]) -> np.ndarray:
    """A map in the grid of a stage -> [height, width] of the picture, from 0 to 1; 0 where the crop ends.

    Args:
        grid: [rows, columns]; it may reach beyond the input, which is padded to whole tokens.
        stride: input pixels a token.
        size: (width, height) of the picture.
    """
    height, width = preprocess.size
    left, top, right, bottom = preprocess.seen(size)
    # The part of the input that lies inside of the picture: a crop may be larger than it.
    x0, x1 = (_clip(edge, left, right) for edge in (0, size[0]))
    y0, y1 = (_clip(edge, top, bottom) for edge in (0, size[1]))
    source = (x0 * width / stride, y0 * height / stride, x1 * width / stride, y1 * height / stride)
    at = tuple(round(edge) for edge in (max(left, 0), max(top, 0), min(right, size[0]), min(bottom, size[1])))
    inside = max(at[2] - at[0], 1), max(at[3] - at[1], 1)
    plane = Image.fromarray(np.asarray(grid, np.float32))
    placed = np.zeros((size[1], size[0]), np.float32)
    grown = np.asarray(plane.resize(inside, Image.Resampling.BILINEAR, box=source)).clip(0, 1)
    placed[at[1] : at[1] + inside[1], at[0] : at[0] + inside[0]] = grown
    return placed


def overlay(image: Image.Image, heat: np.ndarray, seen: Box | None = None) -> Image.Image:
    """The picture under a map.

    Args:
        heat: [H, W] from 0 to 1, of the picture's proportions; it is scaled where it is smaller or larger.
        seen: what the model saw of the picture; the rest is darkened.
    """
    plane = Image.fromarray(np.asarray(heat, np.float32)).resize(image.size, Image.Resampling.BILINEAR)
    heat = np.asarray(plane).clip(0, 1)
    steps = np.linspace(0, 1, len(COLOURS))
    colour = np.stack([np.interp(heat, steps, channel) for channel in zip(*COLOURS, strict=True)], axis=-1)
    pixels = np.asarray(image.convert("RGB"), np.float32)
    if seen is not None:
        left, top, right, bottom = (round(edge) for edge in seen)
        shade = np.full((*heat.shape, 1), UNSEEN, np.float32)
        shade[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = 1
        pixels = pixels * shade
    opacity = OPACITY * heat[..., None]
    return Image.fromarray((pixels * (1 - opacity) + colour * opacity).round().astype(np.uint8))


def _clip(edge: float, low: float, high: float) -> float:
    """Where an edge lies between two others, from 0 to 1."""
    return min(max((edge - low) / (high - low), 0.0), 1.0)
