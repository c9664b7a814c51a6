"""Window attention in one kernel, forward: from the map of q, k, v to the map of the result, nothing in between.

A program has some queries of one window and one head, and goes over the window's keys with a running maximum: for two
images at a time, so that the bias of a tile, which is twice as large as its keys and values, is read once for both.
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
    qkv, logit_scale, bias, out, sums, images, H, W, windows_down, windows_across, shift_down, shift_right, heads,
    ROWS: tl.constexpr, COLS: tl.constexpr, d: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
    BIAS_OF_WINDOW: tl.constexpr, KEEP_SUMS: tl.constexpr, REGIONS: tl.constexpr, PENALTY: tl.constexpr,
    RAGGED: tl.constexpr, PRECISION: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    N: tl.constexpr = ROWS * COLS
    TILES: tl.constexpr = (N + QUERIES - 1) // QUERIES
    geometry = H, W, windows_down, windows_across, shift_down, shift_right
    tile, head, item = share_of_program(heads, TILES)
    windows = windows_down * windows_across
    number = item % windows
    window, wraps = window_at(number, geometry, ROWS, COLS)
    bias = head_of_item(bias, number if BIAS_OF_WINDOW else 0, head, heads, N * N)
    queries = tokens_at(tile * QUERIES + tl.arange(0, QUERIES), window, geometry, ROWS, COLS)
    scale = scale_of(logit_scale, head)
    C = heads * d

    image = item // windows * (2 if PAIRS else 1)
    maps = head_of_map(qkv, image, head, geometry, 3 * C, d)
    q = load_rows(maps, queries, 3 * C, d, RAGGED)
    q_factor = inverse_norm(q) * scale
    softmax = nothing_yet(QUERIES, d)
    if PAIRS:  # of an odd number the last is computed twice
        other = tl.minimum(image + 1, images - 1)
        other_maps = head_of_map(qkv, other, head, geometry, 3 * C, d)
        other_q = load_rows(other_maps, queries, 3 * C, d, RAGGED)
        other_q_factor = inverse_norm(other_q) * scale
        other_softmax = nothing_yet(QUERIES, d)
    for start in range(0, N, KEYS):
        keys = tokens_at(start + tl.arange(0, KEYS), window, geometry, ROWS, COLS)
        added = bias_between(bias, queries, keys, N, RAGGED)
        added = masked(added, queries, keys, wraps, REGIONS, PENALTY, RAGGED)
        softmax = with_keys(softmax, q, q_factor, maps, keys, added, C, d, RAGGED, PRECISION)
        if PAIRS:
            other_softmax = with_keys(
                other_softmax, other_q, other_q_factor, other_maps, keys, added, C, d, RAGGED, PRECISION
            )
    write(softmax, out, sums, image, number, queries, head, heads, geometry, d, N, KEEP_SUMS, RAGGED)
    if PAIRS:
        write(
            other_softmax, out, sums, other, number, queries, head, heads, geometry, d, N, KEEP_SUMS, RAGGED
        )


@triton.jit
def nothing_yet(QUERIES: tl.constexpr, d: tl.constexpr):
    """A softmax of no keys: the largest logit, the sum of weights, and that of weighted values, of every query."""
    largest = tl.full([QUERIES], LOWEST, tl.float32)
    return largest, tl.zeros([QUERIES], tl.float32), tl.zeros([QUERIES, d], tl.float32)


@triton.jit
def with_keys(
    softmax, q, q_factor, maps, keys, added, C, d: tl.constexpr, RAGGED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The softmax with these keys too, at whose logits added is added."""
    largest, total, attended = softmax
    k = load_rows(maps + C, keys, 3 * C, d, RAGGED)
    v = load_rows(maps + 2 * C, keys, 3 * C, d, RAGGED)
    scores = scaled_cosines(q, q_factor, k, inverse_norm(k), PRECISION) + added
    larger = tl.maximum(largest, tl.max(scores, axis=1))
    shrink = tl.exp2((largest - larger) * LOG2E)
    weights = tl.exp2(scores * LOG2E - (larger * LOG2E)[:, None])
    total = total * shrink + tl.sum(weights, axis=1)
    return larger, total, attended * shrink[:, None] + product(weights.to(v.dtype), v, PRECISION)


@triton.jit
def write(
    softmax, out, sums, image, number, queries, head, heads, geometry, d: tl.constexpr, N: tl.constexpr,
    KEEP_SUMS: tl.constexpr, RAGGED: tl.constexpr,
):  # fmt: skip
    largest, total, attended = softmax
    _, _, windows_down, windows_across, _, _ = geometry
    place, _, _, _ = queries
    if RAGGED:  # a place of padding may see nobody
        largest = tl.where(total > 0, largest, 0.0)
        total = tl.where(total > 0, total, 1.0)
    out = head_of_map(out, image, head, geometry, heads * d, d)
    store_rows(out, queries, heads * d, attended * (1 / total)[:, None], d, RAGGED)
    if KEEP_SUMS:  # log2 of the sum of the softmax: the backward pass gets its weights from it
        kept = head_of_item(sums, image * windows_down * windows_across + number, head, heads, N) + place
        tl.store(kept, largest * LOG2E + tl.log2(total), mask=place < N)
