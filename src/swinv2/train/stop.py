"""Being asked to end: by Ctrl-C, or by SIGTERM, which clusters and containers send before they take a machine.

A signal is noted and nothing else; the run looks at the note between two steps, where all processes agree on
it, saves, and ends. Whoever presses Ctrl-C again does not want to wait for that.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterable, Iterator
from types import FrameType, TracebackType
from typing import Any, TypeVar

T = TypeVar("T")

IMPATIENT = 2.0  # seconds; launchers pass on a Ctrl-C that the terminal has sent to every process already
SAID = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class Stopped(KeyboardInterrupt):
    """A run that has ended because it was asked to; the text says what is saved and how it goes on.

    Args:
        number: of the signal.
    """

    def __init__(self, said: str, number: int):
        super().__init__(said)
        self.code = 128 + number  # as shells report it


class Stop:
    """Notes SIGINT and SIGTERM. Use as a context manager, in the main thread; elsewhere it notes nothing."""

    def __init__(self) -> None:
        self.number = 0  # of the signal; 0 where nobody has asked
        self._noted = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SAID}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number and number == signal.SIGINT and time.monotonic() - self._noted > IMPATIENT:
            raise KeyboardInterrupt("stopped at once by a second Ctrl-C; the last checkpoint is whole")
        if not self.number:
            self.number, self._noted = number, time.monotonic()

    def until(self, values: Iterable[T]) -> Iterator[T]:
        """The values up to the first one after a signal."""
        for value in values:
            yield value
            if self.number:
                return
