"""Who computes: a worker is one open session, in a process of its own or in a thread of the server.

A process may die (a runtime that crashes, the system's memory killer) and takes only its batch with it, which another
worker computes again. Images go to it through memory that both see, logits come back through a pipe; nothing on
the way is pickled.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np

from swinv2 import child
from swinv2.artifact import Record
from swinv2.runtimes import Session, open_session
from swinv2.serve.settings import Compute

SPAWN = multiprocessing.get_context("spawn")  # a fork would copy threads and locks in whatever state they are
Runs = tuple[Future[np.ndarray] | None, Future[np.ndarray] | None]  # the last but one, the last


class WorkerDied(RuntimeError):
    """The process of a worker ended; what it was computing is unanswered."""


@dataclass(frozen=True)
class Opened:
    """What a session is, once it is open: its row in the metadata, and the sizes that it takes."""

    runtime: str
    device: str
    precision: str
    any_size: bool


class Worker(ABC):
    """One open model. start() before run().

    Attributes:
        takes_two: whether run() may be called again while it runs; the second begins when the first has ended.
            Otherwise there is one at a time.
    """

    takes_two = False

    @abstractmethod
    async def start(self) -> tuple[Record, Opened]:
        """Open the model.

        Raises:
            ValueError, ImportError, OSError, child.Died: why it cannot be opened.
        """

    @abstractmethod
    async def run(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Images, float32 [C, H, W] of one size -> logits, float32 [images, classes].

        Raises:
            WorkerDied: its process ended.
            RuntimeError: the runtime failed; the worker lives.
        """

    @abstractmethod
    async def close(self) -> None:
        """End it; what it computes is finished first."""


def workers(source: str, compute: Compute) -> list[Worker]:
    """One worker for each device."""
    kind = ProcessWorker if compute.processes else ThreadWorker
    return [kind(source, compute, number) for number in range(len(compute.devices))]


