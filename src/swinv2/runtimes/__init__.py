"""Ways to run a model, as a table: one row per runtime, one file beside it."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

from swinv2.runtimes import accelerators
from swinv2.runtimes.base import PRECISIONS, Node, Options, Runtime, Session, Unsupported

__all__ = [
    "ORDER",
    "PRECISIONS",
    "RUNTIMES",
    "Node",
    "Options",
    "Runtime",
    "Session",
    "Unsupported",
    "choose",
    "formats",
    "is_exported",
    "open_session",
]

# One row each. Devices, precisions, formats: the first is the default.
RUNTIMES: dict[str, Runtime] = {
    row.name: row
    for row in (
        Runtime(
            "engine", "our own engine in C++, part of the package",
            suffixes=(".safetensors",), names=True,
            devices=("cpu",), precisions=("fp32", "bf16", "int8"),
            package="swinv2", extra="", module="swinv2.runtimes.engine",
        ),
        Runtime(
            "torch", "PyTorch, the folded network",
            suffixes=(".safetensors", ".pth", ".pt", ".bin", ".pdparams"), names=True,
            devices=("cpu", "cuda", "mps"), precisions=("fp32", "bf16", "fp16", "fp8"),
            package="torch", extra="torch", module="swinv2.runtimes.torch",
        ),
        Runtime(
            "onnx", "ONNX Runtime",
            suffixes=(".onnx",), names=False, companions=(".onnx.data",),
            devices=("cpu", "cuda", "tensorrt"), precisions=("fp32", "fp16", "int8"),
            package="onnxruntime", extra="onnx", module="swinv2.runtimes.onnx",
            exports=("fp32", "fp16", "int8"), converters=("onnx",), edge=True, dynamic_size=True,
            activations=("dynamic", "static"),
        ),
        Runtime(
            "openvino", "OpenVINO, on the processors and accelerators of Intel and on other CPUs",
            suffixes=(".xml", ".onnx"), names=False, companions=(".bin",),
            devices=("cpu", "gpu", "npu"), precisions=("fp32", "bf16", "fp16", "int8"),
            package="openvino", extra="openvino", module="swinv2.runtimes.openvino",
            exports=("fp32", "bf16", "fp16", "int8"), converters=("onnx",), edge=True, dynamic_size=True,
        ),
        Runtime(
            "pt2", "PyTorch's compiled package (AOTInductor)",
            suffixes=(".pt2",), names=False,
            devices=("cpu", "cuda"), precisions=("fp32", "bf16", "fp16"),
            package="torch", extra="torch", module="swinv2.runtimes.pt2",
            exports=("fp32", "bf16", "fp16"),
        ),
        Runtime(
            "torchscript", "TorchScript, for programs that embed LibTorch",
            suffixes=(".torchscript",), names=False,
            devices=("cpu", "cuda", "mps"), precisions=("fp32", "bf16", "fp16"),
            package="torch", extra="torch", module="swinv2.runtimes.torchscript",
            exports=("fp32", "bf16", "fp16"), edge=True,
        ),
        Runtime(
            "tensorrt", "TensorRT, on NVIDIA GPUs",
            suffixes=(".engine",), names=False,
            devices=("cuda",), precisions=("fp32", "fp16"),
            package="tensorrt", extra="tensorrt", module="swinv2.runtimes.tensorrt",
            exports=("fp32", "fp16"), converters=("onnx", "tensorrt"),
        ),
        Runtime(
            "executorch", "ExecuTorch with XNNPACK, on phones and boards",
            suffixes=(".pte",), names=False,
            devices=("cpu",), precisions=("fp32", "int8"),
            package="executorch", extra="executorch", module="swinv2.runtimes.executorch",
            exports=("fp32", "int8"), edge=True, activations=("dynamic", "static"),
        ),
        Runtime(
            "litert", "LiteRT (TensorFlow Lite), on phones and boards",
            suffixes=(".tflite",), names=False,
            devices=("cpu",), precisions=("fp32", "int8"),
            package="ai_edge_litert", extra="litert", module="swinv2.runtimes.litert",
            exports=("fp32", "int8"), converters=("litert_torch",), edge=True, dynamic_batch=False,
            activations=("dynamic",),
        ),
        Runtime(
            "ncnn", "ncnn, on phones and boards",
            suffixes=(".param",), names=False, companions=(".ncnn.bin",),
            devices=("cpu",), precisions=("fp32", "bf16", "fp16"),
            package="ncnn", extra="ncnn", module="swinv2.runtimes.ncnn",
            exports=("fp32", "fp16"), edge=True, dynamic_batch=False,
        ),
        Runtime(
            "mnn", "MNN, on phones and boards",
            suffixes=(".mnn",), names=False,
            devices=("cpu",), precisions=("fp32", "fp16"),
            package="MNN", extra="mnn", module="swinv2.runtimes.mnn",
            exports=("fp32", "fp16"), converters=("MNN", "onnx"), edge=True,
        ),
        Runtime(
            "coreml", "Core ML, on the devices of Apple",
            suffixes=(".mlpackage",), names=False,
            devices=("cpu", "gpu", "npu"), precisions=("fp32", "fp16"),
            package="coremltools", extra="coreml", module="swinv2.runtimes.coreml",
            exports=("fp32", "fp16"), edge=True, dynamic_batch=False,
        ),
        Runtime(
            "paddle", "weights for PaddleClas",
            suffixes=(".pdparams",), names=False,
            devices=("cpu", "cuda", "mps"), precisions=("fp32", "bf16", "fp16"),
            package="torch", extra="torch", module="swinv2.runtimes.paddle",
            exports=("fp32",),
        ),
    )
}  # fmt: skip

# What "auto" takes where several runtimes open a file: the fastest first (benchmarks/results/exports-cpu.json).
ORDER: dict[str, tuple[str, ...]] = {
    "cpu": ("engine", "torch", "openvino", "onnx"),
    "other": ("torch", "onnx", "openvino", "engine"),
}


def formats() -> tuple[str, ...]:
    """The names that `swinv2 export --to` takes."""
    return tuple(row.name for row in RUNTIMES.values() if row.exports)


def is_exported(source: object) -> bool:
    """Whether a source is named like a file that export writes and the network itself cannot be read from."""
    suffix = Path(source).suffix.lower() if isinstance(source, (str, os.PathLike)) else ""
    return suffix not in RUNTIMES["torch"].suffixes and any(
        suffix in row.suffixes for row in RUNTIMES.values() if row.exports
    )


def open_session(
    source: str | os.PathLike[str],
    runtime: str = "auto",
    *,
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
) -> Session:
    """Open a model file, or a published model by name.

    Args:
        runtime: a key of RUNTIMES; "auto" takes the first that opens the file and can run it here.
        device: cpu, cuda, cuda:1, mps, ...; "auto" takes the fastest kind that is there.
        precision: of the computation: fp32, bf16, fp16, fp8 or int8; "auto" takes that of the file, fp32 where it
            does not say.
        threads: of the computation on a CPU; default: what the runtime chooses.

    Raises:
        ValueError: a combination that cannot run here, and why.
        ImportError: the runtime is not installed; the message has the pip command.
        FileNotFoundError, ArtifactError: there is no such model, or it cannot be used.
    """
    if threads is not None and threads < 1:
        raise ValueError(f"threads is {threads}; give at least 1")
    reasons: dict[Runtime, str] = {}
    for row in _candidates(source, runtime, device):
        why = row.unsupported(device, precision)
        if why is None:
            try:
                return row.load().open(source, device=device, precision=precision, threads=threads)
            except Unsupported as refusal:
                why = str(refusal)
        reasons[row] = why
    raise _refusal(source, reasons)


def choose(
    source: str | os.PathLike[str], runtime: str = "auto", *, device: str = "auto", precision: str = "auto"
) -> Runtime:
    """The row that opens a source, as far as can be said without opening it; raises as open_session does."""
    reasons = {}
    for row in _candidates(source, runtime, device):
        if (why := row.unsupported(device, precision)) is None:
            return row
        reasons[row] = why
    raise _refusal(source, reasons)


def _candidates(source: str | os.PathLike[str], runtime: str, device: str) -> list[Runtime]:
    """The rows that may open a source, best first; where a runtime is named, that one."""
    if runtime != "auto" and runtime not in RUNTIMES:
        raise ValueError(f"no runtime is called {runtime!r}; there are auto, {', '.join(RUNTIMES)}")
    rows = [row for row in RUNTIMES.values() if _opens(row, source)]
    if runtime == "auto":
        return sorted(rows, key=_place(device, rows))
    row = RUNTIMES[runtime]
    if row not in rows:
        raise ValueError(f"{runtime} does not open {source}; it opens {', '.join(row.suffixes)}")
    return [row]


def _refusal(source: str | os.PathLike[str], reasons: dict[Runtime, str]) -> Exception:
    """Why nothing opens a source: an ImportError where a package would help."""
    missing = next((row for row in reasons if importlib.util.find_spec(row.package) is None), None)
    why = "; ".join(reasons.values())
    if len(reasons) > 1:
        why = f"no runtime can open {source} here: {why}"
    return ImportError(why, name=missing.package) if missing else ValueError(why)


def _place(device: str, rows: list[Runtime]) -> Callable[[Runtime], int]:
    """Where a row stands for this device; those that ORDER does not name come last, as in the table."""
    kind, torch = device.partition(":")[0], RUNTIMES["torch"]
    if kind == "auto":  # only torch takes a GPU for what another runtime computes on a CPU
        kind = "other" if torch in rows and accelerators.usable(torch) else "cpu"
    order = ORDER["cpu" if kind == "cpu" else "other"]
    return lambda row: order.index(row.name) if row.name in order else len(order)


def _opens(row: Runtime, source: str | os.PathLike[str]) -> bool:
    """By suffix; what has none of the known suffixes is a name."""
    known = {suffix for other in RUNTIMES.values() for suffix in other.suffixes}
    suffix = Path(source).suffix.lower()
    return suffix in row.suffixes if suffix in known else row.names
