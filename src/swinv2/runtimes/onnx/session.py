"""A session of ONNX Runtime: on a CPU, on a CUDA device, or through its TensorRT provider."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from swinv2.artifact import ArtifactError
from swinv2.extras import require
from swinv2.runtimes.base import Session
from swinv2.runtimes.onnx.record import read_record
from swinv2.runtimes.portion import images_at_a_time

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


class OnnxSession(Session):
    """An .onnx file that export wrote, with one provider; what that cannot run goes to the CPU."""

    runtime = "onnx"

    def __init__(self, path: Path, *, device: str, precision: str, threads: int | None):
        ort = require("onnxruntime", extra="onnx")
        self.record = read_record(path)
        about = self.record.provenance.get("export", {})
        self.precision = about.get("precision", "fp32")
        if precision not in ("auto", self.precision):
            raise ValueError(f"{path} is in {self.precision}; export it again with --precision {precision}")
        self.any_size = "height" in about.get("dynamic", ())
        self.device = _fastest_device(ort) if device == "auto" else device
        if why := unsupported(self.device, precision):
            raise ValueError(why)
        kind, _, index = self.device.partition(":")
        options = ort.SessionOptions()
        options.log_severity_level = 3  # errors reach us as exceptions; warnings are for authors of models
        self._threads = threads or os.cpu_count() or 1
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = ort.InferenceSession(
                str(path), options, providers=_providers(kind, int(index or 0))
            )
        except Exception as error:  # a class of its own for every kind of failure
            reason = str(error).splitlines()[0].rpartition(" : ")[2]
            raise ArtifactError(f"ONNX Runtime {ort.__version__} does not open {path}: {reason}") from None
        if kind != "cpu" and PROVIDERS[kind] not in self._session.get_providers():
            raise ValueError(
                f"ONNX Runtime could not start {PROVIDERS[kind]} here; check its driver, or use device cpu"
            )

    def run(self, images: np.ndarray) -> np.ndarray:
        self.check(images)
        images = np.ascontiguousarray(images, np.float32)
        if len(images) == 0:  # shapes with -1 in them do not take it
            return np.zeros(
                (0, self.record.config.num_classes or self.record.config.num_features), np.float32
            )
        step = sys.maxsize
        if self.device == "cpu":
            step = images_at_a_time(self.record.config, (images.shape[2], images.shape[3]), self._threads)
        starts = range(0, len(images), step)
        parts = [self._session.run(None, {"images": images[i : i + step]})[0] for i in starts]
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def close(self) -> None:
        self._session = None


def open(
    source: str | os.PathLike[str], *, device: str, precision: str, threads: int | None = None
) -> OnnxSession:
    """Open a file that export wrote."""
    return OnnxSession(Path(source), device=device, precision=precision, threads=threads)


def unsupported(device: str, precision: str) -> str | None:
    """Why ONNX Runtime cannot compute on this device here; None where it can."""
    ort = require("onnxruntime", extra="onnx")
    kind, _, index = device.partition(":")
    if kind == "auto":
        return None
    if kind not in PROVIDERS or not (index.isdecimal() or not index) or (kind == "cpu" and index):
        return f"{device!r} is no device; give cpu, cuda, cuda:1 or tensorrt"
    if PROVIDERS[kind] not in ort.get_available_providers():
        return f"this onnxruntime has no {PROVIDERS[kind]}; onnxruntime-gpu has it, or use device cpu"
    return None


def _fastest_device(ort: Any) -> str:
    return "cuda" if PROVIDERS["cuda"] in ort.get_available_providers() else "cpu"


def _providers(kind: str, index: int) -> list[Any]:
    """In the order in which they may take nodes."""
    if kind == "cpu":
        return [PROVIDERS["cpu"]]
    found: list[Any] = [(PROVIDERS["cuda"], {"device_id": index}), PROVIDERS["cpu"]]
    return [(PROVIDERS["tensorrt"], {"device_id": index}), *found] if kind == "tensorrt" else found
