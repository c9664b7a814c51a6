"""Lists of pictures: `path label` lines as PaddleClas and the official scripts have them, and CSV tables.

    roses/7.jpg 4              file,label         file,labels          file,rose,daisy
    daisies/2.jpg 0            7.jpg,rose         7.jpg,rose;daisy     7.jpg,1,1
                               2.jpg,daisy        3.jpg,               3.jpg,0,0

Paths are relative to the list. A CSV may have a column that says which part a picture belongs to. Several
labels a picture are in a column "labels", or in a column of 0 and 1 per class.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from swinv2.data.classes import index, named_in
from swinv2.data.split import DataError, Split
from swinv2.images import SUFFIXES

LISTS, TABLES = (".txt", ".lst"), (".csv", ".tsv")
# What columns are called; the first that a table has is taken.
PICTURE = ("file", "filename", "file_name", "filepath", "file_path", "path", "image", "image_path", "img", "id",
           "image_id", "imageid")  # fmt: skip
LABEL = ("label", "class", "category", "target", "class_name", "label_name", "breed", "species", "variety")
LABELS = ("labels", "tags", "classes", "categories")
PART = ("split", "part", "subset", "set")
TRIED = 10  # pictures that are looked for, to find where the others are
# Folders that lists leave out of paths.
BESIDE = ("train", "images", "image", "pictures", "photos", "img", "jpg", "data")


@dataclass(frozen=True)
class Rows:
    """A list as it is written; parts is empty where the list does not name them."""

    file: Path
    names: list[str]
    labels: list[tuple[str, ...]]
    parts: list[str]
    is_multi_label: bool
    classes: tuple[str, ...] | None = None  # where the header has them

    def part_names(self) -> list[str]:
        """In the order in which they are first met."""
        return list(dict.fromkeys(self.parts))

    def split(self, split: str, part: str | None = None) -> Split:
        """The pictures of one part, or all."""
        root = self.file.parent
        keep = [i for i in range(len(self.names)) if part is None or self.parts[i] == part]
        # Numbers count over the whole table, so that parts agree on what they mean.
        classes, labels = index(self.labels, self.classes or named_in(root), self.file)
        names = _located(root, [self.names[i] for i in keep], split, self.file)
        chosen = [labels[i] if self.is_multi_label else labels[i][0] for i in keep]
        return Split(root, split, classes, names, tuple(chosen))


def read(file: Path) -> Rows:
    """A list or a table.

    Raises:
        DataError: a line that says nothing, columns that are not known, in one sentence.
    """
    try:
        text = file.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{file} is not a text in UTF-8; save it as one") from None
    rows = _table(file, text) if file.suffix.lower() in TABLES else _lines(file, text)
    if not rows.names:
        raise DataError(f"{file} lists no pictures; write one a line")
    return rows


def is_list_of_pictures(file: Path) -> bool:
    """Whether a text or a table is one that is read, going by its first line."""
    if file.suffix.lower() in TABLES:
        return is_table_of_pictures(file)
    try:
        with open(file, encoding="utf-8-sig") as opened:
            fields = next((line.split() for line in opened if line.strip()), [])
    except UnicodeDecodeError:
        return False
    return any(PurePosixPath(field).suffix.lower() in SUFFIXES for field in fields)


def is_table_of_pictures(file: Path) -> bool:
    """Whether a CSV has a column of pictures."""
    try:
        with open(file, encoding="utf-8-sig", newline="") as opened:
            header = next(csv.reader(opened, delimiter=_delimiter(file)), [])
    except (UnicodeDecodeError, csv.Error):
        return False
    return _column(_folded(header), PICTURE) is not None or _has_no_header(header)


def _has_no_header(first: Sequence[str]) -> bool:
    return len(first) == 2 and PurePosixPath(first[0]).suffix.lower() in SUFFIXES


def _lines(file: Path, text: str) -> Rows:
    names: list[str] = []
    labels: list[tuple[str, ...]] = []
    flags: list[bool] = []
    rows: dict[str, tuple[str, ...]] = {}  # one object a label, and not a picture
    for number, line in enumerate(text.splitlines(), 1):
        if not (line := line.strip()):
            continue
        fields = line.rsplit("\t", 1) if "\t" in line else line.rsplit(None, 1)
        if len(fields) < 2:
            raise DataError(f"line {number} of {file} is {line!r}; write a path, a space and a label")
        name, label = fields[0].strip(), fields[1].strip()
        flags.append(bool(re.fullmatch(r"[01](,[01])+", label)))
        names.append(_posix(name))
        labels.append(rows.setdefault(label, (label,)))
    if not any(flags):
        return Rows(file, names, labels, [], is_multi_label=False)
    shape = {len(row[0].split(",")) for row in labels}
    if not all(flags) or len(shape) > 1:
        raise DataError(
            f"{file} has lines with and without 0,1,0,... labels, or of several lengths; give all one form"
        )
    hot = [tuple(str(i) for i, flag in enumerate(row[0].split(",")) if flag == "1") for row in labels]
    count = shape.pop()
    classes = named_in(file.parent) or tuple(map(str, range(count)))
    if len(classes) != count:
        raise DataError(
            f"{file} has {count} flags a line, but {len(classes)} classes have names; give as many"
        )
    return Rows(file, names, hot, [], is_multi_label=True, classes=classes)


def _table(file: Path, text: str) -> Rows:
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(file))
        lines = [[cell.strip() for cell in row] for row in reader if any(row)]
    except csv.Error as error:
        raise DataError(f"{file} is not a table: {error}") from None
    if not lines:
        raise DataError(f"{file} is empty; write a header such as file,label and one picture a line")
    if _has_no_header(lines[0]):
        lines.insert(0, ["file", "label"])
    titles, *lines = lines
    header = _folded(titles)
    for number, row in enumerate(lines, 2):
        if len(row) != len(header):
            raise DataError(f"row {number} of {file} has {len(row)} columns and the header {len(header)}; "
                            f"put a text with commas between quotes")  # fmt: skip
    picture = _column(header, PICTURE)
    if picture is None:
        raise DataError(f"{file} has no column of pictures; call it file (it has {', '.join(titles)})")
    part = _column(header, PART)
    names = [_posix(row[picture]) for row in lines]
    parts = [row[part] for row in lines] if part is not None else []
    columns = [i for i in range(len(header)) if i not in (picture, part)]
    if (label := _column(header, LABEL)) is not None and label != picture:
        if any(re.search(r"[;|]", row[label]) for row in lines):
            raise DataError(
                f"{file} has several labels in the column {header[label]}; call it labels, or give one each"
            )
        if empty := next((n for n, row in enumerate(lines, 2) if not row[label]), None):
            raise DataError(f"row {empty} of {file} has no label; give it one or remove the row")
        return Rows(file, names, [(row[label],) for row in lines], parts, is_multi_label=False)
    if (label := _column(header, LABELS)) is not None:
        values = [tuple(v for v in map(str.strip, re.split(r"[;|,]", row[label])) if v) for row in lines]
        return Rows(file, names, values, parts, is_multi_label=True)
    flags = [i for i in columns if all(row[i] in ("0", "1") for row in lines)]
    if len(flags) < 2 or len(flags) < len(columns):
        raise DataError(
            f"{file} has no column of labels; call it label, or labels for several a picture, or give a column "
            f"of 0 and 1 for each class (it has {', '.join(titles)})"
        )
    hot = [tuple(str(k) for k, i in enumerate(flags) if row[i] == "1") for row in lines]
    return Rows(file, names, hot, parts, is_multi_label=True, classes=tuple(titles[i] for i in flags))


def _delimiter(file: Path) -> str:
    return "\t" if file.suffix.lower() == ".tsv" else ","


def _folded(header: Sequence[str]) -> list[str]:
    return [column.casefold().replace(" ", "_") for column in header]


def _column(header: Sequence[str], names: Sequence[str]) -> int | None:
    return next((header.index(name) for name in names if name in header), None)


def _posix(name: str) -> str:
    """Lists that were written on Windows have backslashes."""
    return name.replace("\\", "/").removeprefix("./")


def _located(root: Path, names: list[str], split: str, file: Path) -> tuple[str, ...]:
    """Paths below root. The first pictures tell what the list leaves out of all: a folder, or the suffix.

    Raises:
        DataError: a list whose first pictures are nowhere.
    """
    stem = re.split(r"[_.-]", file.stem)[0]
    for folder in ("", *dict.fromkeys((split, stem, *BESIDE))):
        for suffix in ("", ".jpg", ".jpeg", ".png", ".JPEG", ".webp"):
            if any((root / folder / (name + suffix)).is_file() for name in names[:TRIED]):
                prefix = f"{folder}/" if folder else ""
                return tuple(f"{prefix}{name}{suffix}" for name in names)
    raise DataError(
        f"{file} lists {names[0]}, but there is no such file in {root}; write paths relative to the list"
    )
