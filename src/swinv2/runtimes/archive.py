"""The record inside an archive: TorchScript files and AOTInductor packages are zip files that take a further entry.

PyTorch puts such entries into the folder extra/. Python's zipfile reads and writes them: that needs no torch, and no
weights are loaded. Rewriting also takes out what would make two exports of one model differ: names of temporary
files, dates, and random numbers.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from swinv2.artifact import ArtifactError, Record
from swinv2.runtimes.beside import from_json, to_json

ROOT = "model"  # the folder that holds everything in an archive of PyTorch
RECORD = f"{ROOT}/extra/swinv2.json"
CHUNK = 1 << 22


def read_record(path: Path) -> Record:
    """The record in the file.

    Raises:
        FileNotFoundError: there is no such file.
        ArtifactError: it is no archive, was cut off, is damaged, or has no record of ours.
    """
    with _opened(path) as archive:
        text = archive.read(RECORD).decode("utf-8", "replace") if RECORD in archive.namelist() else None
    return from_json(text, str(path))


def about_export(record: Record, path: Path, runtime: str) -> dict[str, Any]:
    """What the record says about the file.

    Raises:
        ArtifactError: it is a file of another format under this name.
    """
    about = record.provenance.get("export", {})
    if (written := about.get("format", runtime)) != runtime:
        raise ArtifactError(f"{path} holds {written} and not {runtime}; give it the suffix it had")
    return about


def write_record(path: Path, record: Record) -> None:
    """Put the record into the file, in the place of an older one."""
    rewrite(path, lambda name: None if name == RECORD else name, to_json(record))


def digest(path: Path) -> str:
    """SHA-256 over names and contents of all entries but the record."""
    found = hashlib.sha256()
    with _opened(path) as archive:
        for entry in archive.infolist():
            if entry.filename != RECORD:
                found.update(f"{entry.filename}\0{entry.file_size}\0".encode())
                with archive.open(entry) as content:
                    while chunk := content.read(CHUNK):
                        found.update(chunk)
    return found.hexdigest()


def check(path: Path) -> None:
    """Raises ArtifactError where an entry does not have its checksum: the readers of PyTorch do not look."""
    with _opened(path) as archive:
        if name := archive.testzip():
            raise zipfile.BadZipFile(name)


def rewrite(path: Path, renamed: Callable[[str], str | None], record: str | None = None) -> None:
    """Write an archive again, with entries in their order under new names; None leaves an entry out.

    Args:
        record: text of the record, which becomes the last entry.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        with _opened(path) as old, zipfile.ZipFile(part, "w") as new:
            for entry in old.infolist():
                if (name := renamed(entry.filename)) is not None:
                    with old.open(entry) as content, new.open(_entry(name, entry.file_size), "w") as copy:
                        shutil.copyfileobj(content, copy, CHUNK)
            if record is not None:
                new.writestr(_entry(RECORD, len(record)), record)
        shutil.copymode(path, part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _entry(name: str, size: int) -> zipfile.ZipInfo:
    """An entry without a date, not compressed: weights do not shrink."""
    entry = zipfile.ZipInfo(name)
    entry.file_size = size  # zipfile takes the 64-bit form where it must
    return entry


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    if path.is_dir():
        raise ArtifactError(f"{path} is a folder; give the {path.suffix or 'model'} file inside it")
    try:
        with zipfile.ZipFile(path) as archive:  # FileNotFoundError names the file by itself
            yield archive
    except (zipfile.BadZipFile, EOFError, NotImplementedError):
        raise ArtifactError(
            f"{path} is no {path.suffix.removeprefix('.')} file, or was cut off or damaged; copy it or export it again"
        ) from None
