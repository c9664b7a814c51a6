"""ImageNet-real: the validation pictures of ImageNet with every class that is in them (Beyer et al., 2006.07159).

The published file, real.json, is a list of 50,000 lists of class ids, by the number in the name of a picture. An
answer is right where it is one of them; pictures without any are left out.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from swinv2.data import DataError
from swinv2.extras import require
from swinv2.metrics import Measurement, wilson

CLASSES = 1000
_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})", re.IGNORECASE)
_SOURCE = "github.com/google-research/reassessed-imagenet has it"

Labels = tuple[frozenset[int], ...]


@dataclass(frozen=True)
class RealMeasurement:
    """Figures against the real labels.

    Args:
        images: pictures with at least one label; excluded: those without.
        correct, correct_in_top: how many have their first, or one of the k likeliest answers among the labels.
    """

    images: int
    excluded: int
    correct: int
    correct_in_top: int
    k: int

    @property
    def top1(self) -> float:
        """Percent."""
        return 100 * self.correct / self.images

    @property
    def top5(self) -> float:
        return 100 * self.correct_in_top / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of top-1 (Wilson), in percent."""
        low, high = wilson(self.correct, self.images)
        return 100 * low, 100 * high

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "images": self.images,
            "excluded": self.excluded,
            "correct": self.correct,
            "top1": self.top1,
            "top1_interval": list(self.interval),
            f"top{self.k}": self.top5,
            f"top{self.k}_correct": self.correct_in_top,
        }


def read_real(path: str | os.PathLike[str]) -> Labels:
    """The labels of every picture, in the order of the numbers in their names.

    Args:
        path: the published file, or "timm" for the copy that is inside timm.

    Raises:
        FileNotFoundError, DataError: what is wrong with the file.
    """
    if str(path) == "timm":
        (folder,) = require("timm.data", extra="train").__path__
        path = Path(folder, "_info", "imagenet_real_labels.json")
    form = f"the real labels are a JSON list with a list of class ids for each picture; {_SOURCE}"
    try:
        rows = json.loads(Path(path).read_text("utf-8"))
    except ValueError:
        raise DataError(f"{path} is not JSON; {form}") from None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, list) for row in rows):
        raise DataError(f"{path} is not a list of lists; {form}")
    for i, row in enumerate(rows):
        for label in row:
            if type(label) is not int or not 0 <= label < CLASSES:
                raise DataError(f"{path} has the label {label!r} for picture {i + 1}; class ids are 0 to 999")
    return tuple(map(frozenset, rows))


def positions(names: Sequence[str], real: Labels) -> list[int]:
    """For each picture its place among the labels, by the number in its name.

    Raises:
        DataError: a picture whose name has no number, or one that the labels do not reach.
    """
    places = []
    for name in names:
        number = _NUMBER.search(name.rpartition("/")[2])
        if number is None:
            raise DataError(
                f"{name} is called otherwise than ILSVRC2012_val_00000001.JPEG; real labels are found by that number"
            )
        if not 1 <= int(number[1]) <= len(real):
            raise DataError(f"{name} has no real labels; the file has those of pictures 1 to {len(real):,}")
        places.append(int(number[1]) - 1)
    return places


def against_real(measured: Measurement, names: Sequence[str], real: Labels) -> RealMeasurement:
    """The same answers, against the real labels.

    Args:
        names: of all pictures of the data, in its order.
    """
    labels = [real[place] for place in positions([names[i] for i in measured.indices], real)]
    counted = np.array([bool(row) for row in labels])
    if not counted.any():
        raise DataError("none of the pictures has a real label; there is nothing to measure")
    hits = np.array(
        [[answer in row for answer in top] for top, row in zip(measured.top, labels, strict=True)]
    )
    return RealMeasurement(
        images=int(counted.sum()),
        excluded=int((~counted).sum()),
        correct=int(hits[:, 0].sum()),  # a picture without labels has no hits
        correct_in_top=int(hits.any(axis=1).sum()),
        k=measured.k,
    )
