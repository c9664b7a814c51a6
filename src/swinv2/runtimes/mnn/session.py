"""MNN's Python package, on a CPU."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swinv2.artifact import ArtifactError
from swinv2.extras import require
from swinv2.runtimes.base import Session
from swinv2.runtimes.beside import read_record

if TYPE_CHECKING:
    import numpy as np

PRECISIONS = {"fp32": "high", "fp16": "low"}  # in MNN's words


class MnnSession(Session):
    """One network for any batch, and as many threads as asked for."""

    runtime, device = "mnn", "cpu"

    def __init__(self, path: Path, *, precision: str, threads: int | None):
        self.record = read_record(path)
        about = self.record.provenance["export"]
        self.precision = about["precision"] if precision == "auto" else precision
        if about["precision"] == "fp16" and self.precision != "fp16":
            raise ValueError(f"{path} has weights in fp16; export it again for {self.precision}")
        config = {
            "backend": "CPU",
            "precision": PRECISIONS[self.precision],
            "numThread": threads or os.cpu_count() or 1,
        }

        def opened(mnn: Any) -> tuple[Any, Any]:
            manager = mnn.nn.create_runtime_manager((config,))
            names = [about["input"]], [about["output"]]
            return manager, mnn.nn.load_module_from_file(str(path), *names, runtime_manager=manager)

        self._manager, self._module = load(path, opened)  # the module uses the manager and does not keep it

    def run(self, images: np.ndarray) -> np.ndarray:
        import MNN
        import numpy as np

        self.check(images)
        x = np.ascontiguousarray(images, dtype=np.float32)
        found = self._module.onForward([MNN.expr.const(x, list(x.shape), MNN.expr.NCHW)])
        if not found:
            raise RuntimeError(f"MNN could not run the model on {len(x)} images; is there memory left?")
        return np.array(found[0].read(), dtype=np.float32).reshape(len(x), -1)

    def close(self) -> None:
        self._module = self._manager = None


def open(
    source: str | os.PathLike[str], *, device: str, precision: str, threads: int | None = None
) -> MnnSession:
    """Open a file that export wrote."""
    return MnnSession(Path(source), precision=precision, threads=threads)


def unsupported(device: str, precision: str) -> str | None:
    """Why MNN cannot compute so here; None where it can."""
    return None  # its row says what it computes in


def load(path: Path, read: Callable[[Any], Any]) -> Any:
    """What read makes of the file with MNN.

    Raises:
        FileNotFoundError, ArtifactError: there is no such file, or MNN cannot read it.
    """
    if not path.exists():
        raise FileNotFoundError(2, "No such file or directory", str(path))
    with _silent():
        mnn = require("MNN", extra="mnn")
        try:
            return read(mnn)
        except Exception:  # SystemError among them, without a reason
            raise ArtifactError(
                f"{path} is no file of MNN, or was cut off; copy it again, or export again"
            ) from None


@contextmanager
def _silent() -> Iterator[None]:
    """MNN greets on standard output, past Python, where the answers of our commands are."""
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        ctypes.CDLL(None if os.name == "posix" else "msvcrt").fflush(
            None
        )  # C keeps it back where nobody watches
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
