"""What a model says of a picture: its classes in order, with names and probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from swinv2.artifact import Record


@dataclass(frozen=True)
class Score:
    """One class of a prediction. score is its probability: softmax, or where pictures have several classes sigmoid;
    synset is there for ImageNet models."""

    index: int
    name: str
    score: float
    synset: str = ""

    def to_dict(self) -> dict[str, Any]:
        synset = {"synset": self.synset} if self.synset else {}
        return {"class_id": self.index, "name": self.name, "score": self.score, **synset}


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of one picture, best first."""

    file: str
    classes: tuple[Score, ...]

    @property
    def top(self) -> Score:
        return self.classes[0]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, as --json prints them."""
        return {"file": self.file, "predictions": [score.to_dict() for score in self.classes]}


def probabilities(logits: np.ndarray, record: Record) -> np.ndarray:
    """Logits [..., classes] -> float64 probabilities: softmax, or sigmoid where pictures have several classes."""
    import numpy as np

    logits = logits.astype(np.float64)
    if "thresholds" in record.provenance:  # trained on pictures with several classes: each is a yes or no
        return 0.5 * (1 + np.tanh(logits / 2))
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def best(values: np.ndarray, count: int) -> list[int]:
    """The indices of the largest of values [classes], best first; all where there are fewer than count."""
    import numpy as np

    return [int(i) for i in np.argsort(-values, kind="stable")[:count]]


def ranked(logits: np.ndarray, record: Record, count: int) -> tuple[Score, ...]:
    """The likeliest classes of one picture, best first. logits: finite, [classes]."""
    likely, synsets = probabilities(logits, record), record.synsets
    return tuple(
        Score(i, record.class_name(i), float(likely[i]), synsets[i] if synsets else "")
        for i in best(likely, count)
    )
