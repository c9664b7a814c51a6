"""Servers that a model is handed to, as a table: what lies around the model file, and where.

A deployment is no runtime and has no Session: it carries a model file that export writes, or the artifact itself, and
compares as always. One row here, and one file beside it with

    surround(tree, place, record)    writes everything but the model into the folder of the model
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swinv2.runtimes import RUNTIMES, Options

__all__ = ["DEPLOYMENTS", "Deployment", "Place"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # what folders, addresses and servers all take
VERSION = re.compile(r"[1-9][0-9]*")  # servers overlook others


@dataclass(frozen=True)
class Place:
    """Where a model is put: version 1 of "classifier" lies below folder/classifier/.

    Raises:
        ValueError: a name that is no part of an address.
    """

    folder: Path
    name: str
    version: int = 1

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(
                f"a served model cannot be called {self.name!r}; give a name of letters, digits, '-', '_' and '.'"
            )


@dataclass(frozen=True)
class Deployment:
    """One row of DEPLOYMENTS.

    Args:
        about: what it is, in one line.
        carries: the runtime that opens the model file inside, a key of RUNTIMES; where that is no format which export
            writes, the file is the artifact itself.
        inside: the model file, below the folder of the model; {name} and {version} are those of its Place.
        shared: files that all versions of a model have in common.
        module: our file, imported when it is used.
    """

    name: str
    about: str
    carries: str
    inside: str
    shared: tuple[str, ...]
    module: str

    def model_file(self, place: Place) -> Path:
        """Below folder/name/."""
        return Path(self.inside.format(name=place.name, version=place.version))

    def cannot_carry(self, options: Options) -> str | None:
        """Why the model cannot be put there with these options, in words; None where it can."""
        row = RUNTIMES[self.carries]
        if row.exports:
            return row.cannot_export(options)
        if options != Options(device=options.device):
            return (
                f"{self.name} carries the model itself, which is rounded when it is served; leave --precision, "
                f"--dynamic-size and --opset out"
            )
        return None

    def load(self) -> Any:
        """The module behind the row."""
        return importlib.import_module(self.module)


DEPLOYMENTS: dict[str, Deployment] = {
    row.name: row
    for row in (
        Deployment(
            "triton", "a model repository of Triton Inference Server, which OpenVINO Model Server reads too",
            carries="onnx", inside="{version}/model.onnx", shared=("config.pbtxt", "labels.txt"),
            module="swinv2.deployments.triton",
        ),
        Deployment(
            "kserve", "an InferenceService of KServe and the image it runs, with `swinv2 serve` inside",
            carries="engine", inside="models/{name}/{version}/model.safetensors", shared=(),
            module="swinv2.deployments.kserve",
        ),
    )
}  # fmt: skip