class ThreadWorker(Worker):
    """A session in a thread of the server: no copies, and no protection from a runtime that crashes."""

    def __init__(self, source: str, compute: Compute, number: int):
        self._open = _how_to_open(source, compute, number)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="swinv2-worker")
        self._session: Session | None = None

    async def start(self) -> tuple[Record, Opened]:
        self._session = await self._call(_open, self._open)
        return self._session.record, _opened(self._session)

    async def run(self, images: Sequence[np.ndarray]) -> np.ndarray:
        assert self._session is not None, "start() goes before run()"
        run = self._session.run
        return await self._call(lambda: run(np.stack(images)))

    async def close(self) -> None:
        if self._session is not None:
            await self._call(self._session.close)
        self._thread.shutdown()

    async def _call(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


class ProcessWorker(Worker):
    """A session in a process of its own. While it computes, the next images are copied to it."""

    takes_two = True

    def __init__(self, source: str, compute: Compute, number: int):
        self._open = _how_to_open(source, compute, number)
        cores = compute.cores(number)
        self._cores = list(cores) if compute.pin and len(cores) == self._open["threads"] else []
        # One asks and one hears the answers, so that these are in the order of the questions.
        self._asking = ThreadPoolExecutor(1, thread_name_prefix="swinv2-worker-asking")
        self._hearing = ThreadPoolExecutor(1, thread_name_prefix="swinv2-worker-hearing")
        self._process: Any = None
        self._pipe: Connection | None = None
        self._runs: Runs = (None, None)
        self._blocks: list[SharedMemory | None] = [None, None]  # of the two runs, in turn
        self._turn = 0

    @property
    def pid(self) -> int | None:
        """Of the process; None where there is none."""
        return self._process.pid if self._process is not None else None

    async def start(self) -> tuple[Record, Opened]:
        return await self._call(self._start)

    async def run(self, images: Sequence[np.ndarray]) -> np.ndarray:
        asked = self._asking.submit(self._ask, images, self._runs)
        run = self._hearing.submit(self._hear, asked)
        self._runs = (self._runs[1], run)
        return await asyncio.shield(asyncio.wrap_future(run))  # who gives up leaves no answer in the pipe

    async def close(self) -> None:
        await self._call(self._end)
        self._asking.shutdown()
        self._hearing.shutdown()

    def _start(self) -> tuple[Record, Opened]:
        self._end()  # of an earlier life
        ours, theirs = SPAWN.Pipe()
        self._process = SPAWN.Process(
            target=_work, args=(theirs, self._open, self._cores), name="swinv2-worker", daemon=True
        )
        self._process.start()
        theirs.close()
        self._pipe = ours
        try:
            found = json.loads(ours.recv_bytes())
        except (EOFError, OSError):
            self._process.join()
            raise child.died(self._process.exitcode, f"opening {self._open['source']}", "") from None
        try:
            told = child.outcome(found, f"opening {self._open['source']}")
            return Record.from_dict(told["record"]), Opened(**told["opened"])
        except BaseException:
            self._end()
            raise

    def _hear(self, asked: Future[None]) -> np.ndarray:
        if self._pipe is None or self._process is None:
            raise WorkerDied("the worker is not running")
        try:
            asked.result()
            told = json.loads(self._pipe.recv_bytes())
            if "error" in told:
                raise RuntimeError(told["error"])
            return np.frombuffer(self._pipe.recv_bytes(), np.float32).reshape(told["shape"])
        except (EOFError, OSError) as error:
            self._process.join(5)
            code = self._process.exitcode
            raise WorkerDied(f"a worker ended with exit code {code} while it computed ({error})") from None

    def _ask(self, images: Sequence[np.ndarray], before: Runs) -> None:
        if self._pipe is None:
            raise WorkerDied("the worker is not running")
        shape = (len(images), *images[0].shape)
        block = self._memory(4 * int(np.prod(shape)), before)
        into = np.ndarray(shape, np.float32, block.buf)
        for row, image in zip(into, images, strict=True):
            row[...] = image
        del into
        self._pipe.send_bytes(json.dumps({"block": block.name, "shape": shape}).encode())

    def _memory(self, size: int, before: Runs) -> SharedMemory:
        """A block of at least this many bytes, that of the run before the last where it is large enough.

        That run has ended: whoever gave up on it may have asked for others before the process has read it.
        """
        earlier, last = before
        if self.takes_two:
            self._turn = 1 - self._turn
            _end_of(earlier)
        else:
            _end_of(last)
        block = self._blocks[self._turn]
        if block is None or block.size < size:
            self._forget(self._turn)
            try:
                block = _allocated(size)
            except RuntimeError:  # there is memory for one, and from now on one run at a time
                self.takes_two = False
                _end_of(last)
                self._forget(1 - self._turn)
                block = _allocated(size)
            self._blocks[self._turn] = block
        return block

    def _forget(self, turn: int) -> None:
        if (block := self._blocks[turn]) is not None:
            self._blocks[turn] = None
            block.close()
            block.unlink()

    def _end(self) -> None:
        if self._pipe is not None:
            self._pipe.close()  # the process reads the end of its pipe
            self._pipe = None
        if self._process is not None:
            self._process.join(10)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()
            self._process.close()
            self._process = None
        for turn in range(2):
            self._forget(turn)

    async def _call(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._hearing, function, *arguments)


def _how_to_open(source: str, compute: Compute, number: int) -> dict[str, Any]:
    """What _open takes; plain JSON types."""
    return {
        "source": source,
        "runtime": compute.runtime,
        "device": compute.devices[number],
        "precision": compute.precision,
        "threads": compute.threads or len(compute.cores(number)),
    }


def _open(how: dict[str, Any]) -> Session:
    return open_session(
        how["source"],
        how["runtime"],
        device=how["device"],
        precision=how["precision"],
        threads=how["threads"],
    )


def _opened(session: Session) -> Opened:
    return Opened(session.runtime, session.device, session.precision, session.any_size)


def _end_of(run: Future[np.ndarray] | None) -> None:
    if run is not None:
        wait([run])


def _allocated(size: int) -> SharedMemory:
    """A block that has its memory: a container gives little of it, and the first write beyond that is a crash."""
    block = SharedMemory(create=True, size=size)
    file = Path("/dev/shm", block.name)
    if hasattr(os, "posix_fallocate") and file.exists():
        handle = os.open(file, os.O_RDWR)
        try:
            os.posix_fallocate(handle, 0, block.size)
        except OSError as error:
            block.close()
            block.unlink()
            raise RuntimeError(
                f"/dev/shm has no {size:,} bytes left for a batch ({error.strerror}); give the container "
                "more (--shm-size), or serve with smaller batches"
            ) from None
        finally:
            os.close(handle)
    return block


def _work(pipe: Connection, how: dict[str, Any], cores: list[int]) -> None:
    """What the process does: open, then answer until the other end of the pipe is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server says when it is time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    session: Session | None = None

    def start() -> dict[str, Any]:
        nonlocal session
        session = _open(how)
        return {"record": session.record.to_dict(), "opened": vars(_opened(session))}

    pipe.send_bytes(json.dumps(child.attempt(start)).encode())
    blocks: dict[str, SharedMemory] = {}
    with suppress(EOFError, OSError):  # the server is gone or does not need us any more
        while session is not None:
            asked = json.loads(pipe.recv_bytes())
            try:
                block = blocks.pop(asked["block"], None) or SharedMemory(asked["block"])
                blocks[asked["block"]] = block  # in the order of their last use: there are two
                if len(blocks) > 2:
                    blocks.pop(next(iter(blocks))).close()
                logits = _logits(session, asked["shape"], block)
            except Exception as error:
                told = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
                pipe.send_bytes(json.dumps(told).encode())
                continue
            pipe.send_bytes(json.dumps({"shape": logits.shape}).encode())
            pipe.send_bytes(logits.tobytes())
    sys.stdout.flush()
    os._exit(0)  # runtimes that crash while they are taken apart have done their work


def _logits(session: Session, shape: list[int], block: SharedMemory) -> np.ndarray:
    """Of the images in a block. A function, so that no array outlives it that would keep the block from closing."""
    return np.ascontiguousarray(session.run(np.ndarray(shape, np.float32, block.buf)), np.float32)
