"""Ways to run a model, as a table: one row per runtime, one file beside it."""

from __future__ import annotations

import os
from pathlib import Path

from swinv2.extras import require
from swinv2.runtimes.base import PRECISIONS, Runtime, Session

__all__ = ["PRECISIONS", "RUNTIMES", "Runtime", "Session", "choose", "open_session"]

# In order of preference: "auto" takes the first that opens the file and can run here.
RUNTIMES: dict[str, Runtime] = {
    row.name: row
    for row in (
        Runtime(
            "torch", "PyTorch, the folded network",
            suffixes=(".safetensors", ".pth", ".pt", ".bin", ".pdparams"), names=True,
            devices=("cpu", "cuda", "mps"), precisions=PRECISIONS,
            package="torch", extra="torch", module="swinv2.runtimes.torch",
        ),
    )
}  # fmt: skip


def open_session(
    source: str | os.PathLike[str],
    runtime: str = "auto",
    *,
    device: str = "auto",
    precision: str = "fp32",
    threads: int | None = None,
) -> Session:
    """Open a model file, or a published model by name.

    Args:
        runtime: a key of RUNTIMES; "auto" takes the first that opens the file and can run here.
        device: cpu, cuda, cuda:1, mps, ...; "auto" takes the fastest kind that is there.
        precision: of the computation: fp32, bf16 or fp16.
        threads: of the computation on a CPU; default: what the runtime chooses.

    Raises:
        ValueError: a combination that cannot run here, and why.
        ImportError: the runtime is not installed; the message has the pip command.
        FileNotFoundError, ArtifactError: there is no such model, or it cannot be used.
    """
    if threads is not None and threads < 1:
        raise ValueError(f"threads is {threads}; give at least 1")
    row = choose(source, runtime, device=device, precision=precision)
    return row.load().open(source, device=device, precision=precision, threads=threads)


def choose(
    source: str | os.PathLike[str], runtime: str = "auto", *, device: str = "auto", precision: str = "fp32"
) -> Runtime:
    """The row that opens a source; raises as open_session does."""
    if runtime != "auto" and runtime not in RUNTIMES:
        raise ValueError(f"no runtime is called {runtime!r}; there are auto, {', '.join(RUNTIMES)}")
    candidates = [row for row in RUNTIMES.values() if _opens(row, source)]
    if runtime != "auto":
        row = RUNTIMES[runtime]
        if row not in candidates:
            raise ValueError(f"{runtime} does not open {source}; it opens {', '.join(row.suffixes)}")
        candidates = [row]
    reasons = {}
    for row in candidates:
        if (why := row.unsupported(device, precision)) is None:
            return row
        reasons[row] = why
    if len(reasons) == 1:
        row, why = reasons.popitem()
        require(row.package, extra=row.extra)  # where that is what is missing: ImportError, with the cure
        raise ValueError(why)
    raise ValueError(f"no runtime can open {source} here: " + "; ".join(reasons.values()))


def _opens(row: Runtime, source: str | os.PathLike[str]) -> bool:
    """By suffix; what has none of the known suffixes is a name."""
    known = {suffix for other in RUNTIMES.values() for suffix in other.suffixes}
    suffix = Path(source).suffix.lower()
    return suffix in row.suffixes if suffix in known else row.names
