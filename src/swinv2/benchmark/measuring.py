"""The order of a benchmark: open, warm up, compare answers, then turns in rounds, then the pictures of a data set.

In every round each contender has one turn at one batch, in an order that changes from round to round. What slows the
machine down for a while slows all of them, and none owes its figure to the one that ran before it.
"""

from __future__ import annotations

import base64
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from swinv2 import child
from swinv2.artifact import ArtifactError, Record
from swinv2.benchmark.contenders import Contender
from swinv2.benchmark.latency import Latency
from swinv2.benchmark.pictures import Pictures
from swinv2.benchmark.process import Process
from swinv2.benchmark.result import Answers, Row
from swinv2.parity import compare
from swinv2.verification import Reference, step_of

if TYPE_CHECKING:
    import numpy as np

Tell = Callable[[str, float], None]  # what is being done, and which share of that is done

TURN_SECONDS = 0.25  # of one contender in one round, where a run is not longer
SETTLE_SECONDS = 0.03  # until the threads of the one before sleep: those of ONNX Runtime spin for so long
PROBES = 24  # images whose logits are compared
SENTENCES = (ValueError, ImportError, OSError, MemoryError, child.Died)  # why one contender does not run


@dataclass(eq=False)
class Running:
    """A contender whose process is there."""

    row: Row
    process: Process
    record: Record
    runs: dict[int, int] = field(default_factory=dict)  # of one turn, by batch
    rounds: dict[int, list[list[float]]] = field(default_factory=dict)
    whole_rounds: dict[int, list[list[float]]] = field(default_factory=dict)

    def attempt(self, method: str, **arguments: Any) -> Any:
        """What a method of Turns returns; None where it does not work, now or before.

        One contender's end is not that of all: the reason goes into its row.
        """
        if self.row.not_run:
            return None
        try:
            return self.process.ask(method, **arguments)
        except SENTENCES as error:
            self.row.not_run = sentence(error)
            self.process.close()
            return None

    def turn(self, batch: int) -> None:
        if found := self.attempt("turn", batch=batch, runs=self.runs[batch]):
            self.rounds.setdefault(batch, []).append(found["ms"])
            if found["whole_ms"]:
                self.whole_rounds.setdefault(batch, []).append(found["whole_ms"])

    def probe(self, count: int, step: int) -> np.ndarray | None:
        """Logits of probe images, [images, classes kept]."""
        import numpy as np

        if (found := self.attempt("probe", count=count, step=step)) is None:
            return None
        return np.frombuffer(base64.b64decode(found), "<f4").reshape(count, -1)


def open_contender(contender: Contender, settings: dict[str, Any]) -> tuple[Row, Running | None]:
    """Start the process of a contender, open the model and run it for the first time at every batch.

    Raises:
        FileNotFoundError, ArtifactError: the model itself, which all are compared with, cannot be used.
    """
    row = Row(
        contender.path, contender.runtime, contender.precision, is_model=contender.is_model,
        size=contender.size, sha256=contender.sha256,
    )  # fmt: skip
    process = Process(contender.name)
    try:
        said = process.ask(
            "open", path=contender.path, runtime=contender.runtime, device=settings["device"],
            precision=contender.precision, threads=settings["threads"],
        )  # fmt: skip
        running = Running(row, process, Record.from_dict(said["record"]))
        row.runtime, row.device, row.precision = said["runtime"], said["device"], said["precision"]
        row.import_ms, row.load_ms, row.bare_memory = said["import_ms"], said["load_ms"], said["bare_memory"]
        for batch in settings["batch_sizes"]:
            warm = process.ask("warm", batch=batch, seconds=TURN_SECONDS)
            row.first_ms = warm["first_ms"] if row.first_ms is None else row.first_ms
            running.runs[batch], row.memory[batch] = warm["runs"], warm["memory"]
        return row, running
    except SENTENCES as error:
        process.close()
        if contender.is_model and isinstance(error, (FileNotFoundError, ArtifactError)):
            raise
        row.not_run = sentence(error)
        return row, None
    except BaseException:
        process.close()
        raise


def answered(running: Running) -> Reference:
    """What a contender itself answers on the probe images.

    Raises:
        child.Died: it did not.
    """
    step = step_of(running.record.config.num_classes or running.record.config.num_features)
    if (logits := running.probe(PROBES, step)) is None:
        raise child.Died(running.row.not_run)
    return Reference(step, {running.record.preprocess.size: logits})


def recorded(running: Sequence[Running]) -> tuple[Reference, Running] | None:
    """What the torch model answered when one of these files was exported, where one says so."""
    for one in running:
        about = one.record.provenance.get("export")
        if isinstance(about, dict) and "reference" in about:
            whole, size = Reference.from_dict(about["reference"]), one.record.preprocess.size
            if size in whole.cases:
                return Reference(whole.step, {size: whole.cases[size]}), one
    return None


def compare_answers(running: Sequence[Running], reference: Reference, record: Record) -> None:
    """Logits on probe images beside those of the reference; only of contenders that are the same network."""
    (size, exact), *_ = reference.cases.items()
    for one in running:
        if one.record.config == record.config and one.record.preprocess == record.preprocess:
            logits = one.probe(len(exact), reference.step)
            one.row.comparison = None if logits is None else compare(logits, exact, size)


def take_turns(running: Sequence[Running], batches: Sequence[int], rounds: int, tell: Tell) -> None:
    """So many rounds at every batch; the figures go into the rows."""
    for batch in batches:
        what = f"batch {batch}: {rounds} rounds"
        tell(what, 0.0)
        for round_ in range(rounds):
            order = list(running)
            random.Random(round_).shuffle(order)  # the same orders every time
            for i, one in enumerate(order):
                time.sleep(SETTLE_SECONDS)
                one.turn(batch)
                tell(what, (round_ + (i + 1) / len(order)) / rounds)
    for one in running:
        one.row.latency = {b: Latency(b, tuple(map(tuple, found))) for b, found in one.rounds.items()}
        one.row.whole = {b: Latency(b, tuple(map(tuple, found))) for b, found in one.whole_rounds.items()}


def answer_pictures(
    running: Sequence[Running], pictures: Pictures, model: Running | None, batch: int, tell: Tell
) -> None:
    """The pictures of a data set, by every contender after the other.

    Args:
        model: whose answers the others are held against, perhaps no contender; None where there is no such model.
    """
    others = [one for one in running if one is not model]
    order = others if model is None else [model, *others]
    exact: list[int] | None = None
    for i, one in enumerate(order):
        tell(f"{one.row.label or 'the model in torch'}: {len(pictures):,} pictures", i / len(order))
        if one.record.classes != order[0].record.classes:
            continue  # other classes, other answers
        if (found := one.attempt("answers", batch=batch)) is None:
            continue
        if one is model:
            exact = found
        one.row.answers = Answers(
            images=len(found),
            correct=_equal(found, pictures.labels) if pictures.has_labels else None,
            agreeing=None if exact is None else _equal(found, exact),
            unanswered=sum(answer < 0 for answer in found),
        )


def sentence(error: BaseException) -> str:
    """Why a contender does not run."""
    if isinstance(error, OSError) and error.strerror:
        return ": ".join(filter(None, (error.filename, error.strerror.lower())))
    return " ".join(str(error).split()) or type(error).__name__


def _equal(found: Sequence[int], exact: Sequence[int]) -> int:
    return sum(a == b and a >= 0 for a, b in zip(found, exact, strict=True))
