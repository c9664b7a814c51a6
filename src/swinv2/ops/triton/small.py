"""All gradients of window attention in one kernel, for windows that are exactly one tile: 16, 32 or 64 tokens.

A program has one head and goes over many windows, with the gradient of the bias in its registers; every window is read
once and its weights are computed once. What each program sums up is added afterwards, in a fixed order.
"""

from __future__ import annotations

import triton
import triton.language as tl

from swinv2.ops.triton.backward import of_logits, through_norm
from swinv2.ops.triton.tiles import (
    LOG2E,
    head_of_item,
    head_of_map,
    inverse_norm,
    load_rows,
    product,
    share_of_program,
    store_rows,
    tokens_at,
    window_of,
)


# -> dqkv [B, H, W, 3C], dscale [shares, groups, h], dbias [shares, groups, h, N, N]; groups is n where every window has
# a bias of its own, and 1 otherwise
@triton.jit
def gradients(
    qkv, scale, bias, sums, grad, dqkv, dscale, dbias, items, shares, H, W, windows_down, windows_across,
    shift_down, shift_right, heads, ROWS: tl.constexpr, COLS: tl.constexpr, d: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, BIAS_OF_WINDOW: tl.constexpr, OF_BIAS: tl.constexpr,
    REGIONS: tl.constexpr, PENALTY: tl.constexpr, RAGGED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    N: tl.constexpr = ROWS * COLS
    geometry = H, W, windows_down, windows_across, shift_down, shift_right
    groups = windows_down * windows_across if BIAS_OF_WINDOW else 1
    _, head, share_and_group = share_of_program(heads, 1)
    group, share = share_and_group % groups, share_and_group // groups
    C = heads * d
    place = tl.arange(0, QUERIES)
    factor = tl.load(scale + head)
    bias = head_of_item(bias, group, head, heads, N * N)

    of_scale = tl.zeros([QUERIES], tl.float32)
    added = tl.zeros([QUERIES, KEYS], tl.float32)
    for item in range(share * groups + group, items, shares * groups):
        window, _, wraps = window_of(item, geometry, ROWS, COLS)
        tokens = tokens_at(place, window, geometry, ROWS, COLS)
        maps = head_of_map(qkv, window, head, geometry, 3 * C, d)
        of_maps = head_of_map(dqkv, window, head, geometry, 3 * C, d)
        q = load_rows(maps, tokens, 3 * C, d, RAGGED)
        k = load_rows(maps + C, tokens, 3 * C, d, RAGGED)
        v = load_rows(maps + 2 * C, tokens, 3 * C, d, RAGGED)
        g = load_rows(head_of_map(grad, window, head, geometry, C, d), tokens, C, d, RAGGED)
        total = tl.load(head_of_item(sums, item, head, heads, N) + place, mask=place < N, other=0.0)
        q_inverse, k_inverse = inverse_norm(q), inverse_norm(k)
        weights, ds = of_logits(
            q, q_inverse * factor * LOG2E, tokens, g, total, None, k, k_inverse, tokens, v, bias, wraps,
            N, REGIONS, PENALTY, RAGGED, PRECISION,
        )  # fmt: skip
        if OF_BIAS:
            added += ds
        unit_q, unit_k = q * q_inverse[:, None], k * k_inverse[:, None]
        of_v = product(tl.trans(weights.to(g.dtype)), g, PRECISION)
        store_rows(of_maps + 2 * C, tokens, 3 * C, of_v, d, RAGGED)
        ds = ds.to(q.dtype)
        of_k = product(tl.trans(ds), unit_q.to(q.dtype), PRECISION)
        store_rows(of_maps + C, tokens, 3 * C, factor * through_norm(of_k, unit_k, k_inverse), d, RAGGED)
        of_q = product(ds, unit_k.to(k.dtype), PRECISION)
        store_rows(of_maps, tokens, 3 * C, factor * through_norm(of_q, unit_q, q_inverse), d, RAGGED)
        of_scale += tl.sum(of_q * unit_q, axis=1)
    tl.store(dscale + share_and_group * heads + head, tl.sum(of_scale, axis=0))
    if OF_BIAS:
        places = place[:, None] * N + place[None, :]
        inside_both = (place < N)[:, None] & (place < N)[None, :]
        tl.store(head_of_item(dbias, share_and_group, head, heads, N * N) + places, added, mask=inside_both)
