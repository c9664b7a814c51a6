"""Products with what stands before and after them: the first layer of an MLP and its GELU, and patch merging.

By itself PyTorch writes the sums to memory before the GELU reads them, and copies four neighbours beside each other
before they are merged. At inference on a GPU one kernel each does neither (products.py in ops/triton).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swinv2.ops import triton


def linear_gelu(x: Tensor, layer: nn.Module, *, backend: str | None = None) -> Tensor:
    """gelu(layer(x)), with the exact GELU: [..., C] -> [..., outs].

    Args:
        layer: an nn.Linear with a bias; in eager mode anything.
        backend: "eager" or "triton", which runs or raises; None chooses.
    """
    if _backend(backend, x, layer) == "eager":
        return F.gelu(layer(x))
    assert isinstance(layer, nn.Linear)
    return torch.ops.swinv2.linear_gelu(x.contiguous(), layer.weight, layer.bias)  # type: ignore[no-any-return]


def merge(x: Tensor, reduction: nn.Module, norm: nn.Module, *, backend: str | None = None) -> Tensor:
    """norm(reduction(four neighbours)): [B, H, W, C] -> [B, H/2, W/2, outs]; an odd side is padded with zeros.

    Args:
        reduction: an nn.Linear of 4C channels without a bias, norm: an nn.LayerNorm; in eager mode anything.
        backend: "eager" or "triton", which runs or raises; None chooses.
    """
    if _backend(backend, x, reduction, norm) == "eager":
        return norm(reduction(merge_patches(x)))  # type: ignore[no-any-return]
    assert isinstance(reduction, nn.Linear)
    assert isinstance(norm, nn.LayerNorm)
    from swinv2.ops.triton.products_op import can_norm

    fits = can_norm(reduction.out_features)
    scale, shift = (norm.weight, norm.bias) if fits else (None, None)
    merged = torch.ops.swinv2.merge(x.contiguous(), reduction.weight, scale, shift, norm.eps)
    return merged if fits else norm(merged)  # type: ignore[no-any-return]


def merge_patches(x: Tensor) -> Tensor:
    """[B, H, W, C] -> [B, H/2, W/2, 4C], the four neighbours in the official order: (0,0), (1,0), (0,1), (1,1)."""
    B, H, W, C = x.shape
    if H % 2 or W % 2:
        x = F.pad(x, (0, 0, 0, W % 2, 0, H % 2))
    x = x.view(B, (H + 1) // 2, 2, (W + 1) // 2, 2, C).permute(0, 1, 3, 4, 2, 5)  # rows vary fastest
    return x.reshape(B, (H + 1) // 2, (W + 1) // 2, 4 * C)


def _backend(named: str | None, x: Tensor, *layers: nn.Module) -> str:
    if named == "eager" or (named is None and not is_chosen(x, *layers)):
        return "eager"
    if named is not None and (why := unsupported(x, *layers)):
        raise ValueError(f"product back end triton cannot run this: {why}")
    return "triton"


def is_chosen(x: Tensor, *layers: nn.Module) -> bool:
    """Whether our kernels compute where nobody names a back end."""
    if not (triton.IS_CHOSEN and x.is_cuda) or torch.jit.is_tracing() or torch.compiler.is_exporting():
        return False
    # Without tensor cores the product takes so long that what it saves of memory's time is nothing.
    fast = x.dtype != torch.float32 or torch.backends.cuda.matmul.allow_tf32
    return fast and unsupported(x, *layers) is None


def unsupported(x: Tensor, *layers: nn.Module) -> str | None:
    if x.dtype not in triton.DTYPES:
        return f"needs torch.float32, bfloat16 or float16, got {x.dtype}"
    if torch.is_autocast_enabled(x.device.type):
        return "autocast is on"
    first = layers[0]
    if not isinstance(first, nn.Linear) or (first.bias is None) != (len(layers) == 2):
        return f"needs an nn.Linear, with a bias before a GELU and without one for merging, got {first}"
    for layer in layers:
        if layer._forward_hooks or layer._forward_pre_hooks:
            return "somebody watches a layer alone"
        for weight in layer.parameters():
            if weight.dtype != x.dtype:
                return f"weights are {weight.dtype}, and what goes in is {x.dtype}"
            if torch.is_grad_enabled() and weight.requires_grad:
                return "has no gradients: use torch.no_grad(), or a folded model"
    if torch.is_grad_enabled() and x.requires_grad:
        return "has no gradients: use torch.no_grad()"
    return triton.refusal(x.device.type, x.device.index)
