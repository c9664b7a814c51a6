"""Where the time of a run went: waiting for data, moving it to the device, computing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from swinv2.report.style import HELD_OUT, LINE, QUIET, WRONG, label, panel, whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Mapping[str, Any]

PARTS = {
    # column             what              colour
    "data_seconds":     ("waiting for data", WRONG),
    "transfer_seconds": ("transfer",         LINE),
    "compute_seconds":  ("compute",          HELD_OUT),
}  # fmt: skip
BARS = 48  # a longer run is averaged into so many
WAITING = 0.25  # share of the time from which on it is worth doing something about it


def by_step(epochs: Sequence[Row]) -> list[Row]:
    """Rows of epochs, whose parts are those of the whole epoch, as rows of steps; for runs that logged no step."""
    rows: list[Row] = []
    before = 0
    for row in epochs:
        steps = max(row["step"] - before, 1)
        rows.append({**row, **{key: (row.get(key) or 0.0) / steps for key in PARTS}})
        before = row["step"]
    return rows


def shares(steps: Sequence[Row]) -> dict[str, float]:
    """The share of each part of the time, over all logged steps; empty where it was not measured."""
    sums = {key: float(sum(row.get(key) or 0.0 for row in steps)) for key in PARTS}
    total = sum(sums.values())
    return {key: value / total for key, value in sums.items()} if total > 0 else {}


def sentence(found: Mapping[str, float]) -> str:
    """What the shares mean, and what to do about it."""
    waiting = found["data_seconds"]
    said = f"{100 * waiting:.0f} % of the time was spent waiting for data"
    if waiting < WAITING:
        return f"{said}; the loader keeps up."
    return (
        f"{said}. More --workers, pictures that are stored not much larger than the network sees them, or tar shards "
        f"on a slow disk would make it faster."
    )


def time_panel(steps: Sequence[Row]) -> Figure:
    """The time of a step, split into its parts, over the run."""
    figure, axes = panel("Time of a step (ms)")
    x, width, edges = _bins(steps)
    below = np.zeros(len(x))
    for key, (what, colour) in PARTS.items():
        heights = 1000 * _means(steps, key, edges)
        axes.bar(x, heights, width, bottom=below, color=colour, label=what)
        below = below + heights
    axes.set_ylim(0, 1.25 * max(float(below.max()), 1e-3))  # room for the legend
    axes.legend(frameon=False, fontsize=9, loc="upper center", ncols=3, columnspacing=1.2, handlelength=1.2)
    label(axes, "step")
    whole(axes, "x")
    return figure


def throughput_panel(steps: Sequence[Row]) -> Figure:
    """Pictures per second over the run."""
    figure, axes = panel("Pictures per second")
    x, _, edges = _bins(steps)
    marker = "o" if len(x) <= 12 else None
    values = _means(steps, "images_per_second", edges)
    axes.plot(x, values, color=QUIET, lw=1.6, ms=3.5, marker=marker)
    axes.set_ylim(0, 1.15 * max(float(values.max()), 1e-9))
    label(axes, "step")
    whole(axes, "x")
    return figure


def _bins(steps: Sequence[Row]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps in the middle of each bin, widths of the bins, and where each begins in steps."""
    edges = np.linspace(0, len(steps), min(BARS, len(steps)) + 1).round().astype(int)
    at = np.array([row["step"] for row in steps], float)
    before = np.concatenate([[0.0 if len(at) < 2 else at[0] - (at[1] - at[0])], at])[edges]
    return (before[:-1] + before[1:]) / 2, 0.9 * np.diff(before), edges


def _means(steps: Sequence[Row], key: str, edges: np.ndarray) -> np.ndarray:
    values = np.array([row.get(key) or 0.0 for row in steps], float)
    return np.array([values[a:b].mean() for a, b in pairwise(edges)])
