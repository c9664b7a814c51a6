"""The record of an exported model, as a JSON file beside it: model.pte and model.pte.json.

For formats that have no place of their own for it. One file each, so that a model is moved with two names, and
several formats share a folder.
"""

from __future__ import annotations

import json
from pathlib import Path

from swinv2.artifact import ArtifactError, Record


def path_of(path: Path) -> Path:
    """model.pte -> model.pte.json."""
    return path.with_name(f"{path.name}.json")


def write_record(path: Path, record: Record) -> None:
    """Write the record of the model at path beside it."""
    path_of(path).write_text(to_json(record, indent=1) + "\n", encoding="utf-8")


def read_record(path: Path) -> Record:
    """The record beside the model at path.

    Raises:
        FileNotFoundError: the model is not there.
        ArtifactError: it has no record, or one that cannot be used.
    """
    if not path.exists():
        raise FileNotFoundError(2, "No such file or directory", str(path))
    try:
        text = path_of(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ArtifactError(
            f"{path} has no {path_of(path).name} beside it (preprocessing, class names); copy both, or export again"
        ) from None
    return from_json(text, str(path_of(path)))


def to_json(record: Record, indent: int | None = None) -> str:
    """The text that every format carries, wherever it has a place for it."""
    return json.dumps(record.to_dict(), ensure_ascii=False, indent=indent, sort_keys=True)


def from_json(text: str | None, where: str) -> Record:
    """The record in a text; None where a format had none.

    Raises:
        ArtifactError: no text, no JSON, or a record that cannot be used.
    """
    if text is None:
        raise ArtifactError(
            f"{where} has no swinv2 record (preprocessing, class names); export it with `swinv2 export`"
        )
    try:
        described = json.loads(text)
    except (ValueError, RecursionError):
        described = None
    if not isinstance(described, dict):
        raise ArtifactError(f"{where} has a record that is not JSON; copy it again, or export again")
    return Record.from_dict(described, where)
