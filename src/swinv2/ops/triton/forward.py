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
    inverse_norm,
    load_rows,
    logits,
    product,
    store_rows,
    tokens,
    unravel,
)


# qkv [B, H, W, 3C], scale [h], bias [h, N, N] or [n, h, N, N] -> out [B, H, W, C], sums [B*n, h, N]
@triton.jit
def attend(
    qkv, scale, bias, out, sums, H, W, windows_down, windows_across, shift_down, shift_right, heads,
    ROWS: tl.constexpr, COLS: tl.constexpr, d: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
    BIAS_OF_WINDOW: tl.constexpr, KEEP_SUMS: tl.constexpr, REGIONS: tl.constexpr, PENALTY: tl.constexpr,
    RAGGED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    N: tl.constexpr = ROWS * COLS
    TILES: tl.constexpr = (N + QUERIES - 1) // QUERIES
    program = tl.program_id(0)  # tiles and heads of a window are neighbours: they share lines of the caches
    tile, head, item = program % TILES, program // TILES % heads, program // TILES // heads
    image, number, top, left, wraps = unravel(
        item, windows_down, windows_across, shift_down, shift_right, ROWS, COLS
    )
    C = heads * d
    qkv += image.to(tl.int64) * H * W * 3 * C + head * d
    out += image.to(tl.int64) * H * W * C + head * d
    bias += ((number * heads if BIAS_OF_WINDOW else 0) + head).to(tl.int64) * N * N

    q_place = tile * QUERIES + tl.arange(0, QUERIES)
    q_pixel, q_region, q_inside = tokens(
        q_place, top, left, H, W, windows_down, windows_across, shift_down, shift_right, ROWS, COLS
    )
    q = load_rows(qkv, q_pixel, q_inside, 3 * C, d, RAGGED)
    q_factor = inverse_norm(q) * tl.load(scale + head) * LOG2E

    largest = tl.full([QUERIES], LOWEST, tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    attended = tl.zeros([QUERIES, d], tl.float32)
    for start in range(0, N, KEYS):
        k_place = start + tl.arange(0, KEYS)
        k_pixel, k_region, k_inside = tokens(
            k_place, top, left, H, W, windows_down, windows_across, shift_down, shift_right, ROWS, COLS
        )
        k = load_rows(qkv + C, k_pixel, k_inside, 3 * C, d, RAGGED)
        v = load_rows(qkv + 2 * C, k_pixel, k_inside, 3 * C, d, RAGGED)
        scores = logits(
            q, q_factor, q_place, q_region, k, inverse_norm(k), k_place, k_region, k_inside, bias, wraps,
            N, REGIONS, PENALTY, RAGGED, PRECISION,
        )  # fmt: skip
        larger = tl.maximum(largest, tl.max(scores, axis=1))
        shrink = tl.exp2(largest - larger)
        weights = tl.exp2(scores - larger[:, None])
        total = total * shrink + tl.sum(weights, axis=1)
        attended = attended * shrink[:, None] + product(weights.to(v.dtype), v, PRECISION)
        largest = larger
    if RAGGED:  # a place of padding may see nobody
        largest = tl.where(total > 0, largest, 0.0)
        total = tl.where(total > 0, total, 1.0)
    store_rows(out, q_pixel, q_inside, C, attended / total[:, None], d, RAGGED)
    if KEEP_SUMS:  # log2 of the sum of the softmax: the backward pass gets its weights from it
        tl.store(
            sums + (item * heads + head).to(tl.int64) * N + q_place,
            largest + tl.log2(total),
            mask=q_place < N,
        )
