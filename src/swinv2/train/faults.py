"""What goes wrong in a step: a loss or gradient that is no number, and memory that does not suffice."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

SHOWN = 4  # files of a batch that a message names


class Diverged(ValueError):
    """The loss or the gradient is no longer a number.

    Args:
        files: of the batch.
    """

    def __init__(self, said: str, files: Sequence[str] = ()):
        super().__init__(said)
        self.files = list(files)


class OutOfMemory(MemoryError):
    """The device has not enough memory; the sentence says what would help."""


def diverged(
    step: int, loss: float, norm: float, lr: float, *, skipped: int, where: str, files: Sequence[str]
) -> Diverged:
    """The end of a run that has skipped too many steps.

    Args:
        step: counted from 1.
        skipped: steps of this kind, with this one.
        where: what first_nonfinite() found.
        files: of the batch.
    """
    what = f"loss is {loss}" if not math.isfinite(loss) else f"gradient norm is {norm} (loss {loss:.4g})"
    more = f" and {len(files) - SHOWN} more (summary.json)" if len(files) > SHOWN else ""
    before = f", after {skipped - 1} such steps that were skipped" if skipped > 1 else ""
    return Diverged(
        f"step {step}: {what} at a learning rate of {lr:.3g}{before}; {where}, in a batch of "
        f"{', '.join(files[:SHOWN])}{more}; the weights before it are kept. Try a lower --lr, a longer "
        f"--warmup-epochs, or --precision fp32",
        files,
    )


def first_nonfinite(network: nn.Module, forward: Callable[[], Any]) -> str:
    """Which module is the first whose output is no number, in words.

    Args:
        forward: repeats the forward pass of the step, on the network itself. Its gradients are still there.
    """
    found: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def after(module: nn.Module, given: Any, output: Any) -> None:
            if not found and not all(t.isfinite().all() for t in tensors_in(output)):
                found.append(name)

        return after

    handles = [module.register_forward_hook(watch(name)) for name, module in network.named_modules() if name]
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            forward()
    finally:
        for handle in handles:
            handle.remove()
    if found:
        return f"{found[0]} is the first module with such an output"
    # The backward pass comes from the end: what it meets first is last in the order of the modules.
    broken = [
        name
        for name, p in network.named_parameters()
        if p.grad is not None and not _here(p.grad).isfinite().all()
    ]
    return f"{broken[-1]} is the first with such a gradient" if broken else "every module's output is finite"


def _here(tensor: Tensor) -> Tensor:
    """The share of this process, where a tensor is divided."""
    local = getattr(tensor, "to_local", None)
    return tensor if local is None else local()


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in what a module returns."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors_in(part)


def nonfinite(weights: Mapping[str, Tensor]) -> str | None:
    """The first tensor with a value that is no number; None where there is none."""
    return next((name for name, t in weights.items() if not t.isfinite().all()), None)


def is_out_of_memory(error: BaseException) -> bool:
    """torch says it with a class of its own on a GPU and with a RuntimeError on a CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )
