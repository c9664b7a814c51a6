"""How right a model was: exact counts over labelled pictures, per class and in total.

A Tally takes batches of logits and keeps what is needed of them; its Measurement has the figures. The
confusion matrix and precision, recall and F1 are scikit-learn's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from swinv2.extras import require

TOP = 5


@dataclass(frozen=True)
class Measurement:
    """The result of one evaluation.

    Args:
        classes: names in the order of the logits.
        indices: position of each picture in the folder.
        labels, predictions: one class id per picture, in the order of the folder.
        scores: softmax of the prediction.
        in_top: whether the label is among the k most likely classes.
        losses: cross entropy of each picture.
        k: five, or the number of classes where there are fewer.
    """

    classes: tuple[str, ...]
    indices: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray
    scores: np.ndarray
    in_top: np.ndarray
    losses: np.ndarray
    k: int

    @property
    def images(self) -> int:
        return len(self.labels)

    @property
    def correct(self) -> int:
        return int((self.labels == self.predictions).sum())

    @property
    def top1(self) -> float:
        """Percent."""
        return 100 * self.correct / self.images

    @property
    def top5(self) -> float:
        """Percent within the k most likely classes."""
        return 100 * int(self.in_top.sum()) / self.images

    @property
    def loss(self) -> float:
        return float(self.losses.mean())

    @property
    def present(self) -> np.ndarray:
        """Ids of the classes that have pictures here."""
        return np.unique(self.labels)

    def confusion(self) -> np.ndarray:
        """Counts [true class, predicted class] over all classes of the model."""
        metrics = require("sklearn.metrics", extra="train")
        return metrics.confusion_matrix(self.labels, self.predictions, labels=range(len(self.classes)))

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

    def to_dict(self) -> dict[str, Any]:
        """The totals, as plain JSON types."""
        return {
            "images": self.images,
            "correct": self.correct,
            "top1": self.top1,
            f"top{self.k}": self.top5,
            "loss": self.loss,
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
        """Logits [B, classes], labels [B], positions in the folder [B]."""
        logits = logits.astype(np.float64)
        shifted = logits - logits.max(axis=1, keepdims=True)
        log_shares = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        # A stable sort: of equal logits the lower class id comes first, whatever the batch.
        top = np.argsort(-logits, axis=1, kind="stable")[:, : self.k]
        rows = np.arange(len(labels))
        self.rows.append(
            (
                indices,
                labels,
                top[:, 0],
                np.exp(log_shares[rows, top[:, 0]]),
                (top == labels[:, None]).any(axis=1),
                -log_shares[rows, labels],
            )
        )

    def measurement(self) -> Measurement:
        """The figures of all batches so far, pictures in the order of the folder."""
        columns = [np.concatenate(parts) for parts in zip(*self.rows, strict=True)]
        order = np.argsort(columns[0], kind="stable")
        assert len(np.unique(columns[0])) == len(order), "a picture was counted twice"
        indices, labels, predictions, scores, in_top, losses = (column[order] for column in columns)
        return Measurement(self.classes, indices, labels, predictions, scores, in_top, losses, self.k)
