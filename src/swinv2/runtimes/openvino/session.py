"""A session of OpenVINO: an IR of ours, or an .onnx file that export wrote."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np

from swinv2.artifact import ArtifactError, Record
from swinv2.extras import require
from swinv2.runtimes.base import Session
from swinv2.runtimes.openvino import cache, record
from swinv2.runtimes.portion import images_at_a_time

HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}  # what is not quantised computes in it
CAPABILITIES = {"bf16": "BF16", "fp16": "FP16", "int8": "INT8"}  # every device has fp32


class OpenVINOSession(Session):
    """A compiled model on one device.

    A file in fp16 or bf16 is computed in fp32 where the device has no such arithmetic: OpenVINO would take another
    type of 16 bits without a word. What int8 leaves in float is computed in fp32, or in bf16 where that is asked for.
    """

    runtime = "openvino"

    def __init__(self, path: Path, *, device: str, precision: str, threads: int | None):
        ov = require("openvino", extra="openvino")
        self._core = ov.Core()
        if why := unsupported(device, precision, self._core):
            raise ValueError(why)
        self.record = _record_of(path)
        about = self.record.provenance.get("export", {})
        self.any_size = "height" in about.get("dynamic", ())
        self.device = _fastest_device(self._core) if device == "auto" else device
        held = about.get("precision", "fp32")
        self.precision = self._choose(path, held, precision)
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": HINTS.get(self.precision, "f32"),
        }
        if self.device == "cpu":
            # Several sessions, or processes, would be pinned to the same processors.
            settings["ENABLE_CPU_PINNING"] = False
            if threads is not None:
                settings["INFERENCE_NUM_THREADS"] = threads
        self._threads = threads or os.cpu_count() or 1
        try:
            compiled = cache.compiled(self._core, path, self.device.upper().replace(":", "."), settings)
        except RuntimeError as error:
            reason = [line for line in str(error).splitlines() if line.strip()][-1].strip()
            raise ArtifactError(f"OpenVINO {ov.__version__} does not open {path}: {reason[:300]}") from None
        self._request = compiled.create_infer_request()
        self._alone = threading.Lock()  # a request is busy while it works, and says so with an error

    def run(self, images: np.ndarray) -> np.ndarray:
        self.check(images)
        images = np.ascontiguousarray(images, np.float32)
        step = len(images)
        if self.device == "cpu":
            step = images_at_a_time(self.record.config, images.shape[2:], self._threads)  # type: ignore[arg-type]
        config = self.record.config
        logits = np.empty((len(images), config.num_classes or config.num_features), np.float32)
        with self._alone:
            for i in range(0, len(images), max(1, step)):
                logits[i : i + step] = self._request.infer([images[i : i + step]])[0]
        return logits

    def close(self) -> None:
        self._request = None

    def _choose(self, path: Path, held: str, asked: str) -> str:
        """What to compute in, of a file whose weights are held in one precision."""
        has = self._core.get_property(self.device.upper().replace(":", "."), "OPTIMIZATION_CAPABILITIES")
        if asked == "auto":
            return held if held == "int8" or CAPABILITIES.get(held, "FP32") in has else "fp32"
        if asked == "int8" and held != "int8":
            raise ValueError(
                f"{path} is in {held}; quantize the model for int8: swinv2 quantize MODEL --to openvino"
            )
        if asked in CAPABILITIES and CAPABILITIES[asked] not in has:
            raise ValueError(
                f"device {self.device} has no {asked} arithmetic; use fp32, or auto, which takes what is there"
            )
        return asked


def open(
    source: str | os.PathLike[str], *, device: str, precision: str, threads: int | None = None
) -> OpenVINOSession:
    """Open an .xml or .onnx file that export wrote."""
    return OpenVINOSession(Path(source), device=device, precision=precision, threads=threads)


def unsupported(device: str, precision: str, core: Any = None) -> str | None:
    """Why OpenVINO cannot compute on this device here; None where it can."""
    if device == "auto":
        return None
    found = (core or require("openvino", extra="openvino").Core()).available_devices
    kind, _, index = device.upper().partition(":")
    names = {name.partition(".")[0] for name in found} | set(found)
    if (f"{kind}.{index}" if index else kind) not in names:
        there = ", ".join(name.lower().replace(".", ":") for name in found)
        return f"OpenVINO sees no device {device!r} here; it sees {there}"
    return None


def _fastest_device(core: Any) -> str:
    """A GPU of Intel where there is one: one for pictures, and the CPU for all others."""
    return "gpu" if any(name.startswith("GPU") for name in core.available_devices) else "cpu"


def _record_of(path: Path) -> Record:
    if path.suffix.lower() == ".onnx":
        from swinv2.runtimes.onnx.record import read_record

        return read_record(path)
    return record.read_record(path)
