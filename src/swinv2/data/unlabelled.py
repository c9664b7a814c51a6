"""Pictures without labels, for pre-training: whatever lies below a folder, or any data set with its labels left out."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

from swinv2.data.formats import read_training
from swinv2.data.parts import HELD_OUT, TRAIN
from swinv2.data.split import HELD_OUT_SHARE, DataError, Split
from swinv2.images import SUFFIXES

MEASURED = 1000  # pictures at most that are held out: their mean error says enough about a million


def read_unlabelled(path: str | os.PathLike) -> tuple[Split, Split]:
    """The pictures to learn from, and some to measure on.

    A folder may hold pictures at any depth; train/ and val/ (test/, ...) are taken for what they are called. Without
    a held-out part, a fifth and at most 1,000 are held out by the hash of their names, the same ones every time.
    Anything else, such as tar shards, is read as for training, and its labels are left out.

    Raises:
        FileNotFoundError, DataError: what is wrong with the data, in one sentence.
    """
    root = Path(path)
    pictures = _below(root) if root.is_dir() else []
    if not pictures:
        train, held_out = (
            replace(s, classes=("picture",), labels=(0,) * len(s)) for s in read_training(path)
        )
        return train, _some(held_out)
    train_names = [name for name in pictures if _part(name) in TRAIN]
    held_out_names = [name for name in pictures if train_names and _part(name) in HELD_OUT]
    train = _split(root, "train", train_names or pictures)
    if held_out_names:
        return train, _some(_split(root, _part(held_out_names[0]), held_out_names))
    if len(train) < 2:
        raise DataError(
            f"{root} holds one picture; pre-training needs at least one to learn from and one to measure on"
        )
    held = set(_ranked(train)[: min(max(round(HELD_OUT_SHARE * len(train)), 1), MEASURED)])
    kept = train.select(i for i in range(len(train)) if i not in held)
    return replace(kept, is_divided=True), replace(train.select(sorted(held), "val"), is_divided=True)


def _below(root: Path) -> list[str]:
    """Pictures at any depth, sorted, as names below root; links are followed, hidden files not."""
    found = []
    for where, folders, files in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        here = Path(where).relative_to(root)
        found += [
            (here / name).as_posix()
            for name in files
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES
        ]
    return sorted(found)


def _part(name: str) -> str:
    """The outermost folder of a picture, as parts are compared."""
    return name.partition("/")[0].casefold() if "/" in name else ""


def _split(root: Path, split: str, names: list[str]) -> Split:
    return Split(root, split, ("picture",), tuple(names), (0,) * len(names))


def _some(held_out: Split) -> Split:
    return held_out.select(sorted(_ranked(held_out)[:MEASURED])) if len(held_out) > MEASURED else held_out


def _ranked(split: Split) -> list[int]:
    """Positions in an order that has nothing to do with that of the pictures, and stays when others are added."""
    return sorted(range(len(split)), key=lambda i: hashlib.sha256(split.names[i].encode()).digest())
