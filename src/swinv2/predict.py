"""What a picture shows: pictures in, class names with scores out. No torch here; a runtime computes.

    predictor = Predictor("swinv2_tiny_window8_256")
    predictor("dog.jpg").top.name

Pictures are decoded by threads ahead of the model and answered in batches, in order; one that cannot be read
is answered by a Failure, and the others are not disturbed.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal

from swinv2 import console
from swinv2.inputs import Failure, Input, Urls, find, is_one
from swinv2.predictions import Prediction, ranked
from swinv2.runtimes import Session, open_session
from swinv2.verbs import Exit, UsageError, make_callable

if TYPE_CHECKING:
    import numpy as np

    from swinv2.artifact import Record

DEFAULT_MODEL = "swinv2_tiny_window8_256"
DECODERS = min(4, os.cpu_count() or 1)  # threads; Pillow decodes outside of Python's lock


class Predictor:
    """A model, opened once, that says what pictures show.

    Args:
        source: model file, published name, or an open Session (then runtime, device, precision and threads
            are the session's).
        runtime, device, precision, threads: as runtimes.open_session takes them.
        top_k: classes per prediction; at most as many as the model has.
        batch_size: pictures that the model sees at once; about two batches are decoded ahead.
        allow_urls: "public", "any" (private addresses as well) or "none".

    Raises:
        ValueError, ImportError, FileNotFoundError, ArtifactError: why the model cannot be used.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | Session,
        *,
        runtime: str = "auto",
        top_k: int = 5,
        device: str = "auto",
        precision: str = "auto",
        batch_size: int = 8,
        threads: int | None = None,
        allow_urls: Urls = "public",
    ):
        for name, value in (("top_k", top_k), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name} is {value}; give at least 1")
        if not isinstance(source, Session):
            source = open_session(source, runtime, device=device, precision=precision, threads=threads)
        self.session, self.top_k, self.batch_size, self.allow_urls = source, top_k, batch_size, allow_urls
        config, channels = self.record.config, self.record.preprocess.channels
        if not config.num_classes:
            raise ValueError(f"{config.architecture} has no classes (num_classes is 0), only features")
        if config.in_chans != channels:
            raise ValueError(f"the model has {config.in_chans} input channels, its preprocessing {channels}")

    @property
    def record(self) -> Record:
        """Architecture, preprocessing and class names of the model."""
        return self.session.record

    def __call__(self, images: Any) -> Prediction | list[Prediction | Failure]:
        """One picture -> its Prediction. A list, folder or glob -> a list in the same order.

        Args:
            images: path, URL, "-" for stdin, encoded bytes, Pillow image, numpy array; folder, glob, or an
                iterable of all these.

        Raises:
            ImageError, OSError: one picture was given and cannot be used; in a list it is a Failure.
        """
        if not is_one(images):
            return list(self.stream(images))
        (one,) = find(images, urls=self.allow_urls)
        tensor = self.record.preprocess.load(one.open(), name=one.file)
        (answer,) = self._answer([(one.file, tensor)])
        if isinstance(answer, Failure):
            raise ValueError(answer.error)
        return answer

    def stream(self, images: Any) -> Iterator[Prediction | Failure]:
        """One answer per picture, in order, while the next are being decoded. Takes what a call takes."""
        inputs = find(images, urls=self.allow_urls)
        pool = ThreadPoolExecutor(DECODERS, thread_name_prefix="swinv2-decode")
        ahead: deque[tuple[str, Future[np.ndarray | Failure]]] = deque()
        try:
            while True:
                while len(ahead) < 2 * self.batch_size and (one := next(inputs, None)):
                    ahead.append((one.file, pool.submit(self._load, one)))
                if not ahead:
                    return
                batch = [ahead.popleft() for _ in range(min(self.batch_size, len(ahead)))]
                yield from self._answer([(file, loaded.result()) for file, loaded in batch])
        finally:
            pool.shutdown(cancel_futures=True)

    def close(self) -> None:
        """Close the session."""
        self.session.close()

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _load(self, one: Input) -> np.ndarray | Failure:
        try:
            return self.record.preprocess.load(one.open(), name=one.file)
        except OSError as error:
            return Failure(one.file, f"{one.file}: {(error.strerror or str(error)).lower()}")
        except ValueError as error:
            return Failure(one.file, str(error))

    def _answer(self, loaded: list[tuple[str, np.ndarray | Failure]]) -> Iterator[Prediction | Failure]:
        import numpy as np

        tensors = [tensor for _, tensor in loaded if not isinstance(tensor, Failure)]
        logits = iter(self.session.run(np.stack(tensors)) if tensors else ())
        for file, tensor in loaded:
            yield tensor if isinstance(tensor, Failure) else self._prediction(file, next(logits))

    def _prediction(self, file: str, logits: np.ndarray) -> Prediction | Failure:
        import numpy as np

        if not np.isfinite(logits).all():
            precision = self.session.precision
            return Failure(file, f"{file}: the model's answer in {precision} is not finite; try fp32")
        return Prediction(file, ranked(logits, self.record, self.top_k))


