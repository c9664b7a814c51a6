"""How right a model was about pictures that show several things, or nothing: the figures of multi-label data.

Tally and Measurement have the names and methods of those in metrics.py. A score is the sigmoid of a logit and
stands for one class alone. All figures are scikit-learn's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from swinv2.extras import require
from swinv2.metrics import in_order

THRESHOLD = 0.5
SEPARATOR = ";"  # of the classes of a picture in tables


@dataclass(frozen=True)
class Measurement:
    """The result of one evaluation.

    Args:
        classes: names in the order of the logits.
        thresholds: score from which on a class is said to be there, [classes].
        indices: position of each picture in the data.
        labels: whether a class is there, [pictures, classes].
        scores: sigmoid of the logits, [pictures, classes]; 0 for a picture that could not be read.
        losses: binary cross entropy of each picture, mean over the classes.
        is_answered: False for a picture that could not be read; it counts as wrong.
    """

    classes: tuple[str, ...]
    thresholds: np.ndarray
    indices: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    losses: np.ndarray
    is_answered: np.ndarray

    @property
    def images(self) -> int:
        return len(self.labels)

    @property
    def predictions(self) -> np.ndarray:
        """Whether a class is said to be there, [pictures, classes]."""
        return (self.scores >= self.thresholds) & self.is_answered[:, None]

    @property
    def is_correct(self) -> np.ndarray:
        """Whether a picture has all of its classes and no other."""
        return (self.predictions == self.labels).all(axis=1) & self.is_answered

    @property
    def correct(self) -> int:
        return int(self.is_correct.sum())

    @property
    def exact(self) -> float:
        """Pictures that have all of their classes and no other, in percent."""
        return 100 * self.correct / self.images

    @property
    def unreadable(self) -> int:
        return int((~self.is_answered).sum())

    @property
    def loss(self) -> float:
        """Mean over the pictures that have an answer."""
        return float(self.losses[self.is_answered].mean())

    @property
    def present(self) -> np.ndarray:
        """Ids of the classes that have pictures here; only they have an average precision."""
        return np.flatnonzero(self.labels.any(axis=0))

    @property
    def average_precisions(self) -> np.ndarray:
        """Of each class in present, in percent; thresholds do not matter to it."""
        metrics, present = require("sklearn.metrics", extra="train"), self.present
        found = [metrics.average_precision_score(self.labels[:, c], self.scores[:, c]) for c in present]
        return 100 * np.array(found)

    @property
    def mean_ap(self) -> float:
        """Mean average precision (mAP) over the classes that have pictures, in percent; 0 where none has."""
        return float(self.average_precisions.mean()) if len(self.present) else 0.0

    def f1(self, average: str) -> float:
        """In percent: "micro" over all answers, "macro" the mean over the classes that have pictures."""
        metrics, present = require("sklearn.metrics", extra="train"), self.present
        if not len(present):
            return 0.0
        labels, predictions = _table(self.labels), _table(self.predictions)
        chosen = present if average == "macro" else None
        f1 = metrics.f1_score(labels, predictions, labels=chosen, average=average, zero_division=0)
        return 100 * float(f1)

    def best_thresholds(self) -> np.ndarray:
        """The threshold of each class with the highest F1 on these pictures, [classes].

        A class without pictures keeps the threshold it has. To be chosen on other pictures than those that are
        reported on.
        """
        metrics, best = require("sklearn.metrics", extra="train"), self.thresholds.copy()
        for c in self.present:
            precision, recall, steps = metrics.precision_recall_curve(self.labels[:, c], self.scores[:, c])
            f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
            at = int(f1[:-1].argmax())
            below = self.scores[:, c][self.scores[:, c] < steps[at]].max(initial=0)
            best[c] = (below + steps[at]) / 2  # half-way to the next score: other pictures have others
        return best

    def per_class(self) -> list[dict[str, Any]]:
        """A row for each class that has pictures; average precision, precision, recall and F1 in percent."""
        metrics, present = require("sklearn.metrics", extra="train"), self.present
        if not len(present):
            return []
        precision, recall, f1, support = metrics.precision_recall_fscore_support(
            _table(self.labels), _table(self.predictions), labels=present, average=None, zero_division=0
        )
        return [
            {
                "class": self.classes[c],
                "images": int(support[i]),
                "ap": float(ap),
                "precision": 100 * float(precision[i]),
                "recall": 100 * float(recall[i]),
                "f1": 100 * float(f1[i]),
                "threshold": float(self.thresholds[c]),
            }
            for i, (c, ap) in enumerate(zip(present, self.average_precisions, strict=True))
        ]

    def answers(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """A row per picture, as predictions.csv has it; score is that of the least sure answer given.

        Args:
            names: of all pictures of the data, in its order.
        """
        rows = []
        for row, (i, said) in enumerate(zip(self.indices, self.predictions, strict=True)):
            # How sure the model is of the class it is least sure about, present or absent.
            sure = np.where(said, self.scores[row], 1 - self.scores[row]).min()
            rows.append(
                {
                    "file": names[i],
                    "label": SEPARATOR.join(self.names_of(self.labels[row])),
                    "prediction": SEPARATOR.join(self.names_of(said)),
                    "score": f"{sure if self.is_answered[row] else 0:.6g}",
                    "loss": f"{self.losses[row]:.6g}" if self.is_answered[row] else "",
                    "correct": int(self.is_correct[row]),
                }
            )
        return rows

    def names_of(self, there: np.ndarray) -> list[str]:
        """Names of the classes that are there; [classes] of booleans."""
        return [self.classes[c] for c in np.flatnonzero(there)]

    def to_dict(self) -> dict[str, Any]:
        """The totals, as plain JSON types."""
        return {
            "images": self.images,
            "correct": self.correct,
            "exact": self.exact,
            "map": self.mean_ap,
            "f1_micro": self.f1("micro"),
            "f1_macro": self.f1("macro"),
            "loss": self.loss,
            "unreadable": self.unreadable,
        }


def _table(there: np.ndarray) -> np.ndarray:
    """With a column of nothing, or scikit-learn would take a single class for two that exclude each other."""
    return np.pad(there, ((0, 0), (0, 1)))


@dataclass
class Tally:
    """Collects batches.

    Args:
        thresholds: one per class; default 0.5 for all.
    """

    classes: tuple[str, ...]
    thresholds: Sequence[float] | None = None
    rows: list[tuple[np.ndarray, ...]] = field(default_factory=list)

    def add(self, logits: np.ndarray, labels: np.ndarray, indices: np.ndarray) -> None:
        """Logits [B, classes], labels [B, classes] of 0 and 1, positions in the data [B]."""
        logits, there = logits.astype(np.float64), np.asarray(labels) > 0.5
        scores = np.exp(-np.logaddexp(0, -logits))  # sigmoid without overflow
        losses = np.logaddexp(0, np.where(there, -logits, logits)).mean(axis=1)
        self.rows.append((np.asarray(indices), there, scores, losses, np.ones(len(there), bool)))

    def add_unreadable(self, labels: np.ndarray, index: int) -> None:
        """A picture that has no answer and counts as wrong; labels [classes]."""
        there = np.asarray(labels)[None] > 0.5
        nothing = np.zeros(there.shape)
        self.rows.append((np.array([index]), there, nothing, np.array([np.nan]), np.zeros(1, bool)))

    def gather(self, gather: Callable[[Any], list[Any]]) -> None:
        """Take in what the other processes counted; gather is world.gather."""
        self.rows = [row for rows in gather(self.rows) for row in rows]

    def measurement(self) -> Measurement:
        """The figures of all batches so far, pictures in the order of the data."""
        thresholds = np.full(len(self.classes), THRESHOLD) if self.thresholds is None else self.thresholds
        return Measurement(self.classes, np.asarray(thresholds, np.float64), *in_order(self.rows))
