"""LiteRT (TensorFlow Lite): one image at a time, in float or with int8 products of activations scaled at run time.

XNNPACK computes all of it on CPUs. The record is in the file: a zip archive after the model, the place that the format
has for files that belong to it (`unzip -p model.tflite swinv2.json`).
"""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from swinv2.artifact import ArtifactError, Record
from swinv2.extras import require
from swinv2.runtimes.base import Node, Options, Session
from swinv2.runtimes.beside import from_json, to_json
from swinv2.runtimes.native import kept_stderr

if TYPE_CHECKING:
    from swinv2.model import SwinV2

RECORD = "swinv2.json"
LAYERS = ("FULLY_CONNECTED", "CONV_2D")  # what int8 quantises


class LiteRTSession(Session):
    """A .tflite file that export wrote; it takes one image, so images are run one after the other."""

    runtime, device = "litert", "cpu"

    def __init__(self, path: Path, *, precision: str, threads: int | None):
        interpreter = require("ai_edge_litert.interpreter", extra="litert")
        self.record = read_record(path)
        self.precision = self.record.provenance.get("export", {}).get("precision", "fp32")
        if precision not in ("auto", self.precision):
            raise ValueError(f"{path} is in {self.precision}; export it again with --precision {precision}")
        try:
            with kept_stderr():
                self._interpreter: Any = interpreter.Interpreter(
                    str(path), num_threads=threads or _processors()
                )
                self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ArtifactError(
                f"{path} is no LiteRT model, or was damaged: {' '.join(str(error).split())}"
            ) from None
        (given,), (found,) = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        self._input, self._output = given["index"], found["index"]

    def run(self, images: np.ndarray) -> np.ndarray:
        self.check(images)
        config = self.record.config
        logits = np.empty((len(images), config.num_classes or config.num_features), np.float32)
        for i, image in enumerate(np.ascontiguousarray(images, np.float32)):
            self._interpreter.set_tensor(self._input, image[None])
            self._interpreter.invoke()
            logits[i] = self._interpreter.get_tensor(self._output)[0]
        return logits

    def close(self) -> None:
        self._interpreter = None


def open(
    source: str | os.PathLike[str], *, device: str, precision: str, threads: int | None = None
) -> LiteRTSession:
    """Open a file that export wrote. threads: default is one for every processor; LiteRT's own is a single one."""
    return LiteRTSession(Path(source), precision=precision, threads=threads)


def unsupported(device: str, precision: str) -> str | None:
    """Why LiteRT cannot compute on this device here; None where it can."""
    return None if device in ("auto", "cpu") else f"{device!r} is no device of LiteRT here; give cpu"


def _processors() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# ---------------------------------------------------------------------- writing


def export(
    model: SwinV2, path: Path, options: Options, calibration: np.ndarray | None = None
) -> dict[str, Any]:
    """Write the model; returns what the record says about it."""
    import litert_torch
    import torch

    from swinv2.fold import fold
    from swinv2.runtimes.xnnpack import for_xnnpack, to_quantise

    network = for_xnnpack(fold(model), sums=True)
    example = torch.zeros(1, network.config.in_chans, *network.image_size)
    litert_torch.convert(network, (example,)).export(str(path))
    if options.precision == "int8":
        path.write_bytes(_quantised(path, to_quantise(network, options.keep_float)))
    return {"input": "NCHW"}


def _quantised(path: Path, layers: list[str]) -> bytes:
    """The model with the weights of these layers in int8, per channel; their inputs are scaled at run time."""
    from ai_edge_quantizer import qtyping, quantizer

    work = quantizer.Quantizer(str(path))
    products = {_layer(one.weights): one for one in _operators(path.read_bytes()) if one.name in LAYERS}
    for layer in layers:
        product = products[layer]
        work.add_dynamic_config(
            regex=f"^{re.escape(product.result)};",
            operation_name=qtyping.TFLOperationName(product.name),
            num_bits=8,
        )
    quantised = bytes(work.quantize().quantized_model)
    found = {_layer(one.weights) for one in _operators(quantised) if one.has_int8_weights}
    assert found == set(layers), found ^ set(
        layers
    )  # what the quantizer leaves out, it leaves out in silence
    return quantised


def _layer(name: str) -> str:
    """The layer whose weights the converter calls ".../Sequential_0/...XnnBlock_1/...Linear_fc1;1": stages.0.1.fc1."""
    parts = [part.rpartition("_")[2] for part in name.partition(";")[0].split("/")[1:]]
    return ".".join(["stages", *parts] if len(parts) > 1 else parts)


def write_record(path: Path, record: Record) -> None:
    """Put the record behind the model, in place of an older one."""
    with path.open("r+b") as file:
        file.truncate(_size(path))
    entry = zipfile.ZipInfo(RECORD, date_time=(1980, 1, 1, 0, 0, 0))  # the same bytes every time
    entry.compress_type = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(entry, to_json(record))


# ---------------------------------------------------------------------- reading


def read_record(path: Path) -> Record:
    """The record in the file; raises FileNotFoundError, ArtifactError."""
    try:
        with zipfile.ZipFile(path) as archive:
            text = archive.read(RECORD).decode()
    except (zipfile.BadZipFile, KeyError, UnicodeDecodeError, IsADirectoryError):
        raise ArtifactError(
            f"{path} has no swinv2 record behind its model: it was cut off, or `swinv2 export` did not write it"
        ) from None
    return from_json(text, str(path))


def digest(path: Path) -> str:
    """SHA-256 of the model, without the record."""
    with path.open("rb") as file:
        return hashlib.sha256(file.read(_size(path))).hexdigest()


def nodes(path: Path) -> list[Node]:
    """The operators, each with the largest rank of its results."""
    return [Node(one.name, one.rank) for one in _operators(path.read_bytes()[: _size(path)])]


def _size(path: Path) -> int:
    """Bytes of the model: up to the archive, if there is one."""
    if not zipfile.is_zipfile(path):
        return path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        return min(entry.header_offset for entry in archive.infolist())


@dataclass(frozen=True)
class Operator:
    """One operator: its name, the largest rank of its results, the names of the first result and of the weights."""

    name: str
    rank: int
    result: str
    weights: str
    has_int8_weights: bool


def _operators(content: bytes) -> list[Operator]:
    """Those of a model, in their order."""
    from ai_edge_litert import schema_py_generated as schema

    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    model = schema.ModelT.InitFromPackedBuf(content)
    (graph,) = model.subgraphs
    found = []
    for operator in graph.operators:
        name = names[model.operatorCodes[operator.opcodeIndex].builtinCode]
        results = [graph.tensors[i] for i in operator.outputs]
        weights = graph.tensors[operator.inputs[1]] if name in LAYERS else None
        found.append(
            Operator(
                name,
                max(len(result.shape) for result in results),
                results[0].name.decode(),
                weights.name.decode() if weights else "",
                weights is not None and weights.type == schema.TensorType.INT8,
            )
        )
    return found
