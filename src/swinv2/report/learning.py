"""How a run learnt: loss, accuracy, rate and gradient, by epoch and by step.

The horizontal axis of every panel counts epochs; a step lies within its epoch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from swinv2.report.style import (
    HELD_OUT,
    QUIET,
    TRAIN,
    canvas,
    head,
    label,
    logarithmic,
    panel,
    quiet,
    whole,
    wrap,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]

SCORES = {
    "top1": "Accuracy (top-1, %)",
    "map": "Mean average precision (%)",
}  # what is chosen by; the first found


def curves(epochs: Sequence[Row], title: str) -> Figure:
    """Loss, accuracy and learning rate over the epochs, side by side.

    Args:
        epochs: rows of metrics.jsonl; train_top1 may be None where mixed pictures have no one label.
    """
    figure = canvas(11, 3.9)
    figure.suptitle(wrap(title, figure), x=0.012, ha="left", fontsize=12, fontweight="bold")
    figure.set_layout_engine("constrained", wspace=0.06)
    has_score = score_key(epochs) is not None
    panels = figure.subplots(1, 2 + has_score, width_ratios=(*(1.15,) * (1 + has_score), 0.7))
    draw_loss(panels[0], epochs)
    if has_score:
        draw_score(panels[1], epochs)
    draw_rate(panels[-1], epochs, epochs)
    for axes in panels:
        quiet(axes)
    return figure


def loss_panel(epochs: Sequence[Row], steps: Sequence[Row] = ()) -> Figure:
    figure, axes = panel("")
    draw_loss(axes, epochs, steps)
    return figure


def score_panel(epochs: Sequence[Row]) -> Figure:
    figure, axes = panel("")
    draw_score(axes, epochs)
    return figure


def rate_panel(epochs: Sequence[Row], steps: Sequence[Row] = ()) -> Figure:
    """The learning rate, by step where steps were logged: warm-up is often shorter than an epoch."""
    figure, axes = panel("")
    draw_rate(axes, epochs, steps or epochs)
    return figure


def gradient_panel(epochs: Sequence[Row], steps: Sequence[Row]) -> Figure:
    """The norm of the gradient before it was clipped."""
    figure, axes = panel("Gradient norm, before clipping")
    norms = [_number(row, "grad_norm") for row in steps]
    axes.plot(_places(steps, epochs), norms, color=QUIET, marker=_marker(steps), ms=3.5, lw=1.2)
    positive = [norm for norm in norms if norm > 0]
    if positive and max(positive) > 30 * min(positive):
        logarithmic(axes, "y")
    else:
        axes.set_ylim(0, 1.08 * max(positive, default=1.0))
    _count_epochs(axes, epochs, start=True)
    return figure


def draw_loss(axes: Axes, epochs: Sequence[Row], steps: Sequence[Row] = ()) -> None:
    head(axes, "Loss")
    if steps:
        losses = [_number(row, "loss") for row in steps]
        axes.plot(_places(steps, epochs), losses, color=TRAIN, alpha=0.35, lw=0.9)
    _draw(axes, epochs, "loss")
    axes.legend(frameon=False, fontsize=9, loc="best")
    _count_epochs(axes, epochs, start=bool(steps))


def draw_score(axes: Axes, epochs: Sequence[Row]) -> None:
    key = score_key(epochs)
    assert key is not None, "there is no score"
    head(axes, SCORES[key])
    _draw(axes, epochs, key)
    best = best_epoch(epochs)
    axes.plot(best["epoch"], best[key], "o", ms=7, mfc="none", mec=HELD_OUT, mew=1.6)
    # In the emptier half of the panel: the lower right.
    axes.text(
        0.98, 0.05, f"best {best[key]:.2f} % in epoch {best['epoch']}",
        transform=axes.transAxes, ha="right", va="bottom", fontsize=10, color=HELD_OUT, fontweight="bold",
    )  # fmt: skip
    values = [row[key] for row in epochs] + [row.get(f"train_{key}") or 0.0 for row in epochs]
    low, high = min(values), max(values)
    axes.set_ylim(max(0, low - 0.18 * max(high - low, 1)), min(101, high + 0.05 * max(high - low, 1)))
    _count_epochs(axes, epochs)


def draw_rate(axes: Axes, epochs: Sequence[Row], rows: Sequence[Row]) -> None:
    """rows: epochs, or steps."""
    rates = [_number(row, "lr") for row in rows]
    power = math.floor(math.log10(max(rates))) if max(rates) > 0 else 0
    head(axes, f"Learning rate (1e{power})")
    axes.plot(
        _places(rows, epochs), [rate / 10**power for rate in rates],
        color=QUIET, marker=_marker(rows), ms=3.5, lw=1.6,
    )  # fmt: skip
    axes.set_ylim(0, 1.08 * max(rates) / 10**power or 1.0)
    _count_epochs(axes, epochs, start=rows is not epochs)


def score_key(epochs: Sequence[Row]) -> str | None:
    """What the best epoch is chosen by; None where only the loss tells, as in pre-training."""
    return next((key for key in SCORES if key in epochs[0]), None)


def best_epoch(epochs: Sequence[Row]) -> Row:
    """The epoch with the highest score; of equals, the one with the lowest loss."""
    key = score_key(epochs)
    return max(epochs, key=lambda row: (row[key] if key else 0, -row["loss"]))


def _draw(axes: Axes, epochs: Sequence[Row], key: str) -> None:
    """The training and the held-out value of every epoch."""
    x, marker = [row["epoch"] for row in epochs], _marker(epochs)
    train = [row.get(f"train_{key}") for row in epochs]
    if any(value is not None for value in train):
        gaps = [math.nan if value is None else value for value in train]
        axes.plot(x, gaps, color=TRAIN, marker=marker, ms=3.5, lw=1.6, label="training, augmented")
    held_out = [row[key] for row in epochs]
    axes.plot(x, held_out, color=HELD_OUT, marker=marker, ms=3.5, lw=2.0, label="held out")


def _places(rows: Sequence[Row], epochs: Sequence[Row]) -> list[float]:
    """Where rows lie on an axis of epochs."""
    if rows is epochs or not epochs or not epochs[-1].get("step"):
        return [row["epoch"] for row in rows]
    per_epoch = epochs[-1]["step"] / epochs[-1]["epoch"]
    return [row["step"] / per_epoch for row in rows]


def _count_epochs(axes: Axes, epochs: Sequence[Row], *, start: bool = False) -> None:
    """An axis of whole epochs; from 0 where steps are drawn, which may go on after the last whole epoch."""
    first, last = epochs[0]["epoch"], max(epochs[-1]["epoch"], axes.dataLim.x1)
    margin = 0.01 * len(epochs)
    low = -margin if start else first - 0.5 - margin
    axes.set_xlim(low, last + (margin if start else 0.5 + margin))
    whole(axes, "x")
    label(axes, "epoch")


def _marker(rows: Sequence[Row]) -> str | None:
    return "o" if len(rows) <= 12 else None


def _number(row: Row, key: str) -> float:
    """nan leaves a gap in a line, where a step was skipped."""
    value = row.get(key)
    return math.nan if value is None else float(value)
