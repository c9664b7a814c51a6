"""What a run, or an evaluation, left in its folder; a report is made from nothing else."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from swinv2.metrics import NOTHING, Measurement

KNOWN = (
    "summary.json",
    "evaluation.json",
    "metrics.jsonl",
    "predictions.csv",
    "recipe.yaml",
    "augmented.png",
)
SEPARATOR = "|"  # of the classes of a multi-label picture, in predictions.csv


class Missing(Exception):
    """A part of the report that cannot be made, and why, in one sentence; not an error."""


@dataclass(frozen=True)
class Saved:
    """The files of one run; what is not there is empty.

    Args:
        summary: of summary.json.
        epochs, steps: rows of metrics.jsonl.
        answers: rows of predictions.csv; score and loss are numbers, or nan.
        recipe: settings of recipe.yaml.
    """

    folder: Path
    summary: dict[str, Any] = field(default_factory=dict)
    epochs: list[dict[str, Any]] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)
    recipe: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Saved:
        """Everything that is there.

        Raises:
            FileNotFoundError: no such folder, or nothing in it that a report is made from.
            ValueError: a file that is damaged, by name.
        """
        if not any((folder / name).exists() for name in KNOWN):
            what = f"{folder} holds no run" if folder.is_dir() else f"there is no folder {folder}"
            raise FileNotFoundError(
                f"{what}; give a folder that `swinv2 train` or `swinv2 evaluate --output` wrote"
            )
        rows = read_lines(folder / "metrics.jsonl")
        kinds = {
            kind: [row for row in rows if row.get("kind", "epoch") == kind] for kind in ("epoch", "step")
        }
        summary = _json(folder / "summary.json") or _evaluated(_json(folder / "evaluation.json"))
        recipe = _yaml(folder / "recipe.yaml") or summary.get("recipe", {})
        return cls(
            folder, summary, kinds["epoch"], kinds["step"], _answers(folder / "predictions.csv"), recipe
        )

    @property
    def title(self) -> str:
        """What was trained on what."""
        model, data = self.summary.get("model"), self.data
        return f"{model} on {data.name}" if model and data else self.folder.resolve().name

    @property
    def data(self) -> Path | None:
        """Where the pictures were."""
        return Path(self.summary["data"]) if self.summary.get("data") else None

    @property
    def is_evaluation(self) -> bool:
        """Whether a model was measured here, and nothing learnt."""
        return not (self.folder / "summary.json").exists() and (self.folder / "evaluation.json").exists()

    @property
    def is_pretraining(self) -> bool:
        """Whether pictures were completed and not classified."""
        return (self.folder / "reconstruction.png").exists()

    @property
    def is_multi_label(self) -> bool:
        return "map" in self.summary.get("held_out", {}) or "map" in (self.epochs or [{}])[0]

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of all classes; those that occur, where no summary says more."""
        if known := self.summary.get("classes"):
            return tuple(known)
        both = {
            part for row in self.answers for key in ("label", "prediction") for part in self._names(row[key])
        }
        return tuple(sorted(both))

    @cached_property
    def measured(self) -> Measurement:
        """The answers as a measurement. Only the first of each is in the file, and so k is 1.

        Raises:
            Missing: no answers, or several to a picture.
        """
        self.require_answers()
        if self.is_multi_label:
            raise Missing("A picture may show several classes here, so that none is taken for another.")
        number = {name: i for i, name in enumerate(self.classes)} | {"": NOTHING}
        try:
            labels = np.array([number[row["label"]] for row in self.answers])
            predictions = np.array([number[row["prediction"]] for row in self.answers])
        except KeyError as unknown:
            raise Missing(
                f"predictions.csv has the class {unknown}, which summary.json does not know."
            ) from None
        scores = np.array([row["score"] for row in self.answers])
        losses = np.array([row["loss"] for row in self.answers])
        return Measurement(
            self.classes, np.arange(len(labels)), labels, predictions[:, None], scores[:, None], losses
        )

    def per_class(self) -> list[dict[str, Any]]:
        """A row for each class that has pictures: accuracy (of multi-label data recall), precision and F1."""
        if not self.is_multi_label:
            return self.measured.per_class()
        self.require_answers()
        from swinv2.extras import require

        metrics = require("sklearn.metrics", extra="train")
        truth, said = (
            np.array([[c in self._names(row[key]) for c in self.classes] for row in self.answers])
            for key in ("label", "prediction")
        )
        present = np.flatnonzero(truth.any(axis=0))
        figures = metrics.precision_recall_fscore_support(
            truth, said, labels=present, average=None, zero_division=0
        )
        return [
            {
                "class": self.classes[c],
                "images": int(n),
                "recall": 100 * r,
                "precision": 100 * p,
                "f1": 100 * f,
            }
            for c, p, r, f, n in zip(present, *(column.tolist() for column in figures), strict=True)
        ]

    def counts(self) -> tuple[Sequence[int], Sequence[int]]:
        """Pictures per class that were learnt from, and those that were held out.

        Raises:
            Missing: summary.json does not say.
        """
        train, held_out = self.summary.get("train_counts"), self.summary.get("held_out_counts")
        if not train or not held_out:
            raise Missing("summary.json does not say how many pictures each class has.")
        return train, held_out

    def require_answers(self) -> None:
        if not self.answers:
            raise Missing("There is no predictions.csv, which has the answer to each held-out picture.")

    def _names(self, text: str) -> list[str]:
        return text.split(SEPARATOR) if self.is_multi_label and text else [text] if text else []


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; a last line that a kill has cut is left out."""
    rows = []
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise ValueError(f"{path} is damaged in line {number}: {error}") from None
    return rows


def _evaluated(document: dict[str, Any]) -> dict[str, Any]:
    """What `swinv2 evaluate` wrote, as the summary of a run has it."""
    if not document:
        return {}
    return {
        "model": document.get("model"),
        "data": document.get("data"),
        "device": document.get("runtime"),
        "held_out_split": document.get("split"),
        "held_out": document,
    }


def _json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def _yaml(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is damaged: {' '.join(str(error).split())}") from None


def _answers(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    try:
        for row in rows:
            if (
                not {"file", "label", "prediction", "score"} <= row.keys()
                or None in row
                or None in row.values()
            ):
                raise ValueError(f"the row of {row.get('file')!r} has not the columns that it should have")
            row["score"] = float(row["score"])
            row["loss"] = float(row.get("loss") or "nan")
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    return rows
