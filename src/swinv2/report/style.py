"""How every picture of a report looks: colours, type, axes, and long texts made to fit.

Figures are drawn on matplotlib's Agg canvas without pyplot, so that nothing is left open and no display is
asked for.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from swinv2.extras import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRAIN, HELD_OUT, WRONG = "#8a8f98", "#1f5fb4", "#d9661f"  # learnt from, what counts, mistakes
INK, QUIET, LINE, GRID = "#1d2430", "#5b616b", "#c5c9cf", "#e8eaed"


def canvas(width: float, height: float) -> Figure:
    """An empty figure of so many inches."""
    figure = require("matplotlib.figure", extra="train").Figure(figsize=(width, height), layout="constrained")
    require("matplotlib.backends.backend_agg", extra="train").FigureCanvasAgg(figure)
    return figure


def panel(title: str, *, width: float = 5.3, height: float = 3.4, grid: str = "y") -> tuple[Figure, Axes]:
    """A figure with one panel, half a page wide."""
    figure = canvas(width, height)
    axes = figure.subplots()
    head(axes, title)
    quiet(axes, grid)
    return figure, axes


def head(axes: Axes, title: str) -> None:
    """The title of a panel, in lines that fit the figure."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    letters = int(figure.get_figwidth() / len(set(figure.axes)) * 72 / 5.6)  # a letter of 10 points
    axes.set_title("\n".join(textwrap.wrap(title, letters)), loc="left", fontsize=10, color=QUIET)


def quiet(axes: Axes, grid: str = "y") -> None:
    """Axes that stay behind what they measure."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(colors=QUIET, labelsize=9, length=3)
    axes.grid(axis=grid, color=GRID, lw=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)


def label(axes: Axes, x: str = "", y: str = "") -> None:
    axes.set_xlabel(x, fontsize=9, color=QUIET)
    axes.set_ylabel(y, fontsize=9, color=QUIET)


def whole(axes: Axes, axis: str) -> None:
    """An axis that counts: whole numbers, with commas."""
    which = axes.xaxis if axis == "x" else axes.yaxis
    ticker = require("matplotlib.ticker", extra="train")
    which.set_major_locator(ticker.MaxNLocator("auto", integer=True, min_n_ticks=1, steps=[1, 2, 2.5, 5, 10]))
    which.set_major_formatter("{x:,.0f}")


def logarithmic(axes: Axes, axis: str) -> None:
    """An axis in powers of ten, written out: what looks like mathematics is drawn as it is (files.save)."""
    (axes.set_xscale if axis == "x" else axes.set_yscale)("log")
    which = axes.xaxis if axis == "x" else axes.yaxis
    which.set_major_formatter("{x:,g}")
    which.set_minor_formatter("")


def short(name: str, limit: int = 24) -> str:
    """Long class names lose their middle: siblings often differ at the end."""
    half = (limit - 2) // 2
    return name if len(name) <= limit else f"{name[:half].rstrip()}..{name[-half:].lstrip()}"


def wrap(title: str, figure: Figure) -> str:
    letters = int(figure.get_figwidth() * 72 / 7.6)  # a bold letter of size 12 is about 7.6 points wide
    return "\n".join(textwrap.wrap(title, letters))
