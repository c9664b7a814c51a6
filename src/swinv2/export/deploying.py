"""A model where a server looks for it: the file that export writes and compares, and what belongs around it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from swinv2 import artifact, verification
from swinv2.deployments import VERSION, Deployment, Place
from swinv2.export.one import Exported, move, size_of, workshop
from swinv2.runtimes import RUNTIMES
from swinv2.verbs import UsageError


def deploy(row: Deployment, place: Place, write: Callable[[str, Path], Exported]) -> Exported:
    """Put a model in its place, complete or not at all; other versions of it stay.

    Args:
        write: writes the model for a runtime (a key of RUNTIMES) to a path, compared.

    Returns:
        what write returned, with the folder of the model as its path.

    Raises:
        UsageError: the folder holds versions of a model that takes or gives something else.
        OSError: no space, no permission.
    """
    target = place.folder / place.name
    with workshop(target) as room:
        tree = room / place.name
        exported = write(row.carries, tree / row.model_file(place))
        row.load().surround(tree, place, _record(row, exported.path))
        _check_versions(row, place, tree)
        size = size_of(tree)
        _settle(tree, target, row.model_file(place).parent)
    return replace(exported, format=row.name, path=target, size=size)


def place_of(
    model: Any, row: Deployment, precision: str, output: str | os.PathLike[str] | None, *, several: bool
) -> Place:
    """Where a model goes: --output is a folder for models, or folder/name/version; a folder beside the model otherwise.

    Raises:
        UsageError: a file, or a name that a server does not take.
    """
    path = Path(model) if isinstance(model, (str, os.PathLike)) else Path("model.safetensors")
    is_file = path.suffix.lower() in RUNTIMES["torch"].suffixes
    name = (path.stem if is_file else path.name) + ("" if precision == "fp32" else f"_{precision}")
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
    if output is None:
        return Place((path.parent if is_file or path.exists() else Path()) / row.name, name)
    given = Path(output)
    if given.is_file() or given.suffix.lower() in RUNTIMES[row.carries].suffixes:
        raise UsageError(
            f"--output is {output}; {row.name} is a folder: give one for models, or folder/name/version"
        )
    if several:
        return Place(given / row.name, name)
    if VERSION.fullmatch(given.name):
        if not given.parent.name:
            raise UsageError(f"--output is {output}; give folder/name/version, or a folder for models")
        try:
            return Place(given.parent.parent, given.parent.name, int(given.name))
        except ValueError as error:
            raise UsageError(str(error)) from None
    return Place(given, name)


def _record(row: Deployment, path: Path) -> artifact.Record:
    carried = RUNTIMES[row.carries]
    return verification.read_record(carried, path) if carried.exports else artifact.read_record(path)


def _check_versions(row: Deployment, place: Place, tree: Path) -> None:
    """All versions of a model have some files in common, which say what it takes and gives."""
    target, version = place.folder / place.name, row.model_file(place).parent
    others = (target / version).parent.glob("*")
    if not any(VERSION.fullmatch(other.name) and other.name != version.name for other in others):
        return
    for name in row.shared:
        old, new = (
            (folder / name).read_text("utf-8") if (folder / name).is_file() else ""
            for folder in (target, tree)
        )
        if old != new:
            raise UsageError(
                f"{target} holds other versions, and its {name} is not that of this model; give another name "
                f"with --output {place.folder}/NAME/1"
            )


def _settle(tree: Path, target: Path, version: Path) -> None:
    """Into place, the version last: what a server finds is complete."""
    for file in sorted(tree.rglob("*")):
        place = target / file.relative_to(tree)
        if file.is_file() and version not in file.relative_to(tree).parents:
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, place)
    (target / version).parent.mkdir(parents=True, exist_ok=True)
    move((tree / version,), (target / version).parent)
