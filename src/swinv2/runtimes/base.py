"""What every runtime offers: a Session that turns a batch of images into logits, and a row that describes it.

A runtime is one file (or folder) and one row in RUNTIMES. The file has

    open(source, *, device, precision, threads) -> Session
    unsupported(device, precision) -> str | None        why it cannot run here; None where it can

and, where it is also a format that we write,

    export(model, path, options, calibration) -> dict   writes the file; returns what the record should say about it
    nodes(path) -> list[Node]                           its operators, for the lint
    write_record(path, record), read_record(path)       where the format has a place for it; else beside.py has one
"""

from __future__ import annotations

import importlib
import importlib.util
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from swinv2.artifact import Record

PRECISIONS = ("fp32", "bf16", "fp16", "fp8", "int8")


class Unsupported(ValueError):
    """Raised by open() where a runtime cannot run this one model; "auto" then asks the next runtime."""


class Session(ABC):
    """An open model. Use it as a context manager, or call close().

    Attributes:
        record: architecture, preprocessing and class names that came with the model.
        runtime, device, precision: what runs, where, and how; as chosen, never "auto".
        any_size: whether images may have another size than the preprocessing gives.
    """

    record: Record
    runtime: str
    device: str
    precision: str
    any_size: bool = False

    @abstractmethod
    def run(self, images: np.ndarray) -> np.ndarray:
        """float32 [B, C, H, W] as record.preprocess makes them -> logits, float32 [B, classes]."""

    def close(self) -> None:  # noqa: B027 -- most runtimes have nothing to give back
        """Give memory and devices back; the session cannot run afterwards."""

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def check(self, images: np.ndarray) -> None:
        """Raises ValueError where images are not what record.preprocess makes."""
        expected: tuple[int | str, ...] = (self.record.config.in_chans, *self.record.preprocess.size)
        if self.any_size:
            expected = (expected[0], "height", "width")
        fits = images.ndim == 4 and images.shape[1:2] == expected[:1]
        if not fits or (images.shape[2:] != expected[1:] if not self.any_size else 0 in images.shape):
            wanted = ", ".join(map(str, expected))
            raise ValueError(f"images have shape {list(images.shape)}; this model takes [batch, {wanted}]")


@dataclass(frozen=True)
class Options:
    """How a model is written; one object for all formats, each of which refuses what it cannot.

    Args:
        precision: of the weights and of the computation: fp32, fp16, bf16 or int8.
        dynamic_size: take any height and width, not only those of the preprocessing.
        opset: of ONNX and of what is made from it; None takes the one that measured best.
        device: what code is generated for, where a format holds code: cpu or cuda.
        keep_float: layers that int8 leaves in float, by their names in the folded network ("stages.0.1.fc2").
        activations: of int8, "static" (ranges measured on calibration pictures) or "dynamic" (at run time).
    """

    precision: str = "fp32"
    dynamic_size: bool = False
    opset: int | None = None
    device: str = "cpu"
    keep_float: tuple[str, ...] = ()
    activations: str = "static"


@dataclass(frozen=True)
class Node:
    """One operator of an exported graph: its name in the format's own words, and the largest rank of its results."""

    operator: str
    rank: int


@dataclass(frozen=True)
class Runtime:
    """One row of RUNTIMES.

    Args:
        about: what it is, in one line.
        suffixes: of the model files it opens; the first is what export writes.
        names: whether it opens what is no file: published names and hub ids.
        devices: kinds, the default first.
        precisions: in which it computes; "auto" is that of the file, fp32 where it does not say.
        package: what must be importable.
        extra: of swinv2, which brings the package.
        module: our file, imported when it is used.
        exports: precisions in which our export writes the format; none where it is no format of ours.
        converters: what else must be importable to write it.
        companions: suffixes of the files that belong to the first one.
        edge: whether the graph keeps to the rules of the edge mode (lint.py).
        dynamic_batch: whether one file takes every batch; otherwise a session runs images one after the other.
        dynamic_size: whether export can write a file for every height and width.
        activations: how its int8 finds the ranges of activations, the default first: see Options.
    """

    name: str
    about: str
    suffixes: tuple[str, ...]
    names: bool
    devices: tuple[str, ...]
    precisions: tuple[str, ...]
    package: str
    extra: str
    module: str
    exports: tuple[str, ...] = ()
    converters: tuple[str, ...] = ()
    companions: tuple[str, ...] = ()
    edge: bool = False
    dynamic_batch: bool = True
    dynamic_size: bool = False
    activations: tuple[str, ...] = ("static",)

    def unsupported(self, device: str = "auto", precision: str = "auto") -> str | None:
        """Why this runtime cannot be used here, in words; None where it can."""
        if device != "auto" and device.partition(":")[0] not in self.devices:
            return f"{self.name} runs on {', '.join(self.devices)}, not on {device!r}"
        if precision not in ("auto", *self.precisions):
            return f"{self.name} computes in {', '.join(self.precisions)}, not in {precision!r}"
        if importlib.util.find_spec(self.package) is None:
            return f'needs {self.package} -- pip install "swinv2[{self.extra}]"'
        return self.load().unsupported(device, precision)

    def cannot_export(self, options: Options) -> str | None:
        """Why this format cannot be written here with these options, in words; None where it can."""
        if not self.exports:
            return f"{self.name} is no format that export writes"
        if options.precision not in self.exports:
            return f"{self.name} is written in {', '.join(self.exports)}, not in {options.precision!r}"
        if options.precision == "int8" and options.activations not in self.activations:
            return f"int8 of {self.name} takes {' or '.join(self.activations)} activations, not {options.activations!r}"
        if options.dynamic_size and not self.dynamic_size:
            return f"{self.name} is written for one image size; leave --dynamic-size out or choose onnx"
        for package in ("torch", *self.converters):
            if importlib.util.find_spec(package) is None:
                return f'writing {self.name} needs {package} -- pip install "swinv2[{self.extra}]"'
        check = getattr(self.load(), "cannot_export", None)
        return check(options) if check else None

    def files(self, path: Path) -> tuple[Path, ...]:
        """All files of an export under this name that are there: the model, its companions, the record beside it."""
        beside = path.with_name(f"{path.name}.json")
        every = (path, *(path.with_suffix(suffix) for suffix in self.companions), beside)
        return tuple(file for file in every if file.exists())

    def load(self) -> Any:
        """The module behind the row."""
        return importlib.import_module(self.module)
