"""TensorRT: an engine built from the ONNX graph, for the GPU it is built on, with one profile for all batches.

The network is strongly typed: float32, or the float16 that the graph says (norms of q and k and the scale in
float32). That is the only kind that TensorRT 11 knows, and 10 has it too; bfloat16 waits for a graph in it.

An engine runs on GPUs of one kind, in one version of TensorRT. It has no place for the record: that is beside it.
Which kernels are fastest is measured while it is built, so two engines of one model may differ; the timing cache,
kept in the user's cache folder, makes a second one agree with the first, in a fraction of the time.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from swinv2.artifact import ArtifactError
from swinv2.extras import require
from swinv2.runtimes.base import Options, Session
from swinv2.runtimes.beside import read_record

if TYPE_CHECKING:
    from types import ModuleType

    import onnx

    from swinv2.model import SwinV2

__all__ = ["cannot_export", "export", "open", "unsupported"]

OPSET = 20  # Gelu and LayerNormalization are operators there, and every TensorRT from 10.0 reads it
BATCHES = (1, 8, 32)  # smallest, the one that kernels are chosen for, largest


def export(
    model: SwinV2, path: Path, options: Options, calibration: np.ndarray | None = None
) -> dict[str, Any]:
    """Build an engine on this GPU."""
    trt, made = _tensorrt(), graph_of(model, options)
    (images,) = made.graph.input
    size = tuple(axis.dim_value for axis in images.type.tensor_type.shape.dim[1:])
    path.write_bytes(build(trt, made.SerializeToString(deterministic=True), size, _timings(trt)))
    opset = made.opset_import[0].version
    return {"opset": opset, "tensorrt": trt.__version__, "gpu": _gpu(), "batches": list(BATCHES)}


def graph_of(model: SwinV2, options: Options) -> onnx.ModelProto:
    """What the parser is given."""
    from swinv2.fold import fold
    from swinv2.runtimes.onnx.static import graph

    return graph(fold(model), opset=options.opset or OPSET, half=options.precision == "fp16")


def build(trt: ModuleType, graph: bytes, size: tuple[int, ...], timings: Path) -> bytes:
    """An ONNX file -> an engine.

    Args:
        size: in_chans, height, width.
        timings: of kernels, from former builds; read where it is there, and written.

    Raises:
        ValueError: the parser does not take the graph, or no engine came out, with TensorRT's own reasons.
    """
    logger = _logger(trt)
    builder = trt.Builder(logger)
    kinds = trt.NetworkDefinitionCreationFlag
    # TensorRT 11 has no other networks, and no flag for it.
    network = builder.create_network(
        1 << int(kinds.STRONGLY_TYPED) if hasattr(kinds, "STRONGLY_TYPED") else 0
    )
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph):
        reasons = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise ValueError(f"TensorRT {trt.__version__} does not read the graph: {reasons}")
    config = builder.create_builder_config()
    if hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)  # ten bits of a product are not float32
    profile = builder.create_optimization_profile()
    profile.set_shape("images", *((batch, *size) for batch in BATCHES))
    config.add_optimization_profile(profile)
    cache = config.create_timing_cache(timings.read_bytes() if timings.exists() else b"")
    config.set_timing_cache(cache, False)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise ValueError(
            f"TensorRT {trt.__version__} built no engine: {'; '.join(logger.said) or 'it does not say why'}"
        )
    timings.parent.mkdir(parents=True, exist_ok=True)
    part = timings.with_suffix(f".{os.getpid()}")
    part.write_bytes(bytes(config.get_timing_cache().serialize()))
    os.replace(part, timings)
    return bytes(engine)


def cannot_export(options: Options) -> str | None:
    """Why no engine can be built here; None where it can."""
    if options.device.partition(":")[0] != "cuda":
        return "tensorrt builds engines for the GPU that is here; add --device cuda"
    return unsupported(options.device, options.precision)


def unsupported(device: str, precision: str) -> str | None:
    """Why TensorRT cannot run here; None where it can."""
    import importlib.util

    if importlib.util.find_spec("torch") is None:  # it holds images and logits on the GPU
        return 'tensorrt needs torch too -- pip install "swinv2[torch]"'
    from swinv2.runtimes import torch as pytorch

    if why := pytorch.unsupported("cuda" if device == "auto" else device, "auto"):
        return why
    try:
        _tensorrt()
    except Exception as error:  # the package on the index is a stub that fetches the library from elsewhere
        return f"tensorrt does not load here: {' '.join(str(error).split())}"
    return None


class TensorRTSession(Session):
    """An engine on one GPU. Batches above the largest of its profile are run in parts."""

    runtime = "tensorrt"

    def __init__(self, path: Path, *, device: str, precision: str):
        self.record = read_record(path)
        about = self.record.provenance.get("export", {})
        self.precision = about.get("precision", "fp32")
        if precision not in ("auto", self.precision):
            raise ValueError(f"{path} is in {self.precision}; export it again with --precision {precision}")
        if why := unsupported(device, precision):
            raise ValueError(why)
        torch, trt = require("torch", extra="torch"), _tensorrt()
        self.device = "cuda" if device == "auto" else device
        self._torch, self._stream = torch, torch.cuda.Stream(self.device)
        logger = _logger(trt)
        self._runtime = trt.Runtime(logger)
        with torch.cuda.device(self.device):
            self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
            if self._engine is None:
                raise ArtifactError(
                    f"TensorRT {trt.__version__} does not open {path}, which was built with {about.get('tensorrt')} on "
                    f"{about.get('gpu')}; export it again on this machine ({'; '.join(logger.said)})"
                )
            self._context = self._engine.create_execution_context()
        self._classes = self.record.config.num_classes or self.record.config.num_features
        self._largest = int(self._engine.get_tensor_profile_shape("images", 0)[2][0])

    def run(self, images: np.ndarray) -> np.ndarray:
        self.check(images)
        torch = self._torch
        whole = torch.from_numpy(np.ascontiguousarray(images))
        with torch.inference_mode(), torch.cuda.device(self.device), torch.cuda.stream(self._stream):
            logits = [self._run(part) for part in whole.split(self._largest)]
            return torch.cat(logits).cpu().numpy()  # waits for the stream

    def _run(self, images: Any) -> Any:
        """A part of a batch on the current stream."""
        x = images.to(self.device)
        logits = self._torch.empty(len(x), self._classes, device=self.device)
        self._context.set_input_shape("images", tuple(x.shape))
        for name, tensor in (("images", x), ("logits", logits)):
            self._context.set_tensor_address(name, tensor.data_ptr())
        if not self._context.execute_async_v3(self._stream.cuda_stream):
            raise RuntimeError(f"TensorRT did not run a batch of {len(x)} on {self.device}")
        return logits

    def close(self) -> None:
        self._context = self._engine = self._runtime = None


def open(
    source: str | os.PathLike[str], *, device: str, precision: str, threads: int | None = None
) -> TensorRTSession:
    """Open a file that export wrote. threads mean nothing to a GPU."""
    return TensorRTSession(Path(source), device=device, precision=precision)


def _logger(trt: ModuleType) -> Any:
    """What TensorRT says of errors, kept for the sentence about a failure."""

    class Logger(trt.ILogger):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.said: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.said.append(" ".join(message.split()))

    return Logger()


def _tensorrt() -> ModuleType:
    return require("tensorrt", extra="tensorrt")


def _gpu() -> str:
    torch = require("torch", extra="torch")
    return torch.cuda.get_device_name()


def _timings(trt: ModuleType) -> Path:
    """The timing cache for this GPU and this TensorRT."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "swinv2", "tensorrt")
    kind = "".join(c if c.isalnum() else "-" for c in f"{_gpu()} {trt.__version__}".lower())
    return folder / f"{kind}.timings"
