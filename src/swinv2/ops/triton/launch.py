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
from swinv2.ops.triton import backward
from swinv2.ops.triton.forward import attend as attend_kernel
from swinv2.ops.triton.small import attend_tile, tile_gradients
from swinv2.ops.windows import padded

PROGRAMS = 1024  # into which sums over all windows are divided, where there are as many of these
WAVES = 4096  # programs that the images of windows of one tile are divided between: some for every place of a device
ODD_IN_PAIRS = 16  # images: from here on one more does not matter


class Tiles(NamedTuple):
    """Places of a window that a program takes at a time, and how it runs."""

    queries: int
    keys: int
    num_warps: int
    num_stages: int


# Chosen so that next to nothing is spilled on sm_80 and sm_90 and a logit takes few instructions
# (tests/test_triton_compile.py); none was timed yet.
FORWARD = {
    "one tile": Tiles(64, 64, 4, 2),
    "several": Tiles(64, 64, 4, 2),
    "float32": Tiles(16, 32, 4, 1),
}
BACKWARD = {
    "one tile": Tiles(64, 64, 4, 1),
    "several": Tiles(64, 64, 4, 1),
    "several, bias": Tiles(64, 32, 4, 2),
    "float32": Tiles(32, 32, 8, 1),
    "float32, bias": Tiles(16, 32, 4, 1),
}


def tiles(
    table: dict[str, Tiles], dtype: torch.dtype, window: Pair, head_dim: int, *, of_bias: bool = False
) -> Tiles:
    tokens = window[0] * window[1]
    row = "float32" if dtype == torch.float32 else "one tile" if tokens <= 64 else "several"
    found = table[f"{row}, bias" if of_bias else row]
    most = max(16, triton.next_power_of_2(tokens))  # a product of matrices has at least 16 rows
    return Tiles(
        min(found.queries, most), min(found.keys, most),
        found.num_warps if head_dim <= 32 else 8, found.num_stages,
    )  # fmt: skip


def is_one_tile(window: Pair, sizes: Tiles) -> bool:
    return window[0] * window[1] <= min(sizes.queries, sizes.keys)


def in_pairs(images: int) -> bool:
    """Whether a program takes two images, of an odd number the last one twice; not where a compiler leaves it open."""
    return isinstance(images, int) and (images % 2 == 0 or images >= ODD_IN_PAIRS)


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
            "PENALTY": -math.inf if has_padding else REGION_PENALTY,
            "RAGGED": has_padding or tokens % tiles.queries != 0 or tokens % tiles.keys != 0,
            "PRECISION": "tf32" if dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32 else "ieee",
            "num_warps": tiles.num_warps, "num_stages": tiles.num_stages,
        }  # fmt: skip


