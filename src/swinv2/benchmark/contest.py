"""A benchmark from end to end: the contenders, what their answers are compared with, the turns, the pictures."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swinv2.benchmark import machine
from swinv2.benchmark.contenders import Contender, contenders
from swinv2.benchmark.measuring import (
    TURN_SECONDS,
    Running,
    Tell,
    answer_pictures,
    answered,
    compare_answers,
    open_contender,
    recorded,
    take_turns,
)
from swinv2.benchmark.notes import notes
from swinv2.benchmark.pictures import Pictures
from swinv2.benchmark.result import Benchmark, Row, give_labels
from swinv2.runtimes import is_exported
from swinv2.verbs import UsageError
from swinv2.verification import Reference

if TYPE_CHECKING:
    from swinv2.artifact import Record
    from swinv2.model import SwinV2


@dataclass(frozen=True)
class Judge:
    """What answers are compared with.

    Args:
        words: what it is.
        record: of the network whose answers they are.
        model: the model in torch, which can answer more; None where its recorded answers are all there is.
    """

    reference: Reference
    words: str
    record: Record
    model: Running | None = None


def benchmark(
    model: str | os.PathLike[str] | SwinV2,
    exports: Sequence[str | os.PathLike[str]] = (),
    *,
    data: str | os.PathLike[str] | None = None,
    images: int = 1000,
    batch_sizes: Sequence[int] = (1, 8),
    rounds: int = 20,
    threads: int | None = None,
    device: str = "auto",
    runtimes: Sequence[str] = (),
    precisions: Sequence[str] = ("auto",),
    tell: Tell = lambda what, share: None,
) -> Benchmark:
    """Measure a model and its exports; the options are those of the command.

    Args:
        model: also a model in memory, with its record.
        tell: told what is being done, and which share of that is done.

    Raises:
        UsageError, ValueError, FileNotFoundError: what cannot be meant, before anything runs.
        ArtifactError, DataError: the model or the data set cannot be used.
    """
    counts = {
        "images": images,
        "rounds": rounds,
        "threads": threads,
        "batch_size": min(batch_sizes, default=0),
    }
    for name, count in counts.items():
        if count is not None and count < 1:
            raise UsageError(f"{name} is {count}; give at least 1")
    batches, cores, load = sorted(set(batch_sizes)), machine.usable_cores(), machine.load()
    settings = {"batch_sizes": batches, "rounds": rounds, "threads": threads or cores, "device": device}
    with _on_disk(model) as source, ExitStack() as processes:
        wanted = contenders(source, [os.fspath(one) for one in exports], runtimes, precisions)
        rows, running = _open_all(wanted, settings, processes, tell)
        judge = _judge(source, running, settings, processes)
        pictures = _look(data, images, running, judge)
        if judge is not None:
            tell("comparing answers", 0.0)
            compare_answers(running, judge.reference, judge.record)
        take_turns(running, batches, rounds, tell)
        if len(pictures):
            answer_pictures(running, pictures, judge.model if judge else None, max(batches), tell)
    record = judge.record if judge else running[0].record if running else None
    return Benchmark(
        rows=tuple(rows),
        model=_described(source, record),
        settings=settings | {"turn_seconds": TURN_SECONDS, "load_before": load},
        reference=judge.words if judge else "",
        data=pictures.to_dict(),
        machine=machine.machine(),
        versions=machine.versions(row.runtime for row in rows if row.latency),
        commit=machine.commit(),
        date=date.today().isoformat(),
        notes=tuple(notes(rows, rounds, load, cores, judge is not None, pictures)),
    )


def _open_all(
    wanted: Sequence[Contender], settings: dict[str, Any], processes: ExitStack, tell: Tell
) -> tuple[list[Row], list[Running]]:
    """One after the other, so that none disturbs the loading of another."""
    rows: list[Row] = []
    running: list[Running] = []
    for i, contender in enumerate(wanted):
        tell(f"opening {contender.name}", i / len(wanted))
        row, one = open_contender(contender, settings)
        if one is not None:
            processes.callback(one.process.close)
            if any(row.is_as(other.row) for other in running):  # "auto" is what was named as well
                one.process.close()
                continue
            running.append(one)
        rows.append(row)
    give_labels(rows)
    return rows, running


def _judge(
    source: str, running: Sequence[Running], settings: dict[str, Any], processes: ExitStack
) -> Judge | None:
    """The model in torch in fp32: as a contender, or beside them.

    Where there is no torch, or where there are exports only, it is what the record of one says that the model
    answered when it was exported.
    """
    words = "the model in torch, fp32"
    for one in running:
        if one.row.is_model and (one.row.runtime, one.row.precision) == ("torch", "fp32"):
            return Judge(answered(one), words, one.record, one)
    if not is_exported(source):
        model = Contender(source, "torch", "fp32", is_model=True)
        _, beside = open_contender(model, settings | {"device": "auto", "batch_sizes": []})
        if beside is not None:
            processes.callback(beside.process.close)
            return Judge(answered(beside), words, beside.record, beside)
    if (found := recorded(running)) is not None:
        reference, one = found
        words = f"what the model in torch answered when {one.row.path} was exported"
        return Judge(reference, words, one.record)
    return None


def _look(
    data: str | os.PathLike[str] | None, images: int, running: Sequence[Running], judge: Judge | None
) -> Pictures:
    """The pictures of a data set, known to every process; none where no data set was given."""
    everyone = [*running, *([judge.model] if judge and judge.model and judge.model not in running else [])]
    if data is None or not everyone:
        return Pictures()
    pictures = Pictures.of(data, judge.record if judge else running[0].record, images)
    for one in everyone:
        one.attempt("look", data=os.fspath(data), images=images)
    return pictures


@contextmanager
def _on_disk(model: Any) -> Iterator[str]:
    """The name of the model; one in memory is written to a temporary folder."""
    if isinstance(model, (str, os.PathLike)):
        yield os.fspath(model)
        return
    if model.record is None:
        raise ValueError("the model has no record (preprocessing, class names); set model.record first")
    from swinv2 import artifact

    with tempfile.TemporaryDirectory(prefix="swinv2-") as folder:
        path = Path(folder, "model.safetensors")
        artifact.write(path, model.record, model.state_dict())
        yield str(path)


def _described(source: str, record: Record | None) -> dict[str, Any]:
    if record is None:
        return {"source": source}
    return {
        "source": source, "architecture": record.config.architecture, "image_size": list(record.preprocess.size),
        "classes": record.config.num_classes,
    }  # fmt: skip
