"""Any data set that people have, by what lies there: image folders, lists, tables, tar shards, a hub.

read_training() and read_split() are the way into it for everybody.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from swinv2.data import folder, lists, tables, tars
from swinv2.data.parts import HELD_OUT, TRAIN, files, folders, matching, part_of, some
from swinv2.data.split import DataError, Split, divide, is_hub, relabel

_WHAT = "a folder with one folder of pictures per class, a list, a .tar, a .parquet or hub:owner/name"


@dataclass(frozen=True)
class Layout:
    """A data set before it is read: its parts, or the whole of one that has none.

    Args:
        root: what was given.
        form: in a word, what it is.
        parts: name -> what reads it.
        whole: what reads a set without parts.
    """

    root: Path
    form: str
    parts: Mapping[str, Callable[[], Split]]
    whole: Callable[[], Split] | None = None

    @property
    def trains(self) -> list[str]:
        return matching(self.parts, TRAIN)

    @property
    def held_outs(self) -> list[str]:
        return matching(self.parts, HELD_OUT)


def read_training(path: str | os.PathLike) -> tuple[Split, Split]:
    """The training part and the held-out part of a data set.

    A set without a held-out part is divided: a fifth of each class, chosen by the hash of the names, is held
    out; the same pictures every time and on every machine.

    Raises:
        FileNotFoundError, DataError: what is wrong with it, in one sentence.
    """
    layout = find(path)
    root = layout.root
    if layout.whole is not None:
        whole = layout.whole()
        _require_two_classes(whole, str(root))
        train, held_out = divide(whole)
        if not len(held_out):
            raise DataError(f"{root} has one picture per class; to hold some out, give each class at least 2")
        return train, held_out
    if not layout.trains:
        has = layout.held_outs[0] if layout.held_outs else next(iter(layout.parts))
        raise DataError(f"{root} has {has}/ but no train/; put the pictures to learn from into train/")
    train = layout.parts[layout.trains[0]]()
    _require_two_classes(train, f"{root}/{layout.trains[0]}")
    if not layout.held_outs:
        return divide(train)
    held_out = layout.parts[layout.held_outs[0]]()
    return train, aligned(held_out, train)


def read_split(path: str | os.PathLike, split: str | None = None) -> Split:
    """One part of a data set, to measure on.

    Args:
        split: name of the part. Default: the held-out part where there is one, otherwise all pictures.
            "train" and "val" of a set without such parts are the two that read_training makes.

    Raises:
        FileNotFoundError, DataError: what is wrong with it, in one sentence.
    """
    layout = find(path)
    if split is None:
        if layout.held_outs:
            return layout.parts[layout.held_outs[0]]()
        return layout.whole() if layout.whole is not None else read_training(path)[1]
    if split == "all" and layout.whole is not None:
        return layout.whole()
    for part, read in layout.parts.items():
        if part.casefold() == split.casefold():
            return read()
    if split in ("train", "val") and not layout.held_outs:
        train, held_out = read_training(path)
        return train if split == "train" else held_out
    has = ", ".join(layout.parts) or "train and val (divided by name), all"
    raise DataError(f"{layout.root} has no part called {split!r}; it has {has}")


def aligned(split: Split, train: Split) -> Split:
    """A part with the classes of the training part, in its order.

    Raises:
        DataError: it has pictures of others, or several labels a picture where the other has one.
    """
    if split.is_multi_label != train.is_multi_label:
        raise DataError(f"{train.split} and {split.split} of {train.root} differ: one has several labels a picture; "
                        f"give both one form")  # fmt: skip
    used = {name for name, count in zip(split.classes, split.counts, strict=True) if count}
    if unknown := sorted(used - set(train.classes)):
        raise DataError(
            f"{split.root}/{split.split} has classes that {train.split} lacks: {some(unknown)}; "
            f"both need the same classes"
        )
    return relabel(split, train.classes)


def _require_two_classes(split: Split, where: str) -> None:
    if len(split.classes) < 2 and not split.is_multi_label:
        raise DataError(
            f"{where} has one class only, {split.classes[0]!r}; learning needs at least two classes"
        )


# ---------------------------------------------------------------------- what lies there


def find(path: str | os.PathLike) -> Layout:
    """The form and the parts of a data set. Reads as little as tells them.

    Raises:
        FileNotFoundError, DataError: there is nothing that is read.
    """
    root = Path(path)
    if is_hub(root):
        return _of_tables(root, "hub", tables.read_hub(root))
    if not root.exists():
        raise FileNotFoundError(f"there is no folder {root}; give {_WHAT}")
    return _in_folder(root) if root.is_dir() else _in_file(root)


def _in_file(file: Path) -> Layout:
    match file.suffix.lower():
        case suffix if suffix in lists.LISTS + lists.TABLES:
            return _of_list(file)
        case ".tar":
            return Layout(file, "tar", {}, partial(tars.read, file.parent, [file], "all"))
        case ".parquet":
            return Layout(file, "parquet", {}, partial(tables.read_parquet, file.parent, [file], "all"))
    raise DataError(f"{file} is a file; give {_WHAT}")


def _in_folder(root: Path) -> Layout:
    if tables.is_saved(root):
        return _of_tables(root, "datasets", tables.read_saved(root))
    if by_part := _lists(root):
        return Layout(root, "list", {part: partial(_read_list, file, part) for part, file in by_part.items()})
    inside = [part for part in folders(root) if part.name.casefold() in TRAIN + HELD_OUT]
    table = [file for file in files(root, *lists.TABLES) if lists.is_table_of_pictures(file)]
    if inside and (len(table) != 1 or any(map(_is_filled, inside))):
        return Layout(root, "folder", {part.name: partial(_read_part, root, part) for part in inside})
    if len(table) == 1 and not sum(1 for below in folders(root) if folder.holds_pictures(below)) > 1:
        return _of_list(table[0])
    if shards := files(root, ".tar"):
        return _of_shards(root, "tar", tars.read, shards)
    if shards := files(root, ".parquet") or (
        files(root / "data", ".parquet") if (root / "data").is_dir() else []
    ):
        return _of_shards(root, "parquet", tables.read_parquet, shards)
    return Layout(root, "folder", {}, partial(folder.read, root, root, "all"))


def _lists(root: Path) -> dict[str, Path]:
    """Lists that are called as a part: train_list.txt, val.csv."""
    found: dict[str, Path] = {}
    for file in files(root, *lists.LISTS, *lists.TABLES):
        part = part_of(file.stem)
        if part is None or not lists.is_list_of_pictures(file):
            continue
        if part in found:
            raise DataError(
                f"{root} has two lists of {part}, {found[part].name} and {file.name}; keep one of them"
            )
        found[part] = file
    return found


def _read_list(file: Path, part: str) -> Split:
    return lists.read(file).split(part)


def _of_list(file: Path) -> Layout:
    """One list, which may say itself what belongs to which part."""
    rows = lists.read(file)
    if not rows.parts:
        return Layout(file, "list", {}, partial(rows.split, "all"))
    return Layout(file, "list", {part: partial(rows.split, part, part) for part in rows.part_names()})


def _of_tables(root: Path, form: str, parts: tables.Parts) -> Layout:
    return Layout(root, form, {}, parts["all"]) if list(parts) == ["all"] else Layout(root, form, parts)


def _of_shards(root: Path, form: str, read: Callable[..., Split], shards: Sequence[Path]) -> Layout:
    """Shards in one folder, which say by their names what belongs to which part."""
    by_part: dict[str | None, list[Path]] = {}
    for shard in shards:
        by_part.setdefault(part_of(shard.name), []).append(shard)
    if list(by_part) == [None]:
        return Layout(root, form, {}, partial(read, root, shards, "all"))
    if None in by_part:
        raise DataError(
            f"{by_part[None][0]} does not say which part it belongs to; call it train-... or val-..."
        )
    return Layout(root, form, {str(part): partial(read, root, some, part) for part, some in by_part.items()})


def _is_filled(part: Path) -> bool:
    """Whether the folder of a part has what is read from such a folder."""
    return bool(files(part, ".tar", ".parquet")) or folder.has_classes(part)


def _read_part(root: Path, part: Path) -> Split:
    if shards := files(part, ".tar"):
        return tars.read(root, shards, part.name)
    if shards := files(part, ".parquet"):
        return tables.read_parquet(root, shards, part.name)
    return folder.read(root, part, part.name)
