"""Where a model trains and in which precision, and how long and how much memory that takes."""

from __future__ import annotations

import os
import sys
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType

import torch
from torch import Tensor

from swinv2 import world
from swinv2.data.loader import Batch
from swinv2.runtimes.torch import unsupported

_AUTOCAST = {"bf16": torch.bfloat16, "bf16_all": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Compute:
    """A device and a precision: "fp32", or "bf16", "bf16_all" and "fp16" by autocast."""

    device: torch.device
    precision: str

    @classmethod
    def of(cls, device: str = "auto", precision: str = "auto") -> Compute:
        """The device and precision that are asked for; auto takes an accelerator where there is one, and bf16
        where it is native. Of several processes on a machine, each takes a GPU of its own.

        Raises:
            ValueError: a device that is not there.
        """
        if device == "auto":
            accelerator = torch.accelerator.current_accelerator(check_available=True)
            device = accelerator.type if accelerator and accelerator.type in ("cuda", "mps") else "cpu"
        if device == "cuda":
            device = f"cuda:{world.current().local_rank}"
        if why := unsupported(device, "fp32"):
            raise ValueError(why)
        if device.startswith("cuda"):
            torch.cuda.set_device(device)
        if precision == "auto":
            native = device.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False)
            precision = "bf16" if native else "fp32"
        return cls(torch.device(device), precision)

    @property
    def kind(self) -> str:
        """cpu, cuda, mps."""
        return self.device.type

    def autocast(self) -> AbstractContextManager:
        dtype = _AUTOCAST.get(self.precision)
        return torch.autocast(self.kind, dtype, enabled=dtype is not None)

    def scaler(self) -> torch.amp.GradScaler:
        """Scales the loss so that small gradients are not lost in fp16; does nothing in other precisions."""
        return torch.amp.GradScaler(self.kind, enabled=self.precision == "fp16")

    def send(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)

    def send_batch(self, batch: Batch) -> Batch:
        """The batch with pictures and labels on the device."""
        return batch._replace(images=self.send(batch.images), labels=self.send(batch.labels))

    def memory_mb(self) -> float:
        """The most memory that was in use so far: of the device, or of this process on a CPU."""
        if self.kind == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes there, kilobytes elsewhere

    def __str__(self) -> str:
        return f"{self.device} in {self.precision}"


class Stopwatch:
    """Seconds that work takes on a device, as a context manager.

    A GPU works while Python goes on: read seconds after the device has been waited for.
    """

    def __init__(self, on: Compute):
        self.on_gpu = on.kind == "cuda"
        self._began = self._ended = 0.0

    def __enter__(self) -> Stopwatch:
        if self.on_gpu:
            self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            self._events[0].record()
        self._began = time.perf_counter()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended = time.perf_counter()
        if self.on_gpu:
            self._events[1].record()

    @property
    def seconds(self) -> float:
        if self.on_gpu:
            return self._events[0].elapsed_time(self._events[1]) / 1000
        return self._ended - self._began


def be_deterministic() -> None:
    """Only kernels that give the same bits each time; an operation without one is an error that names it."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
