"""Where the tokens of a window lie on the map, who may see whom, and the logits of a tile: shared by all kernels.

A window is never copied out of the map. Its N tokens have places 0 .. N-1; a tile is some of them, and a kernel
computes for every place which pixel of the un-permuted map it is. reference.py states the rules.
"""

# B images, H W map, n windows of an image, M window, N tokens of one window, h heads, d head dim, C = h*d
# Functions pass tuples on, which the compiler takes apart again:
#   geometry: H, W, windows down and across, shift down and right
#   window:   top, left
#   tokens:   of a tile: place in the window, pixel y * W + x of the map, region, whether there is such a pixel

from __future__ import annotations

import os

import triton
import triton.language as tl

from swinv2.ops import reference

LOG2E = tl.constexpr(1.4426950408889634)  # the hardware has powers of two: exp(x) = exp2(x * LOG2E)
LOG2E_REST = tl.constexpr(1.9259629911266175e-08)  # of the logarithm, after what float32 has of it
MAX_LOGIT_SCALE = tl.constexpr(reference.MAX_LOGIT_SCALE)
SQUARED_NORM_FLOOR = tl.constexpr(1e-24)  # 1e-12 as in torch.nn.functional.normalize, squared
INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")
LOWEST = tl.constexpr(-1e30)  # below every logit, and finite: LOWEST - LOWEST is no NaN, unlike -inf - -inf


@triton.jit
def share_of_program(heads, TILES: tl.constexpr):
    """Tile, head and item or window. Tiles and heads of a window are neighbours: they share lines of the caches."""
    program = tl.program_id(0)
    return program % TILES, program // TILES % heads, program // TILES // heads


@triton.jit
def window_at(number, geometry, ROWS: tl.constexpr, COLS: tl.constexpr):
    """The number-th window of an image, and whether it holds wrapped tokens."""
    _, _, windows_down, windows_across, shift_down, shift_right = geometry
    down, across = number // windows_across, number % windows_across
    wraps = ((shift_down > 0) & (down == windows_down - 1)) | (
        (shift_right > 0) & (across == windows_across - 1)
    )
    return (down * ROWS, across * COLS), wraps


@triton.jit
def tokens_at(place, window, geometry, ROWS: tl.constexpr, COLS: tl.constexpr):
    """The tokens at these places of a window.

    Regions are told apart by where the shift made a token wrap around: 0 nowhere, 1 vertically, 2 horizontally, 3 both.
    """
    top, left = window
    H, W, windows_down, windows_across, shift_down, shift_right = geometry
    y = top + place // COLS + shift_down
    x = left + place % COLS + shift_right
    below, beside = y >= windows_down * ROWS, x >= windows_across * COLS
    y = tl.where(below, y - windows_down * ROWS, y)
    x = tl.where(beside, x - windows_across * COLS, x)
    inside = (place < ROWS * COLS) & (y < H) & (x < W)
    return place, y * W + x, below.to(tl.int32) + 2 * beside.to(tl.int32), inside


@triton.jit
def head_of_map(base, image, head, geometry, channels, d: tl.constexpr):
    """Where the values of a head begin in the image's map [H, W, channels]."""
    H, W, _, _, _, _ = geometry
    return base + (tl.cast(image, tl.int64) * H * W * channels + head * d)


@triton.jit
def head_of_item(base, item, head, heads, SIZE: tl.constexpr):
    """Where the values of a head begin in [items, h, SIZE]."""
    return base + tl.cast(item * heads + head, tl.int64) * SIZE


@triton.jit
def load_rows(base, tokens, stride, d: tl.constexpr, RAGGED: tl.constexpr):
    """[tile, d]: d neighbouring values of every pixel; zeros where there is no pixel."""
    _, pixel, _, inside = tokens
    addresses = base + pixel[:, None] * stride + tl.arange(0, d)[None, :]
    if RAGGED:
        return tl.load(addresses, mask=inside[:, None], other=0.0)
    return tl.load(addresses)


@triton.jit
def store_rows(base, tokens, stride, values, d: tl.constexpr, RAGGED: tl.constexpr):
    """The way back of load_rows, in the dtype of base."""
    _, pixel, _, inside = tokens
    addresses = base + pixel[:, None] * stride + tl.arange(0, d)[None, :]
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
def scale_of(logit_scale, head):
    """exp of the learned logit scale of a head; the clamp comes first.

    The hardware has exp2. What its argument loses when it is rounded is put back: it would be an error of all logits.
    """
    x = tl.minimum(tl.load(logit_scale + head), MAX_LOGIT_SCALE)
    power = x * LOG2E
    lost = tl.fma(x, LOG2E, -power) + x * LOG2E_REST
    return tl.exp2(power) * (1.0 + lost / LOG2E)


@triton.jit
def slope_of_scale(logit_scale, head):
    """From the gradient of the scale to that of the learned logit scale."""
    x = tl.load(logit_scale + head)
    return tl.where(x <= MAX_LOGIT_SCALE, scale_of(logit_scale, head), 0.0)


@triton.jit
def inverse_norm(x):
    """[tile, d] -> [tile], float32."""
    x = x.to(tl.float32)
    return tl.rsqrt(tl.maximum(tl.sum(x * x, axis=1), SQUARED_NORM_FLOOR))


@triton.jit
def scaled_cosines(q, q_factor, k, k_factor, PRECISION: tl.constexpr):
    """[queries, keys], float32.

    q and k come as they are, and their norms with the scale after the product: nothing is rounded in between. q_factor
    holds 1/|q| * scale, k_factor 1/|k|.
    """
    return product(q, tl.trans(k), PRECISION) * q_factor[:, None] * k_factor[None, :]


@triton.jit
def bias_between(bias, queries, keys, N: tl.constexpr, RAGGED: tl.constexpr):
    """[queries, keys], float32. bias points to the [N, N] of this head; zeros where a place is none of the window."""
    q_place, _, _, _ = queries
    k_place, _, _, _ = keys
    places = q_place[:, None] * N + k_place[None, :]
    if RAGGED:
        inside = (q_place < N)[:, None] & (k_place < N)[None, :]
        return tl.load(bias + places, mask=inside, other=0.0).to(tl.float32)
    return tl.load(bias + places).to(tl.float32)


@triton.jit
def masked(
    logits, queries, keys, wraps, REGIONS: tl.constexpr, PENALTY: tl.constexpr, RAGGED: tl.constexpr,
):  # fmt: skip
    """The penalty for tokens of another region, and -inf where there is no key."""
    _, _, q_region, _ = queries
    _, _, k_region, k_inside = keys
    if REGIONS:  # noqa: SIM102  this one is known to the compiler
        if wraps:  # known to the program
            logits = tl.where(q_region[:, None] == k_region[None, :], logits, logits + PENALTY)
    if RAGGED:
        logits = tl.where(k_inside[None, :], logits, float("-inf"))
    return logits
