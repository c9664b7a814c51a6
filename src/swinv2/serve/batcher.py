"""Requests in, batches out: images of different requests share a run of the model, and never their answers.

Where no worker computes, an image is computed at once. Otherwise images gather until a batch is full or the oldest
has waited long enough. Where all workers compute and a batch is full, one of them gets it ahead, so that it need not
wait for it afterwards. Every image waits by itself: a request of many is split, one that nobody waits for any more
leaves the queue, and what a dying worker left behind is computed again.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from swinv2.serve.errors import Kind, Refused
from swinv2.serve.settings import Batching
from swinv2.serve.worker import Worker, WorkerDied

TRIES = 2  # how often an image is computed when workers die over it
PATIENCE = (0.1, 0.5, 2.0, 10.0)  # seconds before a worker is started again, the last one from then on


class Observer(Protocol):
    """Who wants to know what batches were computed."""

    def batch(self, images: int, seconds: float) -> None:
        """A batch was computed."""

    def worker_died(self) -> None:
        """A worker ended before it had answered."""


@dataclass(eq=False)
class Waiting:
    """One image in the queue, and who waits for its logits. Times are those of time.monotonic()."""

    image: np.ndarray  # float32 [C, H, W]
    answer: asyncio.Future[np.ndarray]
    since: float = field(default_factory=time.monotonic)
    started: float = 0.0
    ended: float = 0.0
    tries: int = 0


@dataclass(frozen=True)
class Computed:
    """Logits float32 [images, classes], and how long the images waited and were computed (the slowest of them)."""

    logits: np.ndarray
    queue_seconds: float
    compute_seconds: float


@dataclass(eq=False)
class Line:
    """A worker, and the batches that it was given: the first is computed, a second one lies ready."""

    worker: Worker
    given: deque[tuple[list[Waiting], asyncio.Future[np.ndarray]]] = field(default_factory=deque)
    since: float = 0.0  # the first is computed
    alive: bool = True

    def give(self, batch: list[Waiting]) -> None:
        run = asyncio.ensure_future(self.worker.run([item.image for item in batch]))
        self.given.append((batch, run))


class Batcher:
    """The queue of one model, and the workers that empty it. Everything happens in one event loop.

    Args:
        workers: started.
        values: of an image of the model's own size; a run of larger images has fewer of them, so that memory has a
            bound.
    """

    def __init__(self, workers: Sequence[Worker], batching: Batching, *, values: int, observer: Observer):
        self._lines, self._batching, self._observer = [Line(w) for w in workers], batching, observer
        self._capacity = values * batching.max_batch_size
        self._queue: dict[Waiting, None] = {}  # in order of arrival
        self._admitted = 0  # images that are decoded, wait or are computed
        self._changed = asyncio.Event()
        self._seconds_each = 0.05  # of one image, as last measured
        self._tasks = [asyncio.create_task(self._work(line)) for line in self._lines]

    @property
    def waiting(self) -> int:
        """Images that were admitted and are not yet answered."""
        return self._admitted

    @property
    def alive(self) -> int:
        """Workers that can compute."""
        return sum(line.alive for line in self._lines)

    @property
    def is_alive(self) -> bool:
        """Whether any worker can compute."""
        return any(line.alive for line in self._lines)

    @contextmanager
    def admit(self, images: int) -> Iterator[Admission]:
        """Reserve places in the queue, before pictures are decoded.

        Raises:
            Refused: the queue is full (BUSY), or has not so many places at all (INVALID).
        """
        limit = self._batching.max_queue
        if images > limit:
            raise Refused(
                Kind.INVALID, f"the request has {images} images; at most {limit} can wait, send fewer"
            )
        if not self.is_alive:
            raise Refused(
                Kind.UNAVAILABLE, "no worker of the model is running; try again shortly", retry_after=1
            )
        if self._admitted + images > limit:
            seconds = math.ceil(self._admitted * self._seconds_each)
            raise Refused(
                Kind.BUSY,
                f"{self._admitted} images are waiting and {limit} may; try again later",
                retry_after=max(1, min(seconds, 60)),
            )
        admission = Admission(self, images)
        try:
            yield admission
        finally:
            admission.leave()

    async def close(self) -> None:
        """Stop the workers; nobody may wait any more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for item in self._queue:
            _fail(item, Refused(Kind.UNAVAILABLE, "the model was unloaded; send the request again"))
        await asyncio.gather(*(line.worker.close() for line in self._lines))

    def _release(self, images: int) -> None:
        self._admitted -= images

    def _put(self, images: Sequence[np.ndarray]) -> list[Waiting]:
        loop = asyncio.get_running_loop()
        items = [Waiting(image, loop.create_future()) for image in images]
        self._queue.update(dict.fromkeys(items))
        self._give_ahead()
        self._notice()
        return items

    def _withdraw(self, items: Sequence[Waiting]) -> None:
        for item in items:
            self._queue.pop(item, None)
            if not item.answer.cancel() and not item.answer.cancelled():
                item.answer.exception()  # looked at: where several failed, the request was told of the first

    def _notice(self) -> None:
        """Wake whoever waits for a change."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _work(self, line: Line) -> None:
        """What one worker does, for ever."""
        while True:
            if not line.given:
                line.give(await self._next())
                self._give_ahead()
            batch, run = line.given[0]
            line.since = time.monotonic()
            for item in batch:
                item.started, item.tries = line.since, item.tries + 1
            try:
                logits = await asyncio.shield(run)
            except asyncio.CancelledError:
                await self._leave(line)
                raise
            except WorkerDied:
                self._observer.worker_died()
                await self._pick_up(line)
                await self._restart(line)
                continue
            except Exception as error:
                for item in batch:
                    _fail(item, Refused(Kind.FAILED, f"the runtime failed: {error}"))
            else:
                self._deliver(batch, logits)
            line.given.popleft()
            self._give_ahead()
            self._notice()

    async def _leave(self, line: Line) -> None:
        """What a worker was given is finished, since it is not closed in the middle of a run, and answers nobody."""
        for batch, run in line.given:
            with suppress(Exception):
                await run
            for item in batch:
                _fail(item, Refused(Kind.UNAVAILABLE, "the model was unloaded; send the request again"))

    async def _pick_up(self, line: Line) -> None:
        """What a worker died over, and what it had not begun, waits again."""
        (died_over, _), *not_begun = line.given
        line.given.clear()
        line.alive = False
        self._put_back(died_over, *(batch for batch, _ in not_begun))
        for _, run in not_begun:  # ends with the same death
            await asyncio.gather(run, return_exceptions=True)

    def _give_ahead(self) -> None:
        """A full batch for the worker that has computed longest, where all compute and have no other one."""
        alive = [line for line in self._lines if line.alive]
        ready = [line for line in alive if line.worker.takes_two and len(line.given) == 1]
        if not self._queue or not ready or not all(line.given for line in alive):
            return
        oldest = next(iter(self._queue))
        if oldest.tries or len(self._queue) < self._room(oldest.image):
            return
        batch = self._gather(oldest)
        if len(batch) == self._room(oldest.image):
            self._take(batch)
            min(ready, key=lambda line: line.since).give(batch)

    async def _next(self) -> list[Waiting]:
        """The next batch, as soon as it is time for it."""
        while True:
            changed = self._changed
            if not self._queue:
                await changed.wait()
                continue
            oldest = next(iter(self._queue))
            batch = self._gather(oldest)
            due = oldest.since + self._batching.max_queue_delay_ms / 1000 - time.monotonic()
            computing = any(line.given for line in self._lines)
            if computing and due > 0 and len(batch) < self._room(oldest.image):
                with suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), due)
                continue
            self._take(batch)
            return batch

    def _take(self, batch: Sequence[Waiting]) -> None:
        for item in batch:
            del self._queue[item]

    def _gather(self, oldest: Waiting) -> list[Waiting]:
        """The oldest image and those of its size that came after it, as many as a run may have."""
        if oldest.tries:  # a worker died over it: perhaps because of it, so nobody shares its run
            return [oldest]
        batch, room = [], self._room(oldest.image)
        for item in self._queue:
            if item.image.shape == oldest.image.shape and not item.tries:
                batch.append(item)
                if len(batch) == room:
                    break
        return batch

    def _room(self, image: np.ndarray) -> int:
        """Images of this size in one run."""
        return max(1, min(self._batching.max_batch_size, self._capacity // image.size))

    def _deliver(self, batch: Sequence[Waiting], logits: np.ndarray) -> None:
        ended = time.monotonic()
        seconds = ended - batch[0].started
        self._seconds_each += 0.2 * (seconds / len(batch) / max(1, self.alive) - self._seconds_each)
        self._observer.batch(len(batch), seconds)
        for item, row in zip(batch, logits, strict=True):
            item.ended = ended
            if not item.answer.done():
                item.answer.set_result(row)

    def _put_back(self, died_over: Sequence[Waiting], *not_begun: Sequence[Waiting]) -> None:
        """What a worker died over goes to the head of the queue, or is given up."""
        again: dict[Waiting, None] = {}
        for item in died_over:
            if item.answer.done():
                continue
            if item.tries < TRIES:
                again[item] = None
            else:
                _fail(item, Refused(Kind.FAILED, "the workers that computed this image died; it is given up"))
        for batch in not_begun:
            again |= {item: None for item in batch if not item.answer.done()}
        self._queue = again | self._queue
        self._notice()

    async def _restart(self, line: Line) -> None:
        """Start a worker again, until it lives."""
        tries = 0
        while True:
            try:
                await line.worker.start()
                break
            except Exception:
                if not self.is_alive:
                    self._give_up()
                await asyncio.sleep(PATIENCE[min(tries, len(PATIENCE) - 1)])
                tries += 1
        line.alive = True
        self._notice()

    def _give_up(self) -> None:
        """No worker lives and none can be started: nobody shall wait for it."""
        for item in list(self._queue):
            _fail(item, Refused(Kind.UNAVAILABLE, "no worker of the model is running; try again shortly"))
        self._queue.clear()


class Admission:
    """Places in the queue of a batcher, held from before an image is decoded until it is computed."""

    def __init__(self, batcher: Batcher, images: int):
        self._batcher, self._left = batcher, images
        batcher._admitted += images

    def leave(self) -> None:
        """Give the places back that are still held."""
        self._batcher._release(self._left)
        self._left = 0

    async def compute(self, images: Sequence[np.ndarray]) -> Computed:
        """The logits of images, float32 [C, H, W], in their order.

        Cancelled, it takes those out of the queue that nobody has begun to compute.

        Raises:
            Refused: the runtime failed, or the model was unloaded.
        """
        items = self._batcher._put(images)
        try:
            rows = await asyncio.gather(*(item.answer for item in items))
        finally:
            self._batcher._withdraw(items)
            self.leave()
        return Computed(
            np.stack(rows),
            max(item.started - item.since for item in items),
            max(item.ended - item.started for item in items),
        )


def _fail(item: Waiting, error: Refused) -> None:
    if not item.answer.done():
        item.answer.set_exception(error)
