"""The checkpoints of a run on disk: each a folder that is whole or does not exist.

    runs/x/checkpoints/step-00001234/tensors.safetensors    every tensor, by name
                                     state.json             every number, text and list

A checkpoint is written under another name, flushed to the disk and renamed: whatever ends a process or a
machine meanwhile, the earlier ones are untouched. Nothing in them is code, so a foreign one can be opened.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

FOLDER = "checkpoints"
KEPT = 2  # newest ones, beside that of the best epoch
TENSORS, FACTS = "tensors.safetensors", "state.json"
FULL = (errno.ENOSPC, errno.EDQUOT)


class Unsaved(OSError):
    """A checkpoint that could not be written, in one sentence."""


class Snapshots:
    """The checkpoints of one run.

    Args:
        run: its folder.
    """

    def __init__(self, run: Path):
        self.folder = run / FOLDER

    def all(self) -> list[Path]:
        """Complete ones, oldest first."""
        return sorted(path for path in self.folder.glob("step-*") if (path / FACTS).exists())

    def write(self, step: int, said: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Path:
        """Save a checkpoint and take the oldest ones away.

        Args:
            said: facts, plain JSON types; "is_best" says that the checkpoint ends the best epoch so far.
            tensors: on the CPU.

        Raises:
            Unsaved: a full disk, for example; the checkpoints before it are as they were.
        """
        path = self.folder / f"step-{step:08}"
        # Of the same step: a run that was resumed here and stopped at once, or the epoch that ended with it.
        if path.exists() and facts(path).get("epoch") == said.get("epoch"):
            return path
        part = path.with_name(f".{path.name}.part")
        try:
            self.sweep()
            part.mkdir(parents=True)
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part / TENSORS)
            with open(part / FACTS, "w", encoding="utf-8") as file:
                json.dump(said, file)
            os.chmod(part / TENSORS, (part / FACTS).stat().st_mode)  # safetensors makes it private
            for name in (TENSORS, FACTS, "."):
                _flush(part / name)
            if path.exists():
                _remove(path)
            part.rename(path)
            _flush(self.folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(part, ignore_errors=True)
            raise Unsaved(self.unsaved(step, error)) from None
        self._rotate()
        return path

    def sweep(self) -> None:
        """Remove what an ended process has left half-written, or half-removed."""
        for part in self.folder.glob(".step-*.part"):
            shutil.rmtree(part, ignore_errors=True)

    def _rotate(self) -> None:
        every = self.all()
        best = [path for path in every if facts(path).get("is_best")]
        for path in set(every) - {*every[-KEPT:], *best[-1:]}:
            _remove(path)

    def unsaved(self, step: int, error: Exception) -> str:
        """Why a step could not be saved, and what is safe."""
        number = _errno(error)
        why = "no space is left on the disk" if number in FULL else " ".join(str(error).split())
        whole = self.all()
        kept = f"{whole[-1]} is whole" if whole else "there is no earlier checkpoint"
        cure = "free some space" if number in FULL else "see to it"
        return (
            f"{self.folder.parent}: {why}, so step {step:,} is not saved; {kept}; {cure} and run the command again "
            f"with --resume"
        )


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The facts and the tensors of a checkpoint; tensors are mapped and read when they are used.

    Raises:
        OSError, ValueError: it is damaged.
    """
    try:
        with safe_open(path / TENSORS, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- no mapping
    except SafetensorError as error:
        raise ValueError(f"{path / TENSORS} is damaged: {' '.join(str(error).split())}") from None
    return facts(path), tensors


def pack(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of one part of a checkpoint under its name, on the CPU: {"ema/head.bias": ...}."""
    return {f"{part}/{name}": tensor.detach().cpu() for name, tensor in tensors.items()}


def unpack(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The other way."""
    return {
        name.removeprefix(f"{part}/"): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{part}/")
    }


def facts(path: Path) -> dict[str, Any]:
    """What a checkpoint says in plain types, without its tensors."""
    return json.loads((path / FACTS).read_text(encoding="utf-8"))


def _remove(path: Path) -> None:
    gone = path.with_name(f".{path.name}.gone.part")  # half of a checkpoint must not look like one
    path.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _flush(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _errno(error: Exception) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"os error (\d+)", str(error))  # safetensors says it in its text
    return int(found[1]) if found else None
