"""One version of a model, ready to answer: its record, its workers and its queue, from opening to draining."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from swinv2 import probe
from swinv2.artifact import Record
from swinv2.serve.batcher import Batcher, Observer
from swinv2.serve.settings import Batching, Compute
from swinv2.serve.worker import Opened, Worker, workers

# How far the logits of one image may move between a run of its own and a batch, as a share of the largest. Other
# sums are rounded in another order; what is further away is another answer.
SAME = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 4e-2, "fp8": 1e-1, "int8": 1e-1}


class Version:
    """A model under a name and a version. open() makes one; close() waits for those who use it.

    Attributes:
        name, version: as clients say them.
        source: the file or published name that was opened.
        record: architecture, preprocessing and class names.
        opened: runtime, device, precision.
    """

    def __init__(
        self, name: str, version: str, source: str, record: Record, opened: Opened, batcher: Batcher
    ):
        self.name, self.version, self.source = name, version, source
        self.record, self.opened, self._batcher = record, opened, batcher
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()

    @classmethod
    async def open(
        cls, name: str, version: str, source: str, *, compute: Compute, batching: Batching, observer: Observer
    ) -> Version:
        """Start the workers, warm them up and check their answers.

        Raises:
            ValueError, ImportError, OSError, child.Died: why the model cannot be served.
        """
        team = workers(source, compute)
        try:
            record, opened = (await asyncio.gather(*(worker.start() for worker in team)))[0]
            if not record.config.num_classes:
                raise ValueError(
                    f"{source} has no classes (num_classes is 0), only features; serve another model"
                )
            if record.preprocess.channels not in (1, 3):
                channels = record.preprocess.channels
                raise ValueError(f"{source} takes {channels} channels; pictures have 1 or 3")
            await asyncio.gather(*(_warm_up(worker, record, opened, batching, source) for worker in team))
        except BaseException:
            await asyncio.gather(*(worker.close() for worker in team))
            raise
        values = record.preprocess.channels * record.preprocess.size[0] * record.preprocess.size[1]
        batcher = Batcher(team, batching, values=values, observer=observer)
        return cls(name, version, source, record, opened, batcher)

    @property
    def batcher(self) -> Batcher:
        """The queue in front of the workers."""
        return self._batcher

    @property
    def is_ready(self) -> bool:
        """Whether a request would be computed."""
        return self._batcher.is_alive

    @contextmanager
    def used(self) -> Iterator[Version]:
        """Keep the version open while a request is answered."""
        self._users += 1
        self._unused.clear()
        try:
            yield self
        finally:
            self._users -= 1
            if not self._users:
                self._unused.set()

    async def close(self) -> None:
        """Wait until every request that uses it is answered, and end the workers."""
        await self._unused.wait()
        await self._batcher.close()

    def check(self, images: Sequence[np.ndarray]) -> str | None:
        """Why images [C, H, W] are none that the model takes; None where they are."""
        channels, (height, width) = self.record.preprocess.channels, self.record.preprocess.size
        shape = images[0].shape
        fits = shape[0] == channels and (
            min(shape) > 0 if self.opened.any_size else shape[1:] == (height, width)
        )
        if fits:
            return None
        sizes = "height, width" if self.opened.any_size else f"{height}, {width}"
        return f"pixels have shape {[len(images), *shape]}; {self.name} takes [images, {channels}, {sizes}]"


async def _warm_up(worker: Worker, record: Record, opened: Opened, batching: Batching, source: str) -> None:
    """Run one image and a full batch, and compare: a version that gives nonsense does not take over.

    Raises:
        ValueError: logits that are not finite, or that depend on the other images of a batch.
    """
    count = batching.max_batch_size
    images = list(probe.images(record, min(count, 3)))
    alone = (await worker.run(images[:1]))[0]
    together = (await worker.run((images * count)[:count]))[0]
    if not (np.isfinite(alone).all() and np.isfinite(together).all()):
        raise ValueError(f"{source} gives logits in {opened.precision} that are not finite; serve it in fp32")
    moved = float(np.abs(alone - together).max() / max(float(np.abs(alone).max()), 1e-12))
    if moved > SAME[opened.precision]:
        raise ValueError(
            f"{source} gives another answer in a batch of {count} ({moved:.2g} of the largest logit) than alone; "
            "serve it with --max-batch-size 1, or export it with static activations"
        )
