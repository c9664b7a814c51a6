"""Rows of a map in float8 (E4M3) by one kernel, each with a scale of its own; swinv2/float8.py says what for.

A program takes some rows whole: it reads 2 bytes a value and writes 1, where the operations one by one move about 20.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from swinv2.ops.triton.launch import device_of

VALUES = 4096  # of a tile
LARGEST = tl.constexpr(448.0)  # of E4M3
SMALLEST = tl.constexpr(1e-12)  # of a scale: a row of zeros stays one


# x [rows, C] -> rounded [rows, C] in float8, scales [rows], float32
@triton.jit
def round_tile(
    x, rounded, scales, rows, C: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS).to(tl.int64)
    channel = tl.arange(0, CHANNELS)
    places = row[:, None] * C + channel[None, :]
    inside = (row < rows)[:, None] & (channel < C)[None, :]
    values = tl.load(x + places, mask=inside, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(values), axis=1) / LARGEST, SMALLEST)
    tl.store(rounded + places, (values / scale[:, None]).to(rounded.dtype.element_ty), mask=inside)
    tl.store(scales + row, scale, mask=row < rows)


def tile(channels: int) -> dict[str, int]:
    padded = triton.next_power_of_2(channels)
    return {"C": channels, "CHANNELS": padded, "ROWS": max(1, VALUES // padded), "num_warps": 8}


@torch.library.custom_op("swinv2::round_rows", mutates_args=())
def round_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [rows, C], contiguous -> the same in float8, and scales [rows, 1] in float32 that multiply it."""
    rows, channels = x.shape
    rounded, scales = (
        torch.empty_like(x, dtype=torch.float8_e4m3fn),
        x.new_empty(rows, 1, dtype=torch.float32),
    )
    sizes = tile(channels)
    with device_of(x):
        round_tile[(triton.cdiv(rows, sizes["ROWS"]),)](x, rounded, scales, rows, **sizes)
    return rounded, scales


@round_rows.register_fake
def _(x: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x, dtype=torch.float8_e4m3fn), x.new_empty(x.shape[0], 1, dtype=torch.float32)
