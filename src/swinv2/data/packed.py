"""A split as a few flat arrays, for worker processes.

A worker that looks at one of a million Python strings writes its reference count and so gets a copy of the page
that it lies on; after an epoch every worker has a copy of all names. Arrays are shared for good.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import overload

import numpy as np

from swinv2.data.split import Split


class Texts(Sequence[str]):
    """Strings in one buffer."""

    def __init__(self, texts: Iterable[str]):
        encoded = [
            text.encode("utf-8", "surrogateescape") for text in texts
        ]  # names of files may be any bytes
        self.ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
        self.buffer = np.frombuffer(b"".join(encoded), np.uint8)

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> tuple[str, ...]: ...
    def __getitem__(self, i: int | slice) -> str | tuple[str, ...]:
        if isinstance(i, slice):
            return tuple(self[k] for k in range(*i.indices(len(self))))
        i = range(len(self))[i]  # IndexError beyond the end, counts from it where negative
        start = self.ends[i - 1] if i else 0
        return self.buffer[start : self.ends[i]].tobytes().decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))


class Labels(Sequence[tuple[int, ...]]):
    """The labels of pictures that have several, in one array."""

    def __init__(self, labels: Sequence[tuple[int, ...]]):
        self.ends = np.cumsum([len(row) for row in labels], dtype=np.int64)
        self.values = np.array([label for row in labels for label in row], np.int32)

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, i: int) -> tuple[int, ...]: ...
    @overload
    def __getitem__(self, i: slice) -> tuple[tuple[int, ...], ...]: ...
    def __getitem__(self, i: int | slice) -> tuple[int, ...] | tuple[tuple[int, ...], ...]:
        if isinstance(i, slice):
            return tuple(self[k] for k in range(*i.indices(len(self))))
        i = range(len(self))[i]
        return tuple(self.values[self.ends[i - 1] if i else 0 : self.ends[i]].tolist())


def packed(split: Split) -> Split:
    """The same split; what there is one of per picture lies in arrays."""
    rows = split.rows
    return replace(
        split,
        names=Texts(split.names),
        labels=Labels(split.labels) if split.is_multi_label else array("q", split.labels),
        rows=rows if rows is None or isinstance(rows, range) else array("q", rows),
    )
