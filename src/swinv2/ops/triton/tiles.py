"""Where the tokens of a window lie on the map, who may see whom, and the logits of a tile: shared by all kernels.

A window is never copied out of the map. Its N tokens have places 0 .. N-1; a tile is some of them, and a kernel
computes for every place which pixel of the un-permuted map it is. reference.py states the rules.
"""

# B images, H W map, n windows of an image, M window, N tokens of one window, h heads, d head dim, C = h*d

from __future__ import annotations

import os

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)  # softmax is computed with powers of two, which the hardware has
SQUARED_NORM_FLOOR = tl.constexpr(1e-24)  # 1e-12 as in torch.nn.functional.normalize, squared
INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")
LOWEST = tl.constexpr(-1e30)  # below every logit, and finite: LOWEST - LOWEST is no NaN, unlike -inf - -inf


@triton.jit
def unravel(
    item, windows_down, windows_across, shift_down, shift_right, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """The item-th window of the batch: image, number in it, top left corner, and whether it holds wrapped tokens."""
    windows = windows_down * windows_across
    number = item % windows
    down, across = number // windows_across, number % windows_across
    wraps = ((shift_down > 0) & (down == windows_down - 1)) | (
        (shift_right > 0) & (across == windows_across - 1)
    )
    return item // windows, number, down * ROWS, across * COLS, wraps


@triton.jit
def tokens(
    place, top, left, H, W, windows_down, windows_across, shift_down, shift_right, ROWS: tl.constexpr,
    COLS: tl.constexpr,
):  # fmt: skip
    """Of places in a window: the pixel y * W + x of the map, its region, and whether there is such a pixel.

    Regions are told apart by where the shift made a token wrap around: 0 nowhere, 1 vertically, 2 horizontally, 3 both.
    """
    y = top + place // COLS + shift_down
    x = left + place % COLS + shift_right
    y = tl.where(y >= windows_down * ROWS, y - windows_down * ROWS, y)
    x = tl.where(x >= windows_across * COLS, x - windows_across * COLS, x)
    inside = (place < ROWS * COLS) & (y < H) & (x < W)
    region = (y < shift_down).to(tl.int32) + 2 * (x < shift_right).to(tl.int32)
    return y * W + x, region, inside


@triton.jit
def load_rows(base, pixels, inside, stride, d: tl.constexpr, RAGGED: tl.constexpr):
    """[tile, d]: d neighbouring values of every pixel; zeros where there is no pixel."""
    addresses = base + pixels[:, None] * stride + tl.arange(0, d)[None, :]
    if RAGGED:
        return tl.load(addresses, mask=inside[:, None], other=0.0)
    return tl.load(addresses)


@triton.jit
def store_rows(base, pixels, inside, stride, values, d: tl.constexpr, RAGGED: tl.constexpr):
    """The way back of load_rows, in the dtype of base."""
    addresses = base + pixels[:, None] * stride + tl.arange(0, d)[None, :]
    values = values.to(base.dtype.element_ty)
    if RAGGED:
        tl.store(addresses, values, mask=inside[:, None])
    else:
        tl.store(addresses, values)


@triton.jit
def product(a, b, PRECISION: tl.constexpr):
    """a @ b of two tiles of one dtype, summed in float32."""
    if INTERPRETED:  # the interpreter holds bfloat16 as integers, and would multiply these
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def inverse_norm(x):
    """[tile, d] -> [tile], float32."""
    x = x.to(tl.float32)
    return tl.rsqrt(tl.maximum(tl.sum(x * x, axis=1), SQUARED_NORM_FLOOR))


@triton.jit
def logits(
    q, q_factor, q_place, q_region, k, k_factor, k_place, k_region, k_inside, bias, wraps, N: tl.constexpr,
    REGIONS: tl.constexpr, PENALTY: tl.constexpr, RAGGED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """[queries, keys], float32, times log2 e: cosine * scale + bias + mask.

    q and k come as they are, and their norms with the scale after the product: nothing is rounded in between. q_factor
    holds 1/|q| * scale * log2 e, k_factor 1/|k|. bias points to the [N, N] of this head.
    """
    scores = product(q, tl.trans(k), PRECISION) * q_factor[:, None] * k_factor[None, :]
    places = q_place[:, None] * N + k_place[None, :]
    if RAGGED:
        added = tl.load(bias + places, mask=(q_place < N)[:, None] & (k_place < N)[None, :], other=0.0)
    else:
        added = tl.load(bias + places)
    scores += added.to(tl.float32) * LOG2E
    if REGIONS:  # noqa: SIM102  this one is known to the compiler
        if wraps:  # known to the program
            scores = tl.where(q_region[:, None] == k_region[None, :], scores, scores + PENALTY)
    if RAGGED:
        scores = tl.where(k_inside[None, :], scores, float("-inf"))
    return scores
