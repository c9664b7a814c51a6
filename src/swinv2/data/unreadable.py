"""Pictures that cannot be read: training leaves them out up to a share of the set, and lists them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from swinv2.data.split import DataError, Split


class Unreadable(NamedTuple):
    """A picture that could not be decoded: position and name in the split, and a sentence that names it."""

    index: int  # type: ignore[assignment]  # the tuple's index(value) has no use here
    name: str
    reason: str


class LeftOut:
    """The pictures of a training part that were found to be unreadable, each once.

    Which ones follows from the data alone, and so does the point at which they are too many.

    Args:
        split: what is learnt from.
        share: of its pictures that may be left out; 0 for none.
    """

    def __init__(self, split: Split, share: float):
        self.split, self.share = split, share
        self.limit = math.floor(share * len(split) + 1e-9)
        self.found: dict[int, Unreadable] = {}

    def __len__(self) -> int:
        return len(self.found)

    def add(self, found: Iterable[Unreadable]) -> list[Unreadable]:
        """Count some more; returns those that are new.

        Raises:
            DataError: they are more than may be left out.
        """
        new = {unreadable.index: unreadable for unreadable in found if unreadable.index not in self.found}
        self.found.update(new)
        if len(self) > self.limit:
            split, first = self.split, self.found[min(self.found)]
            raise DataError(
                f"{len(self):,} of {len(split):,} pictures of {split.name}/{split.split} cannot be read, and "
                f"{self.limit:,} may be left out (max_unreadable {self.share:g}); the first: {first.reason}; "
                f"repair or remove them"
            )
        return list(new.values())

    def rest(self) -> list[int]:
        """Positions of the pictures that are not left out, in order."""
        return [i for i in range(len(self.split)) if i not in self.found]