def attend(
    qkv: Tensor, logit_scale: Tensor, bias: Tensor, windows: Windows, *, keep_sums: bool
) -> tuple[Tensor, Tensor]:
    """out [B, H, W, C], and for the backward pass log2 of the softmax's sums [B*n, h, N] (or nothing, [0])."""
    h, N, n = windows.heads, math.prod(windows.window), math.prod(windows.counts)
    out = qkv.new_empty(*qkv.shape[:3], qkv.shape[3] // 3)
    sums = logit_scale.new_empty((windows.items, h, N) if keep_sums else (0,))
    sizes = tiles(FORWARD, qkv.dtype, windows.window, windows.head_dim)
    constants = windows.constants(bias, sizes, qkv.dtype) | {"KEEP_SUMS": keep_sums}
    with device_of(qkv):
        # By its name and wrapped, a compiler sees it; in the interpreter it is what it was.
        if is_one_tile(windows.window, sizes):
            of_images = torch.sym_min(windows.images, max(1, WAVES // (n * h)))
            wrap_triton(attend_tile)[(n * h, of_images)](
                qkv, logit_scale, bias, out, sums, windows.images, *windows.numbers(), **constants
            )
        else:
            pairs = in_pairs(windows.images)
            images = (windows.images + 1) // 2 if pairs else windows.images
            wrap_triton(attend_kernel)[(images * n * h * triton.cdiv(N, sizes.queries),)](
                qkv,
                logit_scale,
                bias,
                out,
                sums,
                windows.images,
                *windows.numbers(),
                PAIRS=pairs,
                **constants,
            )
    return out, sums


def gradients(
    grad: Tensor, qkv: Tensor, logit_scale: Tensor, bias: Tensor, out: Tensor, sums: Tensor, windows: Windows,
    *, of_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Of qkv, logit_scale [h] and bias (nothing, [0], where it is not asked for)."""
    sizes = tiles(BACKWARD, qkv.dtype, windows.window, windows.head_dim)
    in_parts = _gradients_of_one_tile if is_one_tile(windows.window, sizes) else _gradients_of_several
    with device_of(qkv):
        dqkv, dscale, dbias = in_parts(grad, qkv, logit_scale, bias, out, sums, windows, sizes, of_bias)
    # Parts of sums: [of images, of windows, ...]
    dscale = dscale.sum((0, 1))
    if not of_bias:
        return dqkv, dscale, bias.new_empty(0)
    return dqkv, dscale, dbias.sum(0 if bias.ndim == 4 else (0, 1)).to(bias.dtype)


def _gradients_of_one_tile(
    grad: Tensor, qkv: Tensor, logit_scale: Tensor, bias: Tensor, _: Tensor, sums: Tensor, windows: Windows,
    sizes: Tiles, of_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    h, n = windows.heads, math.prod(windows.counts)
    parts = (max(1, min(windows.images, PROGRAMS // (n * h))), n)
    dqkv, dscale = torch.empty_like(qkv), logit_scale.new_empty(*parts, h)
    dbias = logit_scale.new_empty((*parts, *bias.shape[-3:]) if of_bias else (0,))
    tile_gradients[(n * h, parts[0])](
        qkv, logit_scale, bias, sums, grad, dqkv, dscale, dbias, windows.images, *windows.numbers(),
        OF_BIAS=of_bias, **windows.constants(bias, sizes, qkv.dtype),
    )  # fmt: skip
    return dqkv, dscale, dbias


def _gradients_of_several(
    grad: Tensor, qkv: Tensor, logit_scale: Tensor, bias: Tensor, out: Tensor, sums: Tensor, windows: Windows,
    sizes: Tiles, of_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    h, N, n = windows.heads, math.prod(windows.window), math.prod(windows.counts)
    numbers, constants = windows.numbers(), windows.constants(bias, sizes, qkv.dtype)
    down, across = triton.cdiv(N, sizes.queries), triton.cdiv(N, sizes.keys)
    dqkv, deltas = torch.empty_like(qkv), torch.empty_like(sums)
    dscale, dbias = logit_scale.new_empty(windows.images, n * down, h), logit_scale.new_empty(0)
    backward.of_queries[(windows.items * h * down,)](
        qkv, logit_scale, bias, out, sums, grad, dqkv, deltas, dscale, *numbers, **constants
    )
    backward.of_keys[(windows.items * h * across,)](
        qkv, logit_scale, bias, sums, grad, deltas, dqkv, *numbers, **constants
    )
    if of_bias:
        sizes = tiles(BACKWARD, qkv.dtype, windows.window, windows.head_dim, of_bias=True)
        programs = h * triton.cdiv(N, sizes.queries) * triton.cdiv(N, sizes.keys)  # for every part
        of_windows = n if bias.ndim == 4 else max(1, min(n, PROGRAMS // programs))
        of_images = max(1, min(windows.images, PROGRAMS // (programs * of_windows)))
        dbias = logit_scale.new_empty(of_images, of_windows, *bias.shape[-3:])
        backward.of_bias[(programs * of_windows, of_images)](
            qkv, logit_scale, bias, sums, grad, deltas, dbias, windows.images, of_windows, *numbers,
            **windows.constants(bias, sizes, qkv.dtype),
        )  # fmt: skip
    return dqkv, dscale, dbias


def device_of(tensor: Tensor) -> AbstractContextManager:
    """Triton launches on the current device. Not cuda: its interpreter; another type: a compiler, which sees to it."""
    is_real = type(tensor) in (Tensor, torch.nn.Parameter)
    return torch.cuda.device(tensor.device) if tensor.is_cuda and is_real else nullcontext()
