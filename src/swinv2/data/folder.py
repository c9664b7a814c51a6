"""A folder of pictures with one folder per class: what is in it, in which order, and which part is held out.

    photos/train/daisy/1.jpg          photos/daisy/1.jpg
    photos/train/rose/7.jpg     or    photos/rose/7.jpg       (then a fifth of each class is held out)
    photos/val/daisy/2.jpg

Classes are the folder names in sorted order, as torchvision's ImageFolder has them. Nothing is decoded here.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from swinv2.images import SUFFIXES

# What people call the parts of a data set; compared without regard to case. The first that exists is taken.
TRAIN = ("train", "training")
HELD_OUT = ("val", "valid", "validation", "test", "testing", "held-out", "held_out", "heldout")
HELD_OUT_SHARE = 0.2  # of each class, where the folder itself is not split


class DataError(ValueError):
    """A data folder that cannot be used, and why."""


@dataclass(frozen=True)
class ImageFolder:
    """The pictures of one split, sorted by class and name.

    Args:
        root: the folder that was given.
        split: name of the part: a folder name, "train" or "val" of a folder that was split here, or "all".
        classes: class names, sorted; a label is an index into them.
        paths: files.
        labels: one per file.
        is_divided: whether the split was made here, by name, and not by folders.
    """

    root: Path
    split: str
    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    is_divided: bool = False

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def name(self) -> str:
        """What to call the data in a title: the name of the folder given."""
        return self.root.resolve().name

    @property
    def counts(self) -> tuple[int, ...]:
        """Pictures per class, in the order of classes."""
        found = Counter(self.labels)
        return tuple(found[label] for label in range(len(self.classes)))

    @property
    def fingerprint(self) -> str:
        """Hash of the file names with their folders: the same names, the same fingerprint. Reads no file."""
        digest = hashlib.sha256()
        for path in self.paths:
            digest.update(path.relative_to(self.root).as_posix().encode() + b"\0")
        return digest.hexdigest()[:16]

    def select(self, keep: list[int], split: str | None = None) -> ImageFolder:
        """The pictures at these positions; classes stay as they are."""
        return replace(
            self,
            split=split or self.split,
            paths=tuple(self.paths[i] for i in keep),
            labels=tuple(self.labels[i] for i in keep),
        )


def read_training(path: str | os.PathLike) -> tuple[ImageFolder, ImageFolder]:
    """The training part and the held-out part of a data folder.

    A folder without train/ is divided: a fifth of each class, chosen by the hash of the file names, is held
    out; the same files every time and on every machine.

    Raises:
        FileNotFoundError, DataError: what is wrong with the folder, in one sentence.
    """
    root = _existing(path)
    parts = _parts(root)
    trains, held_outs = _matching(parts, TRAIN), _matching(parts, HELD_OUT)
    if not trains and not held_outs:
        whole = _read_part(root, root, "all")
        _require_two_classes(whole, root)
        train, held_out = divide(whole)
        if not len(held_out):
            raise DataError(f"{root} has one picture per class; to hold some out, give each class at least 2")
        return train, held_out
    if not trains:
        raise DataError(
            f"{root} has {held_outs[0].name}/ but no train/; put the pictures to learn from into train/"
        )
    train = _read_part(root, trains[0], trains[0].name)
    _require_two_classes(train, trains[0])
    if not held_outs:
        train, held_out = divide(train)
        return train, held_out
    held_out = _read_part(root, held_outs[0], held_outs[0].name)
    if unknown := sorted(set(held_out.classes) - set(train.classes)):
        raise DataError(
            f"{held_outs[0]} has classes that {trains[0]} lacks: {_some(unknown)}; "
            f"both need the same class folders"
        )
    return train, relabel(held_out, train.classes)


def read_split(path: str | os.PathLike, split: str | None = None) -> ImageFolder:
    """One part of a data folder, to measure on.

    Args:
        split: name of the part. Default: the held-out part where there is one, otherwise all pictures.
            "train" and "val" of a folder without such parts are the two that read_training makes.

    Raises:
        FileNotFoundError, DataError: what is wrong with the folder, in one sentence.
    """
    root = _existing(path)
    parts = _parts(root)
    trains, held_outs = _matching(parts, TRAIN), _matching(parts, HELD_OUT)
    if split is None:
        if held_outs:
            return _read_part(root, held_outs[0], held_outs[0].name)
        return read_training(root)[1] if trains else _read_part(root, root, "all")
    if split == "all" and not trains and not held_outs:
        return _read_part(root, root, "all")
    for part in trains + held_outs:
        if part.name.casefold() == split.casefold():
            return _read_part(root, part, part.name)
    if split in ("train", "val") and not held_outs:
        train, held_out = read_training(root)
        return train if split == "train" else held_out
    has = ", ".join(part.name for part in trains + held_outs) or "train and val (divided by name), all"
    raise DataError(f"{root} has no part called {split!r}; it has {has}")


def divide(whole: ImageFolder) -> tuple[ImageFolder, ImageFolder]:
    """Training part and held-out part of an undivided folder: per class, by the hash of the file names.

    A class of one picture stays in the training part.
    """
    held: set[int] = set()
    members: dict[int, list[int]] = {}
    for i, label in enumerate(whole.labels):
        members.setdefault(label, []).append(i)
    for indices in members.values():
        count = min(max(round(HELD_OUT_SHARE * len(indices)), 1), len(indices) - 1)
        # Ranked by hash: no generator whose stream a library may change, and adding a file moves few others.
        ranked = sorted(indices, key=lambda i: _rank(whole.paths[i].relative_to(whole.root)))
        held.update(ranked[:count])
    train = whole.select([i for i in range(len(whole)) if i not in held], "train")
    held_out = whole.select(sorted(held), "val")
    return replace(train, is_divided=True), replace(held_out, is_divided=True)


def relabel(folder: ImageFolder, classes: tuple[str, ...]) -> ImageFolder:
    """The same pictures, labelled by an order of classes that contains the folder's own."""
    index = {name: i for i, name in enumerate(classes)}
    labels = tuple(index[folder.classes[label]] for label in folder.labels)
    return replace(folder, classes=classes, labels=labels)


