"""Which files run in which runtimes and precisions: what was asked for, as a list."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from swinv2.runtimes import PRECISIONS, RUNTIMES, Runtime, is_exported
from swinv2.verbs import UsageError


@dataclass(frozen=True)
class Contender:
    """A file, or a published model by its name, in one runtime and precision.

    Args:
        is_model: whether it is the model that the others are compared with.
        precision: "auto" is that of the file.
    """

    path: str
    runtime: str
    precision: str
    is_model: bool = False

    @property
    def name(self) -> str:
        """For sentences, before it is known what "auto" is."""
        return f"{self.path} in {self.runtime}" + ("" if self.precision == "auto" else f" {self.precision}")

    @property
    def files(self) -> tuple[Path, ...]:
        """All that belongs to it on the disk; nothing for a published model."""
        return format_of(self.path).files(Path(self.path))

    @property
    def size(self) -> int | None:
        """Bytes on the disk."""
        found = [file for part in self.files for file in _below(part)]
        return sum(file.stat().st_size for file in found) if found else None

    @property
    def sha256(self) -> str | None:
        """Of all its files."""
        if not self.files:
            return None
        digest = hashlib.sha256()
        for part in self.files:
            for file in _below(part):
                with file.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()


def contenders(
    model: str, exports: Sequence[str], runtimes: Sequence[str], precisions: Sequence[str]
) -> list[Contender]:
    """Every file in every runtime and precision that was asked for; the model first.

    Args:
        exports: files; a folder stands for the exported models in it.
        runtimes: "auto" is the one that a file was exported for, torch for the model. Of those named, each file runs
            in all that open it; the model may be left out so, an export not.

    Raises:
        UsageError, FileNotFoundError: what cannot be meant, before anything runs.
    """
    for what, given, known in (
        ("runtime", runtimes, ("auto", *RUNTIMES)),
        ("precision", precisions, ("auto", *PRECISIONS)),
    ):
        if wrong := [name for name in given if name not in known]:
            raise UsageError(f"there is no {what} {wrong[0]!r}; choose from {', '.join(known)}")
    found = []
    for path in dict.fromkeys([model, *(file for given in exports for file in _files(given))]):
        if is_exported(path) and not Path(path).exists():
            raise FileNotFoundError(2, "No such file or directory", path)
        opening = [name for name in dict.fromkeys(runtimes or ["auto"]) if _opens(name, path)]
        if not opening and path != model:
            raise UsageError(
                f"none of {', '.join(runtimes)} opens {path}; its runtime is {format_of(path).name}"
            )
        named = dict.fromkeys(format_of(path).name if name == "auto" else name for name in opening)
        found += [
            Contender(path, name, p, path == model) for name in named for p in dict.fromkeys(precisions)
        ]
    return found


def format_of(path: str) -> Runtime:
    """The row of the runtime that a file was exported for; torch for models themselves."""
    suffix = Path(path).suffix.lower()
    if is_exported(path):
        return next(row for row in RUNTIMES.values() if row.exports and suffix == row.suffixes[0])
    return RUNTIMES["torch"]


def _files(given: str) -> Iterator[str]:
    """The files that are meant.

    Raises:
        UsageError, FileNotFoundError: none.
    """
    path = Path(given)
    if not path.is_dir() or is_exported(given):  # an .mlpackage is a folder and a model
        if not path.exists():
            raise FileNotFoundError(2, "No such file or directory", given)
        if path.suffix.lower() not in {suffix for row in RUNTIMES.values() for suffix in row.suffixes}:
            known = ", ".join(row.suffixes[0] for row in RUNTIMES.values() if row.exports)
            raise UsageError(f"{given} is no model; exported ones end in {known}")
        yield given
        return
    found = sorted(file for file in path.iterdir() if is_exported(file))
    if not found:
        raise UsageError(f"{given} holds no exported model; `swinv2 export` writes some")
    yield from map(os.fspath, found)


def _opens(runtime: str, path: str) -> bool:
    if runtime == "auto":
        return True
    row = RUNTIMES[runtime]
    suffix = Path(path).suffix.lower()
    return (
        suffix in row.suffixes if suffix in {s for r in RUNTIMES.values() for s in r.suffixes} else row.names
    )


def _below(path: Path) -> list[Path]:
    """A file, or all files of a folder."""
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
