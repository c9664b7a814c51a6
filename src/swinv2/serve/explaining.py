"""Where a model looked, for those who ask the server: Grad-CAM in a process of its own.

It needs torch, which the server itself never imports. The process starts at the first question, keeps the last
models that it opened, answers one question at a time, and ends when nobody has asked for a while.
"""

from __future__ import annotations

import asyncio
import io
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing.connection import Connection
from typing import Any

from swinv2 import child
from swinv2.runtimes import is_exported
from swinv2.serve.errors import Kind, Refused, invalid

SPAWN = multiprocessing.get_context("spawn")
START_SECONDS = 180  # for torch to be imported, on a machine that is busy with answers
IDLE_SECONDS = 600  # after which the process ends: torch holds hundreds of megabytes
TRIES = 2  # how often a question is asked when the process ends over it
WAITING = 8  # questions that wait; more are refused
KEPT = 2  # models that the process holds
LONGEST = 1280  # pixels that an overlay is long
DOING = "asking where the model looked"
NICE = 10  # it takes what the answers of the server leave of the processors


@dataclass(frozen=True)
class Question:
    """What is asked: a picture, encoded, and a class; None for the predicted one."""

    source: str
    device: str
    picture: bytes
    class_id: int | None = None


@dataclass(frozen=True)
class Overlay:
    """The picture under its map, as a WebP file.

    Args:
        is_empty: nothing in the picture speaks for the class.
        is_whole: the model sees all of the picture; otherwise the rest is dark.
    """

    webp: bytes
    class_id: int
    score: float
    is_empty: bool
    is_whole: bool


def why_not(source: str) -> str:
    """Why a model cannot be asked where it looked; empty where it can."""
    if is_exported(source):
        return "this model is an export, which has no gradients; serve the .safetensors file that it was made from"
    if find_spec("torch") is None:
        return (
            'maps of where a model looked need torch; install it on the server: pip install "swinv2[torch]"'
        )
    return ""


