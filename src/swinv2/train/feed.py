"""What a run is fed: pictures that were looked at before, kept in memory or decoded as they are needed.

A training picture that cannot be read is left out and listed, as far as the recipe allows; always the same ones,
whoever meets them. Held-out pictures are never left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from swinv2 import world
from swinv2.data import DataError, Split
from swinv2.data.loader import (
    AsPredicted,
    Batch,
    Pictures,
    collate,
    cpus,
    decode_all,
    default_workers,
    fits_in_memory,
    loader,
)
from swinv2.data.order import Order
from swinv2.data.unreadable import LeftOut, Unreadable
from swinv2.train import cores
from swinv2.train.compute import Compute
from swinv2.train.parallel import swin
from swinv2.train.shown.describe import say
from swinv2.train.task import Task

CHECKED = 10_000  # pictures up to which a set that does not fit into memory is read once before the run
LISTED = 20  # lines about pictures that cannot be read; summary.json has them all


class Feed:
    """The batches of a run.

    Args:
        task: its training part loses the pictures that cannot be read.
        workers: loader processes; None chooses.
        skip_unreadable: leave out as many as there are, and not only the share that the recipe allows.

    Attributes:
        order: of the training pictures.
        training, held_out: iterables of Batch.
        left_out: training pictures that cannot be read.

    Raises:
        DataError: pictures that cannot be read and may not be left out.
    """

    def __init__(self, task: Task, on: Compute, *, workers: int | None, skip_unreadable: bool):
        self.recipe, me = task.recipe, world.current()
        channels = task.preprocess.channels
        self.left_out = LeftOut(task.train, 1.0 if skip_unreadable else task.recipe.max_unreadable)
        self.positions: list[int] = list(range(len(task.train)))  # in the whole part, of what is learnt from
        self.is_in_memory = fits_in_memory(task.train) and fits_in_memory(task.held_out)
        decoded: list[Any] = [None, None]
        if self.is_in_memory or len(task.train) + len(task.held_out) <= CHECKED:
            images = self._look_at(task.train, channels)
            self.refuse(image for image in images if isinstance(image, Unreadable))
            if self.left_out.found:
                self.positions = self.left_out.rest()
                task.train = task.train.select(self.positions)
            decoded = [[images[i] for i in self.positions], self._look_at(task.held_out, channels)]
            refuse_held_out([i for i in decoded[1] if isinstance(i, Unreadable)], task.held_out)
        if not self.is_in_memory:
            decoded = [None, None]
        batch, parts = task.recipe.batch_size, task.recipe.accumulate
        if workers is None:
            # Of small pictures in memory, a worker would spend more on handing them over than on making them.
            workers = 0 if self.is_in_memory else default_workers(processes=me.local_size)
        self.workers = workers
        if on.kind == "cpu" and not self.is_in_memory and not cores.is_decided():  # whatever workers is
            config = swin(task.network).config
            torch.set_num_threads(cores.network_threads(config, on.precision, cpus() // me.local_size))
        self.order = Order(
            len(task.train), batch, task.recipe.seed, rank=me.rank, world=me.size, accumulate=parts
        )
        self.learnt = Pictures(task.train, channels, task.augment(), decoded[0])
        measured = Pictures(task.held_out, channels, AsPredicted(task.preprocess), decoded[1])
        in_turn = Order(len(task.held_out), batch, rank=me.rank, world=me.size)
        pin = on.kind == "cuda"
        self.training = loader(self.learnt, self.order, workers=workers, pin=pin)
        self.held_out = loader(measured, in_turn, workers=workers, pin=pin)

    def first(self) -> Batch:
        """The first micro batch of the first epoch; takes nothing from the run."""
        order = Order(
            len(self.learnt), self.recipe.batch_size, self.recipe.seed, accumulate=self.recipe.accumulate
        )
        return collate([self.learnt[key] for key in next(iter(order))])

    def refuse(self, found: Iterable[Unreadable]) -> None:
        """List training pictures that are not listed yet; stop where they are too many. The same in every
        process, which must have been told of all of them.

        Raises:
            DataError: more than may be left out.
        """
        found = [u._replace(index=self.positions[u.index]) for u in found]
        for unreadable in found:
            if unreadable.index not in self.left_out.found and len(self.left_out) < LISTED:
                say(f"unreadable: {unreadable.reason}")
        try:
            self.left_out.add(found)
        except DataError as error:
            raise DataError(f"{error}, or give --skip-unreadable") from None

    def slow_because(self) -> str:
        """What to change where steps wait for pictures."""
        if self.workers == 0 and cpus() > 1:
            return f"let other processes prepare them: --workers {min(cpus() - 1, 8)}"
        share = cpus() // world.current().local_size
        if 0 < self.workers < share:
            return f"let more processes prepare them: --workers {share}"
        return (
            "all processors are busy with them: store the pictures smaller (about a fifth more than the size that "
            "is trained at), or choose a weaker augmentation (auto_augment: none)"
        )

    def _look_at(self, split: Split, channels: int) -> list[Any]:
        """Every picture decoded, or an Unreadable; where they are not to be kept, None for most of them."""
        if self.is_in_memory:
            return decode_all(split, channels)
        me = world.current()
        mine = range(me.rank, len(split), me.size)  # the processes share the reading
        looked = decode_all(split.select(mine), channels, keep=False)
        found: list[Any] = [None] * len(split)
        for part in world.gather(
            [u._replace(index=mine[u.index]) for u in looked if isinstance(u, Unreadable)]
        ):
            for unreadable in part:
                found[unreadable.index] = unreadable
        return found


def refuse_held_out(found: Sequence[Unreadable], split: Split) -> None:
    """Nothing is measured without a picture.

    Raises:
        DataError: there are some.
    """
    for unreadable in found[:LISTED]:
        say(f"unreadable: {unreadable.reason}")
    if found:
        raise DataError(
            f"{len(found)} of {len(split):,} pictures in {split.name}/{split.split} cannot be read, the first is "
            f"{split.where(found[0].index)}; repair or remove them; held-out pictures are never skipped"
        )
