"""Window attention in one kernel, forward: from the map of q, k, v to the map of the result, nothing in between.

A program has some queries of one window and one head, and goes over the window's keys with a running maximum.
Products take the dtype of the map; norms, logits, softmax and sums are float32.
"""

from __future__ import annotations

import triton
import triton.language as tl

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
    store_rows,
    tokens_at,
    window_at,
)


# qkv [B, H, W, 3C], logit_scale [h], bias [h, N, N] or [n, h, N, N] -> out [B, H, W, C], sums [B*n, h, N]
@triton.jit
def attend(
    qkv, logit_scale, bias, out, sums, H, W, windows_down, windows_across, shift_down, shift_right, heads,
    ROWS: tl.constexpr, COLS: tl.constexpr, d: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
    BIAS_OF_WINDOW: tl.constexpr, KEEP_SUMS: tl.constexpr, REGIONS: tl.constexpr, PENALTY: tl.constexpr,
    RAGGED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    N: tl.constexpr = ROWS * COLS
    TILES: tl.constexpr = (N + QUERIES - 1) // QUERIES
    geometry = H, W, windows_down, windows_across, shift_down, shift_right
    tile, head, item = share_of_program(heads, TILES)
    windows = windows_down * windows_across
    image, number = item // windows, item % windows
    window, wraps = window_at(number, geometry, ROWS, COLS)
    C = heads * d
    qkv = head_of_map(qkv, image, head, geometry, 3 * C, d)
    out = head_of_map(out, image, head, geometry, C, d)
    bias = head_of_item(bias, number if BIAS_OF_WINDOW else 0, head, heads, N * N)

    q_place = tile * QUERIES + tl.arange(0, QUERIES)
    queries = tokens_at(q_place, window, geometry, ROWS, COLS)
    q = load_rows(qkv, queries, 3 * C, d, RAGGED)
    q_factor = inverse_norm(q) * scale_of(logit_scale, head)

    largest = tl.full([QUERIES], LOWEST, tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    attended = tl.zeros([QUERIES, d], tl.float32)
    for start in range(0, N, KEYS):
        keys = tokens_at(start + tl.arange(0, KEYS), window, geometry, ROWS, COLS)
        k = load_rows(qkv + C, keys, 3 * C, d, RAGGED)
        v = load_rows(qkv + 2 * C, keys, 3 * C, d, RAGGED)
        scores = scaled_cosines(q, q_factor, k, inverse_norm(k), PRECISION)
        scores += bias_between(bias, queries, keys, N, RAGGED)
        scores = masked(scores, queries, keys, wraps, REGIONS, PENALTY, RAGGED)
        larger = tl.maximum(largest, tl.max(scores, axis=1))
        shrink = tl.exp2((largest - larger) * LOG2E)
        weights = tl.exp2(scores * LOG2E - (larger * LOG2E)[:, None])
        total = total * shrink + tl.sum(weights, axis=1)
        attended = attended * shrink[:, None] + product(weights.to(v.dtype), v, PRECISION)
        largest = larger
    if RAGGED:  # a place of padding may see nobody
        largest = tl.where(total > 0, largest, 0.0)
        total = tl.where(total > 0, total, 1.0)
    store_rows(out, queries, C, attended * (1 / total)[:, None], d, RAGGED)
    if KEEP_SUMS:  # log2 of the sum of the softmax: the backward pass gets its weights from it
        tl.store(
            head_of_item(sums, item, head, heads, N) + q_place,
            largest * LOG2E + tl.log2(total),
            mask=q_place < N,
        )
