"""The gradient of the table of position biases in one kernel: sums over all pairs of tokens that stand in one way.

A program has one head, one distance of rows and some distances of columns. Every number of the bias is read once, and
every sum is one program's own: no atomics, and the same bits every time.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from swinv2.ops.triton.launch import device_of

OFFSETS = 64  # distances of columns that a program takes at a time
COLUMNS = 32  # of the first token


# grad [h, N, N] -> table [(2*ROWS-1) * (2*COLS-1), h]
@triton.jit
def sums(
    grad, table, heads, ROWS: tl.constexpr, COLS: tl.constexpr, OFFSETS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    N: tl.constexpr = ROWS * COLS
    DOWN: tl.constexpr = 2 * ROWS - 1
    ACROSS: tl.constexpr = 2 * COLS - 1
    TILES: tl.constexpr = (ACROSS + OFFSETS - 1) // OFFSETS
    program = tl.program_id(0)
    tile, down, head = program % TILES, program // TILES % DOWN, program // TILES // DOWN
    grad += head.to(tl.int64) * N * N
    distance = down - (ROWS - 1)  # from the second token's row to the first's
    across = tile * OFFSETS + tl.arange(0, OFFSETS)

    added = tl.zeros([COLUMNS, OFFSETS], tl.float32)
    for row in range(tl.maximum(distance, 0), tl.minimum(ROWS, ROWS + distance)):
        for start in range(0, COLS, COLUMNS):
            col = start + tl.arange(0, COLUMNS)
            other = col[:, None] - across[None, :] + COLS - 1
            pairs = (row * COLS + col)[:, None] * N + (row - distance) * COLS + other
            inside = (col < COLS)[:, None] & (other >= 0) & (other < COLS)
            added += tl.load(grad + pairs, mask=inside, other=0.0).to(tl.float32)
    places = table + (down * ACROSS + across) * heads + head
    tl.store(places, tl.sum(added, axis=0).to(table.dtype.element_ty), mask=across < ACROSS)


def constants(window: list[int]) -> dict[str, int]:
    offsets = min(OFFSETS, triton.next_power_of_2(2 * window[1] - 1))
    columns = min(COLUMNS, triton.next_power_of_2(window[1]))
    return {
        "ROWS": window[0], "COLS": window[1], "OFFSETS": offsets, "COLUMNS": columns, "num_warps": 4,
    }  # fmt: skip


@torch.library.custom_op("swinv2::sum_diagonals", mutates_args=())
def sum_diagonals(grad: Tensor, window: list[int]) -> Tensor:
    """grad [h, N, N], contiguous -> [(2Mh-1)*(2Mw-1), h] in its dtype, summed in float32."""
    (rows, cols), heads, known = window, len(grad), constants(window)
    table = grad.new_empty((2 * rows - 1) * (2 * cols - 1), heads)
    with device_of(grad):
        sums[(heads * (2 * rows - 1) * triton.cdiv(2 * cols - 1, known["OFFSETS"]),)](
            grad, table, heads, **known
        )
    return table


@sum_diagonals.register_fake
def _(grad: Tensor, window: list[int]) -> Tensor:
    return grad.new_empty((2 * window[0] - 1) * (2 * window[1] - 1), len(grad))
