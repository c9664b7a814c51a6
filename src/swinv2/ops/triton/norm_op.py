"""The kernels of norm.py on tensors, and as operators of PyTorch."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from swinv2.ops.triton import norm
from swinv2.ops.triton.launch import device_of

VALUES = 4096  # of a tile
PROGRAMS = 1024  # whose sums over tokens are added afterwards


def tile(channels: int) -> dict[str, int]:
    padded = triton.next_power_of_2(channels)
    return {"C": channels, "CHANNELS": padded, "TOKENS": max(1, VALUES // padded), "num_warps": 8}


@torch.library.custom_op("swinv2::add_norm", mutates_args=())
def add_norm(
    x: Tensor, branch: Tensor, weight: Tensor, shift: Tensor, keep: Tensor | None, eps: float,
    keep_sums: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """x, branch [B, ..., C] and keep [B], all contiguous -> out, means and 1 / deviations of the tokens."""
    sizes, tokens = tile(x.shape[-1]), x.numel() // x.shape[-1]
    out = torch.empty_like(x)
    means, inverses = (x.new_empty(tokens if keep_sums else 0, dtype=torch.float32) for _ in range(2))
    with device_of(x):
        norm.add[(triton.cdiv(tokens, sizes["TOKENS"]),)](
            x, branch, weight, shift, keep, out, means, inverses, tokens, tokens // x.shape[0],
            eps=eps, DROPS=keep is not None, KEEP_SUMS=keep_sums, **sizes,
        )  # fmt: skip
    return out, means, inverses


@add_norm.register_fake
def _(
    x: Tensor, branch: Tensor, weight: Tensor, shift: Tensor, keep: Tensor | None, eps: float,
    keep_sums: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    tokens = x.numel() // x.shape[-1] if keep_sums else 0
    means, inverses = (x.new_empty(tokens, dtype=torch.float32) for _ in range(2))
    return torch.empty_like(x), means, inverses


@torch.library.custom_op("swinv2::add_norm_backward", mutates_args=())
def add_norm_backward(
    grad: Tensor, branch: Tensor, weight: Tensor, keep: Tensor | None, means: Tensor, inverses: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of branch, weight and shift."""
    grad, sizes, tokens = grad.contiguous(), tile(branch.shape[-1]), means.numel()
    tiles = triton.cdiv(tokens, sizes["TOKENS"])
    programs = min(tiles, PROGRAMS)
    dbranch = torch.empty_like(branch)
    dweight, dshift = (means.new_empty(programs, branch.shape[-1]) for _ in range(2))
    with device_of(branch):
        norm.of_branch[(programs,)](
            grad, branch, weight, keep, means, inverses, dbranch, dweight, dshift,
            tokens, tokens // branch.shape[0], tiles, programs, DROPS=keep is not None, **sizes,
        )  # fmt: skip
    return dbranch, dweight.sum(0).to(weight.dtype), dshift.sum(0).to(weight.dtype)


@add_norm_backward.register_fake
def _(
    grad: Tensor, branch: Tensor, weight: Tensor, keep: Tensor | None, means: Tensor, inverses: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(branch), torch.empty_like(weight), torch.empty_like(weight)


def _keep(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    _, branch, weight, _, keep, _, keep_sums = inputs
    assert keep_sums, "gradients need means and deviations"
    ctx.save_for_backward(branch, weight, keep, *output[1:])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 7
    of_others = torch.ops.swinv2.add_norm_backward(grad, *ctx.saved_tensors)
    return grad, *of_others, None, None, None


add_norm.register_autograd(_backward, setup_context=_keep)
