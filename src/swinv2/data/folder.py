"""A folder of pictures with one folder per class.

Classes are the folder names in sorted order, as torchvision's ImageFolder has them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from swinv2.data.parts import folders, is_hidden
from swinv2.data.split import DataError, Split
from swinv2.images import SUFFIXES


def has_classes(folder: Path) -> bool:
    """Whether a folder holds folders with pictures."""
    return any(map(holds_pictures, folders(folder)))


def holds_pictures(folder: Path) -> bool:
    """Whether there is a picture below a folder."""
    return next(pictures(folder), None) is not None


def read(root: Path, part: Path, split: str) -> Split:
    """The class folders in part, which is root or a folder in it.

    Raises:
        DataError: what is wrong with it, in one sentence.
    """
    classes: list[str] = []
    names: list[str] = []
    labels: list[int] = []
    prefix = "" if part == root else f"{part.relative_to(root).as_posix()}/"
    for folder in folders(part):
        found = [f"{prefix}{folder.name}/{name}" for name in pictures(folder)]
        if not found:
            raise DataError(
                f"{folder} holds no pictures; each folder beside it is a class: fill it or remove it"
            )
        names += found
        labels += [len(classes)] * len(found)
        classes.append(folder.name)
    if not classes:
        loose = any(os.path.splitext(p.name)[1].lower() in SUFFIXES for p in part.iterdir())
        raise DataError(
            f"{part} holds pictures but no folders; put those of each class into a folder named after it"
            if loose
            else f"{part} holds no pictures; it needs one folder per class with files such as .jpg or .png"
        )
    return Split(root, split, tuple(classes), tuple(names), tuple(labels))


def pictures(folder: Path) -> Iterator[str]:
    """Paths below a folder at any depth, by suffix, sorted; links are followed, hidden files not."""
    for where, below, found in os.walk(folder, followlinks=True):
        below[:] = sorted(name for name in below if not is_hidden(name))
        prefix = "" if where == str(folder) else f"{Path(where).relative_to(folder).as_posix()}/"
        for name in sorted(found):
            if os.path.splitext(name)[1].lower() in SUFFIXES and not is_hidden(name):
                yield prefix + name
