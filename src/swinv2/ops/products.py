"""Products with what stands before and after them: an MLP's first layer and its GELU, patch merging, patch embedding.

By itself PyTorch writes the sums to memory before a GELU or a norm reads them, copies four neighbours beside each other
before they are merged, and images into another order before they are embedded. At inference on a GPU one kernel each
does none of that (products.py in ops/triton).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swinv2.ops import triton


class Needs(NamedTuple):
    """The layer whose product a kernel computes."""

    kind: type[nn.Linear] | type[nn.Conv2d]
    bias: bool
    words: str


GELU = Needs(nn.Linear, True, "an nn.Linear with a bias")
MERGE = Needs(nn.Linear, False, "an nn.Linear without a bias")
EMBED = Needs(nn.Conv2d, True, "an nn.Conv2d with a bias, square and as wide as its stride")


def linear_gelu(x: Tensor, layer: nn.Module, *, backend: str | None = None) -> Tensor:
    """gelu(layer(x)), with the exact GELU: [..., C] -> [..., outs].

    Args:
        layer: an nn.Linear with a bias; in eager mode anything.
        backend: "eager" or "triton", which runs or raises; None chooses.
    """
    if _backend(backend, GELU, x, layer) == "eager":
        return F.gelu(layer(x))
    return torch.ops.swinv2.linear_gelu(x.contiguous(), layer.weight, layer.bias)  # type: ignore[no-any-return]


def merge(x: Tensor, reduction: nn.Module, norm: nn.Module, *, backend: str | None = None) -> Tensor:
    """norm(reduction(four neighbours)): [B, H, W, C] -> [B, H/2, W/2, outs]; an odd side is padded with zeros.

    Args:
        reduction: an nn.Linear of 4C channels without a bias, norm: an nn.LayerNorm; in eager mode anything.
        backend: "eager" or "triton", which runs or raises; None chooses.
    """
    if _backend(backend, MERGE, x, reduction, norm) == "eager":
        return norm(reduction(merge_patches(x)))  # type: ignore[no-any-return]
    scale, shift = _inside(norm)
    merged = torch.ops.swinv2.merge(x.contiguous(), reduction.weight, scale, shift, norm.eps)
    return norm(merged) if scale is None else merged  # type: ignore[no-any-return]


def embed(x: Tensor, proj: nn.Conv2d, norm: nn.Module, *, backend: str | None = None) -> Tensor:
    """norm(proj(patches)): images [B, C, H, W] -> [B, H/side, W/side, outs]; sides are padded right and bottom.

    Args:
        proj: an nn.Conv2d with a bias, whose kernel is its stride, side x side; norm: an nn.LayerNorm.
        backend: "eager" or "triton", which runs or raises; None chooses.
    """
    if _backend(backend, EMBED, x, proj, norm) == "eager":
        return norm(proj(pad_to_multiple(x, proj.stride[0])).permute(0, 2, 3, 1))  # type: ignore[no-any-return]
    scale, shift = _inside(norm)
    tokens = torch.ops.swinv2.embed(x.contiguous(), proj.weight, proj.bias, scale, shift, norm.eps)
    return norm(tokens) if scale is None else tokens  # type: ignore[no-any-return]


def merge_patches(x: Tensor) -> Tensor:
    """[B, H, W, C] -> [B, H/2, W/2, 4C], the four neighbours in the official order: (0,0), (1,0), (0,1), (1,1)."""
    B, H, W, C = x.shape
    if H % 2 or W % 2:
        x = F.pad(x, (0, 0, 0, W % 2, 0, H % 2))
    x = x.view(B, (H + 1) // 2, 2, (W + 1) // 2, 2, C).permute(0, 1, 3, 4, 2, 5)  # rows vary fastest
    return x.reshape(B, (H + 1) // 2, (W + 1) // 2, 4 * C)


def pad_to_multiple(x: Tensor, side: int) -> Tensor:
    """[B, C, H, W], with zeros right and bottom until both sides are multiples of side."""
    right, bottom = -x.shape[3] % side, -x.shape[2] % side
    return F.pad(x, (0, right, 0, bottom)) if right or bottom else x  # F.pad by nothing still copies


def _inside(norm: nn.Module) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Scale and shift for a kernel that normalises what it makes; nothing where a token is too wide for one program."""
    from swinv2.ops.triton.products_op import can_norm

    assert isinstance(norm, nn.LayerNorm)
    return (norm.weight, norm.bias) if can_norm(norm.normalized_shape[0]) else (None, None)


def _backend(named: str | None, needs: Needs, x: Tensor, *layers: nn.Module) -> str:
    if named == "eager" or (named is None and not is_chosen(needs, x, *layers)):
        return "eager"
    if named is not None and (why := unsupported(needs, x, *layers)):
        raise ValueError(f"product back end triton cannot run this: {why}")
    return "triton"


def is_chosen(needs: Needs, x: Tensor, *layers: nn.Module) -> bool:
    """Whether our kernels compute where nobody names a back end."""
    if not (triton.IS_CHOSEN and x.is_cuda) or torch.jit.is_tracing() or torch.compiler.is_exporting():
        return False
    # Without tensor cores the product takes so long that what it saves of memory's time is nothing.
    fast = x.dtype != torch.float32 or torch.backends.cuda.matmul.allow_tf32
    return fast and unsupported(needs, x, *layers) is None


def unsupported(needs: Needs, x: Tensor, *layers: nn.Module) -> str | None:
    if x.dtype not in triton.DTYPES:
        return f"needs torch.float32, bfloat16 or float16, got {x.dtype}"
    if torch.is_autocast_enabled(x.device.type):
        return "autocast is on"
    first = layers[0]
    if not isinstance(first, needs.kind) or (first.bias is None) == needs.bias or not _is_of_patches(first):
        return f"needs {needs.words}, got {first}"
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


def _is_of_patches(layer: nn.Module) -> bool:
    """Whether a convolution takes every pixel once, and nothing but the image."""
    if not isinstance(layer, nn.Conv2d):
        return True
    is_square = layer.kernel_size == layer.stride and layer.stride[0] == layer.stride[1]
    plain = (layer.padding, layer.dilation, layer.groups) == ((0, 0), (1, 1), 1)
    lies = layer.weight.is_contiguous() or layer.weight.is_contiguous(memory_format=torch.channels_last)
    return is_square and plain and lies
