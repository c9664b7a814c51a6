"""What labels are called, where they are numbers or words in a list, a table or an archive."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from swinv2.data.split import DataError

# Files beside a list or shards that name the classes; the first that exists is taken.
NAMES = ("classes.txt", "class_names.txt", "label_list.txt")


def named_in(folder: Path) -> tuple[str, ...] | None:
    """The class names that a file in the folder gives: one a line, or "number name" a line, as PaddleClas
    writes it.

    Raises:
        DataError: numbers that are not 0, 1, 2, ...
    """
    file = next((folder / name for name in NAMES if (folder / name).is_file()), None)
    if file is None:
        return None
    lines = [line.strip() for line in file.read_text("utf-8-sig").splitlines() if line.strip()]
    rows = [line.split(maxsplit=1) for line in lines]
    if lines and all(len(row) == 2 and row[0].isdecimal() for row in rows):
        if [int(row[0]) for row in rows] != list(range(len(rows))):
            raise DataError(f"{file} numbers its classes other than 0, 1, 2, ...; number every line in order")
        lines = [row[1].strip() for row in rows]
    if len(set(lines)) < len(lines):
        twice = next(line for line in lines if lines.count(line) > 1)
        raise DataError(f"{file} names the class {twice!r} twice; give every class a name of its own")
    return tuple(lines)


def index(
    values: Sequence[tuple[str, ...]], named: tuple[str, ...] | None, where: Path
) -> tuple[tuple[str, ...], list[tuple[int, ...]]]:
    """What is written for each picture -> the classes, and labels.

    Whole numbers are positions in the class names; without names, classes are called by their number. Words
    are class names.

    Args:
        values: of each picture, the numbers or words that are written for it.
        named: class names where they are known.
        where: the file, for messages.

    Raises:
        DataError: labels without a class.
    """
    distinct = {value for row in values for value in row}
    if not distinct:
        raise DataError(f"{where} gives no picture a label; write the class of each picture")
    if not all(value.isdecimal() and value.isascii() for value in distinct):
        return by_name(values, named, where)
    count = max(map(int, distinct)) + 1
    if named is not None and count > len(named):
        raise DataError(
            f"{where} has the label {count - 1}, but only {len(named)} classes have names; labels count from 0"
        )
    if named is None and count > 10 * len(distinct) + 1000:
        raise DataError(
            f"{where} has only {len(distinct)} labels, with numbers up to {count - 1:,}; number classes "
            f"0, 1, 2, ..., or write names instead"
        )
    labels = {row: tuple(map(int, row)) for row in set(values)}  # one object a label, and not a picture
    return named or tuple(map(str, range(count))), [labels[row] for row in values]


def by_name(
    values: Sequence[tuple[str, ...]], named: tuple[str, ...] | None, where: Path
) -> tuple[tuple[str, ...], list[tuple[int, ...]]]:
    """As index() does it with words: classes in the order of named, otherwise sorted."""
    distinct = {value for row in values for value in row}
    if named is not None and (unknown := sorted(distinct - set(named))):
        raise DataError(
            f"{where} has the label {unknown[0]!r}, which is not among its {len(named)} class names"
        )
    classes = named or tuple(sorted(distinct))
    position = {name: i for i, name in enumerate(classes)}
    labels = {row: tuple(position[value] for value in row) for row in set(values)}
    return classes, [labels[row] for row in values]
