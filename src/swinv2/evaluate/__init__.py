"""How right a model is on labelled pictures: exact counts, each picture once, on the path that predictions
take.

Pictures go through the model's own preprocessing and through any runtime, in one process or in several. Classes
are matched by name, so that a folder with fewer classes, or in another order, is measured rightly. A picture that
cannot be read is never replaced: it stops the evaluation, or counts as wrong where that is asked for.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from swinv2 import console, multilabel, world
from swinv2.data import DataError, Split, read_split
from swinv2.data.unreadable import Unreadable
from swinv2.evaluate.counting import count, tally_for
from swinv2.evaluate.matching import held_out, match_classes
from swinv2.evaluate.opening import cost_of_window, open_for, own_device
from swinv2.evaluate.printing import print_result, say
from swinv2.evaluate.protocol import Protocol
from swinv2.evaluate.reading import THREADS
from swinv2.evaluate.real import CLASSES, RealMeasurement, against_real, positions, read_real
from swinv2.evaluate.writing import write
from swinv2.runtimes import Session
from swinv2.verbs import Exit, make_callable

if TYPE_CHECKING:
    from swinv2.artifact import Record
    from swinv2.model import SwinV2

__all__ = ["Evaluation", "Protocol", "evaluate", "match_classes", "write"]

make_callable(__name__)


@dataclass(frozen=True)
class Evaluation:
    """What was measured, on what, with what.

    Args:
        measured: metrics.Measurement, or multilabel.Measurement where a picture may show several classes.
        split: the pictures; labels are the model's class ids.
        record: of the model, with the preprocessing that pictures went through.
        seconds: reading, preprocessing and computing together; of several processes the slowest.
        compute_seconds: of them those that the runtime took.
        real: figures against the ImageNet-real labels, where they were given.
        unreadable: what could not be read and counts as wrong.
        window: what a window other than that of the weights costs, where one was asked for.
    """

    measured: Any
    split: Split
    record: Record
    runtime: str
    seconds: float
    compute_seconds: float
    real: RealMeasurement | None = None
    unreadable: tuple[Unreadable, ...] = ()
    window: dict[str, Any] | None = None

    @property
    def is_multi_label(self) -> bool:
        return isinstance(self.measured, multilabel.Measurement)

    @property
    def top1(self) -> float:
        """Percent; of pictures with one class each."""
        return self.measured.top1

    @property
    def top5(self) -> float:
        """Percent within the five most likely classes; within all where there are fewer."""
        return self.measured.top5

    @property
    def images_per_second(self) -> float:
        return self.measured.images / self.seconds

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, as --json prints them."""
        more: dict[str, Any] = {} if self.real is None else {"real_labels": self.real.to_dict()}
        if self.window is not None:
            more["window"] = self.window
        return {
            "model": self.record.config.architecture,
            "data": str(self.split.root),
            "split": self.split.split,
            **self.measured.to_dict(),
            **more,
            "per_class": self.measured.per_class(),
            "unreadable_files": [one.name for one in self.unreadable],
            "preprocess": self.record.preprocess.to_dict(),
            "runtime": self.runtime,
            "processes": world.current().size,
            "seconds": self.seconds,
            "compute_seconds": self.compute_seconds,
            "images_per_second": self.images_per_second,
        }


def evaluate(
    model: str | os.PathLike | SwinV2 | Session,
    data: str | os.PathLike,
    *,
    split: str | None = None,
    batch_size: int = 32,
    workers: int | None = None,
    runtime: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    unreadable: Literal["stop", "wrong"] = "stop",
    real_labels: str | os.PathLike | None = None,
    threshold: float | None = None,
    protocol: Protocol | None = None,
) -> Evaluation:
    """Measure a model on labelled pictures. In processes that torchrun started, each measures its share, and all
    of them return the whole.

    Args:
        model: model file, published name, a swinv2 model with a record, or an open Session (then runtime,
            device, precision and threads are the session's).
        data: any data set that `swinv2 train` takes.
        split: the part; default: the held-out one. An undivided set is measured whole, or where the model
            was trained on it, on the part that was held out.
        batch_size: pictures that the model sees at once; workers: threads that decode. The figures depend on
            neither.
        unreadable: "stop" refuses to measure without a picture, "wrong" counts it as a wrong answer.
        real_labels: the published real.json, or "timm" for the copy inside timm; for the validation pictures of
            ImageNet.
        threshold: score from which on a class is said to be there, for multi-label data; default: the
            thresholds in the model file, or 0.5.
        protocol: what is to be other than the model file has it.

    Raises:
        ValueError, FileNotFoundError: a model, data set or picture that cannot be used, in one sentence.
    """
    protocol = protocol or Protocol()
    _check(batch_size, workers, unreadable, threshold)
    found = read_split(data, split)
    me = world.current()
    joins = me.size > 1 and not world.has_met()
    session, probe = open_for(model, runtime, own_device(device, me), precision, threads, protocol)
    try:
        world.start(session.device)
        record = session.record
        found = match_classes(held_out(found, record) if split is None else found, record)
        real = _real(real_labels, found, record)
        tally = tally_for(found, record, threshold)
        window = None
        if probe is not None:
            with probe:
                window = cost_of_window(
                    session, probe, found, lambda part: tally_for(part, record, threshold)
                )
        began = time.perf_counter()
        unread, computing = count(
            tally,
            session,
            found,
            batch_size=batch_size,
            threads=workers or THREADS,
            stops=unreadable == "stop",
        )
        tally.gather(world.gather)
        seconds = max(world.gather(time.perf_counter() - began))
        computing = max(world.gather(computing))
        unread = sorted(one for ones in world.gather(unread) for one in ones)
    finally:
        if not isinstance(model, Session):
            session.close()
        if joins:
            world.stop()
    if len(unread) == len(found):
        raise DataError(f"none of the {len(found):,} pictures can be read; the first: {unread[0].reason}")
    measured: Any = tally.measurement()
    how = f"{session.runtime} on {session.device} in {session.precision}"
    against = None if real is None else against_real(measured, found.names, real)
    return Evaluation(measured, found, record, how, seconds, computing, against, tuple(unread), window)


