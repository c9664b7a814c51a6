"""The classes one by one: how many pictures each has, and how well it is recognised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from swinv2.metrics import wilson
from swinv2.report.style import (
    HELD_OUT,
    INK,
    LINE,
    QUIET,
    TRAIN,
    WRONG,
    canvas,
    head,
    label,
    logarithmic,
    panel,
    quiet,
    short,
    whole,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]

SHOWN = 40  # classes up to which each has a line of its own
LETTERS = 28  # of a class name


def per_class_panels(rows: Sequence[Row]) -> Figure:
    """Accuracy, and precision beside recall, of each class, the worst first; of many classes the worst.

    Args:
        rows: of Measurement.per_class(). Those of multi-label data have no accuracy; their F1 is shown in its place.
    """
    key = judged_by(rows)
    recall = "accuracy" if "accuracy" in rows[0] else "recall"
    shown = sorted(rows, key=lambda row: (row[key], row["f1"]))[:SHOWN]
    figure = canvas(10.8, 1.15 + 0.27 * max(len(shown), 3))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.15, 1))
    y = np.arange(len(shown))[::-1]
    few = "" if len(shown) == len(rows) else f", the {len(shown)} worst of {len(rows)} classes"
    values = np.array([row[key] for row in shown])
    left.barh(y, values, 0.66, color=HELD_OUT, alpha=0.85)
    if key == "accuracy":
        head(left, f"Accuracy (%), with its 95 % interval{few}")
        ends = 100 * np.array([wilson(row["correct"], row["images"]) for row in shown]).T
        left.hlines(y, *ends, color=QUIET, lw=1.2)
    else:
        head(left, f"F1 (%){few}")
    left.set_yticks(y, [short(row["class"], LETTERS) for row in shown], fontsize=8.5)
    beside = left.secondary_yaxis("right")
    beside.set_yticks(y, [f"{row[key]:.1f}" for row in shown], fontsize=8.5)
    precision = np.array([row["precision"] for row in shown])
    recalls = np.array([row[recall] for row in shown])
    head(right, "Precision and recall (%)")
    right.hlines(y, np.minimum(precision, recalls), np.maximum(precision, recalls), color=LINE, lw=2)
    right.plot(recalls, y, "o", ms=6, color=HELD_OUT, label="recall", clip_on=False, zorder=3)
    right.plot(precision, y, "D", ms=5, color=WRONG, label="precision", clip_on=False, zorder=3)
    right.legend(
        frameon=False, fontsize=9, loc="lower right", ncols=2, bbox_to_anchor=(1.0, 1.0), borderaxespad=0.1,
        handletextpad=0.3, columnspacing=1.0,
    )  # fmt: skip
    low = min(float(precision.min()), float(recalls.min()))
    for axes in (left, right):
        quiet(axes, "x")
        axes.set_ylim(-0.6, len(shown) - 0.4)
    left.set_xlim(0, 100)
    start = max(0, 10 * min(low // 10, 9))
    right.set_xlim(start - 2, 102)
    right.set_xticks(np.arange(start, 101, 20 if start < 50 else 10 if start < 80 else 5))
    left.tick_params(axis="y", length=0, labelcolor=INK, labelsize=8.5)
    beside.tick_params(length=0, labelcolor=QUIET, labelsize=8.5)
    beside.spines[:].set_visible(False)
    right.tick_params(axis="y", length=0, labelleft=False)
    return figure


def spread_panel(rows: Sequence[Row]) -> Figure:
    """How many classes are recognised how well; for more of them than can have lines of their own."""
    key = judged_by(rows)
    figure, axes = panel("Classes by " + ("accuracy" if key == "accuracy" else "F1"))
    axes.hist([row[key] for row in rows], bins=20, range=(0, 100), color=HELD_OUT, rwidth=0.92)
    axes.set_xlim(0, 100)
    whole(axes, "y")
    label(axes, "%", "classes")
    return figure


def support_panel(rows: Sequence[Row]) -> Figure:
    """Whether classes with fewer pictures are recognised less well."""
    key = judged_by(rows)
    figure, axes = panel(("Accuracy" if key == "accuracy" else "F1") + " by number of pictures")
    axes.plot(
        [row["images"] for row in rows], [row[key] for row in rows], "o", ms=4, color=HELD_OUT, alpha=0.45
    )
    axes.set_ylim(-3, 103)
    _scale(axes, "x", [row["images"] for row in rows])
    label(axes, "held-out pictures of the class", "%")
    return figure


def distribution_panel(classes: Sequence[str], train: Sequence[int], held_out: Sequence[int]) -> Figure:
    """Pictures per class, of the training part and the held-out part, the most frequent class first."""
    order = sorted(range(len(classes)), key=lambda c: (-train[c], -held_out[c], c))
    if len(classes) > SHOWN:
        return _ranks(np.array(train)[order], np.array(held_out)[order], len(classes))
    figure = canvas(10.8, 0.95 + 0.34 * max(len(classes), 3))
    axes = figure.subplots()
    head(axes, "Pictures of each class")
    y = np.arange(len(classes))[::-1].astype(float)
    parts = ((train, TRAIN, "to learn from", 0.19), (held_out, HELD_OUT, "held out", -0.19))
    most = max(1, *train, *held_out)
    for counts, colour, what, shift in parts:
        values = [counts[c] for c in order]
        axes.barh(y + shift, values, 0.36, color=colour, label=what)
        for value, at in zip(values, y + shift, strict=True):
            axes.text(value + 0.006 * most, at, f"{value:,}", va="center", fontsize=7.5, color=QUIET)
    quiet(axes, "x")
    axes.set_yticks(y, [short(classes[c], LETTERS) for c in order], fontsize=8.5)
    axes.tick_params(axis="y", length=0, labelcolor=INK, labelsize=8.5)
    axes.set_ylim(-0.6, len(classes) - 0.4)
    axes.set_xlim(0, 1.08 * most)
    whole(axes, "x")
    axes.legend(
        frameon=False, fontsize=9, loc="lower right", ncols=2, bbox_to_anchor=(1.0, 1.0), borderaxespad=0.1
    )
    return figure


def judged_by(rows: Sequence[Row]) -> str:
    """What a class is judged by."""
    return "accuracy" if "accuracy" in rows[0] else "f1"


def _ranks(train: np.ndarray, held_out: np.ndarray, count: int) -> Figure:
    """The same for many classes: counts by rank."""
    figure, axes = panel(f"Pictures of each of {count:,} classes, the most frequent first", width=10.8)
    x = np.arange(1, count + 1)
    axes.fill_between(x, train, step="mid", color=TRAIN, alpha=0.35, lw=0)
    axes.step(x, train, where="mid", color=TRAIN, lw=1.4, label="to learn from")
    axes.step(x, held_out, where="mid", color=HELD_OUT, lw=1.2, label="held out")
    _scale(axes, "y", [*train, *held_out])
    axes.set_xlim(0.5, count + 0.5)
    axes.legend(frameon=False, fontsize=9, loc="upper right", ncols=2)
    label(axes, "class, by rank", "pictures")
    return figure


def _scale(axes: Axes, axis: str, counts: Sequence[int]) -> None:
    """Powers of ten where counts differ by far; otherwise from 0."""
    positive = [count for count in counts if count > 0]
    is_wide = bool(positive) and max(positive) > 50 * min(positive)
    if is_wide:
        logarithmic(axes, axis)
    else:
        whole(axes, axis)
        (axes.set_xlim if axis == "x" else axes.set_ylim)(0, 1.15 * max(positive, default=1))
