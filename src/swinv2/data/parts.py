"""What people call the parts of a data set: train/, val_list.txt, test-00000-of-00004.parquet."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

# Compared without regard to case. The first held-out part that exists is the one that training measures on.
TRAIN = ("train", "training")
HELD_OUT = ("val", "valid", "validation", "dev", "test", "testing", "held-out", "held_out", "heldout")

_STARTS = re.compile(
    rf"({'|'.join(sorted(TRAIN + HELD_OUT, key=len, reverse=True))})(?![a-z])", re.IGNORECASE
)


def part_of(name: str) -> str | None:
    """The part that a file belongs to: "train_list.txt" -> "train", "photos.txt" -> None."""
    found = _STARTS.match(name)
    return found[1] if found else None


def matching(parts: Iterable[str], names: tuple[str, ...]) -> list[str]:
    """The parts that are called one of the names, in the order of the names."""
    return [part for name in names for part in parts if part.casefold() == name]


def folders(root: Path) -> list[Path]:
    """The folders in a folder, sorted by code point, as torchvision sorts classes; hidden ones are not seen."""
    return sorted((p for p in root.iterdir() if not is_hidden(p.name) and p.is_dir()), key=lambda p: p.name)


def files(root: Path, *suffixes: str) -> list[Path]:
    """The files of these suffixes in a folder, sorted by name; hidden ones are not seen."""
    found = (p for p in root.iterdir() if p.suffix.lower() in suffixes and not is_hidden(p.name))
    return sorted((p for p in found if p.is_file()), key=lambda p: p.name)


def is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def some(names: Iterable[str]) -> str:
    """The first five and how many more, for a sentence."""
    names = list(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
