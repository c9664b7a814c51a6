"""What came out of a benchmark: for every contender what it is, how fast, how large, and how right."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swinv2 import metrics
from swinv2.benchmark.latency import Latency, ratio
from swinv2.parity import Comparison


@dataclass(frozen=True)
class Answers:
    """What a contender said about pictures of a data set.

    Args:
        correct: pictures whose likeliest class is their label; None where there are no labels.
        agreeing: pictures with the likeliest class of the model itself; None where that is not known.
        unanswered: pictures that could not be read, or had answers that are no numbers; they count as wrong.
    """

    images: int
    correct: int | None
    agreeing: int | None
    unanswered: int = 0

    @property
    def accuracy(self) -> float | None:
        """Percent."""
        return None if self.correct is None else 100 * self.correct / self.images

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of the accuracy, in percent, at 95 % (Wilson)."""
        if self.correct is None:
            return None
        low, high = metrics.wilson(self.correct, self.images)
        return 100 * low, 100 * high

    @property
    def agreement(self) -> float | None:
        """Percent."""
        return None if self.agreeing is None else 100 * self.agreeing / self.images

    def to_dict(self) -> dict[str, Any]:
        low, high = self.interval or (None, None)
        return {
            "images": self.images, "correct": self.correct, "agreeing": self.agreeing, "unanswered": self.unanswered,
            "accuracy": self.accuracy, "accuracy_low": low, "accuracy_high": high, "agreement": self.agreement,
        }  # fmt: skip


@dataclass
class Row:
    """One contender.

    Args:
        size: bytes on the disk; None for a published model by name.
        import_ms, load_ms: of the runtime's package, and of the file once that is there.
        first_ms: the first answer after that, at the smallest batch.
        memory: batch -> most bytes that the process had in memory after its first runs at this batch.
        bare_memory: before the runtime was imported.
        latency: batch -> of ready tensors; whole: from encoded pictures to logits.
        comparison: with the torch model's logits on probe images.
        not_run: why it did not run, or ended early.
    """

    path: str
    runtime: str
    precision: str
    device: str = ""
    is_model: bool = False
    size: int | None = None
    sha256: str | None = None
    import_ms: float | None = None
    load_ms: float | None = None
    first_ms: float | None = None
    memory: dict[int, int | None] = field(default_factory=dict)
    bare_memory: int | None = None
    latency: dict[int, Latency] = field(default_factory=dict)
    whole: dict[int, Latency] = field(default_factory=dict)
    comparison: Comparison | None = None
    answers: Answers | None = None
    not_run: str = ""
    label: str = ""

    @property
    def peak_memory(self) -> int | None:
        return max((bytes_ for bytes_ in self.memory.values() if bytes_ is not None), default=None)

    def is_as(self, other: Row) -> bool:
        """Whether it is the same file in the same runtime, device and precision."""
        mine, theirs = ((r.path, r.runtime, r.device, r.precision) for r in (self, other))
        return mine == theirs

    def to_dict(self) -> dict[str, Any]:
        return {
            "label": self.label, "path": self.path, "runtime": self.runtime, "device": self.device,
            "precision": self.precision, "is_model": self.is_model, "bytes": self.size, "sha256": self.sha256,
            "import_ms": self.import_ms, "load_ms": self.load_ms, "first_ms": self.first_ms,
            "bare_memory_bytes": self.bare_memory,
            "batches": {
                str(batch): {
                    "memory_bytes": self.memory.get(batch),
                    **latency.to_dict(),
                    "with_pictures": self.whole[batch].to_dict() if batch in self.whole else None,
                }
                for batch, latency in self.latency.items()
            },
            "compared": None if self.comparison is None else self.comparison.to_dict(),
            "data": None if self.answers is None else self.answers.to_dict(),
            "not_run": self.not_run,
        }  # fmt: skip


@dataclass(frozen=True)
class Benchmark:
    """All contenders, side by side.

    Args:
        rows: in the order in which they were named; the model first.
        model: its architecture, image size, classes.
        settings: batches, threads, rounds, ...
        reference: what answers are compared with, in words.
        data: the pictures that were answered; None where there were none.
        notes: what a reader must know, in sentences.
    """

    rows: tuple[Row, ...]
    model: dict[str, Any]
    settings: dict[str, Any]
    reference: str
    data: dict[str, Any] | None
    machine: dict[str, Any]
    versions: dict[str, str]
    commit: str | None
    date: str
    notes: tuple[str, ...] = ()

    @property
    def ran(self) -> tuple[Row, ...]:
        """Those with figures."""
        return tuple(row for row in self.rows if row.latency)

    @property
    def batches(self) -> tuple[int, ...]:
        return tuple(self.settings["batch_sizes"])

    def speed(self, row: Row, batch: int) -> tuple[float, tuple[float, float] | None] | None:
        """How many times as fast as the first contender that ran, with its interval."""
        first = self.ran[0]
        if batch not in row.latency or batch not in first.latency or row is first:
            return None
        return ratio(first.latency[batch].medians, row.latency[batch].medians)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; what --output writes and --compare reads."""
        rows = []
        for row in self.rows:
            found = row.to_dict()
            for batch, figures in found["batches"].items():
                speed = self.speed(row, int(batch))
                figures["speed"] = None if speed is None else speed[0]
                figures["speed_interval"] = None if speed is None or speed[1] is None else list(speed[1])
            rows.append(found)
        return {
            "benchmark": 1,
            "date": self.date, "commit": self.commit, "machine": self.machine, "versions": self.versions,
            "model": self.model, "settings": self.settings, "reference": self.reference, "data": self.data,
            "notes": list(self.notes), "contenders": rows,
        }  # fmt: skip


def give_labels(rows: list[Row]) -> None:
    """Short names that tell contenders apart: runtime and precision; the file's name, or its path, where needed."""
    for row in rows:
        device = "" if row.device in ("", "cpu") else f" {row.device}"
        row.label = f"{row.runtime} {row.precision}{device}"
    count = Counter(row.label for row in rows)
    names = Counter((row.label, Path(row.path).name) for row in rows)
    for row in rows:
        name = Path(row.path).name
        if count[row.label] > 1:
            row.label += f" ({name if names[row.label, name] == 1 else row.path})"
