"""Tables, texts and pictures on disk: complete or not at all."""

from __future__ import annotations

import csv
import io
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from swinv2.extras import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    draw(figure, part)
    os.replace(part, path)


def draw(figure: Figure, where: Path | BinaryIO) -> None:
    """Write a figure as PNG."""
    text: Any
    for text in figure.findobj(require("matplotlib.text", extra="train").Text):
        text.set_parse_math(False)  # a class may be called $5
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the font has no Chinese; the CSV has
        figure.savefig(where, format="png", dpi=150, facecolor="white")
