"""Class names of ImageNet, and which rows of a 22k head are the 1k classes.

Names and synsets come from timm's lists at conversion and travel in the artifact from then on; the map is
built in (imagenet_22k_to_1k.txt, one row per class of ImageNet-1k).
"""

from __future__ import annotations

import os
from functools import cache
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from swinv2.extras import require

SUBSETS = {1000: "imagenet-1k", 21841: "imagenet-22k"}  # number of classes -> timm's name of the list


class Labels(NamedTuple):
    """Names of classes and, for ImageNet, their WordNet ids, in the order of the logits."""

    names: tuple[str, ...]
    synsets: tuple[str, ...] = ()


@cache
def imagenet(num_classes: int) -> Labels:
    """The names of ImageNet-1k (1000) or ImageNet-22k (21841).

    Raises:
        ImportError: timm, whose lists these are, is not installed.
        ValueError: another number.
    """
    if num_classes not in SUBSETS:
        raise ValueError(f"ImageNet models have {' or '.join(map(str, SUBSETS))} classes, not {num_classes}")
    info = require("timm.data", extra="convert").ImageNetInfo(SUBSETS[num_classes])
    return Labels(tuple(info.label_descriptions()), tuple(info.label_names()))


@cache
def map_22k_to_1k() -> tuple[int, ...]:
    """For each class of ImageNet-1k, the row of a 22k head that stands for it; the official map.

    A row is the position of the class's synset in the list of 21,843 synsets (timm's "imagenet-21k-goog").
    Teddy bear (class 850) is in no 22k list; it goes by the word: row 5564 is the only synset that "teddy" is
    a lemma of (n03013580, the garment), so its weights are a place to start from and nothing more.
    """
    text = resources.files("swinv2").joinpath("imagenet_22k_to_1k.txt").read_text("ascii")
    return tuple(map(int, text.split()))


def read_names(path: str | os.PathLike[str]) -> Labels:
    """A text file with one class name a line, in the order of the logits.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is empty, or not text.
    """
    try:
        names = tuple(line.strip() for line in Path(path).read_text("utf-8").splitlines())
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text file; give one class name a line, in UTF-8") from None
    if not names or not all(names):
        raise ValueError(f"{path} has {'an empty line' if names else 'no lines'}; give one class name a line")
    return Labels(names)
