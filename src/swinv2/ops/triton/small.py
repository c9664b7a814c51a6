"""Windows that are one tile, of 64 tokens at most: forward in one kernel, and all gradients in one.

A program has one head and one window of the map, and goes over images: which pixels the window holds, bias and mask are
the same for all of them, and stay in its registers.
"""

from __future__ import annotations

import triton
import triton.language as tl

from swinv2.ops.triton.backward import of_logits, through_norm
from swinv2.ops.triton.tiles import (
    LOG2E,
    LOWEST,
    bias_between,
    head_of_item,
    head_of_map,
    inverse_norm,
    load_rows,
    masked,
    product,
    scale_of,
    scaled_cosines,
    share_of_program,
    slope_of_scale,
    store_rows,
    tokens_at,
    window_at,
)


# qkv [B, H, W, 3C], logit_scale [h], bias [h, N, N] or [n, h, N, N] -> out [B, H, W, C], sums [B*n, h, N]
@triton.jit
def attend_tile(
    qkv, logit_scale, bias, out, sums, images, H, W, windows_down, windows_across, shift_down, shift_right, heads,
    ROWS: tl.constexpr, COLS: tl.constexpr, d: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
    BIAS_OF_WINDOW: tl.constexpr, KEEP_SUMS: tl.constexpr, REGIONS: tl.constexpr, PENALTY: tl.constexpr,
    RAGGED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    N: tl.constexpr = ROWS * COLS
    geometry = H, W, windows_down, windows_across, shift_down, shift_right
    _, head, number = share_of_program(heads, 1)
    window, wraps = window_at(number, geometry, ROWS, COLS)
    place = tl.arange(0, QUERIES)
    tokens = tokens_at(place, window, geometry, ROWS, COLS)
    bias = head_of_item(bias, number if BIAS_OF_WINDOW else 0, head, heads, N * N)
    added = bias_between(bias, tokens, tokens, N, RAGGED)
    added = masked(added, tokens, tokens, wraps, REGIONS, PENALTY, RAGGED)
    factor = scale_of(logit_scale, head)
    C = heads * d

    for image in range(tl.program_id(1), images, tl.num_programs(1)):
        maps = head_of_map(qkv, image, head, geometry, 3 * C, d)
        q = load_rows(maps, tokens, 3 * C, d, RAGGED)
        k = load_rows(maps + C, tokens, 3 * C, d, RAGGED)
        v = load_rows(maps + 2 * C, tokens, 3 * C, d, RAGGED)
        scores = scaled_cosines(q, inverse_norm(q) * factor, k, inverse_norm(k), PRECISION) + added
        largest = tl.maximum(tl.max(scores, axis=1), LOWEST)
        weights = tl.exp2(scores * LOG2E - (largest * LOG2E)[:, None])
        total = tl.sum(weights, axis=1)
        if RAGGED:  # a place of padding may see nobody
            total = tl.where(total > 0, total, 1.0)
        attended = product(weights.to(v.dtype), v, PRECISION) * (1 / total)[:, None]
        of_image = head_of_map(out, image, head, geometry, C, d)
        store_rows(of_image, tokens, C, attended, d, RAGGED)
        if KEEP_SUMS:  # log2 of the sum of the softmax
            item = image * windows_down * windows_across + number
            kept = head_of_item(sums, item, head, heads, N) + place
            tl.store(kept, largest * LOG2E + tl.log2(total), mask=place < N)


# -> dqkv [B, H, W, 3C], dscale [shares, n, h], dbias [shares, n, h, N, N]; a share is some of the images
@triton.jit
def tile_gradients(
    qkv, logit_scale, bias, sums, grad, dqkv, dscale, dbias, images, H, W, windows_down, windows_across,
    shift_down, shift_right, heads, ROWS: tl.constexpr, COLS: tl.constexpr, d: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, BIAS_OF_WINDOW: tl.constexpr, OF_BIAS: tl.constexpr,
    REGIONS: tl.constexpr, PENALTY: tl.constexpr, RAGGED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    N: tl.constexpr = ROWS * COLS
    geometry = H, W, windows_down, windows_across, shift_down, shift_right
    windows = windows_down * windows_across
    _, head, number = share_of_program(heads, 1)
    window, wraps = window_at(number, geometry, ROWS, COLS)
    place = tl.arange(0, QUERIES)
    tokens = tokens_at(place, window, geometry, ROWS, COLS)
    bias = head_of_item(bias, number if BIAS_OF_WINDOW else 0, head, heads, N * N)
    added = bias_between(bias, tokens, tokens, N, RAGGED)
    added = masked(added, tokens, tokens, wraps, REGIONS, PENALTY, RAGGED)
    factor = scale_of(logit_scale, head)
    C = heads * d

    of_scale = tl.zeros([QUERIES], tl.float32)
    of_bias = tl.zeros([QUERIES, KEYS], tl.float32)
    for image in range(tl.program_id(1), images, tl.num_programs(1)):
        maps = head_of_map(qkv, image, head, geometry, 3 * C, d)
        of_maps = head_of_map(dqkv, image, head, geometry, 3 * C, d)
        q = load_rows(maps, tokens, 3 * C, d, RAGGED)
        k = load_rows(maps + C, tokens, 3 * C, d, RAGGED)
        v = load_rows(maps + 2 * C, tokens, 3 * C, d, RAGGED)
        g = load_rows(head_of_map(grad, image, head, geometry, C, d), tokens, C, d, RAGGED)
        kept = head_of_item(sums, image * windows + number, head, heads, N) + place
        total = tl.load(kept, mask=place < N, other=0.0)
        q_inverse, k_inverse = inverse_norm(q), inverse_norm(k)
        scores = scaled_cosines(q, q_inverse * factor, k, k_inverse, PRECISION) + added
        weights, ds = of_logits(scores, tokens, g, v, total, None, RAGGED, PRECISION)
        if OF_BIAS:
            of_bias += ds
        of_v = product(tl.trans(weights.to(g.dtype)), g, PRECISION)
        store_rows(of_maps + 2 * C, tokens, 3 * C, of_v, d, RAGGED)
        ds = ds.to(q.dtype)
        unit_q, unit_k = q * q_inverse[:, None], k * k_inverse[:, None]
        of_q = product(ds, unit_k.to(k.dtype), PRECISION)
        of_scale += tl.sum(of_q * unit_q, axis=1)
        store_rows(of_maps, tokens, 3 * C, through_norm(of_q, unit_q, q_inverse * factor), d, RAGGED)
        of_k = product(tl.trans(ds), unit_q.to(q.dtype), PRECISION)
        store_rows(of_maps + C, tokens, 3 * C, through_norm(of_k, unit_k, k_inverse * factor), d, RAGGED)
    item = tl.program_id(1) * windows + number
    of_scale = tl.sum(of_scale, axis=0) * slope_of_scale(logit_scale, head)
    tl.store(dscale + item * heads + head, of_scale)
    if OF_BIAS:
        places = place[:, None] * N + place[None, :]
        inside = (place < N)[:, None] & (place < N)[None, :]
        tl.store(head_of_item(dbias, item, head, heads, N * N) + places, of_bias, mask=inside)
