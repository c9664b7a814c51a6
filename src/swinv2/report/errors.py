"""Which classes are taken for which."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from swinv2.metrics import Measurement
from swinv2.report.style import INK, LINE, QUIET, WRONG, canvas, head, quiet, short, whole, wrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ANNOTATED = 30  # classes up to which every cell of the confusion matrix has its number
NAMED = 60  # classes up to which the axes have names


def confusion(measured: Measurement, title: str) -> Figure:
    """The confusion matrix of the classes that have pictures or were predicted.

    Right answers are blue, wrong ones orange, each by its share of the true class. Up to 30 classes a cell
    has its count, and its percentage where there is room.
    """
    counts = measured.confusion()
    shown = np.flatnonzero(counts.sum(0) + counts.sum(1))
    counts = counts[np.ix_(shown, shown)]
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    n = len(shown)
    names = [short(measured.classes[c]) for c in shown] if n <= NAMED else []
    size = 9 if n <= ANNOTATED else 6
    side = min(max(3.4, 0.6 * n), 13 if n <= ANNOTATED else 10)  # inches
    labels = max(map(len, names), default=0) * size / 72 * 0.62
    figure = canvas(max(side + labels + 0.9, 5.5), side + 0.75 * labels + 1.3)
    figure.suptitle(wrap(title, figure), x=0.012, ha="left", fontsize=12, fontweight="bold")
    axes = figure.subplots()
    is_right = np.eye(n, dtype=bool)
    wrong_most = max(0.3, 1.4 * shares[~is_right].max(initial=0))  # 1.4: the darkest orange is nearly black
    for hidden, colours, most in ((~is_right, "Blues", 1), (is_right | (counts == 0), "Oranges", wrong_most)):
        depth = np.ma.masked_array(np.sqrt(shares / most), hidden)  # root: rare mistakes are to be seen
        axes.imshow(depth, cmap=colours, vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(
        f"{measured.correct:,} of {measured.images:,} right ({measured.top1:.2f} %)",
        loc="left",
        fontsize=10,
        color=QUIET,
    )
    axes.set_xlabel("predicted" if names else f"predicted, {n} classes", fontsize=10, color=QUIET)
    axes.set_ylabel("true" if names else f"true, {n} classes", fontsize=10, color=QUIET)
    axes.set_xticks(range(len(names)), names, fontsize=size)
    axes.set_yticks(range(len(names)), names, fontsize=size)
    if max(map(len, names), default=0) > 4:
        for label in axes.get_xticklabels():
            label.set(rotation=45, ha="right", rotation_mode="anchor")
    axes.tick_params(length=0)
    axes.spines[:].set_color(LINE)
    if n <= ANNOTATED:
        _annotate(axes, counts, shares, wrong_most, cell=72 * side / n)
    return figure


def confused(measured: Measurement, most: int) -> list[tuple[str, str, int, float]]:
    """(class, class it was taken for, pictures, their share of the class), the most frequent first."""
    counts = measured.confusion()
    wrong = counts * (1 - np.eye(len(counts), dtype=counts.dtype))
    order = np.argsort(-wrong, axis=None, kind="stable")[: min(most, np.count_nonzero(wrong))]
    pairs = []
    for true, said in zip(*np.unravel_index(order, wrong.shape), strict=True):
        share = wrong[true, said] / counts[true].sum()
        pairs.append((measured.classes[true], measured.classes[said], int(wrong[true, said]), float(share)))
    return pairs


def pairs_panel(measured: Measurement, most: int = 15) -> Figure:
    """The classes that are most often taken for each other, by number of pictures."""
    pairs = confused(measured, most)
    figure = canvas(10.8, 0.95 + 0.3 * max(len(pairs), 2))
    axes = figure.subplots()
    head(axes, f"The {len(pairs)} most frequent mistakes: pictures, and their share of the class")
    y = np.arange(len(pairs))[::-1]
    numbers = [count for _, _, count, _ in pairs]
    axes.barh(y, numbers, 0.66, color=WRONG, alpha=0.85)
    for at, (_, _, count, share) in zip(y, pairs, strict=True):
        axes.text(
            count + 0.01 * max(numbers),
            at,
            f"{count:,}  ({100 * share:.0f} %)",
            va="center",
            fontsize=8.5,
            color=INK,
        )
    axes.set_xlim(0, 1.12 * max(numbers))
    quiet(axes, "x")
    axes.set_yticks(y, [f"{short(true)}  taken for  {short(said)}" for true, said, _, _ in pairs])
    axes.tick_params(axis="y", length=0, labelcolor=INK, labelsize=8.5)
    whole(axes, "x")
    axes.set_ylim(-0.6, len(pairs) - 0.4)
    return figure


def _annotate(axes: Axes, counts: np.ndarray, shares: np.ndarray, wrong_most: float, cell: float) -> None:
    """Numbers in cells so many points wide: the count, and below it the percentage where there is room."""
    size = min(9.0, cell / 3.2)
    for row, col in zip(*np.nonzero(counts), strict=True):
        text = f"{counts[row, col]:,}"
        if cell >= 36:
            text += f"\n{100 * shares[row, col]:.0f} %"
        depth = math.sqrt(shares[row, col] / (1 if row == col else wrong_most))
        colour = "white" if depth > 0.65 else INK
        axes.text(col, row, text, ha="center", va="center", fontsize=size, color=colour, linespacing=1.15)