def predict(
    images: Any, model: str | os.PathLike[str] | Session = DEFAULT_MODEL, **options: Any
) -> Prediction | list[Prediction | Failure]:
    """Open a model, ask it once, close it. Options are those of Predictor; keep one for more questions."""
    with Predictor(model, **options) as predictor:
        return predictor(images)


def command(
    images: list[str],
    *,
    model: str = DEFAULT_MODEL,
    top_k: int = 5,
    runtime: str = "auto",
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16", "fp16", "fp8", "int8"] = "auto",
    batch_size: int = 8,
    threads: int | None = None,
    private_urls: bool = False,
    csv: bool = False,
    json: bool = False,
) -> int:
    """Say what pictures show.

    Pictures that cannot be read are named on stderr, one line each; the others are predicted, and the exit
    code is then 5.

    Args:
        images: files, folders (searched below), globs, http(s) URLs, or - for stdin.
        model: model file, exported or not, or the name of a published model (`swinv2 models`).
        top_k: classes per picture, at most as many as the model has.
        runtime: what computes; auto takes the best that is installed and opens the model.
        device: cpu, cuda, cuda:1, mps; auto takes an accelerator where there is one.
        precision: of the computation; auto takes that of the file, fp32 where it does not say.
        batch_size: pictures that the model sees at once.
        threads: of the computation on a CPU.
        private_urls: fetch from private, loopback and link-local addresses as well.
        csv: print rows of file, rank, class_id, name, score.
        json: print a list of objects with file and predictions, or file and error.

    Examples:
        swinv2 predict photo.jpg
        swinv2 predict photos/ --model runs/demo/best.safetensors --csv > answers.csv
        curl -s https://example.org/dog.jpg | swinv2 predict - --json
    """
    if csv and json:
        raise UsageError("--csv and --json are both given; choose one")
    urls: Urls = "any" if private_urls else "public"
    with Predictor(
        model, runtime=runtime, top_k=top_k, device=device, precision=precision, batch_size=batch_size,
        threads=threads, allow_urls=urls,
    ) as predictor, warnings.catch_warnings():  # fmt: skip
        # What Pillow grumbles about pictures that it reads (odd EXIF, many pixels) nobody can act upon here.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        files = list(find(images, urls=urls))
        answers = _with_progress(predictor.stream(files), len(files), printing=not json)
        failed = _print_json(answers) if json else _print_csv(answers) if csv else _print_text(answers)
    return Exit.PARTIAL if failed else Exit.DONE


def _print_json(answers: Iterable[Prediction | Failure]) -> int:
    """Print one list; returns how many failed."""
    found = list(answers)
    for answer in found:
        if isinstance(answer, Failure):
            _note(answer)
    console.emit_json([answer.to_dict() for answer in found])
    return sum(isinstance(answer, Failure) for answer in found)


def _print_csv(answers: Iterable[Prediction | Failure]) -> int:
    """Print a row per class; returns how many failed."""
    import csv

    failed, rows = 0, csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(["file", "rank", "class_id", "name", "score"])
    for answer in answers:
        if isinstance(answer, Failure):
            failed += _note(answer)
            continue
        for rank, score in enumerate(answer.classes, 1):
            rows.writerow([answer.file, rank, score.index, score.name, f"{score.score:.9g}"])
    return failed


def _print_text(answers: Iterable[Prediction | Failure]) -> int:
    """Print what people read, with bars on a terminal; returns how many failed."""
    from rich.text import Text

    failed, out = 0, console.stdout()
    block = "\u2501" if out.encoding.startswith("utf") else "="
    for answer in answers:
        if isinstance(answer, Failure):
            failed += _note(answer)
            continue
        out.print(Text(_one_line(answer.file), "bold"))
        for score in answer.classes:
            bar = f"{block * round(20 * score.score):20}  " if out.is_terminal else ""
            out.print(Text.assemble(f"{100 * score.score:8.2f} %  ", (bar, "green"), _one_line(score.name)))
    return failed


def _note(failure: Failure) -> Literal[1]:
    """One line on stderr; returns the number of failures it stands for."""
    from rich.text import Text

    console.stderr().print(Text(_one_line(failure.error)))
    return 1


def _one_line(text: str) -> str:
    """Names come from strangers: whatever moves a cursor or ends a line is written as its escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _with_progress(
    answers: Iterable[Prediction | Failure], total: int, *, printing: bool
) -> Iterator[Prediction | Failure]:
    """The answers, with a bar on stderr where a person waits for many and does not see them anyway."""
    if total < 2 or not console.stderr().is_terminal or (printing and console.stdout().is_terminal):
        yield from answers
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = BarColumn(), MofNCompleteColumn(), "images", TimeRemainingColumn()
    with Progress(*columns, console=console.stderr(), transient=True) as progress:
        yield from progress.track(answers, total=total)


make_callable(__name__)
