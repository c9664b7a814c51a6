"""Core ML: the edge network as an ML program, converted on any system, run on those of Apple only.

One image at a time: with sizes that are numbers the network can go to the neural engine. The record is in the
user-defined metadata. What the converter leaves to chance (the order of maps, dates, identifiers) is put in order.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import sys
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swinv2.artifact import ArtifactError, Record
from swinv2.extras import require
from swinv2.runtimes.base import Node, Options, Session
from swinv2.runtimes.beside import from_json, to_json

if TYPE_CHECKING:
    import numpy as np

    from swinv2.model import SwinV2

__all__ = ["digest", "export", "nodes", "open", "read_record", "unsupported", "write_record"]

KEY = "swinv2"
INPUT, OUTPUT = "images", "logits"
UNITS = {
    "auto": "ALL",
    "cpu": "CPU_ONLY",
    "gpu": "CPU_AND_GPU",
    "npu": "CPU_AND_NE",
}  # of coremltools.ComputeUnit
PROGRAM, WEIGHTS = "Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights/weight.bin"
# What keeps float32 in an fp16 program: lengths of vectors. Their floor (1e-24) is zero in float16, and one over it
# infinite, which the keys of padded tokens would be multiplied with.
EXACT = ("reduce_sum", "maximum", "rsqrt")


def export(
    model: SwinV2, path: Path, options: Options, calibration: np.ndarray | None = None
) -> dict[str, Any]:
    """Write the program, for iOS 16 and macOS 13 and later."""
    import numpy as np
    import torch

    from swinv2.edge import edge
    from swinv2.fold import fold

    ct = _coremltools()
    network = edge(fold(model))
    example = torch.zeros(1, network.config.in_chans, *network.image_size)
    program = torch.export.export(network, (example,)).run_decompositions({})
    half = ct.transform.FP16ComputePrecision(op_selector=lambda op: not _is_exact(op))
    converted = ct.convert(
        program, outputs=[ct.TensorType(OUTPUT, dtype=np.float32)], convert_to="mlprogram", skip_model_load=True,
        compute_precision=half if options.precision == "fp16" else ct.precision.FLOAT32,
        minimum_deployment_target=ct.target.iOS16,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="swinv2-") as folder:
        made = Path(folder, "made.mlpackage")
        converted.save(str(made))
        spec = _read(made)
        ct.utils.rename_feature(spec, spec.description.input[0].name, INPUT)
        spec.description.metadata.Clear()
        for file in (PROGRAM, WEIGHTS):
            (path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(made / WEIGHTS, path / WEIGHTS)
    _write(path, spec)
    (path / "Manifest.json").write_text(
        json.dumps(_manifest(), indent=4, sort_keys=True) + "\n", encoding="utf-8"
    )
    return {"input": INPUT, "output": OUTPUT, "oldest_runtime": "iOS 16, macOS 13"}


def write_record(path: Path, record: Record) -> None:
    """Put the record into the metadata."""
    spec = _read(path)
    spec.description.metadata.userDefined[KEY] = to_json(record)
    _write(path, spec)


def read_record(path: Path) -> Record:
    """The record in the metadata; raises FileNotFoundError, ArtifactError."""
    return from_json(_read(path).description.metadata.userDefined.get(KEY), str(path))


def digest(path: Path) -> str:
    """SHA-256 over program and weights, without the record."""
    spec = _read(path)
    spec.description.metadata.Clear()
    found = hashlib.sha256(spec.SerializeToString(deterministic=True))
    found.update((path / WEIGHTS).read_bytes())
    return found.hexdigest()


def nodes(path: Path) -> list[Node]:
    """The operations of the program; constants are none."""
    (block,) = _read(path).mlProgram.functions["main"].block_specializations.values()
    return [
        Node(operation.type, max(output.type.tensorType.rank for output in operation.outputs))
        for operation in block.operations
        if operation.type != "const"
    ]


class CoreMLSession(Session):
    """A program in Core ML; image after image."""

    runtime = "coreml"

    def __init__(self, path: Path, *, device: str, precision: str):
        self.record = read_record(path)
        self.device, self.precision = device, self.record.provenance["export"]["precision"]
        if precision not in ("auto", self.precision):
            raise ValueError(f"{path} is in {self.precision}; export it again with --precision {precision}")
        ct = _coremltools()
        self._model = ct.models.MLModel(str(path), compute_units=getattr(ct.ComputeUnit, UNITS[device]))

    def run(self, images: np.ndarray) -> np.ndarray:
        import numpy as np

        self.check(images)
        x = np.ascontiguousarray(images, dtype=np.float32)
        answers = [self._model.predict({INPUT: one[None]})[OUTPUT] for one in x]
        return np.concatenate(answers).astype(np.float32)


def open(
    source: str | os.PathLike[str], *, device: str, precision: str, threads: int | None = None
) -> CoreMLSession:
    """Open a package that export wrote; "auto" lets Core ML spread the work over all devices."""
    if why := unsupported(device, precision):
        raise ValueError(why)
    if threads is not None:
        raise ValueError("Core ML chooses its threads by itself; leave threads out")
    return CoreMLSession(Path(source), device=device, precision=precision)


def unsupported(device: str, precision: str) -> str | None:
    """Why Core ML cannot run here; None where it can."""
    if sys.platform != "darwin":
        return "Core ML runs on the systems of Apple only: the file is converted, not run here; verify it on a Mac"
    return None


def _is_exact(operation: Any) -> bool:
    """Whether an operation of the converter's program is about lengths of vectors, or divides by them."""
    sources = [
        value.op for value in operation.inputs.values() if hasattr(value, "op") and value.op is not None
    ]
    divides = operation.op_type == "mul" and any(source.op_type == "rsqrt" for source in sources)
    return operation.op_type in EXACT or divides


def _manifest() -> dict[str, Any]:
    """The table of contents of a package; identifiers follow from the paths."""
    items = {}
    for name, about in (
        (PROGRAM, "CoreML Model Specification"),
        (str(Path(WEIGHTS).parent), "CoreML Model Weights"),
    ):
        inside = name.removeprefix("Data/")
        items[str(uuid.uuid5(uuid.NAMESPACE_URL, inside))] = {
            "author": "com.apple.CoreML", "description": about, "name": Path(name).name, "path": inside,
        }  # fmt: skip
    return {"fileFormatVersion": "1.0.0", "itemInfoEntries": items, "rootModelIdentifier": next(iter(items))}


def _read(path: Path) -> Any:
    """The program, as coremltools' message."""
    if not path.exists():
        raise FileNotFoundError(2, "No such file or directory", str(path))
    _coremltools()
    from coremltools.proto import Model_pb2
    from google.protobuf.message import DecodeError

    try:
        spec = Model_pb2.Model.FromString((path / PROGRAM).read_bytes())
    except (DecodeError, OSError) as error:
        raise ArtifactError(
            f"{path} is no Core ML package, or was cut off: {error}; export it again"
        ) from None
    if not spec.HasField("mlProgram") or not (path / WEIGHTS).exists():
        raise ArtifactError(f"{path} is not a complete Core ML package; copy it again, or export again")
    return spec


def _write(path: Path, spec: Any) -> None:
    (path / PROGRAM).write_bytes(spec.SerializeToString(deterministic=True))


def _coremltools() -> Any:
    """The package; elsewhere than on a Mac it complains about what it cannot load."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        return require("coremltools", extra="coreml")
    finally:
        logging.disable(before)
