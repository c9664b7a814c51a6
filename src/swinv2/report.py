"""What people look at after a run: curves.png, confusion.png, results.csv.

Figures are drawn on matplotlib's Agg canvas without pyplot, so that nothing is left open and no display is
asked for.
"""

from __future__ import annotations

import csv
import io
import math
import os
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from swinv2.extras import require
from swinv2.metrics import Measurement

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRAIN, HELD_OUT, QUIET = "#8a8f98", "#1f5fb4", "#5b616b"  # grey for what is learnt from, blue for what counts
ANNOTATED = 30  # classes up to which every cell of the confusion matrix has its number
NAMED = 60  # classes up to which the axes have names


def results_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A table with the keys of the first row as its columns, complete or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_text(path: Path, text: str) -> None:
    """Replace a file in one step, so that a reader, or a crash, never meets half of it."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, complete or not at all."""
    part = path.with_name(f".{path.name}.part")
    text: Any
    for text in figure.findobj(require("matplotlib.text", extra="train").Text):
        text.set_parse_math(False)  # a class may be called $5
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the font has no Chinese; the CSV has
        figure.savefig(part, format="png", dpi=150, facecolor="white")
    os.replace(part, path)


def curves(epochs: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Loss, accuracy and learning rate over the epochs.

    Args:
        epochs: rows of metrics.jsonl; train_top1 may be None where mixed pictures have no one label.
    """
    figure = _figure(11, 3.9)
    figure.suptitle(_wrap(title, figure), x=0.012, ha="left", fontsize=12, fontweight="bold")
    figure.set_layout_engine("constrained", wspace=0.06)
    loss, accuracy, rate = figure.subplots(1, 3, width_ratios=(1.15, 1.15, 0.7))
    x = [row["epoch"] for row in epochs]
    marker = "o" if len(x) <= 12 else None
    for axes, name, key in ((loss, "Loss", "loss"), (accuracy, "Accuracy (top-1, %)", "top1")):
        axes.set_title(name, loc="left", fontsize=10, color=QUIET)
        train = [row[f"train_{key}"] for row in epochs]
        if any(value is not None for value in train):
            axes.plot(x, train, color=TRAIN, marker=marker, ms=3.5, lw=1.6, label="training, augmented")
        axes.plot(
            x, [row[key] for row in epochs], color=HELD_OUT, marker=marker, ms=3.5, lw=2.0, label="held out"
        )
    best = max(epochs, key=lambda row: (row["top1"], -row["loss"]))
    accuracy.plot(best["epoch"], best["top1"], "o", ms=7, mfc="none", mec=HELD_OUT, mew=1.6)
    _say_best(accuracy, best, [row["top1"] for row in epochs] + [r["train_top1"] or 0.0 for r in epochs])
    loss.legend(frameon=False, fontsize=9, loc="best")
    rates = [row["lr"] for row in epochs]
    power = math.floor(math.log10(max(rates))) if max(rates) > 0 else 0
    rate.set_title(f"Learning rate (1e{power})", loc="left", fontsize=10, color=QUIET)
    rate.plot(x, [value / 10**power for value in rates], color=QUIET, marker=marker, ms=3.5, lw=1.6)
    rate.set_ylim(bottom=0)
    for axes in (loss, accuracy, rate):
        _quiet(axes)
        axes.set_xlabel("epoch", fontsize=9, color=QUIET)
        axes.set_xlim(x[0] - 0.5 - 0.01 * len(x), x[-1] + 0.5 + 0.01 * len(x))
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    return figure


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
    names = [_short(measured.classes[c]) for c in shown] if n <= NAMED else []
    size = 9 if n <= ANNOTATED else 6
    side = min(max(3.4, 0.6 * n), 13 if n <= ANNOTATED else 10)  # inches
    labels = max(map(len, names), default=0) * size / 72 * 0.62
    figure = _figure(max(side + labels + 0.9, 5.5), side + 0.75 * labels + 1.3)
    figure.suptitle(_wrap(title, figure), x=0.012, ha="left", fontsize=12, fontweight="bold")
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
    axes.spines[:].set_color("#c5c9cf")
    if n <= ANNOTATED:
        _annotate(axes, counts, shares, wrong_most, cell=72 * side / n)
    return figure


def _annotate(axes: Axes, counts: np.ndarray, shares: np.ndarray, wrong_most: float, cell: float) -> None:
    """Numbers in cells so many points wide: the count, and below it the percentage where there is room."""
    size = min(9.0, cell / 3.2)
    for row, col in zip(*np.nonzero(counts), strict=True):
        text = f"{counts[row, col]:,}"
        if cell >= 36:
            text += f"\n{100 * shares[row, col]:.0f} %"
        depth = math.sqrt(shares[row, col] / (1 if row == col else wrong_most))
        colour = "white" if depth > 0.65 else "#1d2430"
        axes.text(col, row, text, ha="center", va="center", fontsize=size, color=colour, linespacing=1.15)


def _say_best(axes: Axes, best: Mapping[str, Any], values: Sequence[float]) -> None:
    """Name the best epoch in the emptier half of the panel: the lower right."""
    axes.text(
        0.98, 0.05, f"best {best['top1']:.2f} % in epoch {best['epoch']}",
        transform=axes.transAxes, ha="right", va="bottom", fontsize=10, color=HELD_OUT, fontweight="bold",
    )  # fmt: skip
    low, high = min(values), max(values)
    axes.set_ylim(max(0, low - 0.18 * max(high - low, 1)), min(101, high + 0.05 * max(high - low, 1)))


def _quiet(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#c5c9cf")
    axes.tick_params(colors=QUIET, labelsize=9, length=3)
    axes.grid(axis="y", color="#e8eaed", lw=0.8)
    axes.set_axisbelow(True)


def _figure(width: float, height: float) -> Figure:
    figure = require("matplotlib.figure", extra="train").Figure(figsize=(width, height), layout="constrained")
    require("matplotlib.backends.backend_agg", extra="train").FigureCanvasAgg(figure)
    return figure


def _short(name: str, limit: int = 24) -> str:
    """Long class names lose their middle: siblings often differ at the end."""
    half = (limit - 2) // 2
    return name if len(name) <= limit else f"{name[:half].rstrip()}..{name[-half:].lstrip()}"


def _wrap(title: str, figure: Figure) -> str:
    letters = int(figure.get_figwidth() * 72 / 7.6)  # a bold letter of size 12 is about 7.6 points wide
    return "\n".join(textwrap.wrap(title, letters))
