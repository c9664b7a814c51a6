"""PyTorch: the folded network, in inference mode, on a CPU, a CUDA or an Apple device."""

from __future__ import annotations

import os

import numpy as np
import torch
from torch import Tensor, nn

from swinv2 import float8
from swinv2.artifact import Record
from swinv2.checkpoints import load
from swinv2.float8 import in_float8
from swinv2.fold import fold
from swinv2.model import CACHED_VALUES, SwinV2
from swinv2.runtimes.base import Session
from swinv2.runtimes.graphs import CudaRecorder, Graphs

VARIABLE = (
    "SWINV2_CUDA_GRAPHS"  # 1: small batches run as CUDA graphs; no device has shown yet what that gains
)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TorchSession(Session):
    """A model that is already in memory, folded for the size of its preprocessing.

    Args:
        graphs: whether small batches run as CUDA graphs (graphs.py); None asks SWINV2_CUDA_GRAPHS, and then no
            device but a CUDA one takes it for a yes.

    Raises:
        ValueError: the model has no record, or the device is not there, or has no graphs.
    """

    runtime = "torch"

    def __init__(
        self, model: SwinV2, *, device: str = "auto", precision: str = "auto", graphs: bool | None = None
    ):
        if model.record is None:
            raise ValueError("the model has no record (preprocessing, class names); set model.record first")
        precision = "fp32" if precision == "auto" else precision
        if why := unsupported(device, precision):
            raise ValueError(why)
        self.record, self.precision = model.record, precision
        self.device = fastest_device() if device == "auto" else device
        size, dtype = self.record.preprocess.size, DTYPES["bf16" if precision == "fp8" else precision]
        on_cuda = torch.device(self.device).type == "cuda"
        if graphs and not on_cuda:
            raise ValueError(f"graphs are of CUDA devices, and the device is {self.device}; leave graphs out")
        network = fold(model, image_size=size, dtype=dtype)
        self._network = (in_float8(network) if precision == "fp8" else network).to(self.device)
        wanted = graphs or (graphs is None and on_cuda and os.environ.get(VARIABLE) == "1")
        self._graphs = Graphs(self._network, CudaRecorder(self.device)) if wanted else None

    @torch.inference_mode()
    def run(self, images: np.ndarray) -> np.ndarray:
        self.check(images)
        x = torch.from_numpy(np.ascontiguousarray(images))
        if self._graphs is not None:
            return self._graphs.run(x, self.device).numpy()
        return self._network(x.to(self.device)).float().cpu().numpy()

    def close(self) -> None:
        if self._graphs is not None:
            self._graphs.forget()


class InFloat32(nn.Module):
    """A network of any precision that takes and gives float32: whoever runs an export need not know of the other."""

    def __init__(self, network: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.to(self.dtype)).float()


def images_at_once(record: Record, device: str, precision: str) -> int:
    """How many images a compiled network computes fastest; the network itself decides layer by layer (model.py)."""
    if device != "cpu":
        return 1 << 30
    first = record.config.stages(*record.preprocess.size)[0]
    widest = 4 * first.dim * first.grid[0] * first.grid[1]  # values of an image inside the MLP
    return max(1, CACHED_VALUES * 4 // (widest * DTYPES[precision].itemsize))


def open(
    source: str | os.PathLike[str], *, device: str, precision: str, threads: int | None = None
) -> TorchSession:
    """Open an artifact, a checkpoint of another library, or a published model by name.

    Args:
        threads: set for the whole process, as PyTorch has it.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    return TorchSession(load(source), device=device, precision=precision)


def unsupported(device: str, precision: str) -> str | None:
    """Why PyTorch cannot compute on this device here; None where it can."""
    if precision not in ("auto", *DTYPES, "fp8"):
        return f"torch computes in {', '.join((*DTYPES, 'fp8'))}, not in {precision!r}"
    if device == "auto" and precision != "fp8":
        return None
    device = fastest_device() if device == "auto" else device
    try:
        kind, index = torch.device(device).type, torch.device(device).index or 0
    except RuntimeError:
        return f"{device!r} is no device; give cpu, cuda, cuda:1, mps, ..."
    if kind == "cuda" and not torch.cuda.is_available():
        return "torch sees no CUDA device here; a CUDA build of torch and a driver are needed, or device cpu"
    if kind == "cuda" and index >= torch.cuda.device_count():
        return f"torch sees {torch.cuda.device_count()} CUDA devices here, and {device} is not among them"
    if kind == "mps" and not torch.backends.mps.is_available():
        return "torch sees no Apple GPU here; use device cpu"
    return float8.unsupported(device) if precision == "fp8" else None


def fastest_device() -> str:
    """What device "auto" means here."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
