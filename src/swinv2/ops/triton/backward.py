"""The gradients of window attention: weights are computed again from q, k and the kept sums, never stored.

With P the weights, dP = dO V^T and delta = rows of sum(P dP) = rows of sum(O dO), the gradient of the logits is
dS = P (dP - delta). Three kernels, each of which owns what it writes, so that no two programs add to one number
and the result is the same to the last bit every time: of queries, of keys, and of the position bias.
"""

from __future__ import annotations

import triton
import triton.language as tl

from swinv2.ops.triton.tiles import (
    LOG2E,
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


@triton.jit
def of_logits(logits, queries, grad, v, total, delta, RAGGED: tl.constexpr, PRECISION: tl.constexpr):
    """The weights P and the gradient dS of a tile, [queries, keys] in float32.

    delta is None where the tile has all keys: then it is the sum of a row of P dP.
    """
    weights = tl.exp2(logits * LOG2E - total[:, None])
    if RAGGED:
        _, _, _, inside = queries
        weights = tl.where(inside[:, None], weights, 0.0)  # padding asks nothing
    of_weights = product(grad, tl.trans(v), PRECISION)
    if delta is None:
        # They sum to one but for the rounding of total, which would remain in dS as an error that all keys share.
        delta = tl.sum(weights * of_weights, axis=1) / tl.maximum(tl.sum(weights, axis=1), 0.5)
    return weights, weights * (of_weights - delta[:, None])


@triton.jit
def through_norm(of_unit, unit, factor):
    """From the gradient of x / |x| to that of x, with factor 1 / |x|: what lies along x changes nothing."""
    return factor[:, None] * (of_unit - unit * tl.sum(of_unit * unit, axis=1)[:, None])


# grad, out [B, H, W, C], sums [B*n, h, N] -> dqkv [B, H, W, 3C] (the part of q), deltas [B*n, h, N],
# dscale [B*n, tiles, h]
@triton.jit
def of_queries(
    qkv, logit_scale, bias, out, sums, grad, dqkv, deltas, dscale, H, W, windows_down, windows_across, shift_down,
    shift_right, heads, ROWS: tl.constexpr, COLS: tl.constexpr, d: tl.constexpr, QUERIES: tl.constexpr,
    KEYS: tl.constexpr, BIAS_OF_WINDOW: tl.constexpr, REGIONS: tl.constexpr, PENALTY: tl.constexpr,
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
    dqkv = head_of_map(dqkv, image, head, geometry, 3 * C, d)
    out = head_of_map(out, image, head, geometry, C, d)
    grad = head_of_map(grad, image, head, geometry, C, d)
    bias = head_of_item(bias, number if BIAS_OF_WINDOW else 0, head, heads, N * N)
    sums = head_of_item(sums, item, head, heads, N)
    deltas = head_of_item(deltas, item, head, heads, N)

    q_place = tile * QUERIES + tl.arange(0, QUERIES)
    queries = tokens_at(q_place, window, geometry, ROWS, COLS)
    q = load_rows(qkv, queries, 3 * C, d, RAGGED)
    g = load_rows(grad, queries, C, d, RAGGED)
    o = load_rows(out, queries, C, d, RAGGED)
    total = tl.load(sums + q_place, mask=q_place < N, other=0.0)
    delta = tl.sum(g.to(tl.float32) * o.to(tl.float32), axis=1)
    tl.store(deltas + q_place, delta, mask=q_place < N)
    q_inverse, factor = inverse_norm(q), scale_of(logit_scale, head)

    of_unit = tl.zeros([QUERIES, d], tl.float32)  # dS times the unit keys: the scale comes at the end
    for start in range(0, N, KEYS):
        keys = tokens_at(start + tl.arange(0, KEYS), window, geometry, ROWS, COLS)
        k = load_rows(qkv + C, keys, 3 * C, d, RAGGED)
        v = load_rows(qkv + 2 * C, keys, 3 * C, d, RAGGED)
        k_inverse = inverse_norm(k)
        scores = scaled_cosines(q, q_inverse * factor, k, k_inverse, PRECISION)
        scores += bias_between(bias, queries, keys, N, RAGGED)
        scores = masked(scores, queries, keys, wraps, REGIONS, PENALTY, RAGGED)
        _, ds = of_logits(scores, queries, g, v, total, delta, RAGGED, PRECISION)
        unit_k = (k * k_inverse[:, None]).to(k.dtype)
        of_unit += product(ds.to(k.dtype), unit_k, PRECISION)
    unit_q = q * q_inverse[:, None]
    store_rows(dqkv, queries, 3 * C, through_norm(of_unit, unit_q, q_inverse * factor), d, RAGGED)
    # sum of dS times the cosines
    of_scale = tl.sum(tl.sum(of_unit * unit_q, axis=1), axis=0)
    tl.store(dscale + (item * TILES + tile) * heads + head, of_scale * slope_of_scale(logit_scale, head))


# -> dqkv [B, H, W, 3C], the parts of k and v
@triton.jit
def of_keys(
    qkv, logit_scale, bias, sums, grad, deltas, dqkv, H, W, windows_down, windows_across, shift_down, shift_right,
    heads, ROWS: tl.constexpr, COLS: tl.constexpr, d: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
    BIAS_OF_WINDOW: tl.constexpr, REGIONS: tl.constexpr, PENALTY: tl.constexpr, RAGGED: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    N: tl.constexpr = ROWS * COLS
    TILES: tl.constexpr = (N + KEYS - 1) // KEYS
    geometry = H, W, windows_down, windows_across, shift_down, shift_right
    tile, head, item = share_of_program(heads, TILES)
    windows = windows_down * windows_across
    image, number = item // windows, item % windows
    window, wraps = window_at(number, geometry, ROWS, COLS)
    C = heads * d
    qkv = head_of_map(qkv, image, head, geometry, 3 * C, d)
    dqkv = head_of_map(dqkv, image, head, geometry, 3 * C, d)
    grad = head_of_map(grad, image, head, geometry, C, d)
    bias = head_of_item(bias, number if BIAS_OF_WINDOW else 0, head, heads, N * N)
    sums = head_of_item(sums, item, head, heads, N)
    deltas = head_of_item(deltas, item, head, heads, N)

    keys = tokens_at(tile * KEYS + tl.arange(0, KEYS), window, geometry, ROWS, COLS)
    k = load_rows(qkv + C, keys, 3 * C, d, RAGGED)
    v = load_rows(qkv + 2 * C, keys, 3 * C, d, RAGGED)
    k_inverse, factor = inverse_norm(k), scale_of(logit_scale, head)

    of_unit = tl.zeros([KEYS, d], tl.float32)
    of_v = tl.zeros([KEYS, d], tl.float32)
    for start in range(0, N, QUERIES):
        q_place = start + tl.arange(0, QUERIES)
        queries = tokens_at(q_place, window, geometry, ROWS, COLS)
        q = load_rows(qkv, queries, 3 * C, d, RAGGED)
        g = load_rows(grad, queries, C, d, RAGGED)
        total = tl.load(sums + q_place, mask=q_place < N, other=0.0)
        delta = tl.load(deltas + q_place, mask=q_place < N, other=0.0)
        q_inverse = inverse_norm(q)
        scores = scaled_cosines(q, q_inverse * factor, k, k_inverse, PRECISION)
        scores += bias_between(bias, queries, keys, N, RAGGED)
        scores = masked(scores, queries, keys, wraps, REGIONS, PENALTY, RAGGED)
        weights, ds = of_logits(scores, queries, g, v, total, delta, RAGGED, PRECISION)
        of_v += product(tl.trans(weights.to(g.dtype)), g, PRECISION)
        unit_q = (q * q_inverse[:, None]).to(q.dtype)
        of_unit += product(tl.trans(ds.to(q.dtype)), unit_q, PRECISION)
    of_k = through_norm(of_unit, k * k_inverse[:, None], k_inverse * factor)
    store_rows(dqkv + C, keys, 3 * C, of_k, d, RAGGED)
    store_rows(dqkv + 2 * C, keys, 3 * C, of_v, d, RAGGED)


# -> dbias [shares of images, shares of windows, h, N, N]; where every window has a bias of its own, so many shares
@triton.jit
def of_bias(
    qkv, logit_scale, bias, sums, grad, deltas, dbias, images, shares, H, W, windows_down, windows_across, shift_down,
    shift_right, heads, ROWS: tl.constexpr, COLS: tl.constexpr, d: tl.constexpr, QUERIES: tl.constexpr,
    KEYS: tl.constexpr, BIAS_OF_WINDOW: tl.constexpr, REGIONS: tl.constexpr, PENALTY: tl.constexpr,
    RAGGED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of one head's bias, summed over every shares-th window of some images."""
    N: tl.constexpr = ROWS * COLS
    ACROSS: tl.constexpr = (N + KEYS - 1) // KEYS
    TILES: tl.constexpr = (N + QUERIES - 1) // QUERIES * ACROSS
    geometry = H, W, windows_down, windows_across, shift_down, shift_right
    tile, head, share = share_of_program(heads, TILES)
    windows = windows_down * windows_across
    C = heads * d
    q_place = tile // ACROSS * QUERIES + tl.arange(0, QUERIES)
    k_place = tile % ACROSS * KEYS + tl.arange(0, KEYS)
    factor = scale_of(logit_scale, head)

    of_bias = tl.zeros([QUERIES, KEYS], tl.float32)
    for number in range(share, windows, shares):
        window, wraps = window_at(number, geometry, ROWS, COLS)
        queries = tokens_at(q_place, window, geometry, ROWS, COLS)
        keys = tokens_at(k_place, window, geometry, ROWS, COLS)
        of_window = head_of_item(bias, number if BIAS_OF_WINDOW else 0, head, heads, N * N)
        added = bias_between(of_window, queries, keys, N, RAGGED)
        added = masked(added, queries, keys, wraps, REGIONS, PENALTY, RAGGED)
        for image in range(tl.program_id(1), images, tl.num_programs(1)):
            maps = head_of_map(qkv, image, head, geometry, 3 * C, d)
            q = load_rows(maps, queries, 3 * C, d, RAGGED)
            k = load_rows(maps + C, keys, 3 * C, d, RAGGED)
            v = load_rows(maps + 2 * C, keys, 3 * C, d, RAGGED)
            g = load_rows(head_of_map(grad, image, head, geometry, C, d), queries, C, d, RAGGED)
            kept = head_of_item(0, image * windows + number, head, heads, N) + q_place
            total = tl.load(sums + kept, mask=q_place < N, other=0.0)
            delta = tl.load(deltas + kept, mask=q_place < N, other=0.0)
            scores = scaled_cosines(q, inverse_norm(q) * factor, k, inverse_norm(k), PRECISION) + added
            _, ds = of_logits(scores, queries, g, v, total, delta, RAGGED, PRECISION)
            of_bias += ds
    dbias = head_of_item(dbias, tl.program_id(1) * shares + share, head, heads, N * N)
    places = q_place[:, None] * N + k_place[None, :]
    tl.store(dbias + places, of_bias, mask=(q_place < N)[:, None] & (k_place < N)[None, :])
