"""How right a model was: exact counts over labelled pictures, per class and in total.

A Tally takes batches of logits and keeps what is needed of them; its Measurement has the figures. The
confusion matrix and precision, recall and F1 are scikit-learn's. multilabel.py has both for pictures that
show several things.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np

from swinv2.extras import require

TOP = 5
BINS = 15  # of the calibration error, as most papers have it
LEVEL = 0.95  # of the confidence intervals
NOTHING = -1  # stands for the class where a picture had no answer


def wilson(correct: int, images: int, level: float = LEVEL) -> tuple[float, float]:
    """The Wilson score interval of a share, as shares: right for few pictures and near 0 and 1 as well."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = correct / images
    centre = (share + z * z / (2 * images)) / (1 + z * z / images)
    half = z / (1 + z * z / images) * math.sqrt(share * (1 - share) / images + z * z / (4 * images**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def reliability(scores: np.ndarray, correct: np.ndarray, bins: int = BINS) -> list[dict[str, Any]]:
    """How often a model that says p is right: a row for each bin of equal width that has pictures.

    Args:
        scores: softmax of each prediction.
        correct: whether it was right.

    Returns:
        Rows with low, high (of the bin), images, confidence (mean score) and accuracy; shares, not percent.
    """
    place = np.clip(np.ceil(scores * bins).astype(int) - 1, 0, bins - 1)  # a bin has its upper end
    images = np.bincount(place, minlength=bins)
    said = np.bincount(place, weights=scores, minlength=bins)
    right = np.bincount(place, weights=correct, minlength=bins)
    return [
        {
            "low": b / bins,
            "high": (b + 1) / bins,
            "images": int(images[b]),
            "confidence": float(said[b] / images[b]),
            "accuracy": float(right[b] / images[b]),
        }
        for b in np.flatnonzero(images)
    ]


def calibration_error(scores: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error (ECE): mean distance of confidence and accuracy, a share; 0 for no pictures."""
    rows = reliability(scores, correct, bins)
    return sum(row["images"] * abs(row["confidence"] - row["accuracy"]) for row in rows) / max(len(scores), 1)


@dataclass(frozen=True)
class Measurement:
    """The result of one evaluation.

    A picture that had no answer, since it could not be read, counts as wrong: its top classes are NOTHING,
    its scores 0, its loss is no number.

    Args:
        classes: names in the order of the logits.
        indices: position of each picture in the data.
        labels: one class id per picture, in the order of the data.
        top: ids of the k most likely classes, best first, [pictures, k].
        top_scores: their softmax, [pictures, k].
        losses: cross entropy of each picture.
    """

    classes: tuple[str, ...]
    indices: np.ndarray
    labels: np.ndarray
    top: np.ndarray
    top_scores: np.ndarray
    losses: np.ndarray

    @property
    def k(self) -> int:
        """Five, or the number of classes where there are fewer."""
        return self.top.shape[1]

    @property
    def images(self) -> int:
        return len(self.labels)

    @property
    def predictions(self) -> np.ndarray:
        """The most likely class of each picture."""
        return self.top[:, 0]

    @property
    def scores(self) -> np.ndarray:
        """Softmax of the prediction."""
        return self.top_scores[:, 0]

    @property
    def is_correct(self) -> np.ndarray:
        return self.labels == self.predictions

    @property
    def in_top(self) -> np.ndarray:
        """Whether the label is among the k most likely classes."""
        return (self.top == self.labels[:, None]).any(axis=1)

    @property
    def is_answered(self) -> np.ndarray:
        return self.predictions != NOTHING

    @property
    def correct(self) -> int:
        return int(self.is_correct.sum())

    @property
    def unreadable(self) -> int:
        """Pictures without an answer, which count as wrong."""
        return int((~self.is_answered).sum())

    @property
    def top1(self) -> float:
        """Percent."""
        return 100 * self.correct / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of top-1 (Wilson), in percent."""
        low, high = wilson(self.correct, self.images)
        return 100 * low, 100 * high

    @property
    def top5(self) -> float:
        """Percent within the k most likely classes."""
        return 100 * int(self.in_top.sum()) / self.images

    @property
    def loss(self) -> float:
        """Mean over the pictures that have an answer."""
        return float(self.losses[self.is_answered].mean())

    @property
    def ece(self) -> float:
        """Expected calibration error in percent, over the pictures that have an answer."""
        return 100 * calibration_error(self.scores[self.is_answered], self.is_correct[self.is_answered])

    @property
    def present(self) -> np.ndarray:
        """Ids of the classes that have pictures here."""
        return np.unique(self.labels)

    def confusion(self) -> np.ndarray:
        """Counts [true class, predicted class] over all classes of the model; answered pictures only."""
        metrics = require("sklearn.metrics", extra="train")
        labels, predictions = self.labels[self.is_answered], self.predictions[self.is_answered]
        return metrics.confusion_matrix(labels, predictions, labels=range(len(self.classes)))

    def per_class(self) -> list[dict[str, Any]]:
        """A row for each class that has pictures; accuracy (the recall), precision and F1 in percent."""
        metrics = require("sklearn.metrics", extra="train")
        present = self.present
        precision, recall, f1, support = metrics.precision_recall_fscore_support(
            self.labels, self.predictions, labels=present, zero_division=0
        )
        return [
            {
                "class": self.classes[c],
                "images": int(support[i]),
                "correct": round(recall[i] * support[i]),
                "accuracy": 100 * float(recall[i]),
                "precision": 100 * float(precision[i]),
                "f1": 100 * float(f1[i]),
            }
            for i, c in enumerate(present)
        ]

    def answers(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """A row per picture, as predictions.csv has it.

        Args:
            names: of all pictures of the data, in its order.
        """
        columns = self.indices, self.labels, self.predictions, self.scores, self.losses
        return [
            {
                "file": names[i],
                "label": self.classes[label],
                "prediction": self.name_of(prediction),
                "score": f"{score:.6g}",
                "loss": f"{loss:.6g}" if prediction != NOTHING else "",
                "correct": int(label == prediction),
            }
            for i, label, prediction, score, loss in zip(*columns, strict=True)
        ]

    def name_of(self, class_id: int) -> str:
        """The name of a prediction; nothing where there was none."""
        return "" if class_id == NOTHING else self.classes[class_id]

    def to_dict(self) -> dict[str, Any]:
        """The totals, as plain JSON types."""
        return {
            "images": self.images,
            "correct": self.correct,
            "top1": self.top1,
            "top1_interval": list(self.interval),
            f"top{self.k}": self.top5,
            f"top{self.k}_correct": int(self.in_top.sum()),
            "loss": self.loss,
            "ece": self.ece,
            "unreadable": self.unreadable,
        }


@dataclass
class Tally:
    """Collects batches; holds a few numbers per picture and no logits."""

    classes: tuple[str, ...]
    rows: list[tuple[np.ndarray, ...]] = field(default_factory=list)

    @property
    def k(self) -> int:
        return min(TOP, len(self.classes))

    def add(self, logits: np.ndarray, labels: np.ndarray, indices: np.ndarray) -> None:
        """Logits [B, classes], labels [B], positions in the data [B]."""
        log_shares = log_softmax(logits)
        # A stable sort: of equal logits the lower class id comes first, whatever the batch.
        top = np.argsort(-logits, axis=1, kind="stable")[:, : self.k]
        top_scores = np.exp(np.take_along_axis(log_shares, top, axis=1))
        losses = -log_shares[np.arange(len(labels)), labels]
        self.rows.append((np.asarray(indices), np.asarray(labels), top, top_scores, losses))

    def add_unreadable(self, label: int, index: int) -> None:
        """A picture that has no answer and counts as wrong."""
        nothing = np.full((1, self.k), NOTHING)
        self.rows.append(
            (np.array([index]), np.array([label]), nothing, np.zeros((1, self.k)), np.array([np.nan]))
        )

    def gather(self, gather: Callable[[Any], list[Any]]) -> None:
        """Take in what the other processes counted; gather is world.gather."""
        self.rows = [row for rows in gather(self.rows) for row in rows]

    def measurement(self) -> Measurement:
        """The figures of all batches so far, pictures in the order of the data."""
        return Measurement(self.classes, *in_order(self.rows))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """In float64, so that confident answers keep their losses."""
    logits = logits.astype(np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def in_order(rows: Sequence[tuple[np.ndarray, ...]]) -> list[np.ndarray]:
    """Columns of all rows, sorted by the first, which holds positions."""
    columns = [np.concatenate(parts) for parts in zip(*rows, strict=True)]
    order = np.argsort(columns[0], kind="stable")
    assert len(np.unique(columns[0])) == len(order), "a picture was counted twice"
    return [column[order] for column in columns]
