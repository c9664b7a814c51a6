"""What happens in the process of a contender: the model is opened once, and answers and is timed when it is asked to.

No torch here: a runtime brings what it needs, and what it needs counts as its memory.
"""

from __future__ import annotations

import base64
import gc
import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swinv2 import child, probe
from swinv2.benchmark.pictures import Pictures
from swinv2.runtimes import choose, open_session

if TYPE_CHECKING:
    import numpy as np

    from swinv2.runtimes import Session

DECODERS = min(4, os.cpu_count() or 1)  # threads, as many as Predictor takes
LONGEST = 100  # runs of one turn
STATUS = Path("/proc/self/status")


class Turns:
    """One contender. Every method returns what JSON can hold."""

    session: Session

    def open(
        self, path: str, runtime: str, device: str, precision: str, threads: int | None
    ) -> dict[str, Any]:
        """Open the model; says what it is and how long that took, the import of the runtime apart."""
        import numpy as np  # noqa: F401 -- every contender needs it; it is no part of a runtime

        before = peak_memory()
        began = time.perf_counter()
        row = choose(path, runtime, device=device, precision=precision)
        importlib.import_module(row.package)
        row.load()
        imported = time.perf_counter()
        self.session = open_session(path, row.name, device=device, precision=precision, threads=threads)
        opened = time.perf_counter()
        return {
            "runtime": self.session.runtime, "device": self.session.device, "precision": self.session.precision,
            "record": self.session.record.to_dict(), "import_ms": 1000 * (imported - began),
            "load_ms": 1000 * (opened - imported), "bare_memory": before,
        }  # fmt: skip

    def warm(self, batch: int, seconds: float) -> dict[str, Any]:
        """Make ready for turns at one batch.

        Args:
            seconds: that a turn should take.

        Returns:
            the first answer, in ms, how many runs make a turn, and the most that was in memory so far.
        """
        images = self._images(batch)
        first, *_ = self._timed(images, 1)
        ms = min(self._timed(images, 2))
        runs = max(1, min(LONGEST, round(1000 * seconds / ms)))
        return {"first_ms": first, "runs": runs, "memory": peak_memory()}

    def turn(self, batch: int, runs: int) -> dict[str, Any]:
        """Timed runs of a batch, in ms: of ready tensors, and from encoded pictures to logits.

        One run goes before them, since other contenders have had the caches in the meantime.
        """
        images = self._images(batch)
        self._timed(images, 1)
        return {"ms": self._timed(images, runs), "whole_ms": self._timed_whole(batch, max(1, runs // 4))}

    def probe(self, count: int, step: int) -> str:
        """Logits of probe images, every step-th class: float32 in base64."""
        import numpy as np

        # One at a time: the most that was in memory must not grow by more than the batches that are measured.
        images = probe.images(self.session.record, count)
        logits = np.concatenate([self.session.run(one[None]) for one in images])[:, ::step]
        return base64.b64encode(logits.astype("<f4").tobytes()).decode()

    def look(self, data: str, images: int) -> None:
        """Take the pictures that are decoded, and those that are answered, from a data set."""
        self._pictures = Pictures.of(data, self.session.record, images)

    def answers(self, batch: int) -> list[int]:
        """The likeliest class of every picture of the data set; -1 where it could not be read or answered."""
        import numpy as np

        found = np.full(len(self._pictures), -1)
        for images, indices in self._pictures.batches(self.session.record, batch):
            logits = self.session.run(images)
            found[indices] = np.where(np.isfinite(logits).all(1), logits.argmax(1), -1)
        return found.tolist()

    # ------------------------------------------------------------------ timing

    _pictures = Pictures()

    def _images(self, batch: int) -> np.ndarray:
        return probe.images(self.session.record, batch)

    def _timed(self, images: np.ndarray, runs: int) -> list[float]:
        found = []
        with undisturbed():
            for _ in range(runs):
                began = time.perf_counter()
                self.session.run(images)
                found.append(1000 * (time.perf_counter() - began))
        return found

    def _timed_whole(self, batch: int, runs: int) -> list[float]:
        """Decoding, resizing, normalising and running, as Predictor does them; empty where no picture fits."""
        import numpy as np

        record = self.session.record
        if record.config.in_chans not in (1, 3):
            return []
        sources, found = self._pictures.encoded(batch), []
        with ThreadPoolExecutor(min(DECODERS, batch)) as pool, undisturbed():
            for _ in range(runs):
                began = time.perf_counter()
                self.session.run(np.stack(list(pool.map(record.preprocess.load, sources))))
                found.append(1000 * (time.perf_counter() - began))
        return found


@contextmanager
def undisturbed() -> Iterator[None]:
    """Python's collector of cycles waits."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def peak_memory() -> int | None:
    """Bytes; None where the system does not say.

    Linux has it by process (VmHWM); getrusage there also counts what the parent held before it started this one.
    """
    if STATUS.exists():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> None:
    """Answer requests until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what runtimes print is no answer
    turns = Turns()
    for line in sys.stdin:
        method, arguments = json.loads(line)
        found = child.attempt(lambda: getattr(turns, method)(**arguments))  # noqa: B023 -- called at once
        answers.write(json.dumps(found) + "\n")
    os._exit(0)  # runtimes that crash while they are taken apart have done their work


if __name__ == "__main__":
    main()
