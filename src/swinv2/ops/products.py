"""Products with what stands before and after them: an MLP's first layer and its GELU, the last layer of a residual
branch with its norm and the sum, patch merging, patch embedding.

By itself PyTorch writes the sums to memory before a GELU or a norm reads them, copies four neighbours beside each other
before they are merged, and images into another order before they are embedded. At inference on a GPU one kernel each
does none of that (products.py in ops/triton).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swinv2.linear import Linear
from swinv2.ops import triton
from swinv2.ops.residual import add_norm


class Needs(NamedTuple):
    """The layer whose product a kernel computes. One of these types and no other: another one may do more."""

    types: tuple[type[nn.Module], ...]
    bias: bool
    words: str
    most: int = 1 << 30  # channels that come out


LINEAR = Needs((nn.Linear, Linear), True, "an nn.Linear with a bias")
MERGE = Needs((nn.Linear, Linear), False, "an nn.Linear without a bias")
# One program has all channels of a token, and with more it multiplies too slowly.
BRANCH = Needs((nn.Linear, Linear), True, "an nn.Linear with a bias, to at most 256 channels", most=256)
EMBED = Needs((nn.Conv2d,), True, "an nn.Conv2d with a bias, square and as wide as its stride")


def linear_gelu(x: Tensor, layer: nn.Module, *, backend: str | None = None) -> Tensor:
    """gelu(layer(x)), with the exact GELU: [..., C] -> [..., outs].

    Args:
        layer: an nn.Linear with a bias; in eager mode anything.
        backend: "eager" or "triton", which runs or raises; None chooses.
    """
    if _backend(backend, LINEAR, x, layer) == "eager":
        return F.gelu(layer(x))
    out, _ = torch.ops.swinv2.linear_gelu(x.contiguous(), layer.weight, layer.bias, False)
    return out  # type: ignore[no-any-return]


def add_normed(
    x: Tensor, inner: Tensor, layer: nn.Module, norm: nn.Module, *, backend: str | None = None
) -> Tensor:
    """x + norm(layer(inner)), the end of a residual branch: x [..., C], inner [..., ins] -> [..., C].

    Args:
        layer: an nn.Linear with a bias to at most 256 channels, norm: an nn.LayerNorm; in eager mode anything.
        backend: "eager" or "triton", which runs or raises; None chooses.
    """
    if _backend(backend, BRANCH, x, layer, norm) == "eager":
        return add_norm(x, layer(inner), norm, backend=backend)
    assert isinstance(norm, nn.LayerNorm)
    return torch.ops.swinv2.add_normed(  # type: ignore[no-any-return]
        x.contiguous(), inner.contiguous(), layer.weight, layer.bias, norm.weight, norm.bias, norm.eps
    )


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
    return may_choose(x) and is_fast(x.dtype) and unsupported(needs, x, *layers) is None


def may_choose(x: Tensor) -> bool:
    """Whether anybody chooses our kernels where x is."""
    return triton.IS_CHOSEN and x.is_cuda and not (torch.jit.is_tracing() or torch.compiler.is_exporting())


def is_fast(dtype: torch.dtype) -> bool:
    """Without tensor cores a product takes so long that what our kernels save of memory's time is nothing."""
    return dtype != torch.float32 or torch.backends.cuda.matmul.allow_tf32


def unsupported(needs: Needs, x: Tensor, *layers: nn.Module) -> str | None:
    if x.dtype not in triton.DTYPES:
        return f"needs torch.float32, bfloat16 or float16, got {x.dtype}"
    if torch.is_autocast_enabled(x.device.type):
        return "autocast is on"
    if why := is_other_than(needs, layers[0]):
        return why
    for layer in layers:
        if is_watched(layer):
            return "somebody watches a layer alone"
        for weight in layer.parameters():
            if weight.dtype != x.dtype:
                return f"weights are {weight.dtype}, and what goes in is {x.dtype}"
            if torch.is_grad_enabled() and weight.requires_grad:
                return "has no gradients: use torch.no_grad(), or a folded model"
    if torch.is_grad_enabled() and x.requires_grad:
        return "has no gradients: use torch.no_grad()"
    return triton.refusal(x.device.type, x.device.index)


def is_other_than(needs: Needs, layer: nn.Module) -> str | None:
    """Why the product of a layer is not what a kernel computes, in words."""
    is_it = type(layer) in needs.types and (layer.bias is not None) == needs.bias and _is_of_patches(layer)
    if is_it and len(layer.get_parameter("weight")) <= needs.most:
        return None
    return f"needs {needs.words}, got {layer}"


def is_watched(layer: nn.Module) -> bool:
    """Whether it has hooks, which want to see the layer itself run."""
    return bool(layer._forward_hooks or layer._forward_pre_hooks)


def _is_of_patches(layer: nn.Module) -> bool:
    """Whether a convolution takes every pixel once, and nothing but the image."""
    if not isinstance(layer, nn.Conv2d):
        return True
    is_square = layer.kernel_size == layer.stride and layer.stride[0] == layer.stride[1]
    plain = (layer.padding, layer.dilation, layer.groups) == ((0, 0), (1, 1), 1)
    lies = layer.weight.is_contiguous() or layer.weight.is_contiguous(memory_format=torch.channels_last)
    return is_square and plain and lies
