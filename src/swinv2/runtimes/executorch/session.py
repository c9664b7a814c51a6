"""A session of ExecuTorch's Python package."""

from __future__ import annotations

import importlib.util
import os
import threading
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from swinv2.artifact import ArtifactError
from swinv2.extras import require
from swinv2.runtimes.base import Session
from swinv2.runtimes.beside import read_record
from swinv2.runtimes.native import kept_stderr


class ExecuTorchSession(Session):
    """A .pte file that export wrote. Images are run one after the other, which is faster than all at once.

    The threads that compute belong to the process, and a loaded program keeps a pointer to them: where a session with
    another number replaced them, a program is loaded again before it runs.
    """

    runtime, device = "executorch", "cpu"
    _turn = threading.Lock()
    _replaced = 0  # how often the threads of the process were

    def __init__(self, path: Path, *, precision: str, threads: int | None):
        self.record = read_record(path)
        self.precision = self.record.provenance.get("export", {}).get("precision", "fp32")
        if precision not in ("auto", self.precision):
            raise ValueError(f"{path} is in {self.precision}; export it again with --precision {precision}")
        self._path, self._threads = path, threads or _default_threads()
        with self._turn:
            self._method = self._load()

    def run(self, images: np.ndarray) -> np.ndarray:
        import torch

        self.check(images)
        config = self.record.config
        logits = np.empty((len(images), config.num_classes or config.num_features), np.float32)
        pixels = torch.from_numpy(np.ascontiguousarray(images, np.float32))
        with self._turn:
            if self._loaded_with != (self._threads, ExecuTorchSession._replaced):
                self._method = self._load()
            for i, image in enumerate(pixels):
                logits[i] = self._method.execute([image[None]])[0][0].numpy()
        return logits

    def _load(self) -> Any:
        """The program, on this session's threads; in its turn only."""
        runtime, pool = _libraries()
        with kept_stderr() as said:
            if pool._threadpool_get_thread_count() != self._threads:
                pool._unsafe_reset_threadpool(self._threads)  # unsafe while something runs: it is our turn
                ExecuTorchSession._replaced += 1
            self._loaded_with = (self._threads, ExecuTorchSession._replaced)
            try:
                return runtime.load_program(self._path).load_method("forward")
            except RuntimeError:  # a number; what it means was printed
                pass
        reasons = [line.partition("] ")[2] for line in said if line.startswith("[") and "cpuinfo" not in line]
        reason = f": {reasons[0]}" if reasons else ""
        raise ArtifactError(f"{self._path} is no ExecuTorch program, or was damaged or cut off{reason}")

    def close(self) -> None:
        self._method = None


def open(
    source: str | os.PathLike[str], *, device: str, precision: str, threads: int | None = None
) -> ExecuTorchSession:
    """Open a file that export wrote."""
    return ExecuTorchSession(Path(source), precision=precision, threads=threads)


def unsupported(device: str, precision: str) -> str | None:
    """Why ExecuTorch cannot compute on this device here; None where it can."""
    if importlib.util.find_spec("torch") is None:  # its shared libraries hold the tensors
        return 'the Python package of ExecuTorch needs torch -- pip install "swinv2[executorch]"'
    return None if device in ("auto", "cpu") else f"{device!r} is no device of ExecuTorch; give cpu"


def _libraries() -> tuple[Any, Any]:
    """The runtime, and the module that has its threads."""
    with warnings.catch_warnings(), kept_stderr():
        warnings.simplefilter("ignore")  # it calls itself experimental
        require("torch", extra="executorch")
        runtime = require("executorch.runtime", extra="executorch").Runtime.get()
        return runtime, require("executorch.extension.pybindings.portable_lib", extra="executorch")


@cache
def _default_threads() -> int:
    """As many as ExecuTorch takes by itself; asked for before anybody changes it."""
    with kept_stderr():
        return _libraries()[1]._threadpool_get_thread_count()
