"""Whose classes are whose: the labels of a data set as class ids of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from swinv2.data import DataError, Split, divide
from swinv2.evaluate.printing import say

if TYPE_CHECKING:
    from swinv2.artifact import Record


def match_classes(split: Split, record: Record) -> Split:
    """The pictures with the model's class ids as labels.

    Classes are found by name, or by synset (ImageNet folders), or where all of them are numbers and no names, by
    number (ImageNet-V2). A model without class names takes as many classes, in the same order.

    Raises:
        DataError: classes that the model does not have, or names that several of its classes have.
    """
    known = next(
        (names for names in (record.synsets, record.classes) if set(split.classes) <= set(names)), ()
    )
    if known:
        ids = _by_name(split.classes, known)
    elif _are_numbers(split.classes, record):
        ids = [int(name) for name in split.classes]
        _say_numbers(split, record)
    elif not record.classes and not record.synsets:
        ids = _in_order(split, record)
    else:
        known = record.classes or record.synsets
        unknown = sorted(set(split.classes) - set(known))
        raise DataError(
            f"{split.name}/{split.split} has classes that are none of the model's: {_some(unknown)}; "
            f"the model's are {', '.join(known[:5])}{', ...' if len(known) > 5 else ''}"
        )
    labels = tuple(
        tuple(ids[label] for label in labels) if isinstance(labels, tuple) else ids[labels]
        for labels in split.labels
    )
    return replace(split, classes=names_of(record), labels=labels)


def names_of(record: Record) -> tuple[str, ...]:
    """Names of all classes of a model, in the order of its logits."""
    return tuple(record.class_name(i) for i in range(record.config.num_classes))


def held_out(split: Split, record: Record) -> Split:
    """Of an undivided set that the model was trained on, the part that it has not seen."""
    trained = record.provenance.get("data")
    if split.split != "all" or not isinstance(trained, dict) or not trained.get("is_divided"):
        return split
    _, unseen = divide(split)
    if unseen.fingerprint == trained.get("held_out_fingerprint"):
        return unseen
    if trained.get("name") == split.name:
        say(
            f"{split.name} has changed since the model was trained on it; all pictures are measured, "
            f"those it learnt from as well"
        )
    return split


def _by_name(classes: Sequence[str], known: Sequence[str]) -> list[int]:
    ids: dict[str, int] = {}
    for index, name in enumerate(known):
        if name in ids and name in classes:
            raise DataError(f"the model has two classes called {name!r}; name the folders by synset instead")
        ids.setdefault(name, index)
    return [ids[name] for name in classes]


def _are_numbers(classes: Sequence[str], record: Record) -> bool:
    """Whether the classes are called by numbers that are class ids of the model, and can be meant so.

    Where a model without names has as many classes as there are, and they are sorted as text (0, 1, 10, 2), it may
    have been trained in that order: then numbers say nothing.
    """
    count = record.config.num_classes
    if not all(name.isascii() and name.isdecimal() and int(name) < count for name in classes):
        return False
    if len({int(name) for name in classes}) < len(classes):
        return False  # 1 and 01
    is_imagenet = count in (1000, 21841)
    in_order = [int(name) for name in classes] == list(range(len(classes)))
    return bool(record.classes) or is_imagenet or in_order or len(classes) < count


def _say_numbers(split: Split, record: Record) -> None:
    first = split.classes[0]
    say(
        f"the classes of {split.name}/{split.split} are numbers: {first} is taken for class {int(first)} of the "
        f"model, {record.class_name(int(first))}"
    )


def _in_order(split: Split, record: Record) -> list[int]:
    count = record.config.num_classes
    if len(split.classes) != count:
        raise DataError(
            f"the model has {count} classes without names and {split.name}/{split.split} has "
            f"{len(split.classes)}; unnamed classes need as many, in the same order"
        )
    return list(range(count))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
