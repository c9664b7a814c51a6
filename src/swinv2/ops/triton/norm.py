"""The end of a residual branch in one kernel: x + keep * LayerNorm(branch), forward and backward.

A program takes a tile of tokens whole. Means, deviations and sums are float32. The gradient of x is that of the result
and has no kernel; those of weight and shift are summed by each program over its tokens, and added in a fixed order.
"""

from __future__ import annotations

import triton
import triton.language as tl


# x, branch, out [tokens, C], keep [images] or nothing -> means, inverses [tokens]
@triton.jit
def add(
    x, branch, weight, shift, keep, out, means, inverses, tokens, tokens_of_image, C: tl.constexpr, eps: tl.constexpr,
    TOKENS: tl.constexpr, CHANNELS: tl.constexpr, DROPS: tl.constexpr, KEEP_SUMS: tl.constexpr,
):  # fmt: skip
    token, places, inside, first = _tile(tl.program_id(0), tokens, C, TOKENS, CHANNELS)
    channel = tl.arange(0, CHANNELS)
    values = tl.load(branch + first + places, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(values, axis=1) / C
    values = tl.where(inside, values - mean[:, None], 0.0)
    inverse = tl.rsqrt(tl.sum(values * values, axis=1) / C + eps)
    normed = values * inverse[:, None]
    normed = normed * _row(weight, channel, C)[None, :] + _row(shift, channel, C)[None, :]
    if DROPS:
        normed *= tl.load(keep + token // tokens_of_image, mask=token < tokens, other=0.0).to(tl.float32)[
            :, None
        ]
    normed += tl.load(x + first + places, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + first + places, normed.to(out.dtype.element_ty), mask=inside)
    if KEEP_SUMS:
        tl.store(means + token, mean, mask=token < tokens)
        tl.store(inverses + token, inverse, mask=token < tokens)


# grad [tokens, C] -> dbranch [tokens, C], dweight and dshift [programs, C]
@triton.jit
def of_branch(
    grad, branch, weight, keep, means, inverses, dbranch, dweight, dshift, tokens, tokens_of_image, tiles, programs,
    C: tl.constexpr, TOKENS: tl.constexpr, CHANNELS: tl.constexpr, DROPS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    channel = tl.arange(0, CHANNELS)
    scale = _row(weight, channel, C)[None, :]
    of_weight = tl.zeros(
        [TOKENS, CHANNELS], tl.float32
    )  # sums of places of the tile, which are added at the end
    of_shift = tl.zeros([TOKENS, CHANNELS], tl.float32)
    for tile in range(program, tiles, programs):
        token, places, inside, first = _tile(tile, tokens, C, TOKENS, CHANNELS)
        g = tl.load(grad + first + places, mask=inside, other=0.0).to(tl.float32)
        if DROPS:
            g *= tl.load(keep + token // tokens_of_image, mask=token < tokens, other=0.0).to(tl.float32)[
                :, None
            ]
        mean = tl.load(means + token, mask=token < tokens, other=0.0)
        inverse = tl.load(inverses + token, mask=token < tokens, other=0.0)
        values = tl.load(branch + first + places, mask=inside, other=0.0).to(tl.float32)
        unit = tl.where(inside, (values - mean[:, None]) * inverse[:, None], 0.0)
        of_weight += g * unit
        of_shift += g
        g *= scale
        along, level = tl.sum(g * unit, axis=1) / C, tl.sum(g, axis=1) / C
        g = (g - unit * along[:, None] - level[:, None]) * inverse[:, None]
        tl.store(dbranch + first + places, g.to(dbranch.dtype.element_ty), mask=inside)
    tl.store(dweight + program * C + channel, tl.sum(of_weight, axis=0), mask=channel < C)
    tl.store(dshift + program * C + channel, tl.sum(of_shift, axis=0), mask=channel < C)


@triton.jit
def _tile(tile, tokens, C: tl.constexpr, TOKENS: tl.constexpr, CHANNELS: tl.constexpr):
    """Tokens of a tile, places of their values from that of the first, which of them there are, and the first's."""
    token = tile * TOKENS + tl.arange(0, TOKENS)
    channel = tl.arange(0, CHANNELS)[None, :]
    places = tl.arange(0, TOKENS)[:, None] * C + channel
    return token, places, (token < tokens)[:, None] & (channel < C), tl.cast(tile, tl.int64) * (TOKENS * C)


@triton.jit
def _row(values, channel, C: tl.constexpr):
    return tl.load(values + channel, mask=channel < C, other=0.0).to(tl.float32)
