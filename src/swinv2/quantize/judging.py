"""What int8 costs: its answers beside those of the float model, on the same pictures.

The answers are those of the runtime itself, in a process of its own: what a simulation in torch says about it is
no measurement.
"""

from __future__ import annotations

import math
import pickle
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from swinv2 import child
from swinv2.data import DataError, Split
from swinv2.evaluate.reading import batches
from swinv2.metrics import LEVEL, wilson
from swinv2.runtimes import open_session

if TYPE_CHECKING:
    import numpy as np

BATCH = 16


@dataclass(frozen=True)
class Share:
    """So many of so many pictures, with the 95 % interval of their share."""

    count: int
    images: int

    @property
    def percent(self) -> float:
        return 100 * self.count / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's, in percent."""
        low, high = wilson(self.count, self.images)
        return 100 * low, 100 * high

    def to_dict(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "images": self.images,
            "percent": self.percent,
            "interval": list(self.interval),
        }


@dataclass(frozen=True)
class Judgement:
    """An int8 model beside the float model.

    Args:
        agreement: pictures with the same first class.
        accuracy, float_accuracy: right answers; None where the pictures have no labels of the model.
        lost, won: pictures that only the float model, and only the int8 model, has right. Without labels the float
            model is right.
    """

    agreement: Share
    accuracy: Share | None
    float_accuracy: Share | None
    lost: int
    won: int

    @property
    def drop(self) -> float:
        """Points of accuracy lost, or without labels of agreement: accuracy cannot fall further than that."""
        return 100 * (self.lost - self.won) / self.agreement.images

    @property
    def drop_interval(self) -> tuple[float, float]:
        """95 % interval of the drop, of pairs of answers to the same pictures (Agresti and Min, 2005)."""
        lost, won, images = self.lost + 0.5, self.won + 0.5, self.agreement.images + 2
        difference = (lost - won) / images
        deviation = math.sqrt(max(0.0, lost + won - images * difference**2)) / images
        half = NormalDist().inv_cdf((1 + LEVEL) / 2) * deviation
        return 100 * max(-1.0, difference - half), 100 * min(1.0, difference + half)

    def to_dict(self) -> dict[str, Any]:
        return {
            "agreement": self.agreement.to_dict(),
            "accuracy": None if self.accuracy is None else self.accuracy.to_dict(),
            "float_accuracy": None if self.float_accuracy is None else self.float_accuracy.to_dict(),
            "drop": self.drop, "drop_interval": list(self.drop_interval),
        }  # fmt: skip


def judge(
    logits: np.ndarray,
    reference: np.ndarray,
    right: np.ndarray | None = None,
    float_right: np.ndarray | None = None,
) -> Judgement:
    """Compare answers.

    Args:
        logits, reference: of int8 and of the float model, [pictures, classes].
        right, float_right: whether their answers are right, [pictures], where that is known.
    """
    same = logits.argmax(1) == reference.argmax(1)
    images = len(same)
    agreement = Share(int(same.sum()), images)
    if right is None or float_right is None:
        return Judgement(agreement, None, None, images - agreement.count, 0)
    return Judgement(
        agreement, Share(int(right.sum()), images), Share(int(float_right.sum()), images),
        lost=int((float_right & ~right).sum()), won=int((right & ~float_right).sum()),
    )  # fmt: skip


def answers(path: Path, runtime: str, pictures: Split, folder: Path, *, device: str = "auto") -> np.ndarray:
    """The logits of a model file on pictures, computed by a runtime in a new process.

    Args:
        folder: ours alone, for what goes to and fro.

    Raises:
        DataError: a picture that cannot be read.
        child.Died, ValueError, ImportError, OSError: why it does not run.
    """
    import numpy as np

    asked, result = folder / "pictures.pickle", folder / "logits.npy"
    asked.write_bytes(pickle.dumps(pictures))
    unreadable: str = child.call(
        "swinv2.quantize.judging:answer",
        {
            "path": str(path),
            "runtime": runtime,
            "device": device,
            "pictures": str(asked),
            "result": str(result),
        },
        doing=f"running {path.name} in {runtime}",
    )
    if unreadable:
        raise DataError(f"{unreadable}; repair it or remove it")
    return np.load(result)


def answer(path: str, runtime: str, device: str, pictures: str, result: str) -> str:
    """In the new process; returns why a picture cannot be read, nothing where all can."""
    import numpy as np

    split: Split = pickle.loads(Path(pictures).read_bytes())
    with open_session(path, runtime, device=device) as session:
        logits = []
        for batch in batches(split, range(len(split)), session.record.preprocess, batch_size=BATCH):
            if batch.unreadable:
                return batch.unreadable[0].reason
            assert batch.images is not None
            logits.append(session.run(batch.images))
    np.save(result, np.concatenate(logits))
    return ""
