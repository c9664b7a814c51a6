"""A data set that was made ready in a folder, and the note in it which says that it is complete."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

NOTE = "dataset.json"  # written last


@dataclass(frozen=True)
class Prepared:
    """What lies in the folder now.

    Args:
        is_new: whether this call wrote it.
        samples: pictures to try things with, where there are such.
    """

    root: Path
    images: int
    classes: tuple[str, ...]
    is_new: bool
    samples: tuple[Path, ...] = ()


def holds(root: Path, note: dict) -> bool:
    """Whether a folder is complete and of this kind."""
    try:
        return json.loads((root / NOTE).read_text()) == note
    except (OSError, ValueError):
        return False
