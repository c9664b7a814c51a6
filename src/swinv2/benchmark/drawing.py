"""A benchmark as a picture: how long a batch takes, and what the answers are worth at that speed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from swinv2 import report
from swinv2.benchmark.printing import counted, number
from swinv2.benchmark.result import Benchmark, Row
from swinv2.report.style import (
    HELD_OUT,
    INK,
    LINE,
    QUIET,
    TRAIN,
    canvas,
    head,
    label,
    logarithmic,
    quiet,
    wrap,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LONGEST = 4  # times the median latency: longer bars are cut off

# Where the name of a point may stand, in points to its right and above it, the best place first.
PLACES = (
    (6, 0),
    (0, 10),
    (0, -10),
    (-6, 0),
    (6, 7),
    (6, -7),
    (-6, 7),
    (-6, -7),
    (0, 20),
    (0, -20),
    (0, 30),
    (0, -30),
)


def draw(path: Path, result: Benchmark) -> None:
    """Write the picture as PNG.

    Raises:
        ValueError: nothing ran.
    """
    if not result.ran:
        raise ValueError("there is nothing to draw: no contender ran")
    report.save(picture(result), path)


def picture(result: Benchmark) -> Figure:
    """Bars of the latency at every batch, and the answers against the latency at the smallest."""
    batches = [b for b in result.batches if any(b in row.latency for row in result.ran)]
    figure = canvas(3.6 * len(batches) + 4.6, max(3.2, 1.5 + 0.34 * len(result.ran)))
    name = result.model.get("architecture", result.model["source"])
    title = f"{name} on {result.machine['cpu']}, {counted(result.settings['threads'], 'thread')}"
    figure.suptitle(wrap(title, figure), x=0.012, ha="left", fontsize=12, fontweight="bold", color=INK)
    panels = figure.subplots(1, len(batches) + 1, width_ratios=[*[1.0] * len(batches), 1.15])
    fastest_first = sorted(result.ran, key=lambda row: row.latency[min(row.latency)].p50)
    numbers = {row.label: str(i + 1) for i, row in enumerate(fastest_first)}
    for i, batch in enumerate(batches):
        bars(panels[i], fastest_first[::-1], batch, numbers if i == 0 else None)
    answers(panels[-1], result, batches[0], numbers)
    return figure


def bars(axes: Axes, rows: Sequence[Row], batch: int, numbers: Mapping[str, str] | None) -> None:
    """Medians, the fastest on top, with whiskers to the 90th percentile.

    Args:
        numbers: by which the points of the other panel are called; None leaves the names out.
    """
    head(axes, f"Batch {batch}: ms")
    quiet(axes, "x")
    there = {i: (row, row.latency[batch]) for i, row in enumerate(rows) if batch in row.latency}
    ends = {i: latency.p90 or latency.p50 for i, (_, latency) in there.items()}
    # A few that are far slower than the rest would leave nothing of the others: their bars leave the panel.
    longest = min(max(ends.values()), LONGEST * statistics.median(ends.values()))
    for i, (row, latency) in there.items():
        axes.barh(i, latency.p50, 0.7, color=TRAIN if row.is_model else HELD_OUT)
        if ends[i] <= longest:
            axes.plot([latency.p50, ends[i]], [i, i], color=INK, lw=1)
            axes.text(
                ends[i] + 0.02 * longest, i, number(latency.p50), va="center", fontsize=8.5, color=QUIET
            )
        else:
            text = f"{number(latency.p50)} \N{RIGHTWARDS ARROW}"
            axes.text(1.18 * longest, i, text, va="center", ha="right", fontsize=8.5, color="white")
    axes.set_xlim(0, 1.2 * longest)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    names = [f"{row.label}  {numbers[row.label]}" if numbers else "" for row in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=8.5)


def answers(axes: Axes, result: Benchmark, batch: int, numbers: Mapping[str, str]) -> None:
    """Accuracy, agreement, or the error of the logits: the first of these that is there, by latency."""
    there = {row.label: row for row in result.ran if batch in row.latency}
    asked = {name: row.answers for name, row in there.items() if row.answers}
    accuracy = {name: a.accuracy for name, a in asked.items() if a.accuracy is not None}
    agreement = {name: a.agreement for name, a in asked.items() if a.agreement is not None}
    error = {
        name: row.comparison.error for name, row in there.items() if row.comparison and row.comparison.error
    }
    points, what = (
        (accuracy, "accuracy (%)") if accuracy
        else (agreement, "same answer as the model (%)") if agreement
        else (error, "error of the logits (share of the largest)")
    )  # fmt: skip
    head(axes, f"Answers by latency, batch {batch}")
    quiet(axes, "both")
    label(axes, "ms", what)
    if not points:
        axes.text(0.5, 0.5, "nothing to compare", transform=axes.transAxes, ha="center", color=QUIET)
        return
    if points is error:
        logarithmic(axes, "y")
        axes.margins(y=0.12)
    for name, y in points.items():
        x = there[name].latency[batch].p50
        if points is accuracy and (between := asked[name].interval):
            axes.plot([x, x], between, color=LINE, lw=1.5, zorder=1)
        axes.plot(x, y, "o", ms=6, color=TRAIN if there[name].is_model else HELD_OUT)
    latencies = [there[name].latency[batch].p50 for name in points]
    axes.set_xscale("log")
    axes.set_xlim(0.7 * min(latencies), 1.4 * max(latencies))
    low, high = axes.get_xlim()
    ticks = [step * 10.0**power for power in range(-3, 6) for step in (1, 2, 5)]
    axes.set_xticks([tick for tick in ticks if low <= tick <= high], minor=False)
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.set_xticks([], minor=True)
    name_points(axes, {numbers[name]: (there[name].latency[batch].p50, y) for name, y in points.items()})


def name_points(axes: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """Names beside points, each where it covers no other name and no point, as far as there is such a place."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # the layout: where points are is known afterwards
    frame, point = axes.get_window_extent(), figure.dpi / 72  # in pixels
    at = {name: axes.transData.transform(xy) for name, xy in points.items()}
    taken = [(x - 3 * point, y - 3 * point, x + 3 * point, y + 3 * point) for x, y in at.values()]
    for name, (x, y) in sorted(at.items(), key=lambda item: -item[1][1]):
        width, height = 5.6 * len(name) * point, 9 * point  # of digits of 9 points
        boxes = {}
        for side, up in PLACES:
            left = x + side * point - {-1: width, 0: width / 2, 1: 0}[np.sign(side)]
            middle = y + up * point
            boxes[side, up] = (left, middle - height / 2, left + width, middle + height / 2)
        free = [
            place for place, box in boxes.items()
            if not any(_overlap(box, other) for other in taken) and frame.x0 < box[0] and box[2] < frame.x1 + 9 * point
        ]  # fmt: skip
        side, up = free[0] if free else PLACES[0]
        taken.append(boxes[side, up])
        axes.annotate(
            name, points[name], xytext=(side, up), textcoords="offset points", fontsize=9, color=INK,
            ha={-1: "right", 0: "center", 1: "left"}[np.sign(side)], va="center",
        )  # fmt: skip


def _overlap(a: Sequence[float], b: Sequence[float]) -> bool:
    """Of two boxes: left, bottom, right, top."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
