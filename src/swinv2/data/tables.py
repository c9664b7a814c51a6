"""Parquet files and data sets of a hub, through the library `datasets`.

    photos/train-00000-of-00002.parquet      hub:beans      hub:cifar100?label=fine_label

It unpacks them once into memory-mapped tables in its cache, where any row can be reached by itself. Pictures
stay as they are encoded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from swinv2.data.classes import index, named_in
from swinv2.data.split import DataError, Split
from swinv2.extras import require

Parts = dict[str, Callable[[], Split]]  # name -> what reads it; only "all" where there are no parts

EXTRA = "datasets"
LABEL = (
    "label",
    "labels",
    "fine_label",
    "class",
    "target",
    "category",
    "cls",
)  # the first there is, is taken
_ASKED = ("config", "image", "label", "revision")


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of a datasets.Dataset; its pictures are not decoded."""

    rows: Any
    image: str

    def read(self, row: int, name: str) -> Path | bytes:
        found = self.rows[row][self.image]
        if found["bytes"] is not None:
            return found["bytes"]
        return Path(found["path"])


def is_saved(folder: Path) -> bool:
    """Whether a folder was written by save_to_disk of datasets."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def read_parquet(root: Path, files: Sequence[Path], split: str) -> Split:
    """Parquet files as one part: a column of pictures, one of labels.

    Raises:
        DataError: a file that is none, or columns that are not known, in one sentence.
    """
    parquet = require("pyarrow.parquet", extra=EXTRA)
    counts = []
    for file in files:
        try:
            counts.append(parquet.read_metadata(file).num_rows)
        except (OSError, ValueError) as error:
            raise DataError(f"{file} is cut off or no parquet file ({_line(error)}); get it again") from None
    if not sum(counts):
        raise DataError(f"{files[0]} has no rows")
    rows = _quiet().Dataset.from_parquet([str(file) for file in files])
    names = tuple(
        f"{file.relative_to(root).as_posix()}[{i}]"
        for file, count in zip(files, counts, strict=True)
        for i in range(count)
    )
    return _split(rows, root, split, names, files[0], named_in(files[0].parent))


def read_saved(root: Path) -> Parts:
    """The parts of a folder that save_to_disk wrote."""
    try:
        found = _quiet().load_from_disk(str(root))
    except (OSError, ValueError) as error:
        raise DataError(f"{root} cannot be read by datasets: {_line(error)}") from None
    return _parts(found, root, {})


def read_hub(path: Path) -> Parts:
    """The parts of "hub:owner/name", with ?config=, image=, label=, revision= where the name does not settle
    them.

    Raises:
        DataError: it is not there, or cannot be reached.
    """
    name, _, query = str(path).removeprefix("hub:").partition("?")
    asked = dict(parse_qsl(query))
    if unknown := sorted(set(asked) - set(_ASKED)):
        raise DataError(f"{path} asks for {unknown[0]!r}; known are {', '.join(_ASKED)}")
    datasets = _quiet()
    try:
        found = datasets.load_dataset(name, asked.get("config"), revision=asked.get("revision"))
    except (OSError, ValueError, RuntimeError) as error:  # its own errors are kinds of these
        raise DataError(f"{path} cannot be had: {_line(error)}") from None
    return _parts(found, path, asked)


def _parts(found: Any, root: Path, asked: dict[str, str]) -> Parts:
    tables = found if isinstance(found, dict) else {"all": found}
    if list(tables) == ["train"]:  # what a hub calls a set without parts
        tables = {"all": tables["train"]}
    return {name: partial(_part, rows, root, name, asked) for name, rows in tables.items()}


def _part(rows: Any, root: Path, name: str, asked: dict[str, str]) -> Split:
    names = tuple(f"{name}[{i}]" for i in range(rows.num_rows))
    return _split(rows, root, name, names, root, None, asked)


def _split(
    rows: Any,
    root: Path,
    split: str,
    names: tuple[str, ...],
    where: Path,
    named: tuple[str, ...] | None,
    asked: dict[str, str] | None = None,
) -> Split:
    datasets, asked = _quiet(), asked or {}
    features = rows.features
    image = _image_column(features, where, asked.get("image"))
    label = _label_column(features, where, asked.get("label"))
    rows = rows.cast_column(image, datasets.Image(decode=False))
    kind = features[label]
    inner = getattr(kind, "feature", None)  # of a list
    named = getattr(inner or kind, "names", None) or named
    values = rows.with_format(None)[label]
    if missing := next((i for i, value in enumerate(values) if value is None), None):
        raise DataError(
            f"{where} has no label in row {missing} ({names[missing]}); fill it or remove the row"
        )
    if set(values if inner is None else ()) == {-1}:
        raise DataError(f"{where} hides its labels in {split}: they are all -1; measure on another part")
    texts = [tuple(map(str, value)) if inner is not None else (str(value),) for value in values]
    classes, labels = index(texts, tuple(named) if named else None, where)
    chosen = tuple(labels if inner is not None else (one for (one,) in labels))
    return Split(root, split, classes, names, chosen, source=Table(rows, image), rows=range(len(names)))


def _image_column(features: Any, where: Path, asked: str | None) -> str:
    datasets = _quiet()
    held = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    binary = [
        name for name, kind in features.items()
        if getattr(kind, "dtype", None) in ("binary", "large_binary")
        or (isinstance(kind, dict) and {"bytes", "path"} <= set(kind))
    ]  # fmt: skip
    return _chosen(held or binary, features, where, "pictures", asked)


def _label_column(features: Any, where: Path, asked: str | None) -> str:
    known = [name for name in LABEL if name in features][:1]
    named = [name for name, kind in features.items() if hasattr(kind, "names")]
    return _chosen(named if len(named) == 1 else known or named, features, where, "labels", asked)


def _chosen(candidates: list[str], features: Any, where: Path, what: str, asked: str | None) -> str:
    if asked is not None:
        if asked not in features:
            raise DataError(f"{where} has no column {asked!r}; it has {', '.join(features)}")
        return asked
    if len(candidates) == 1:
        return candidates[0]
    key = "image" if what == "pictures" else "label"
    if candidates:
        raise DataError(
            f"{where} has several columns of {what}, {', '.join(candidates)}; choose one with "
            f"hub:name?{key}={candidates[0]}"
        )
    raise DataError(f"{where} has no column of {what} (it has {', '.join(features)}); call it {key}")


def _quiet() -> Any:
    """The library, without its progress bars and notes between ours."""
    datasets = require("datasets", extra=EXTRA)
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    return datasets


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
