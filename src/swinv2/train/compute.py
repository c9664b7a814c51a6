"""Where a model trains and in which precision, and measuring it between two epochs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from swinv2.data.folder import DataError
from swinv2.data.loader import Batch
from swinv2.metrics import Measurement, Tally
from swinv2.runtimes.torch import unsupported


@dataclass(frozen=True)
class Compute:
    """A device and a precision: "fp32", or "bf16" by autocast."""

    device: torch.device
    precision: str

    @classmethod
    def of(cls, device: str = "auto", precision: str = "auto") -> Compute:
        """The device and precision that are asked for; auto takes an accelerator where there is one, and bf16
        where it is native.

        Raises:
            ValueError: a device that is not there.
        """
        if device == "auto":
            accelerator = torch.accelerator.current_accelerator(check_available=True)
            device = accelerator.type if accelerator and accelerator.type in ("cuda", "mps") else "cpu"
        if why := unsupported(device, "fp32"):
            raise ValueError(why)
        if precision == "auto":
            native = device.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False)
            precision = "bf16" if native else "fp32"
        return cls(torch.device(device), precision)

    def autocast(self) -> AbstractContextManager:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def send(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)

    def __str__(self) -> str:
        return f"{self.device} in {self.precision}"


@torch.inference_mode()
def measure(
    model: Callable[[Tensor], Tensor],
    batches: Iterable[Batch],
    classes: tuple[str, ...],
    on: Compute,
    on_batch: Callable[[int], None] = lambda images: None,
) -> Measurement:
    """Every picture once. Labels are ids of classes, which are in the order of the logits.

    Raises:
        DataError: a picture that cannot be read; no figure is given without it.
    """
    tally = Tally(classes)
    for batch in batches:
        if batch.unreadable:
            raise DataError(
                f"{batch.unreadable[0].reason}; nothing is measured without it: repair it or remove it"
            )
        with on.autocast():
            logits = model(on.send(batch.images))
        tally.add(logits.float().cpu().numpy(), batch.labels.numpy(), batch.indices.numpy())
        on_batch(len(batch.labels))
    return tally.measurement()
