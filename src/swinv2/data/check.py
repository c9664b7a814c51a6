"""What is in a data set and what is wrong with it, found before hours are spent on it.

Every picture is read once: its bytes are compared with those of all others, and it is decoded.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from swinv2.data.formats import find
from swinv2.data.parts import HELD_OUT, TRAIN, is_hidden, some
from swinv2.data.split import DataError, Split, every
from swinv2.images import SUFFIXES, decode

FEW = 10  # pictures of a class in the training part below which little can be learnt of it
UNEVEN = 20  # times as many pictures of the largest class as of the smallest one with pictures
UNKNOWN = (
    ".heic",
    ".heif",
    ".svg",
    ".raw",
    ".cr2",
    ".nef",
    ".dng",
    ".arw",
    ".psd",
    ".jxl",
)  # not read, and lost
READERS = min(8, os.cpu_count() or 1)  # threads; Pillow decodes outside of Python's lock


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Args:
        kind: a word for programs.
        severity: an error spoils training or the figures, a warning may be meant so.
        text: one sentence: what, where, what to do.
        pictures: all that it is about.
    """

    kind: str
    severity: Literal["error", "warning"]
    text: str
    pictures: tuple[str, ...] = ()


@dataclass
class Checked:
    """What was found."""

    root: Path
    form: str = ""
    parts: dict[str, Split] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @property
    def has_errors(self) -> bool:
        return any(problem.severity == "error" for problem in self.problems)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, as --json prints them."""
        return {
            "data": str(self.root),
            "form": self.form,
            "parts": {
                name: {
                    "images": len(split),
                    "classes": dict(zip(split.classes, split.counts, strict=True)),
                    "fingerprint": split.fingerprint,
                    "is_multi_label": split.is_multi_label,
                }
                for name, split in self.parts.items()
            },
            "problems": [vars(problem) | {"pictures": list(problem.pictures)} for problem in self.problems],
        }

    def add(
        self, kind: str, severity: Literal["error", "warning"], text: str, pictures: tuple[str, ...] = ()
    ) -> None:
        self.problems.append(Problem(kind, severity, text, pictures))


def check(
    path: str | os.PathLike, on_pictures: Callable[[int, int], None] = lambda done, total: None
) -> Checked:
    """Read all parts of a data set and say what is wrong with them.

    Args:
        on_pictures: told how many pictures of how many are read.
    """
    checked = Checked(Path(path))
    try:
        layout = find(path)
    except (DataError, FileNotFoundError) as error:
        checked.add("unusable", "error", _line(error))
        return checked
    checked.form = layout.form
    readers = {"all": layout.whole} if layout.whole is not None else layout.parts
    for name, read in readers.items():
        try:
            checked.parts[name] = read()
        except (DataError, OSError) as error:
            checked.add("unusable", "error", _line(error))
    if checked.parts:
        _check_parts(checked, layout.trains, layout.held_outs)
        for split in checked.parts.values():
            _check_classes(checked, split, is_learnt=split.split in ("all", *layout.trains[:1]))
        if layout.form == "folder":
            _check_left_out(checked)
        _check_pictures(checked, on_pictures)
    return checked


def _check_parts(checked: Checked, trains: list[str], held_outs: list[str]) -> None:
    """What the parts have of each other's classes."""
    train = checked.parts.get(trains[0]) if trains else checked.parts.get("all")
    if train is None:
        if not trains:
            checked.add("no-train", "error", f"{checked.root} has no part to learn from; call one of them train "
                        f"(it has {', '.join(checked.parts)})")  # fmt: skip
        return
    if not trains and train.split == "all" and max(train.counts) < 2:
        checked.add("no-held-out", "error", f"{checked.root} has one picture per class; to hold some out, give each "
                    f"class at least 2")  # fmt: skip
    seen = _present(train)
    for name in held_outs:
        split = checked.parts.get(name)
        if split is None:
            continue
        if extra := sorted(_present(split) - seen):
            checked.add(
                "extra-classes", "error",
                f"{name} has classes that {train.split} lacks: {some(extra)}; both need the same classes",
            )  # fmt: skip
        if missing := sorted(seen - _present(split)):
            checked.add(
                "missing-classes", "warning",
                f"{name} has no pictures of {some(missing)}: these classes are not measured; move some there",
            )  # fmt: skip


def _check_classes(checked: Checked, split: Split, *, is_learnt: bool) -> None:
    counts = dict(zip(split.classes, split.counts, strict=True))
    if is_learnt:
        if len(split.classes) < 2 and not split.is_multi_label:
            only = split.classes[0]
            checked.add(
                "one-class", "error", f"{split.split} has one class only, {only!r}; learning needs two"
            )
        if empty := [name for name, count in counts.items() if not count]:
            hint = "; labels count from 0" if "0" in empty else ""
            checked.add("empty-classes", "warning", f"{split.split} has no pictures of {some(empty)}{hint}")
        if few := [f"{name} ({count})" for name, count in counts.items() if 0 < count < FEW]:
            checked.add(
                "few-pictures", "warning",
                f"{split.split} has fewer than {FEW} pictures of {some(few)}; add some, or leave the class out",
            )  # fmt: skip
        filled = {name: count for name, count in counts.items() if count}
        most, least = max(filled, key=filled.__getitem__), min(filled, key=filled.__getitem__)
        if filled[most] > UNEVEN * filled[least]:
            checked.add(
                "uneven", "warning",
                f"{split.split} has {filled[most]:,} pictures of {most} and {filled[least]:,} of {least}; "
                f"class_weights balanced makes up for it",
            )  # fmt: skip
    alike: dict[str, list[str]] = {}
    for name in split.classes:
        alike.setdefault(" ".join(name.casefold().replace("_", " ").replace("-", " ").split()), []).append(
            name
        )
    for names in alike.values():
        if len(names) > 1:
            checked.add(
                "alike-classes", "warning",
                f"{split.split} has classes with all but the same name: {some(map(repr, names))}; "
                f"if they are one, put their pictures together",
            )  # fmt: skip