def command(
    model: str,
    data: str,
    *,
    split: str | None = None,
    batch_size: int = 32,
    workers: int | None = None,
    runtime: str = "auto",
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16", "fp16", "fp8", "int8"] = "auto",
    threads: int | None = None,
    unreadable: Literal["stop", "wrong"] = "stop",
    real_labels: str | None = None,
    threshold: float | None = None,
    image_size: int | None = None,
    window: int | None = None,
    resize: Literal["shorter", "squash"] | None = None,
    crop_pct: float | None = None,
    interpolation: Literal["bicubic", "bilinear"] | None = None,
    output: str | None = None,
    parquet: bool = False,
    json: bool = False,
) -> int:
    """Measure a model on labelled pictures.

    Each picture is counted once, whatever the batch, the workers and the processes (torchrun -m swinv2 evaluate
    ...). Classes are matched by name, synset or number. Pictures go through the preprocessing in the model file.

    Args:
        model: model file, or the name of a published model.
        data: folder with class folders, or with parts such as train and val that have them; or lists, shards, tables.
        split: part to measure on; default is the held-out one (val, validation, test or held-out).
        batch_size: pictures that the model sees at once; the figures do not depend on it.
        workers: threads that decode pictures; default is one per processor, at most 8.
        runtime: what computes; auto takes the best that is installed and opens the model.
        device: cpu, cuda, cuda:1, mps; auto takes an accelerator where there is one.
        precision: of the computation; auto takes that of the file, fp32 where it does not say.
        threads: of the computation on a CPU.
        unreadable: stop at a picture that cannot be read, or count it as wrong (exit code 5).
        real_labels: real.json of ImageNet-real, or timm for the copy inside timm; for the validation pictures of
            ImageNet.
        threshold: of multi-label answers; default is what the model file says, or 0.5.
        image_size: of the input, instead of that of the weights; the window follows.
        window: of the attention; what another one than that of the weights costs is said.
        resize: shorter side and centre crop, or squash; default is what the model file says.
        crop_pct: share of the scaled shorter side that is cropped; implies resize shorter.
        interpolation: of the scaling; default is what the model file says.
        output: folder for evaluation.json, results.csv (per class), predictions.csv (per picture), confusion.png.
        parquet: predictions.parquet as well, with the likeliest classes of each picture; needs output.

    Examples:
        swinv2 evaluate runs/photos/best.safetensors photos
        swinv2 evaluate swinv2_tiny_window8_256 imagenet --split val --output runs/imagenet
        torchrun --nproc-per-node 8 -m swinv2 evaluate model.safetensors imagenet
    """
    if parquet and output is None:
        raise ValueError("parquet has no place without output; give --output FOLDER")
    result = evaluate(
        model, data, split=split, batch_size=batch_size, workers=workers, runtime=runtime, device=device,
        precision=precision, threads=threads, unreadable=unreadable, real_labels=real_labels, threshold=threshold,
        protocol=Protocol(image_size, window, resize, crop_pct, interpolation),
    )  # fmt: skip
    if world.current().is_first:
        written = write(result, Path(output), parquet=parquet) if output else []
        for one in result.unreadable:
            say(one.reason)
        if json:
            console.emit_json(result.to_dict() | {"files": [str(path) for path in written]})
        else:
            print_result(result)
            for path in written:
                console.stdout().print(str(path), markup=False)
    return Exit.PARTIAL if result.unreadable else Exit.DONE


def _check(batch_size: int, workers: int | None, unreadable: str, threshold: float | None) -> None:
    for name, value in (("batch_size", batch_size), ("workers", workers)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; give at least 1")
    if unreadable not in ("stop", "wrong"):
        raise ValueError(f"unreadable is {unreadable!r}; give stop or wrong")
    if threshold is not None and not 0 < threshold < 1:
        raise ValueError(f"threshold is {threshold}; give a score between 0 and 1")


def _real(path: str | os.PathLike | None, split: Split, record: Record) -> Any:
    """The real labels, where all pictures have them."""
    if path is None:
        return None
    if record.config.num_classes != CLASSES or split.is_multi_label:
        raise ValueError(f"real labels are for models of {CLASSES} classes (ImageNet-1k) and their pictures")
    real = read_real(path)
    positions(split.names, real)  # before an hour of computing
    return real
