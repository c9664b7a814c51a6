"""The kernels of products.py on tensors: tile sizes, and as operators of PyTorch."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from swinv2.ops.triton import products
from swinv2.ops.triton.launch import device_of

WIDEST_NORM = 512  # channels of a token that a program holds whole
MULTIPROCESSORS = 132  # of an H200: with fewer programs some have nothing to do


class Tile(NamedTuple):
    """Of a result, and how much of the sums a step takes."""

    tokens: int
    width: int
    depth: int
    num_warps: int
    num_stages: int


# Chosen so that next to nothing is spilled on sm_80 and sm_90 (tests/test_triton_compile.py); none was timed yet.
TILES = {
    "many": Tile(128, 128, 64, 8, 3),
    "few": Tile(64, 64, 64, 4, 4),
    "float32": Tile(64, 64, 32, 8, 2),
}
NORMED = {
    "narrow": Tile(64, 256, 32, 8, 3),
    "wide": Tile(32, 512, 32, 8, 3),
    "narrow float32": Tile(32, 256, 32, 8, 2),
    "wide float32": Tile(16, 512, 32, 8, 2),
}
# Of the end of a residual branch: as many tokens as fit, since a program reads all of the weights.
ADDED = {
    "narrow": Tile(128, 128, 64, 8, 2),
    "wide": Tile(128, 256, 64, 16, 2),
    "few, narrow": Tile(32, 128, 64, 4, 3),
    "few, wide": Tile(32, 256, 64, 8, 3),
}


def can_norm(channels: int) -> bool:
    """Whether one program can have all channels of a token that it makes."""
    return channels <= WIDEST_NORM


def tile(dtype: torch.dtype, tokens: int, outs: int, ins: int, *, norms: bool = False) -> Tile:
    """For a result [tokens, outs] from rows of ins channels in memory."""
    if norms:
        row = NORMED[("narrow" if outs <= 256 else "wide") + (" float32" if dtype == torch.float32 else "")]
    elif dtype == torch.float32:
        row = TILES["float32"]
    else:
        row = TILES["many"]
        if triton.cdiv(tokens, row.tokens) * triton.cdiv(outs, row.width) < MULTIPROCESSORS:
            row = TILES["few"]
    width = triton.next_power_of_2(outs)
    depth = row.depth if ins % row.depth == 0 else 32  # 96 channels are three steps of 32
    return row._replace(width=max(16, width if norms else min(row.width, width)), depth=depth)


def added_tile(dtype: torch.dtype, tokens: int, outs: int, ins: int) -> Tile:
    """For the end of a residual branch."""
    sizes = tile(dtype, tokens, outs, ins, norms=True)
    if dtype == torch.float32:
        return sizes
    row = "narrow" if outs <= 128 else "wide"
    if triton.cdiv(tokens, ADDED[row].tokens) < MULTIPROCESSORS:
        row = f"few, {row}"
    found = ADDED[row]
    return found._replace(width=sizes.width, depth=found.depth if ins % found.depth == 0 else 32)


def patch_tile(dtype: torch.dtype, tokens: int, outs: int, side: int, *, norms: bool) -> Tile:
    """For patches of side x side pixels: a step takes one colour of them."""
    places = triton.next_power_of_2(side * side)
    return tile(dtype, tokens, outs, side * side, norms=norms)._replace(depth=max(16, places))


def constants(sizes: Tile, dtype: torch.dtype, outs: int, ins: int) -> dict[str, Any]:
    """What a kernel is compiled for."""
    return {
        "C": ins, "OUTS": outs, "TOKENS": sizes.tokens, "WIDTH": sizes.width, "DEPTH": sizes.depth,
        "PRECISION": "tf32" if dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32 else "ieee",
        "num_warps": sizes.num_warps, "num_stages": sizes.num_stages,
    }  # fmt: skip


@torch.library.custom_op("swinv2::linear_gelu", mutates_args=())
def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor, keep_sums: bool) -> tuple[Tensor, Tensor]:
    """x [..., C], weight [outs, C] and bias [outs], contiguous and of one dtype -> [..., outs], and what GELU was taken
    of where it is to be kept."""
    outs, ins = weight.shape
    tokens, (out, sums) = x.numel() // ins, _activated(x, weight, keep_sums)
    sizes = tile(x.dtype, tokens, outs, ins)
    with device_of(x):
        products.linear_gelu[_grid(tokens, outs, sizes)](
            x, weight, bias, out, sums, tokens, KEEP_SUMS=keep_sums, **constants(sizes, x.dtype, outs, ins)
        )
    return out, sums


@linear_gelu.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, keep_sums: bool) -> tuple[Tensor, Tensor]:
    return _activated(x, weight, keep_sums)


def _activated(x: Tensor, weight: Tensor, keep_sums: bool) -> tuple[Tensor, Tensor]:
    shape = (*x.shape[:-1], weight.shape[0])
    return x.new_empty(shape), x.new_empty(shape if keep_sums else 0)


@torch.library.custom_op("swinv2::linear_gelu_backward", mutates_args=())
def linear_gelu_backward(grad: Tensor, weight: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
    """grad [..., C] of the layer after GELU, its weight [C, outs] and sums [..., outs], contiguous and of one dtype ->
    the gradients of sums and of the bias [outs] in them."""
    ins, outs = weight.shape
    tokens, dsums = grad.numel() // ins, torch.empty_like(sums)
    sizes = tile(grad.dtype, tokens, outs, ins)
    dbias = grad.new_empty(triton.cdiv(tokens, sizes.tokens), outs, dtype=torch.float32)
    with device_of(grad):
        products.of_sums[_grid(tokens, outs, sizes)](
            grad, weight, sums, dsums, dbias, tokens, **constants(sizes, grad.dtype, outs, ins)
        )
    return dsums, dbias.sum(0).to(grad.dtype)


@linear_gelu_backward.register_fake
def _(grad: Tensor, weight: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(sums), grad.new_empty(weight.shape[1])


@torch.library.custom_op("swinv2::add_normed", mutates_args=())
def add_normed(
    x: Tensor, inner: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor, eps: float
) -> Tensor:
    """x [..., outs], inner [..., ins] and weight [outs, ins] -> x + norm(inner @ weight.T + bias), all contiguous."""
    outs, ins = weight.shape
    out, tokens = torch.empty_like(x), x.numel() // outs
    sizes = added_tile(x.dtype, tokens, outs, ins)
    with device_of(x):
        products.add_normed[_grid(tokens, outs, sizes)](
            x, inner, weight, bias, scale, shift, out, tokens, eps=eps,
            **constants(sizes, x.dtype, outs, ins),
        )  # fmt: skip
    return out


@add_normed.register_fake
def _(
    x: Tensor, inner: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor, eps: float
) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("swinv2::merge", mutates_args=())
def merge(x: Tensor, weight: Tensor, scale: Tensor | None, shift: Tensor | None, eps: float) -> Tensor:
    """x [B, H, W, C] and weight [outs, 4C] -> [B, H/2, W/2, outs], normalised where scale and shift are given."""
    (B, H, W, C), outs, norms = x.shape, weight.shape[0], scale is not None
    out = x.new_empty(B, -(-H // 2), -(-W // 2), outs)
    tokens = out.numel() // outs
    sizes = tile(x.dtype, tokens, outs, C, norms=norms)
    with device_of(x):
        products.merge[_grid(tokens, outs, sizes)](
            x, weight, scale, shift, out, tokens, H, W, NORMS=norms, eps=eps,
            **constants(sizes, x.dtype, outs, C),
        )  # fmt: skip
    return out


@merge.register_fake
def _(x: Tensor, weight: Tensor, scale: Tensor | None, shift: Tensor | None, eps: float) -> Tensor:
    B, H, W, _ = x.shape
    return x.new_empty(B, (H + 1) // 2, (W + 1) // 2, weight.shape[0])


@torch.library.custom_op("swinv2::embed", mutates_args=())
def embed(
    image: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None, shift: Tensor | None, eps: float
) -> Tensor:
    """image [B, C, H, W] and weight [outs, C, side, side], channels first or last in memory, and bias [outs] ->
    [B, H/side, W/side, outs], normalised where scale and shift are given."""
    (_, C, H, W), (outs, _, side, _), norms = image.shape, weight.shape, scale is not None
    out = image.new_empty(_embedded(image, weight))
    tokens = out.numel() // outs
    sizes = patch_tile(image.dtype, tokens, outs, side, norms=norms)
    _, of_colour, _, of_place = weight.stride()
    with device_of(image):
        products.embed[_grid(tokens, outs, sizes)](
            image, weight, bias, scale, shift, out, tokens, H, W, of_colour, of_place,
            SIDE=side, NORMS=norms, eps=eps, **constants(sizes, image.dtype, outs, C),
        )  # fmt: skip
    return out


@embed.register_fake
def _(
    image: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None, shift: Tensor | None, eps: float
) -> Tensor:
    return image.new_empty(_embedded(image, weight))


def _embedded(image: Tensor, weight: Tensor) -> tuple[int, int, int, int]:
    """Shape of the map of tokens."""
    (B, _, H, W), (outs, _, side, _) = image.shape, weight.shape
    return B, (H + side - 1) // side, (W + side - 1) // side, outs


def _grid(tokens: int, outs: int, sizes: Tile) -> tuple[int]:
    return (triton.cdiv(tokens, sizes.tokens) * triton.cdiv(outs, sizes.width),)
