"""Products in one kernel with what would otherwise pass through memory before or after them.

linear_gelu does the activation to the sums of the product while they are in registers, of_sums the way back through it
to the product that comes before it there. merge reads the four neighbours of a merged token where they lie on the map,
embed the pixels of a patch where they lie in the image; both normalise the token where a program has all of its
channels, and both are for inference.
"""

from __future__ import annotations

import triton
import triton.language as tl

from swinv2.ops.triton.tiles import product

SQRT_HALF = tl.constexpr(0.7071067811865476)


# x [tokens, C], weight [OUTS, C], bias [OUTS] -> out [tokens, OUTS], and sums of its shape: what GELU is taken of
@triton.jit
def linear_gelu(
    x, weight, bias, out, sums, tokens, C: tl.constexpr, OUTS: tl.constexpr, TOKENS: tl.constexpr,
    WIDTH: tl.constexpr, DEPTH: tl.constexpr, KEEP_SUMS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    token, channel, first, place, here = _tile(tokens, OUTS, TOKENS, WIDTH)
    added = _multiplied(x, weight, token, channel, tokens, C, OUTS, TOKENS, WIDTH, DEPTH, PRECISION)
    added += _row(bias, channel, OUTS)
    if KEEP_SUMS:
        tl.store(sums + first + place, added.to(sums.dtype.element_ty), mask=here)
    added = _gelu(added, out.dtype.element_ty == tl.float32)
    tl.store(out + first + place, added.to(out.dtype.element_ty), mask=here)


# grad [tokens, C] of the layer after GELU, its weight [C, OUTS], sums [tokens, OUTS]
# -> dsums [tokens, OUTS] and dbias [tiles of tokens, OUTS]
@triton.jit
def of_sums(
    grad, weight, sums, dsums, dbias, tokens, C: tl.constexpr, OUTS: tl.constexpr, TOKENS: tl.constexpr,
    WIDTH: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    token, channel, first, place, here = _tile(tokens, OUTS, TOKENS, WIDTH)
    grad += token.to(tl.int64)[:, None] * C
    added = tl.zeros([TOKENS, WIDTH], tl.float32)
    for start in range(0, C, DEPTH):
        depth = start + tl.arange(0, DEPTH)
        a = _load(grad + depth[None, :], (token < tokens)[:, None], depth, C, DEPTH)
        has_weight = (channel < OUTS)[None, :] & (depth < C)[:, None]
        b = tl.load(weight + depth[:, None] * OUTS + channel[None, :], mask=has_weight, other=0.0)
        added += product(a, b, PRECISION)
    values = tl.load(sums + first + place, mask=here, other=0.0).to(tl.float32)
    added *= _slope_of_gelu(values, dsums.dtype.element_ty == tl.float32)
    tl.store(dsums + first + place, added.to(dsums.dtype.element_ty), mask=here)
    tile = tl.program_id(0) // tl.cdiv(OUTS, WIDTH)
    tl.store(dbias + tile * OUTS + channel, tl.sum(added, axis=0), mask=channel < OUTS)


# inner [tokens, C], weight [OUTS, C], bias, scale and shift [OUTS], x and out [tokens, OUTS]
@triton.jit
def add_normed(
    x, inner, weight, bias, scale, shift, out, tokens, C: tl.constexpr, OUTS: tl.constexpr, TOKENS: tl.constexpr,
    WIDTH: tl.constexpr, DEPTH: tl.constexpr, eps: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    token, channel, first, place, here = _tile(tokens, OUTS, TOKENS, WIDTH)
    added = _multiplied(inner, weight, token, channel, tokens, C, OUTS, TOKENS, WIDTH, DEPTH, PRECISION)
    added = _normed(added + _row(bias, channel, OUTS), scale, shift, channel, OUTS, eps)
    added += tl.load(x + first + place, mask=here, other=0.0).to(tl.float32)
    tl.store(out + first + place, added.to(out.dtype.element_ty), mask=here)


# x [B, H, W, C], weight [OUTS, 4C], scale and shift [OUTS] of the norm -> out [B, H/2, W/2, OUTS], sides rounded up
@triton.jit
def merge(
    x, weight, scale, shift, out, tokens, H, W, C: tl.constexpr, OUTS: tl.constexpr, TOKENS: tl.constexpr,
    WIDTH: tl.constexpr, DEPTH: tl.constexpr, NORMS: tl.constexpr, eps: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    STEPS: tl.constexpr = (C + DEPTH - 1) // DEPTH  # through the channels of one neighbour
    token, channel, first, place, here = _tile(tokens, OUTS, TOKENS, WIDTH)
    down, across = (H + 1) // 2, (W + 1) // 2
    top, left = token // across % down * 2, token % across * 2
    pixel = ((token // (down * across) * H + top).to(tl.int64) * W + left) * C
    added = tl.zeros([TOKENS, WIDTH], tl.float32)
    for step in range(4 * STEPS):
        neighbour = step // STEPS  # (0,0), (1,0), (0,1), (1,1): rows vary fastest
        below, right = neighbour % 2, neighbour // 2
        depth = step % STEPS * DEPTH + tl.arange(0, DEPTH)
        # Beyond an odd side there are zeros.
        inside = (token < tokens) & (top + below < H) & (left + right < W)
        beside = (below * W + right) * C + depth
        a = _load(x + pixel[:, None] + beside[None, :], inside[:, None], depth, C, DEPTH)
        weights = weight + channel[:, None] * (4 * C) + neighbour * C + depth[None, :]
        b = _load(weights, (channel < OUTS)[:, None], depth, C, DEPTH)
        added += product(a, tl.trans(b), PRECISION)
    if NORMS:
        added = _normed(added, scale, shift, channel, OUTS, eps)
    tl.store(out + first + place, added.to(out.dtype.element_ty), mask=here)


# image [B, C, H, W], weight [OUTS, C, SIDE, SIDE] by its strides, bias, scale and shift [OUTS]
# -> out [B, H/SIDE, W/SIDE, OUTS], sides rounded up
@triton.jit
def embed(
    image, weight, bias, scale, shift, out, tokens, H, W, of_colour, of_place, C: tl.constexpr, SIDE: tl.constexpr,
    OUTS: tl.constexpr, TOKENS: tl.constexpr, WIDTH: tl.constexpr, DEPTH: tl.constexpr, NORMS: tl.constexpr,
    eps: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    token, channel, first, place, here = _tile(tokens, OUTS, TOKENS, WIDTH)
    down, across = (H + SIDE - 1) // SIDE, (W + SIDE - 1) // SIDE
    top, left = token // across % down * SIDE, token % across * SIDE
    pixel = (token // (down * across) * C * H + top).to(tl.int64) * W + left
    spot = tl.arange(0, DEPTH)  # within a patch: a step takes one colour of it
    row, column = spot // SIDE, spot % SIDE
    # Beyond an image whose sides do not divide there are zeros, as beyond the last place of a patch.
    inside = (top[:, None] + row[None, :] < H) & (left[:, None] + column[None, :] < W)
    inside &= (token < tokens)[:, None] & (spot < SIDE * SIDE)[None, :]
    has_weight = (channel < OUTS)[:, None] & (spot < SIDE * SIDE)[None, :]
    added = tl.zeros([TOKENS, WIDTH], tl.float32)
    for colour in range(C):
        pixels = image + colour * H * W + pixel[:, None] + (row * W + column)[None, :]
        a = tl.load(pixels, mask=inside, other=0.0)
        of_channel = weight + channel[:, None] * (C * SIDE * SIDE)
        weights = of_channel + colour * of_colour + spot[None, :] * of_place
        b = tl.load(weights, mask=has_weight, other=0.0)
        added += product(a, tl.trans(b), PRECISION)
    added += _row(bias, channel, OUTS)
    if NORMS:
        added = _normed(added, scale, shift, channel, OUTS, eps)
    tl.store(out + first + place, added.to(out.dtype.element_ty), mask=here)


@triton.jit
def _multiplied(
    x, weight, token, channel, tokens, C: tl.constexpr, OUTS: tl.constexpr, TOKENS: tl.constexpr, WIDTH: tl.constexpr,
    DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """x [tokens, C] times weight [OUTS, C] transposed, of a tile: [TOKENS, WIDTH], float32."""
    x += token.to(tl.int64)[:, None] * C
    added = tl.zeros([TOKENS, WIDTH], tl.float32)
    for start in range(0, C, DEPTH):
        depth = start + tl.arange(0, DEPTH)
        a = _load(x + depth[None, :], (token < tokens)[:, None], depth, C, DEPTH)
        b = _load(weight + channel[:, None] * C + depth[None, :], (channel < OUTS)[:, None], depth, C, DEPTH)
        added += product(a, tl.trans(b), PRECISION)
    return added


@triton.jit
def _gelu(x, EXACT: tl.constexpr):
    """x * P(normal <= x), the exact GELU; but for EXACT, to 5e-6 of the result, which no 16 bits can show."""
    if EXACT:
        return x * (0.5 + 0.5 * tl.erf(x * SQRT_HALF))
    size = tl.abs(x)
    return tl.maximum(x, 0.0) - size * _tail(size)


@triton.jit
def _slope_of_gelu(x, EXACT: tl.constexpr):
    """P(normal <= x) + x * density(x), the derivative of GELU, exact in the same sense."""
    density = tl.exp2(x * x * -0.7213475204 - 1.3257480647)  # exp(-x^2 / 2) / sqrt(2 pi)
    if EXACT:
        below = 0.5 + 0.5 * tl.erf(x * SQRT_HALF)
    else:
        tail = _tail(tl.abs(x))
        below = tl.where(x > 0, 1 - tail, tail)
    return below + x * density


@triton.jit
def _tail(size):
    """P(normal > size).

    The logarithm of the tail of a normal distribution is almost a parabola. The polynomial has the least largest error
    of log2(tail) on [0, 5], and falls ever faster beyond. It takes a third of the instructions of erf, which would take
    longer than the product itself.
    """
    power = -1.7916066e-06 * size + 6.0868981e-05
    power = power * size - 9.2578027e-04
    power = power * size + 8.4929261e-03
    power = power * size - 5.3936481e-02
    power = power * size - 4.5848152e-01
    power = power * size - 1.1512465
    power = power * size - 0.99999547
    return tl.exp2(power)


@triton.jit
def _normed(added, scale, shift, channel, OUTS: tl.constexpr, eps: tl.constexpr):
    """LayerNorm of tokens of which a program has all channels; those that are not there are zeros."""
    mean = tl.sum(added, axis=1) / OUTS
    added = tl.where((channel < OUTS)[None, :], added - mean[:, None], 0.0)
    inverse = tl.rsqrt(tl.sum(added * added, axis=1) / OUTS + eps)
    return added * inverse[:, None] * _row(scale, channel, OUTS) + _row(shift, channel, OUTS)


@triton.jit
def _tile(tokens, OUTS: tl.constexpr, TOKENS: tl.constexpr, WIDTH: tl.constexpr):
    """Tokens and channels of this program's tile of the result, where it begins, their places from there, and
    which of them there are.

    Programs that share tokens are neighbours: the tokens then come from the caches, where all the weights fit.
    """
    ACROSS: tl.constexpr = (OUTS + WIDTH - 1) // WIDTH
    program = tl.program_id(0)
    token = program // ACROSS * TOKENS + tl.arange(0, TOKENS)
    channel = program % ACROSS * WIDTH + tl.arange(0, WIDTH)
    first = (program // ACROSS).to(tl.int64) * (TOKENS * OUTS)
    place = tl.arange(0, TOKENS)[:, None] * OUTS + channel[None, :]
    return token, channel, first, place, (token < tokens)[:, None] & (channel < OUTS)[None, :]


@triton.jit
def _load(addresses, inside, depth, C: tl.constexpr, DEPTH: tl.constexpr):
    if C % DEPTH != 0:
        inside = inside & (depth < C)[None, :]
    return tl.load(addresses, mask=inside, other=0.0)


@triton.jit
def _row(values, channel, OUTS: tl.constexpr):
    """[1, WIDTH], float32."""
    return tl.load(values + channel, mask=channel < OUTS, other=0.0).to(tl.float32)[None, :]