def _check_left_out(checked: Checked) -> None:
    """Files that look like pictures to people and are not read."""
    found = []
    for where, below, files in os.walk(checked.root, followlinks=True):
        below[:] = sorted(name for name in below if not is_hidden(name))
        for name in sorted(files):
            suffix = os.path.splitext(name)[1].lower()
            if suffix in UNKNOWN and suffix not in SUFFIXES:
                found.append((Path(where) / name).relative_to(checked.root).as_posix())
    if found:
        checked.add(
            "not-read", "warning",
            f"left out, since this kind is not read: {some(found)}; save them as .jpg or .png",
            tuple(found),
        )  # fmt: skip


def _check_pictures(checked: Checked, on_pictures: Callable[[int, int], None]) -> None:
    """Unreadable pictures, and the same picture in two places."""
    total = sum(map(len, checked.parts.values()))
    places: dict[bytes, list[tuple[str, int]]] = {}  # hash of the bytes -> (part, position)
    done = 0
    with ThreadPoolExecutor(READERS) as pool:
        for part, split in checked.parts.items():
            broken: list[tuple[str, str]] = []
            looked = pool.map(_look, [split] * len(split), range(len(split)))
            for i, (digest, reason) in enumerate(looked):
                if reason:
                    broken.append((split.names[i], reason))
                if digest:
                    places.setdefault(digest, []).append((part, i))
                done += 1
                on_pictures(done, total)
            if broken:
                checked.add(
                    "unreadable", "error",
                    f"{len(broken):,} of {len(split):,} pictures in {part} cannot be read, the first: "
                    f"{broken[0][1]}; repair or remove them",
                    tuple(name for name, _ in broken),
                )  # fmt: skip
    _check_copies(checked, [where for where in places.values() if len(where) > 1])


def _look(split: Split, i: int) -> tuple[bytes | None, str]:
    """Hash of the bytes of a picture, or why it cannot be decoded."""
    try:
        source = split.read(i)
        content = source.read_bytes() if isinstance(source, Path) else source
    except OSError as error:
        return None, f"{split.where(i)}: {(error.strerror or str(error)).lower()}"
    try:
        decode(content, name=split.where(i))
    except (OSError, ValueError) as error:
        return None, _line(error)
    return hashlib.blake2b(content, digest_size=16).digest(), ""


def _check_copies(checked: Checked, copies: list[list[tuple[str, int]]]) -> None:
    across: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], list[str]] = {}
    torn: list[str] = []
    within: Counter[str] = Counter()
    inside: dict[str, list[str]] = {}
    for places in copies:
        names = [checked.parts[part].names[i] for part, i in places]
        classes = {_classes(checked.parts[part], i) for part, i in places}
        if len(classes) > 1:
            torn.append(" = ".join(names))
        by_part = Counter(part for part, _ in places)
        for pair in combinations(by_part, 2):
            across[pair] += min(by_part[part] for part in pair)
            examples.setdefault(pair, []).append(" = ".join(names))
        for part, count in by_part.items():
            if count > 1:
                within[part] += count - 1
                inside.setdefault(part, []).append(" = ".join(names))
    for pair, count in across.items():
        is_leak = any(p.casefold() in TRAIN for p in pair) and any(p.casefold() in HELD_OUT for p in pair)
        checked.add(
            "copies-across", "error" if is_leak else "warning",
            f"{pair[0]} and {pair[1]} share {_pictures(count)}, as {examples[pair][0]}; remove them from one, "
            f"or the figures come out too good",
            tuple(examples[pair]),
        )  # fmt: skip
    if torn:
        checked.add(
            "two-classes", "error",
            f"under more than one class there is {_pictures(len(torn))}, as {torn[0]}; decide for one",
            tuple(torn),
        )  # fmt: skip
    for part, count in within.items():
        checked.add(
            "copies", "warning",
            f"{part} has {_pictures(count)} more than once, as {inside[part][0]}; one of each is enough",
            tuple(inside[part]),
        )  # fmt: skip


def _classes(split: Split, i: int) -> tuple[str, ...]:
    return tuple(sorted(split.classes[label] for label in every(split.labels[i])))


def _pictures(count: int) -> str:
    return "1 picture" if count == 1 else f"{count:,} pictures"


def _present(split: Split) -> set[str]:
    return {name for name, count in zip(split.classes, split.counts, strict=True) if count}


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
