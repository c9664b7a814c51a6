"""One model in one format: written, looked over, run in its runtime, compared, and only then put under its name."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from swinv2 import artifact, child, verification
from swinv2.artifact import Record, with_provenance
from swinv2.parity import Comparison
from swinv2.runtimes import Options, Runtime
from swinv2.verbs import Exit
from swinv2.verification import Reference

Say = Callable[[str], None]


@dataclass(frozen=True)
class Exported:
    """A model in one format.

    Args:
        path: the file (of several, the one to open); size: of all its files, in bytes.
        about: what the record says about the file: precision, operators, versions, ...
        comparisons: with the torch model, in its own runtime; empty where that does not run here.
        not_run: why it was not run here.
    """

    format: str
    path: Path
    precision: str
    size: int
    about: dict[str, Any]
    comparisons: tuple[Comparison, ...]
    not_run: str = ""

    @property
    def worst(self) -> Comparison | None:
        """The comparison with the largest error."""
        return max(self.comparisons, key=lambda c: c.error, default=None)

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": self.format, "path": str(self.path), "precision": self.precision, "bytes": self.size,
            "about": self.about, "verified": [c.to_dict() for c in self.comparisons], "not_run": self.not_run,
        }  # fmt: skip


class Disagreement(artifact.ArtifactError):
    """An exported model that does not give the answers of the torch model, in one sentence."""


def refer(source: Path, *, dynamic_size: bool) -> Reference:
    """What the torch model answers on the probe images; source is an artifact."""
    record = artifact.read_record(source)
    sizes = verification.sizes(record.preprocess.size, dynamic=dynamic_size)
    found = child.call(
        "swinv2.export.writing:refer",
        {"source": str(source), "sizes": sizes, "images": max(verification.BATCHES)},
        doing=f"running {source.name} in torch",
    )
    return Reference.from_dict(found)


def export_one(
    source: Path,
    target: Path,
    row: Runtime,
    options: Options,
    reference: Reference,
    *,
    calibration: Path | None = None,
    notes: dict[str, Any] | None = None,
    device: str = "auto",
    say: Say = lambda text: None,
) -> Exported:
    """Write an artifact in a format, at target, complete and verified or not at all.

    Args:
        reference: of the same source, at the sizes that options allow.
        calibration: a .npy file of preprocessed images, for int8.
        notes: more for the record to say about the export.
        device: on which it is run for the comparison.
        say: told what is being done.

    Raises:
        ValueError, ImportError: the format cannot be written here with these options, and why.
        Disagreement: it was written and does not give the same answers; nothing is left of it.
        child.Died: its converter or its runtime crashed.
        OSError: no space, no permission; an older file under the name is untouched.
    """
    if why := row.cannot_export(options):
        raise ImportError(why) if "pip install" in why else ValueError(why)
    with workshop(target) as folder:
        path = folder / target.name
        say(f"{row.name}: writing {target.name}")
        about: dict[str, Any] = child.call(
            "swinv2.export.writing:write",
            {
                "source": str(source), "path": str(path), "runtime": row.name, "options": asdict(options),
                "calibration": None if calibration is None else str(calibration),
            },
            doing=f"writing {target.name}",
        )  # fmt: skip
        record = artifact.read_record(source)
        about |= {"sha256": verification.digest(row, path), "reference": reference.to_dict(), **(notes or {})}
        verification.write_record(row, path, _with_export(record, about))
        comparisons: list[Comparison] = []
        not_run = row.unsupported(device, options.precision) or ""
        if not not_run:
            say(f"{row.name}: comparing with the torch model")
            comparisons, ran = verification.measure(path, row.name, reference, device=device)
            _refuse_others(target, row, comparisons, options.precision)
            about |= {"verified": {**ran, "comparisons": [c.to_dict() for c in comparisons]}}
            verification.write_record(row, path, _with_export(record, about))
        else:
            about |= {"verified": None, "not_run": not_run}
            verification.write_record(row, path, _with_export(record, about))
        size = sum(size_of(file) for file in row.files(path))
        move(row.files(path), target.parent)
    return Exported(row.name, target, options.precision, size, about, tuple(comparisons), not_run)


def carry_one(
    source: Path,
    target: Path,
    row: Runtime,
    reference: Reference,
    *,
    device: str = "auto",
    say: Say = lambda text: None,
) -> Exported:
    """Copy an artifact to target, for a runtime that opens artifacts; compared as what export_one writes is.

    Raises:
        Disagreement: that runtime does not give the same answers; nothing is left of the copy.
        child.Died: the runtime crashed.
        OSError: no space, no permission; an older file under the name is untouched.
    """
    with workshop(target) as folder:
        path = folder / target.name
        shutil.copyfile(source, path)
        comparisons: list[Comparison] = []
        if not (not_run := row.unsupported(device, "fp32") or ""):
            say(f"{row.name}: comparing with the torch model")
            comparisons, _ = verification.measure(path, row.name, reference, device=device)
            _refuse_others(target, row, comparisons, "fp32")
        move((path,), target.parent)
    return Exported(row.name, target, "fp32", target.stat().st_size, {}, tuple(comparisons), not_run)


def _refuse_others(target: Path, row: Runtime, comparisons: list[Comparison], precision: str) -> None:
    """Raises Disagreement where the answers are not those of the torch model."""
    for comparison in comparisons:
        if problem := comparison.problem(precision):
            raise Disagreement(
                f"{target.name} was not written: {row.name} does not give the answers of the torch model; {problem}"
            )


def _with_export(record: Record, about: dict[str, Any]) -> Record:
    return with_provenance(replace(record), export=about)


@contextmanager
def workshop(target: Path) -> Iterator[Path]:
    """A folder beside the target, on the same disk, that is gone afterwards; after a SIGTERM too."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with _ended_in_order():  # before there is something to put away
        folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """SIGTERM ends the program as sys.exit does, so that everything is put away, and not at once."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what signals do
        return

    def leave(*_: object) -> None:
        sys.exit(Exit.TERMINATED)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def move(files: tuple[Path, ...], folder: Path) -> None:
    """Into place: what belongs to the model first, the file that is opened last."""
    for file in reversed(files):
        to = folder / file.name
        if file.is_dir() and to.is_dir():  # a folder cannot replace one that is not empty
            shutil.rmtree(to)
        os.replace(file, to)


def size_of(file: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return (
        sum(f.stat().st_size for f in file.rglob("*") if f.is_file())
        if file.is_dir()
        else file.stat().st_size
    )