def _existing(path: str | os.PathLike) -> Path:
    root = Path(path)
    if not root.exists():
        raise FileNotFoundError(
            f"there is no folder {root}; give a folder with one folder of pictures per class"
        )
    if not root.is_dir():
        raise DataError(f"{root} is a file; give a folder with one folder of pictures per class")
    return root


def _parts(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not _is_hidden(p.name))


def _matching(parts: list[Path], names: tuple[str, ...]) -> list[Path]:
    """The parts that are called one of the names, in the order of the names."""
    return [part for name in names for part in parts if part.name.casefold() == name]


def _read_part(root: Path, part: Path, split: str) -> ImageFolder:
    classes: list[str] = []
    paths: list[Path] = []
    labels: list[int] = []
    for folder in sorted(_parts(part), key=lambda p: p.name):  # by code point, as ImageFolder sorts
        files = _images(folder)
        if not files:
            raise DataError(
                f"{folder} holds no pictures; each folder beside it is a class: fill it or remove it"
            )
        paths += files
        labels += [len(classes)] * len(files)
        classes.append(folder.name)
    if not classes:
        loose = any(p.suffix.lower() in SUFFIXES for p in part.iterdir())
        raise DataError(
            f"{part} holds pictures but no folders; put those of each class into a folder named after it"
            if loose
            else f"{part} holds no pictures; it needs one folder per class with files such as .jpg or .png"
        )
    return ImageFolder(root, split, tuple(classes), tuple(paths), tuple(labels))


def _images(folder: Path) -> list[Path]:
    """Pictures below a class folder at any depth, by suffix, sorted; links are followed, hidden files not."""
    found = []
    for where, below, files in os.walk(folder, followlinks=True):
        below[:] = sorted(name for name in below if not _is_hidden(name))
        found += [
            Path(where, name)
            for name in sorted(files)
            if not _is_hidden(name) and os.path.splitext(name)[1].lower() in SUFFIXES
        ]
    return found


def _require_two_classes(folder: ImageFolder, where: Path) -> None:
    if len(folder.classes) < 2:
        raise DataError(
            f"{where} has one class only, {folder.classes[0]!r}; learning needs at least two class folders"
        )


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _rank(path: Path) -> bytes:
    return hashlib.sha256(path.as_posix().encode()).digest()


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
