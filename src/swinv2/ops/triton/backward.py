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
    head_of_item,
    head_of_map,
    inverse_norm,
    load_rows,
    logits,
    product,
    share_of_program,
    store_rows,
    tokens_at,
    window_of,
)


@triton.jit
def of_logits(
    q, q_factor, queries, grad, total, delta, k, k_factor, keys, v, bias, wraps, N: tl.constexpr,
    REGIONS: tl.constexpr, PENALTY: tl.constexpr, RAGGED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The weights P and the gradient dS of a tile, [queries, keys] in float32.

    delta is None where the tile has all keys: then it is the sum of a row of P dP.
    """
    scores = logits(
        q, q_factor, queries, k, k_factor, keys, bias, wraps, N, REGIONS, PENALTY, RAGGED, PRECISION,
    )  # fmt: skip
    weights = tl.exp2(scores - total[:, None])
    if RAGGED:
        _, _, _, inside = queries
        weights = tl.where(inside[:, None], weights, 0.0)  # padding asks nothing
    of_weights = product(grad, tl.trans(v), PRECISION)
    if delta is None:
        # They sum to one but for the rounding of total, which would remain in delta as an error that all keys share.
        weights = weights / tl.maximum(tl.sum(weights, axis=1), 0.5)[:, None]
        delta = tl.sum(weights * of_weights, axis=1)
    return weights, weights * (of_weights - delta[:, None])


@triton.jit
def through_norm(of_unit, unit, inverse):
    """From the gradient of x / |x| to that of x: what lies along x changes nothing."""
    return inverse[:, None] * (of_unit - unit * tl.sum(of_unit * unit, axis=1)[:, None])


# grad, out [B, H, W, C], sums [B*n, h, N] -> dqkv [B, H, W, 3C] (the part of q), deltas [B*n, h, N],
# dscale [B*n, tiles, h]
@triton.jit
def of_queries(
    qkv, scale, bias, out, sums, grad, dqkv, deltas, dscale, H, W, windows_down, windows_across, shift_down,
    shift_right, heads, ROWS: tl.constexpr, COLS: tl.constexpr, d: tl.constexpr, QUERIES: tl.constexpr,
    KEYS: tl.constexpr, BIAS_OF_WINDOW: tl.constexpr, REGIONS: tl.constexpr, PENALTY: tl.constexpr,
    RAGGED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    N: tl.constexpr = ROWS * COLS
    TILES: tl.constexpr = (N + QUERIES - 1) // QUERIES
    geometry = H, W, windows_down, windows_across, shift_down, shift_right
    tile, head, item = share_of_program(heads, TILES)
    window, number, wraps = window_of(item, geometry, ROWS, COLS)
    C = heads * d
    qkv = head_of_map(qkv, window, head, geometry, 3 * C, d)
    dqkv = head_of_map(dqkv, window, head, geometry, 3 * C, d)
    out = head_of_map(out, window, head, geometry, C, d)
    grad = head_of_map(grad, window, head, geometry, C, d)
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
    q_inverse, factor = inverse_norm(q), tl.load(scale + head)

    of_unit = tl.zeros([QUERIES, d], tl.float32)  # dS times the unit keys: the scale comes at the end
    for start in range(0, N, KEYS):
        keys = tokens_at(start + tl.arange(0, KEYS), window, geometry, ROWS, COLS)
        k = load_rows(qkv + C, keys, 3 * C, d, RAGGED)
        v = load_rows(qkv + 2 * C, keys, 3 * C, d, RAGGED)
        k_inverse = inverse_norm(k)
        _, ds = of_logits(
            q, q_inverse * factor * LOG2E, queries, g, total, delta, k, k_inverse, keys, v, bias, wraps,
            N, REGIONS, PENALTY, RAGGED, PRECISION,
        )  # fmt: skip
        unit_k = (k * k_inverse[:, None]).to(k.dtype)
        of_unit += product(ds.to(k.dtype), unit_k, PRECISION)
    unit_q = q * q_inverse[:, None]
    store_rows(dqkv, queries, 3 * C, factor * through_norm(of_unit, unit_q, q_inverse), d, RAGGED)
    # sum of dS times the cosines
    tl.store(dscale + (item * TILES + tile) * heads + head, tl.sum(tl.sum(of_unit * unit_q, axis=1), axis=0))


# -> dqkv [B, H, W, 3C], the parts of k and v
@triton.jit
def of_keys(
    qkv, scale, bias, sums, grad, deltas, dqkv, H, W, windows_down, windows_across, shift_down, shift_right,
    heads, ROWS: tl.constexpr, COLS: tl.constexpr, d: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
    BIAS_OF_WINDOW: tl.constexpr, REGIONS: tl.constexpr, PENALTY: tl.constexpr, RAGGED: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    N: tl.constexpr = ROWS * COLS
    TILES: tl.constexpr = (N + KEYS - 1) // KEYS
    geometry = H, W, windows_down, windows_across, shift_down, shift_right
    tile, head, item = share_of_program(heads, TILES)
    window, number, wraps = window_of(item, geometry, ROWS, COLS)
    C = heads * d
    qkv = head_of_map(qkv, window, head, geometry, 3 * C, d)
    dqkv = head_of_map(dqkv, window, head, geometry, 3 * C, d)
    grad = head_of_map(grad, window, head, geometry, C, d)
    bias = head_of_item(bias, number if BIAS_OF_WINDOW else 0, head, heads, N * N)
    sums = head_of_item(sums, item, head, heads, N)
    deltas = head_of_item(deltas, item, head, heads, N)

    keys = tokens_at(tile * KEYS + tl.arange(0, KEYS), window, geometry, ROWS, COLS)
    k = load_rows(qkv + C, keys, 3 * C, d, RAGGED)
    v = load_rows(qkv + 2 * C, keys, 3 * C, d, RAGGED)
    k_inverse, factor = inverse_norm(k), tl.load(scale + head)

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
        weights, ds = of_logits(
            q, q_inverse * factor * LOG2E, queries, g, total, delta, k, k_inverse, keys, v, bias, wraps,
            N, REGIONS, PENALTY, RAGGED, PRECISION,
        )  # fmt: skip
        of_v += product(tl.trans(weights.to(g.dtype)), g, PRECISION)
        unit_q = (q * q_inverse[:, None]).to(q.dtype)
        of_unit += product(tl.trans(ds.to(q.dtype)), unit_q, PRECISION)
    of_k = factor * through_norm(of_unit, k * k_inverse[:, None], k_inverse)
    store_rows(dqkv + C, keys, 3 * C, of_k, d, RAGGED)
    store_rows(dqkv + 2 * C, keys, 3 * C, of_v, d, RAGGED)


# -> dbias [shares, h, N, N], or [shares, n, h, N, N] where every window has a bias of its own
@triton.jit
def of_bias(
    qkv, scale, bias, sums, grad, deltas, dbias, items, shares, H, W, windows_down, windows_across, shift_down,
    shift_right, heads, ROWS: tl.constexpr, COLS: tl.constexpr, d: tl.constexpr, QUERIES: tl.constexpr,
    KEYS: tl.constexpr, BIAS_OF_WINDOW: tl.constexpr, REGIONS: tl.constexpr, PENALTY: tl.constexpr,
    RAGGED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of one head's bias, summed over every shares-th of the windows that it was added to."""
    N: tl.constexpr = ROWS * COLS
    ACROSS: tl.constexpr = (N + KEYS - 1) // KEYS
    TILES: tl.constexpr = (N + QUERIES - 1) // QUERIES * ACROSS
    geometry = H, W, windows_down, windows_across, shift_down, shift_right
    groups = windows_down * windows_across if BIAS_OF_WINDOW else 1
    tile, head, share_and_group = share_of_program(heads, TILES)
    group, share = share_and_group % groups, share_and_group // groups
    C = heads * d
    q_place = tile // ACROSS * QUERIES + tl.arange(0, QUERIES)
    k_place = tile % ACROSS * KEYS + tl.arange(0, KEYS)
    factor = tl.load(scale + head)
    bias = head_of_item(bias, group, head, heads, N * N)

    added = tl.zeros([QUERIES, KEYS], tl.float32)
    for item in range(share * groups + group, items, shares * groups):
        window, _, wraps = window_of(item, geometry, ROWS, COLS)
        maps = head_of_map(qkv, window, head, geometry, 3 * C, d)
        grads = head_of_map(grad, window, head, geometry, C, d)
        kept = (item * heads + head).to(tl.int64) * N + q_place
        queries = tokens_at(q_place, window, geometry, ROWS, COLS)
        keys = tokens_at(k_place, window, geometry, ROWS, COLS)
        q = load_rows(maps, queries, 3 * C, d, RAGGED)
        k = load_rows(maps + C, keys, 3 * C, d, RAGGED)
        v = load_rows(maps + 2 * C, keys, 3 * C, d, RAGGED)
        g = load_rows(grads, queries, C, d, RAGGED)
        total = tl.load(sums + kept, mask=q_place < N, other=0.0)
        delta = tl.load(deltas + kept, mask=q_place < N, other=0.0)
        _, ds = of_logits(
            q, inverse_norm(q) * factor * LOG2E, queries, g, total, delta, k, inverse_norm(k), keys, v, bias,
            wraps, N, REGIONS, PENALTY, RAGGED, PRECISION,
        )  # fmt: skip
        added += ds
    dbias = head_of_item(dbias, share_and_group, head, heads, N * N)
    places = q_place[:, None] * N + k_place[None, :]
    tl.store(dbias + places, added, mask=(q_place < N)[:, None] & (k_place < N)[None, :])
