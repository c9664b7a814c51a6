"""What the network is given: a batch as it looks after augmentation and mixing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from swinv2.report.style import INK, QUIET, canvas, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from swinv2.preprocess import Preprocess

MOST = 32  # pictures of a batch that are shown
LETTERS = 18  # of a label below a picture


def mosaic(images: Any, labels: Sequence[str], preprocess: Preprocess) -> Figure:
    """The first pictures of a training batch, as the network sees them.

    Args:
        images: [B, C, H, W], normalised; a tensor or an array. One channel is shown in grey.
        labels: a text for each picture, of one line or two; target_names() makes them. Long lines are
            shortened.
        preprocess: says how the pictures were normalised.
    """
    pixels = _pixels(images[:MOST], preprocess)
    count, height, width = pixels.shape[:3]
    columns = min(count, 8)
    rows = -(-count // columns)
    lines = max(len(label.splitlines()) for label in labels[:count])
    side = 1.35  # inches that a picture is wide
    figure = canvas(side * max(columns, 4), rows * (side * height / width + 0.15 * lines + 0.08) + 0.35)
    figure.set_layout_engine("constrained", w_pad=0.03, h_pad=0.03, wspace=0, hspace=0)
    figure.suptitle(
        f"First {count} of {len(images)} training pictures, as the network sees them"
        if count < len(images)
        else f"A training batch of {count}, as the network sees it",
        x=0.01, ha="left", fontsize=10, color=QUIET,
    )  # fmt: skip
    panels = list(figure.subplots(rows, max(columns, 4), squeeze=False).flat)
    for axes in panels:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for axes, picture, label in zip(panels, pixels, labels, strict=False):
        axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        said = "\n".join(short(line, LETTERS) for line in label.splitlines())
        axes.set_xlabel(said, fontsize=7.5, color=INK, linespacing=1.1, labelpad=2)
    return figure


def target_names(targets: Any, classes: Sequence[str]) -> list[str]:
    """Labels [B], or mixed or smoothed targets [B, classes], as texts for people.

    A mixed picture names its two largest shares, a smoothed one its class alone: what all classes share
    equally is no mixture.
    """
    values = _array(targets)
    if values.ndim == 1:
        return [short(classes[int(label)], LETTERS) for label in values]
    names = []
    for row in values - values.min(axis=1, keepdims=True):
        first, second = (*np.argsort(-row, kind="stable")[:2], 0)[:2]
        share = row[first] / max(row.sum(), 1e-12)
        if row.sum() <= 0:
            names.append("none")
        elif share > 0.995:
            names.append(short(classes[first], LETTERS))
        else:
            parts = ((first, share), (second, row[second] / row.sum()))
            names.append("\n".join(f"{short(classes[c], LETTERS - 5)} {100 * s:.0f} %" for c, s in parts))
    return names


def _array(values: Any) -> np.ndarray:
    """A tensor of any device and type, or an array."""
    return np.asarray(values.detach().float().cpu() if hasattr(values, "detach") else values, np.float32)


def _pixels(images: Any, preprocess: Preprocess) -> np.ndarray:
    """[B, C, H, W], normalised -> [B, H, W, 3] or [B, H, W] from 0 to 1."""
    values = _array(images)
    mean, std = (np.asarray(v, np.float32)[:, None, None] for v in (preprocess.mean, preprocess.std))
    pixels = np.clip(values * std + mean, 0, 1).transpose(0, 2, 3, 1)
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels
