"""The end of a residual branch: x + keep * LayerNorm(branch) (residual post-norm, section 3.2 of the paper).

One kernel on a GPU in eager mode; a compiler fuses the three operations by itself, and a CPU gains nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from swinv2.ops import triton

MOST_CHANNELS = 8192  # of a token, which one program holds whole


def add_norm(
    x: Tensor, branch: Tensor, norm: nn.Module, keep: Tensor | None = None, *, backend: str | None = None
) -> Tensor:
    """x + norm(branch), or x + norm(branch) * keep, in the dtype of x.

    Args:
        x, branch: [B, H, W, C].
        norm: an nn.LayerNorm of C channels with weight and bias; in eager mode anything.
        keep: [B], what the branch of every image is multiplied with.
        backend: "eager" or "triton", which runs or raises; None chooses.
    """
    if backend is None:
        by_itself = x.is_cuda and not torch.compiler.is_compiling() and not torch.jit.is_tracing()
        backend = "triton" if triton.IS_CHOSEN and by_itself and not unsupported(x, branch, norm) else "eager"
    if backend == "eager":
        branch = norm(branch)
        if keep is None:
            return (x + branch).to(x.dtype)
        return torch.addcmul(x, branch, keep.to(branch.dtype).view(-1, 1, 1, 1)).to(x.dtype)
    if why := unsupported(x, branch, norm):
        raise ValueError(f"residual back end triton cannot run this: {why}")
    assert isinstance(norm, nn.LayerNorm)
    leaves = (x, branch, norm.weight, norm.bias)
    needs_grad = torch.is_grad_enabled() and any(leaf.requires_grad for leaf in leaves)
    out, _, _ = torch.ops.swinv2.add_norm(
        x.contiguous(), branch.contiguous(), norm.weight, norm.bias, keep, norm.eps, needs_grad
    )
    return out


def unsupported(x: Tensor, branch: Tensor, norm: nn.Module) -> str | None:
    if not {x.dtype, branch.dtype} <= set(triton.DTYPES):
        return f"needs torch.float32, bfloat16 or float16, got {x.dtype} and {branch.dtype}"
    if x.shape[-1] > MOST_CHANNELS:
        return f"{x.shape[-1]} channels are more than {MOST_CHANNELS}"
    if not isinstance(norm, nn.LayerNorm) or norm.weight is None or norm.bias is None:
        return f"needs an nn.LayerNorm with weight and bias, got {norm}"
    if norm._forward_hooks or norm._forward_pre_hooks:
        return "somebody watches the norm alone"
    return triton.refusal(x.device.type, x.device.index)
