"""How right a model is on labelled pictures: exact counts, each picture once, on the path that predictions
take.

Pictures go through the model's own preprocessing and through any runtime; nothing is resized, cropped or
normalised here. Classes are matched by name, so that a folder with fewer classes, or in another order, is
measured rightly.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from swinv2 import console
from swinv2.data.folder import DataError, ImageFolder, divide, read_split
from swinv2.extras import share_processors
from swinv2.metrics import Measurement, Tally
from swinv2.runtimes import Session, open_session
from swinv2.verbs import Exit, make_callable

if TYPE_CHECKING:
    import numpy as np

    from swinv2.artifact import Record
    from swinv2.model import SwinV2

make_callable(__name__)

WRITTEN = ("results.csv", "predictions.csv", "confusion.png")
SHOWN = 30  # classes up to which every one has its line
DECODERS = min(8, os.cpu_count() or 1)  # threads; Pillow decodes outside of Python's lock


@dataclass(frozen=True)
class Evaluation:
    """What was measured, on what, with what.

    Args:
        folder: the pictures; labels are the model's class ids.
        seconds: reading, preprocessing and computing together.
    """

    measured: Measurement
    folder: ImageFolder
    record: Record
    runtime: str
    seconds: float

    @property
    def top1(self) -> float:
        """Percent."""
        return self.measured.top1

    @property
    def top5(self) -> float:
        """Percent within the five most likely classes; within all where there are fewer."""
        return self.measured.top5

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, as --json prints them."""
        return {
            "model": self.record.config.architecture,
            "data": str(self.folder.root),
            "split": self.folder.split,
            **self.measured.to_dict(),
            "per_class": self.measured.per_class(),
            "runtime": self.runtime,
            "seconds": self.seconds,
            "images_per_second": self.measured.images / self.seconds,
        }


