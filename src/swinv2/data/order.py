"""In which order the pictures of an epoch are learnt, and which process gets which.

The order follows from (seed, epoch) alone. A step learns from one total batch, whatever it is divided over:
the processes each take their part of it, in as many micro batches as they need.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch.utils.data import Sampler

from swinv2.data.split import DataError


class Key(NamedTuple):
    """All that decides a sample: its look follows from (epoch, index), position is its place in the total
    batch of its step."""

    epoch: int
    index: int  # type: ignore[assignment]  # the tuple's index(value) has no use here
    position: int


class Order(Sampler[list[Key]]):
    """The micro batches of one epoch for one process, as lists of keys.

    Positions i and batch_size - 1 - i of a total batch are in the same micro batch, at mirrored places: what
    mixes a micro batch with its own reverse mixes the same pairs as one process with the total batch would.

    Args:
        count: pictures.
        batch_size: of all processes and micro batches of a step together. More than there are pictures are
            as many as there are.
        seed: of the shuffle; an epoch leaves the pictures over that do not fill a total batch, other ones
            each time. None is for measuring: the order of the data, each picture once, the last batch
            smaller. Every process gets equally many batches, of which the last may have no picture.
        rank, world: this process, and how many there are.
        accumulate: micro batches of a process in a step.

    Attributes:
        epoch: the one that the next iteration is; set it before.
        start: the first step to yield, to resume within an epoch.
        parts: micro batches that this process gets in a step.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        seed: int | None = None,
        *,
        rank: int = 0,
        world: int = 1,
        accumulate: int = 1,
    ):
        assert 0 <= rank < world, (rank, world)
        self.count, self.seed, self.rank, self.world = count, seed, rank, world
        self.batch_size, self.parts = min(batch_size, count), accumulate
        self.epoch = self.start = 0
        if seed is not None and (total := world * accumulate) > 1:
            if batch_size % (2 * total):
                raise ValueError(
                    f"a batch of {batch_size} pictures cannot be divided over {world} processes x {accumulate} "
                    f"parts in pairs; give a batch size that is a multiple of {2 * total}"
                )
            self.batch_size -= self.batch_size % (2 * total)
            if not self.batch_size:
                raise DataError(
                    f"{count} pictures cannot be divided over {world} processes x {accumulate} parts in "
                    f"pairs; use fewer of them, or at least {2 * total} pictures"
                )

    @property
    def steps(self) -> int:
        """Steps of a whole epoch."""
        if self.seed is None:
            return -(-self.count // self.batch_size) if self.count else 0
        return self.count // self.batch_size

    def __len__(self) -> int:
        """Micro batches that the next iteration yields."""
        return max(self.steps - self.start, 0) * (self.parts if self.seed is not None else 1)

    def __iter__(self) -> Iterator[list[Key]]:
        indices = list(range(self.count))
        if self.seed is not None:
            generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
            indices = torch.randperm(self.count, generator=generator).tolist()
        for step in range(self.start, self.steps):
            total = indices[step * self.batch_size : (step + 1) * self.batch_size]
            for positions in self._positions(len(total)):
                yield [Key(self.epoch, total[position], position) for position in positions]

    def _positions(self, total: int) -> Iterator[list[int]]:
        """Places in a total batch of each micro batch of this process."""
        if self.seed is None:
            yield list(range(self.rank, total, self.world))
        elif self.world * self.parts == 1:
            yield list(range(total))
        else:
            half = total // (2 * self.world * self.parts)
            for part in range(self.rank * self.parts, (self.rank + 1) * self.parts):
                front = list(range(part * half, (part + 1) * half))
                yield front + [total - 1 - position for position in reversed(front)]