class Explaining:
    """The process, and the questions that wait for it.

    Args:
        seconds: for one question, from its arrival to its answer.
    """

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="swinv2-explain")  # one at a time, in order
        self._open = 0  # questions that are not answered
        self._process: Any = None
        self._pipe: Connection | None = None
        self._idle: asyncio.TimerHandle | None = None

    @property
    def pid(self) -> int | None:
        """Of the process; None where there is none."""
        return self._process.pid if self._process is not None else None

    async def ask(self, question: Question) -> Overlay:
        """The answer to a question.

        Raises:
            Refused: why there is none.
        """
        if why := why_not(question.source):
            raise Refused(Kind.UNSUPPORTED, why)
        if self._open > WAITING:
            raise Refused(
                Kind.BUSY, f"{WAITING} others ask where a model looked; try again shortly", retry_after=2
            )
        self._stop_idling()
        self._open += 1
        job = self._thread.submit(self._answer, question, time.monotonic() + self._seconds)
        try:
            async with asyncio.timeout(self._seconds):
                return await asyncio.wrap_future(job)
        except TimeoutError:
            raise self._too_slow() from None
        except child.Died as error:
            raise Refused(Kind.FAILED, f"the map could not be made: {error}") from None
        except ImportError as error:
            raise Refused(Kind.UNSUPPORTED, str(error)) from None
        except ValueError as error:
            raise invalid(str(error)) from None
        except OSError as error:
            raise Refused(Kind.FAILED, f"the map could not be made: {error}") from None
        finally:
            self._open -= 1
            if not self._open:
                self._idle = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._rest)

    async def close(self) -> None:
        """End the process; what it computes is lost."""
        self._stop_idling()
        with suppress(AttributeError, ValueError):  # there is none, or it ends by itself this moment
            self._process.kill()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._end)
        self._thread.shutdown()

    # -- in the thread ------------------------------------------------------------------------------------

    def _answer(self, question: Question, until: float) -> Overlay:
        for tries_left in reversed(range(TRIES)):
            if time.monotonic() > until:
                raise self._too_slow()
            pipe = self._started()
            if (
                left := until - time.monotonic()
            ) <= 0:  # torch took so long to start that nobody waits any more
                raise self._too_slow()
            try:
                return self._asked(pipe, question, left)
            except (EOFError, BrokenPipeError, ConnectionResetError):  # it may have been killed long ago
                self._process.join(5)
                code = self._process.exitcode
                self._end(at_once=True)
                if not tries_left:
                    raise child.died(code if code is not None else 1, DOING, "") from None
        raise AssertionError("the last try returns or raises")

    def _asked(self, pipe: Connection, question: Question, seconds: float) -> Overlay:
        asked = {name: getattr(question, name) for name in ("source", "device", "class_id")}
        pipe.send_bytes(json.dumps(asked).encode())
        pipe.send_bytes(question.picture)
        if not pipe.poll(seconds):
            self._end(at_once=True)
            raise self._too_slow()
        told = child.outcome(json.loads(pipe.recv_bytes()), DOING)
        return Overlay(pipe.recv_bytes(), **told)

    def _started(self) -> Connection:
        """The pipe to a process that lives.

        Raises:
            ImportError, child.Died: torch cannot be imported.
        """
        if self._pipe is not None and self._process.is_alive():
            return self._pipe
        self._end(at_once=True)
        ours, theirs = SPAWN.Pipe()
        self._process = SPAWN.Process(target=_work, args=(theirs,), name="swinv2-explain", daemon=True)
        self._process.start()
        theirs.close()
        self._pipe = ours
        doing = "starting torch"
        try:
            if not ours.poll(START_SECONDS):
                raise child.Died(f"{doing} took more than {START_SECONDS} s")
            child.outcome(json.loads(ours.recv_bytes()), doing)
        except EOFError:
            self._process.join(5)
            code = self._process.exitcode
            self._end(at_once=True)
            raise child.died(code if code is not None else 1, doing, "") from None
        except BaseException:
            self._end(at_once=True)
            raise
        return ours

    def _end(self, *, at_once: bool = False) -> None:
        if self._pipe is not None:
            self._pipe.close()  # the process reads the end of its pipe
            self._pipe = None
        if self._process is not None:
            self._process.join(0 if at_once else 5)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()
            self._process.close()
            self._process = None

    # -- in the event loop --------------------------------------------------------------------------------

    def _rest(self) -> None:
        self._idle = None
        self._thread.submit(self._end)

    def _stop_idling(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _too_slow(self) -> Refused:
        return Refused(
            Kind.EXPIRED,
            f"there is no map after {self._seconds:g} s; the first one waits for torch to start, try again",
        )


def _work(pipe: Connection) -> None:
    """What the process does: import torch, then answer until the other end of the pipe is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server says when it is time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(NICE)
    with suppress(EOFError, OSError):  # the server is gone or does not need us any more
        pipe.send_bytes(json.dumps(child.attempt(_import)).encode())
        explainers: dict[tuple[Any, ...], Any] = {}
        while True:
            asked, picture = json.loads(pipe.recv_bytes()), pipe.recv_bytes()
            overlays: list[bytes] = []

            def answer(asked: dict[str, Any] = asked, picture: bytes = picture) -> dict[str, Any]:
                explainer = _opened(explainers, asked["source"], asked["device"])
                told, data = _overlay(explainer, picture, asked["class_id"])
                overlays.append(data)  # noqa: B023 -- called before the next round
                return told

            pipe.send_bytes(json.dumps(child.attempt(answer)).encode())
            for data in overlays:
                pipe.send_bytes(data)
    sys.stdout.flush()
    os._exit(0)


def _import() -> None:
    import torch  # noqa: F401 -- takes seconds, and may fail


def _opened(explainers: dict[tuple[Any, ...], Any], source: str, device: str) -> Any:
    """The model of a file, opened once; again where another file has taken its place."""
    from swinv2.explain.explainer import Explainer, clear_stage

    key = (source, device, *_stamp(source))
    if key not in explainers:
        while len(explainers) >= KEPT:
            del explainers[next(iter(explainers))]
        explainer = Explainer(source, device=device, allow_urls="none")
        explainer.stage = clear_stage(explainer.record)
        explainers[key] = explainer
    explainers[key] = explainers.pop(key)  # the last one is the one used last
    return explainers[key]


def _stamp(source: str) -> Sequence[int]:
    try:
        about = os.stat(source)
    except FileNotFoundError:  # the name of a published model
        return ()
    return about.st_mtime_ns, about.st_size, about.st_ino


def _overlay(explainer: Any, picture: bytes, class_id: int | None) -> tuple[dict[str, Any], bytes]:
    from swinv2.inputs import Input

    explainer.target = class_id
    found = explainer(Input("the image", lambda: picture))
    file = io.BytesIO()
    found.overlay(LONGEST).save(file, "WEBP", quality=88)
    told = {"class_id": found.class_id, "score": found.score, "is_empty": found.is_empty}
    return told | {"is_whole": found.seen == (0, 0, *found.picture.size)}, file.getvalue()
