"""One part of a data set, whatever it is stored in: which pictures, of which classes, and how to get at each.

Any picture can be read at any time and by any process, in any order: a sample is a function of its position,
never of who came before. Nothing is decoded here.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

HELD_OUT_SHARE = 0.2  # of each class, where the data set itself is not split

Label = (
    int | tuple[int, ...]
)  # an index into classes, or where a picture may show several things, all of them


class DataError(ValueError):
    """A data set that cannot be used, and why."""


class Source(Protocol):
    """What holds the pictures: files, tar shards, a table. Small enough to be handed to worker processes."""

    def read(self, row: int, name: str) -> Path | bytes:
        """A picture as images.decode takes it.

        Args:
            row: its position in the source.
            name: its name in the split.

        Raises:
            OSError: it is not there any more.
        """
        ...


@dataclass(frozen=True)
class Files:
    """Pictures in files of their own; a name is a path below root."""

    root: Path

    def read(self, row: int, name: str) -> Path:
        return self.root / name


@dataclass(frozen=True)
class Split:
    """The pictures of one part, in the order in which they are counted.

    Args:
        root: the folder that names are below, or "hub:owner/name".
        split: name of the part: as it is called there, "train" or "val" of a set that was divided here, or
            "all".
        classes: class names; a label is an index into them.
        names: of each picture, as reports show it: "train/rose/7.jpg" below root, "train-000.tar/0007.jpg",
            "train.parquet[17]".
        labels: of each picture an int; of a multi-label set a tuple of them, which may be empty.
        is_divided: whether the part was made here, by name, and not by the data set.
        source: what reads the pictures; default: files below root.
        rows: position of each picture in the source; default: that in names.
    """

    root: Path
    split: str
    classes: tuple[str, ...]
    names: Sequence[str]
    labels: Sequence[Any]
    is_divided: bool = False
    source: Source | None = field(default=None, repr=False, compare=False)
    rows: Sequence[int] | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def name(self) -> str:
        """What to call the data in a title."""
        return str(self.root) if is_hub(self.root) else self.root.resolve().name

    @property
    def is_multi_label(self) -> bool:
        """Whether a picture may show several classes, or none."""
        return bool(self.labels) and isinstance(self.labels[0], tuple)

    @property
    def counts(self) -> tuple[int, ...]:
        """Pictures per class, in the order of classes."""
        found = Counter(label for labels in self.labels for label in every(labels))
        return tuple(found[label] for label in range(len(self.classes)))

    @property
    def fingerprint(self) -> str:
        """Hash of the names of the pictures and of the classes of each; reads no picture."""
        digest = hashlib.sha256()
        for name, labels in zip(self.names, self.labels, strict=True):
            digest.update(name.encode())
            for label in every(labels):
                digest.update(b"\0" + self.classes[label].encode())
            digest.update(b"\n")
        return digest.hexdigest()[:16]

    def read(self, i: int) -> Path | bytes:
        """Picture i, as images.decode takes it: a path, or encoded bytes.

        Raises:
            OSError: it is not there any more.
        """
        row = i if self.rows is None else int(self.rows[i])
        return (self.source or Files(self.root)).read(row, self.names[i])

    def where(self, i: int) -> str:
        """Picture i, as messages call it."""
        return f"{self.root}[{self.names[i]}]" if is_hub(self.root) else str(self.root / self.names[i])

    def select(self, keep: Iterable[int], split: str | None = None) -> Split:
        """The pictures at these positions; classes stay as they are."""
        keep = list(keep)
        rows = self.rows
        if self.source is not None:
            rows = keep if rows is None else [rows[i] for i in keep]
        return replace(
            self,
            split=split or self.split,
            names=tuple(self.names[i] for i in keep),
            labels=tuple(self.labels[i] for i in keep),
            rows=rows,
        )


def every(labels: int | tuple[int, ...]) -> tuple[int, ...]:
    """The labels of one picture, of which it has one or several."""
    return labels if isinstance(labels, tuple) else (labels,)


def is_hub(path: Path) -> bool:
    """Whether a path is no path but names a data set on a hub."""
    return str(path).startswith("hub:")


def divide(whole: Split) -> tuple[Split, Split]:
    """Training part and held-out part of an undivided set: per class, by the hash of the names.

    A class of one picture stays in the training part. A picture of several classes counts for the rarest.
    """
    held: set[int] = set()
    counts = whole.counts
    members: dict[int, list[int]] = {}
    for i, labels in enumerate(whole.labels):
        rarest = min(every(labels), key=lambda label: (counts[label], label), default=-1)
        members.setdefault(rarest, []).append(i)
    for indices in members.values():
        count = min(max(round(HELD_OUT_SHARE * len(indices)), 1), len(indices) - 1)
        # Ranked by hash: no generator whose stream a library may change, and adding a file moves few others.
        ranked = sorted(indices, key=lambda i: hashlib.sha256(whole.names[i].encode()).digest())
        held.update(ranked[:count])
    train = whole.select([i for i in range(len(whole)) if i not in held], "train")
    held_out = whole.select(sorted(held), "val")
    return replace(train, is_divided=True), replace(held_out, is_divided=True)


def relabel(split: Split, classes: tuple[str, ...]) -> Split:
    """The same pictures, labelled by an order of classes that contains the split's own."""
    index = {name: i for i, name in enumerate(classes)}
    new = [index.get(name, -1) for name in split.classes]  # -1: a class without pictures, never looked up
    labels: tuple[Any, ...] = (
        tuple(tuple(new[label] for label in labels) for labels in split.labels)
        if split.is_multi_label
        else tuple(new[label] for label in split.labels)
    )
    return replace(split, classes=classes, labels=labels)
