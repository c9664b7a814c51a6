"""The kernels on tensors: geometry, tile sizes and grids."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from torch.library import wrap_triton

from swinv2.config import Pair
from swinv2.ops.reference import REGION_PENALTY
from swinv2.ops.triton import backward, small
from swinv2.ops.triton.forward import attend as attend_kernel
from swinv2.ops.windows import padded

PROGRAMS = 1024  # into which sums over all windows are divided, where there are as many of these


class Tiles(NamedTuple):
    """Places of a window that a program takes at a time, and how it runs."""

    queries: int
    keys: int
    num_warps: int
    num_stages: int


# Chosen so that next to nothing is spilled on sm_80 and sm_90 (tests/test_triton_compile.py); none was timed yet.
FORWARD = {
    "exact": Tiles(64, 64, 4, 1),  # the window is one tile: nothing to overlap
    "other": Tiles(64, 64, 4, 2),
    "float32": Tiles(16, 32, 4, 1),
}
BACKWARD = {
    "exact": Tiles(64, 64, 8, 1),
    "other": Tiles(64, 32, 4, 2),
    "float32": Tiles(32, 32, 8, 1),
}


def tiles(table: dict[str, Tiles], dtype: torch.dtype, window: Pair) -> Tiles:
    tokens = window[0] * window[1]
    row = table["float32" if dtype == torch.float32 else "exact" if tokens in (16, 32, 64) else "other"]
    most = max(16, triton.next_power_of_2(tokens))  # a product of matrices has at least 16 rows
    return row._replace(queries=min(row.queries, most), keys=min(row.keys, most))


def is_one_tile(window: Pair, sizes: Tiles) -> bool:
    return window[0] * window[1] == sizes.queries == sizes.keys


class Windows(NamedTuple):
    """The windows of a map [B, H, W, 3C] and what the kernels are told of them."""

    images: int
    size: Pair
    counts: Pair  # of windows, down and across
    window: Pair
    shift: Pair
    heads: int
    head_dim: int

    @classmethod
    def of(cls, qkv: Tensor, heads: int, window: Pair, shift: Pair) -> Windows:
        B, H, W, C3 = qkv.shape
        rows, cols = padded((H, W), window)
        return cls(B, (H, W), (rows // window[0], cols // window[1]), window, shift, heads, C3 // 3 // heads)

    @property
    def items(self) -> int:
        """Windows of the whole batch."""
        return self.images * math.prod(self.counts)

    def numbers(self) -> tuple[int, ...]:
        return (*self.size, *self.counts, *self.shift, self.heads)

    def constants(self, bias: Tensor, tiles: Tiles, dtype: torch.dtype) -> dict[str, Any]:
        """What a kernel is compiled for."""
        has_padding = padded(self.size, self.window) != self.size
        tokens = math.prod(self.window)
        return {
            "ROWS": self.window[0], "COLS": self.window[1], "d": self.head_dim,
            "QUERIES": tiles.queries, "KEYS": tiles.keys,
            "BIAS_OF_WINDOW": bias.ndim == 4,
            "REGIONS": bias.ndim == 3 and self.shift != (0, 0),  # a bias for every window holds the mask
            "PENALTY": -math.inf if has_padding else REGION_PENALTY / math.log(2),
            "RAGGED": has_padding or tokens % tiles.queries != 0 or tokens % tiles.keys != 0,
            "PRECISION": "tf32" if dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32 else "ieee",
            "num_warps": tiles.num_warps, "num_stages": tiles.num_stages,
        }  # fmt: skip


def attend(
    qkv: Tensor, scale: Tensor, bias: Tensor, windows: Windows, *, keep_sums: bool
) -> tuple[Tensor, Tensor]:
    """out [B, H, W, C], and for the backward pass log2 of the softmax's sums [B*n, h, N] (or nothing, [0])."""
    h, N = windows.heads, math.prod(windows.window)
    out = qkv.new_empty(*qkv.shape[:3], qkv.shape[3] // 3)
    sums = scale.new_empty((windows.items, h, N) if keep_sums else (0,))
    sizes = tiles(FORWARD, qkv.dtype, windows.window)
    grid = (windows.items * h * triton.cdiv(N, sizes.queries),)
    with device_of(qkv):
        # By its name and wrapped, a compiler sees it; in the interpreter it is what it was.
        wrap_triton(attend_kernel)[grid](
            qkv, scale, bias, out, sums, *windows.numbers(),
            KEEP_SUMS=keep_sums, **windows.constants(bias, sizes, qkv.dtype),
        )  # fmt: skip
    return out, sums


def gradients(
    grad: Tensor, qkv: Tensor, scale: Tensor, bias: Tensor, out: Tensor, sums: Tensor, windows: Windows,
    *, of_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Of qkv, scale [h] and bias (nothing, [0], where it is not asked for)."""
    h, N, items = windows.heads, math.prod(windows.window), windows.items
    sizes = tiles(BACKWARD, qkv.dtype, windows.window)
    down, across = triton.cdiv(N, sizes.queries), triton.cdiv(N, sizes.keys)
    groups = math.prod(windows.counts) if bias.ndim == 4 else 1  # biases: windows of a group share one
    shares = max(1, min(items // groups, PROGRAMS // (groups * h * down * across)))
    numbers, constants = windows.numbers(), windows.constants(bias, sizes, qkv.dtype)
    dqkv = torch.empty_like(qkv)
    dbias = scale.new_empty((shares, *bias.shape) if of_bias else (0,))
    with device_of(qkv):
        if is_one_tile(windows.window, sizes):
            dscale = scale.new_empty(shares * groups, h)
            small.gradients[(shares * groups * h,)](
                qkv, scale, bias, sums, grad, dqkv, dscale, dbias, items, shares, *numbers,
                OF_BIAS=of_bias, **constants,
            )  # fmt: skip
        else:
            deltas, dscale = torch.empty_like(sums), scale.new_empty(items * down, h)
            backward.of_queries[(items * h * down,)](
                qkv, scale, bias, out, sums, grad, dqkv, deltas, dscale, *numbers, **constants
            )
            backward.of_keys[(items * h * across,)](
                qkv, scale, bias, sums, grad, deltas, dqkv, *numbers, **constants
            )
            if of_bias:
                backward.of_bias[(shares * groups * h * down * across,)](
                    qkv, scale, bias, sums, grad, deltas, dbias, items, shares, *numbers, **constants
                )
    return dqkv, dscale.sum(0), dbias.sum(0).to(bias.dtype) if of_bias else bias.new_empty(0)


def device_of(tensor: Tensor) -> AbstractContextManager:
    """Triton launches on the current device. Not cuda: its interpreter; another type: a compiler, which sees to it."""
    is_real = type(tensor) in (Tensor, torch.nn.Parameter)
    return torch.cuda.device(tensor.device) if tensor.is_cuda and is_real else nullcontext()