def evaluate(
    model: str | os.PathLike | SwinV2 | Session,
    data: str | os.PathLike,
    *,
    split: str | None = None,
    batch_size: int = 32,
    runtime: str = "auto",
    device: str = "auto",
    precision: str = "fp32",
) -> Evaluation:
    """Measure a model on a folder of pictures with one folder per class.

    Args:
        model: model file, published name, a swinv2 model with a record, or an open Session (then runtime,
            device and precision are the session's).
        data: folder with class folders, or with parts such as train/ and val/ that have them.
        split: the part; default: the held-out one. An undivided folder is measured whole, or where the model
            was trained on it, on the part that was held out.
        batch_size: pictures that the model sees at once; the figures do not depend on it.

    Raises:
        ValueError, FileNotFoundError: a model, folder or picture that cannot be used, in one sentence.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; give at least 1")
    import numpy as np

    folder = read_split(data, split)
    with _session(model, runtime, device, precision) as session:
        folder = match_classes(_held_out(folder, session.record) if split is None else folder, session.record)
        tally = Tally(_names(session.record))
        began = time.perf_counter()
        for images, indices in _with_progress(_batches(folder, session, batch_size), len(folder)):
            labels = np.array([folder.labels[i] for i in indices])
            tally.add(session.run(images), labels, np.array(indices))
        seconds = time.perf_counter() - began
        how = f"{session.runtime} on {session.device} in {session.precision}"
    return Evaluation(tally.measurement(), folder, session.record, how, seconds)


def match_classes(folder: ImageFolder, record: Record) -> ImageFolder:
    """The folder with the model's class ids as labels, found by name; ImageNet folders by synset.

    Raises:
        DataError: folders that are no class of the model, or names that several classes have.
    """
    count = record.config.num_classes
    if not record.classes and not record.synsets:
        if len(folder.classes) != count:
            raise DataError(
                f"the model has {count} classes without names and {folder.name}/{folder.split} has "
                f"{len(folder.classes)} folders; unnamed classes need one folder each, in the same order"
            )
        return replace(folder, classes=tuple(record.class_name(i) for i in range(count)))
    by_synset = set(folder.classes) <= set(record.synsets)
    known = record.synsets if by_synset else record.classes
    if unknown := sorted(set(folder.classes) - set(known)):
        few = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        raise DataError(
            f"{folder.name}/{folder.split} has folders that are no class of the model: {few}; "
            f"its classes are {', '.join(known[:5])}{', ...' if len(known) > 5 else ''}"
        )
    ids: dict[str, int] = {}
    for index, name in enumerate(known):
        if name in ids and name in folder.classes:
            raise DataError(f"the model has two classes called {name!r}; name the folders by synset instead")
        ids[name] = index
    labels = tuple(ids[folder.classes[label]] for label in folder.labels)
    return replace(folder, classes=_names(record), labels=labels)


def command(
    model: str,
    data: str,
    *,
    split: str | None = None,
    batch_size: int = 32,
    runtime: str = "auto",
    device: str = "auto",
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    output: str | None = None,
    json: bool = False,
) -> int:
    """Measure a model on labelled pictures, one folder per class.

    Each picture is counted once; one that cannot be read stops the run. Folder names are matched to the class
    names of the model.

    Args:
        model: model file, or the name of a published model.
        data: folder with class folders, or with parts such as train and val that have them.
        split: part to measure on; default is the held-out one (val, validation, test or held-out).
        batch_size: pictures that the model sees at once; the figures do not depend on it.
        runtime: what computes; auto takes the best that is installed and opens the model.
        device: cpu, cuda, cuda:1, mps; auto takes an accelerator where there is one.
        precision: of the computation.
        output: folder for results.csv (per class), predictions.csv (per picture) and confusion.png.

    Examples:
        swinv2 evaluate runs/photos/best.safetensors photos
        swinv2 evaluate swinv2_tiny_window8_256 imagenet --split val --output runs/imagenet
    """
    result = evaluate(
        model, data, split=split, batch_size=batch_size, runtime=runtime, device=device, precision=precision
    )
    written = write(result, Path(output)) if output else []
    if json:
        console.emit_json(result.to_dict() | {"files": [str(path) for path in written]})
    else:
        _print(result)
        for path in written:
            console.stdout().print(str(path), markup=False)
    return Exit.DONE


def write(result: Evaluation, output: Path) -> list[Path]:
    """results.csv, predictions.csv and confusion.png; returns their paths."""
    from swinv2 import report

    output.mkdir(parents=True, exist_ok=True)
    results, predictions, confusion = (output / name for name in WRITTEN)
    measured, folder = result.measured, result.folder
    report.results_csv(results, measured.per_class())
    rows = zip(measured.indices, measured.labels, measured.predictions, measured.scores, strict=True)
    report.results_csv(
        predictions,
        [
            {
                "file": folder.paths[i].relative_to(folder.root).as_posix(),
                "label": measured.classes[label],
                "prediction": measured.classes[prediction],
                "score": f"{score:.6g}",
                "correct": int(label == prediction),
            }
            for i, label, prediction, score in rows
        ],
    )
    title = f"{result.record.config.architecture} on {folder.name}/{folder.split}"
    report.save(report.confusion(measured, title), confusion)
    return [results, predictions, confusion]


def _session(model: Any, runtime: str, device: str, precision: str) -> Session:
    if isinstance(model, Session):
        return model
    if isinstance(model, (str, os.PathLike)):
        share_processors()
        return open_session(model, runtime, device=device, precision=precision)
    from swinv2.runtimes.torch import TorchSession

    return TorchSession(model, device=device, precision=precision)


def _held_out(folder: ImageFolder, record: Record) -> ImageFolder:
    """Of an undivided folder that the model was trained on, the part that it has not seen."""
    trained = record.provenance.get("data")
    if folder.split != "all" or not isinstance(trained, dict) or not trained.get("is_divided"):
        return folder
    _, held_out = divide(folder)
    if held_out.fingerprint == trained.get("held_out_fingerprint"):
        return held_out
    if trained.get("name") == folder.name:
        console.stderr().print(
            f"{folder.name} has changed since the model was trained on it; all pictures are measured, "
            f"those it learnt from as well",
            markup=False,
        )
    return folder


def _batches(
    folder: ImageFolder, session: Session, batch_size: int
) -> Iterator[tuple[np.ndarray, list[int]]]:
    """Preprocessed pictures [B, C, H, W] with their positions; threads read the next ones meanwhile."""
    import numpy as np

    preprocess = session.record.preprocess
    ahead: deque[tuple[int, Future[np.ndarray]]] = deque()
    pool = ThreadPoolExecutor(DECODERS, thread_name_prefix="swinv2-decode")
    waiting = iter(range(len(folder)))
    try:
        while True:
            while len(ahead) < 2 * batch_size and (i := next(waiting, None)) is not None:
                ahead.append((i, pool.submit(preprocess.load, folder.paths[i])))
            if not ahead:
                return
            batch = [ahead.popleft() for _ in range(min(batch_size, len(ahead)))]
            yield np.stack([future.result() for _, future in batch]), [i for i, _ in batch]
    except (OSError, ValueError) as error:
        raise DataError(f"{error}; nothing is measured without it: repair it or remove it") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _names(record: Record) -> tuple[str, ...]:
    return tuple(record.class_name(i) for i in range(record.config.num_classes))


def _with_progress(
    batches: Iterator[tuple[np.ndarray, list[int]]], total: int
) -> Iterator[tuple[np.ndarray, list[int]]]:
    """The batches, with a bar on a terminal."""
    if not console.stderr().is_terminal:
        yield from batches
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = "measuring", BarColumn(), MofNCompleteColumn(), "pictures", TimeRemainingColumn()
    with Progress(*columns, console=console.stderr(), transient=True) as progress:
        task = progress.add_task("", total=total)
        for images, indices in batches:
            yield images, indices
            progress.advance(task, len(indices))


def _print(result: Evaluation) -> None:
    from rich.markup import escape
    from rich.table import Table

    measured, folder, out = result.measured, result.folder, console.stdout()
    out.print(
        f"{result.record.config.architecture} on {folder.name}/{folder.split}: {measured.images:,} pictures, "
        f"{len(measured.present)} of {len(measured.classes)} classes, {result.runtime}, "
        f"{measured.images / result.seconds:,.0f} images/s",
        markup=False,
    )
    rows = measured.per_class()
    if len(rows) > SHOWN:
        out.print(f"the {SHOWN} classes with the lowest accuracy; all are in results.csv (--output)")
        rows = sorted(rows, key=lambda row: row["accuracy"])[:SHOWN]
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("class", overflow="fold")
    for name in ("images", "correct", "accuracy", "precision", "F1"):
        table.add_column(name, justify="right")
    for row in rows:
        shares = (f"{row[key]:.2f} %" for key in ("accuracy", "precision", "f1"))
        table.add_row(escape(row["class"]), f"{row['images']:,}", f"{row['correct']:,}", *shares)
    out.print(table)
    out.print(
        f"top-1 {measured.top1:.2f} % ({measured.correct:,} of {measured.images:,})   "
        f"top-{measured.k} {measured.top5:.2f} %   loss {measured.loss:.4f}"
    )
