"""The batcher: who shares a run with whom, who waits how long, and what happens to those whom nobody waits for."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import numpy as np
import pytest

from swinv2.serve.batcher import Batcher
from swinv2.serve.errors import Kind, Refused
from swinv2.serve.settings import Batching, Compute
from swinv2.serve.worker import Worker, WorkerDied


class Counting:
    """batcher.Observer that remembers."""

    def __init__(self):
        self.batches, self.deaths = [], 0

    def batch(self, images, seconds):
        self.batches.append(images)

    def worker_died(self):
        self.deaths += 1


class Echo(Worker):
    """Answers an image with its first value; computes when it is let, dies or fails over chosen values."""

    def __init__(self, *, open_gate=True, deadly=(), failing=()):
        self.gate = asyncio.Event()
        if open_gate:
            self.gate.set()
        self.runs, self.deadly, self.failing, self.starts, self.closed = [], deadly, failing, 0, False

    async def start(self):
        self.starts += 1

    async def run(self, images):
        values = [float(image.ravel()[0]) for image in images]
        self.runs.append(values)
        await self.gate.wait()
        if set(values) & set(self.deadly):
            raise WorkerDied("killed")
        if set(values) & set(self.failing):
            raise RuntimeError("no memory")
        return np.array(values, np.float32)[:, None]

    async def close(self):
        self.closed = True


class Pair(Echo):
    """Takes a second run while one goes on, and begins it when that has ended; dead, it answers nothing more."""

    takes_two = True

    def __init__(self, **settings):
        super().__init__(**settings)
        self._turn, self.given, self.is_dead = asyncio.Lock(), 0, False

    async def start(self):
        await super().start()
        self.is_dead = False

    async def run(self, images):
        self.given += 1
        async with self._turn:
            if self.is_dead:
                raise WorkerDied("killed before")
            try:
                return await super().run(images)
            except WorkerDied:
                self.is_dead = True
                raise


@asynccontextmanager
async def batching(*workers, values=12, **settings):
    batcher = Batcher(workers, Batching(**settings), values=values, observer=Counting())
    yield batcher
    await batcher.close()


def image(value, shape=(3, 2, 2)):
    return np.full(shape, value, np.float32)


async def ask(batcher, *values, shape=(3, 2, 2)):
    with batcher.admit(len(values)) as admission:
        computed = await admission.compute([image(value, shape) for value in values])
    return computed.logits.ravel().tolist()


async def close_while_it_computes(worker, *values, **settings):
    """Nobody gets an answer, and the worker is closed when it has ended."""
    batcher = Batcher([worker], Batching(**settings), values=12, observer=Counting())
    tasks = [asyncio.create_task(ask(batcher, value)) for value in values]
    await spin()
    closing = asyncio.create_task(batcher.close())
    await spin()
    assert not closing.done()
    assert not worker.closed
    worker.gate.set()
    await closing
    assert worker.closed
    for task in tasks:
        with pytest.raises(Refused, match="unloaded"):
            await task


async def spin():
    """Let everything that can run do so."""
    for _ in range(20):
        await asyncio.sleep(0)


def run(test):
    """An async test as pytest calls it; none may take longer than some seconds."""

    def wrapped():
        asyncio.run(asyncio.wait_for(test(), 20))

    wrapped.__name__ = test.__name__
    return wrapped


@run
async def test_an_image_is_computed_at_once_where_nobody_computes():
    worker = Echo()
    async with batching(worker, max_queue_delay_ms=10_000) as batcher:
        assert await ask(batcher, 7) == [7]
    assert worker.runs == [[7]]


@run
async def test_images_that_come_while_one_is_computed_share_the_next_run():
    worker = Echo(open_gate=False)
    async with batching(worker) as batcher:
        tasks = [asyncio.create_task(ask(batcher, value)) for value in range(5)]
        await spin()
        worker.gate.set()
        assert await asyncio.gather(*tasks) == [[0], [1], [2], [3], [4]]
    assert worker.runs == [[0, 1, 2, 3, 4]] or worker.runs == [[0], [1, 2, 3, 4]]


@run
async def test_a_request_larger_than_a_batch_is_split_and_answered_in_its_order():
    worker = Echo()
    async with batching(worker, max_batch_size=4) as batcher:
        assert await ask(batcher, *range(11)) == list(range(11))
    assert [len(run) for run in worker.runs] == [4, 4, 3]


@run
async def test_a_second_worker_waits_for_a_full_batch_but_not_longer_than_the_delay():
    first, second = Echo(open_gate=False), Echo(open_gate=False)
    async with batching(first, second, max_batch_size=2, max_queue_delay_ms=50) as batcher:
        tasks = [asyncio.create_task(ask(batcher, 0))]
        await spin()
        tasks.append(asyncio.create_task(ask(batcher, 1)))
        await spin()
        assert len(first.runs) + len(second.runs) == 1  # 1 waits for another one
        tasks.append(asyncio.create_task(ask(batcher, 2)))
        await spin()
        assert sorted(first.runs + second.runs) == [[0], [1, 2]]
        first.gate.set()
        second.gate.set()
        await asyncio.gather(*tasks)
        for worker in (first, second):
            worker.gate.clear()
            worker.runs.clear()
        tasks = [asyncio.create_task(ask(batcher, value)) for value in (3, 4, 5)]
        await asyncio.sleep(0.2)
        assert sorted(first.runs + second.runs) == [[3, 4], [5]]  # 5 did not wait for ever
        first.gate.set()
        second.gate.set()
        await asyncio.gather(*tasks)


@run
async def test_a_worker_that_computes_gets_the_next_full_batch_ahead_and_no_third():
    worker = Pair(open_gate=False)
    async with batching(worker, max_batch_size=2) as batcher:
        tasks = [asyncio.create_task(ask(batcher, 0))]
        # A batch that is not full stays open for others.
        for value, given in ((1, 1), (2, 2), (3, 2), (4, 2)):
            await spin()
            tasks.append(asyncio.create_task(ask(batcher, value)))
            await spin()
            assert worker.given == given
        worker.gate.set()
        assert await asyncio.gather(*tasks) == [[0], [1], [2], [3], [4]]
    assert worker.runs == [[0], [1, 2], [3, 4]]


@run
async def test_nothing_is_given_ahead_where_another_worker_has_nothing_to_do():
    first, second = Pair(open_gate=False), Pair(open_gate=False)
    async with batching(first, second, max_batch_size=1) as batcher:
        tasks = [asyncio.create_task(ask(batcher, value)) for value in range(2)]
        await spin()
        assert (first.given, second.given) == (1, 1)
        tasks += [asyncio.create_task(ask(batcher, value)) for value in (2, 3, 4)]
        await spin()
        assert (first.given, second.given) == (2, 2)
        first.gate.set()
        second.gate.set()
        assert await asyncio.gather(*tasks) == [[0], [1], [2], [3], [4]]


@run
async def test_what_a_dead_worker_had_not_begun_is_not_blamed_and_shares_a_run_again():
    worker = Pair(open_gate=False, deadly={0})
    async with batching(worker, max_batch_size=2) as batcher:
        tasks = [asyncio.create_task(ask(batcher, 0))]
        await spin()
        tasks += [asyncio.create_task(ask(batcher, value)) for value in (1, 2)]
        await spin()
        assert worker.given == 2
        worker.gate.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(answers[0], Refused)
    assert answers[1:] == [[1], [2]]
    assert worker.runs == [[0], [0], [1, 2]]


@run
async def test_closing_finishes_what_was_given_ahead_too():
    worker = Pair(open_gate=False)
    await close_while_it_computes(worker, 0, 1, 2, max_batch_size=1)
    assert worker.runs == [[0], [1]]


@run
async def test_images_of_other_sizes_never_share_a_run_and_large_ones_are_fewer():
    worker = Echo(open_gate=False)
    async with batching(worker, max_batch_size=4, values=12) as batcher:
        tasks = [asyncio.create_task(ask(batcher, 0))]
        await spin()
        for value in range(1, 5):
            shape = (3, 2, 2) if value % 2 else (3, 4, 4)
            tasks.append(asyncio.create_task(ask(batcher, value, value, shape=shape)))
        await spin()
        worker.gate.set()
        assert [answer[0] for answer in await asyncio.gather(*tasks)] == [0, 1, 2, 3, 4]
    # 4 images of 12 values are 48: one image of 3 x 4 x 4 fills a run.
    assert worker.runs == [[0], [1, 1, 3, 3], [2], [2], [4], [4]]


@run
async def test_a_request_that_is_cancelled_leaves_the_queue_and_its_place():
    worker = Echo(open_gate=False)
    async with batching(worker, max_batch_size=1, max_queue=3) as batcher:
        first = asyncio.create_task(ask(batcher, 0))
        await spin()
        gone = asyncio.create_task(ask(batcher, 1, 1))
        await spin()
        assert batcher.waiting == 3
        gone.cancel()
        await spin()
        assert batcher.waiting == 1
        last = asyncio.create_task(ask(batcher, 2))
        worker.gate.set()
        assert await asyncio.gather(first, last) == [[0], [2]]
        assert batcher.waiting == 0
    assert worker.runs == [[0], [2]]


@run
async def test_a_full_queue_refuses_and_says_when_to_come_again():
    worker = Echo(open_gate=False)
    async with batching(worker, max_batch_size=2, max_queue=2) as batcher:
        waiting = asyncio.create_task(ask(batcher, 0, 1))
        await spin()
        with pytest.raises(Refused, match="2 images are waiting and 2 may") as busy:
            await ask(batcher, 2)
        assert busy.value.kind is Kind.BUSY
        assert busy.value.retry_after >= 1
        with pytest.raises(Refused, match="3 images; at most 2 can wait") as never:
            await ask(batcher, 2, 3, 4)
        assert never.value.kind is Kind.INVALID
        worker.gate.set()
        assert await waiting == [0, 1]


@run
async def test_what_a_worker_died_over_is_computed_again_alone_and_then_given_up():
    worker = Echo(open_gate=False, deadly={3})
    async with batching(worker) as batcher:
        tasks = [asyncio.create_task(ask(batcher, value)) for value in range(5)]
        await spin()
        worker.gate.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert batcher._observer.deaths == 2
        assert batcher.is_alive
    assert answers[:3] == [[0], [1], [2]]
    assert answers[4] == [4]
    assert isinstance(answers[3], Refused)
    assert answers[3].kind is Kind.FAILED
    assert worker.starts == 2  # again, after each death
    assert [3] in worker.runs


@run
async def test_a_runtime_that_fails_fails_its_batch_alone():
    worker = Echo(failing={1})
    async with batching(worker, max_batch_size=1) as batcher:
        with pytest.raises(Refused, match="the runtime failed: no memory") as why:
            await ask(batcher, 1, 1)
        assert why.value.kind is Kind.FAILED
        assert await ask(batcher, 2) == [2]
    assert worker.starts == 0


@run
async def test_where_no_worker_can_be_started_nobody_waits():
    class Lost(Echo):
        async def start(self):
            raise OSError("gone")

    worker = Lost(deadly={1})
    async with batching(worker) as batcher:
        with pytest.raises(Refused) as why:
            await ask(batcher, 1)
        assert why.value.kind is Kind.UNAVAILABLE
        assert not batcher.is_alive
        with pytest.raises(Refused, match="no worker"):
            await ask(batcher, 2)


@run
async def test_closing_waits_for_the_run_and_ends_the_workers():
    worker = Echo(open_gate=False)
    await close_while_it_computes(worker, 1)
    assert worker.runs == [[1]]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"max_batch_size": 0}, "max_batch_size is 0"),
        ({"max_queue_delay_ms": -1}, "max_queue_delay_ms is -1"),
        ({"max_queue": 4}, "max_queue is 4, less than one batch of 8"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        Batching(**settings)


def test_workers_have_cores_of_their_own_as_far_as_there_are(monkeypatch):
    from swinv2.serve import settings

    monkeypatch.setattr(settings, "usable_cores", lambda: [0, 1, 2, 3, 4])
    two, six = Compute(devices=("cpu", "cpu")), Compute(devices=("cpu",) * 6)
    assert [two.cores(i) for i in range(2)] == [(0, 1), (2, 3)]
    assert [six.cores(i) for i in range(6)] == [(0,), (1,), (2,), (3,), (4,), (0,)]
    assert Compute(devices=("cpu",), threads=3).cores(0) == (0, 1, 2)
