"""The position bias of every pair of tokens from the table of all offsets, and the way back by diagonals.

Pairs that stand to each other in the same way share an entry of the table. In the bias of one axis, [M, M], they are
a diagonal, and over two axes a diagonal of diagonals: so gradients are sums in a fixed order. By itself autograd adds
number by number, on a GPU by atomics in any order.
"""

# h heads, M window, N = Mh*Mw tokens of one window, K = (2Mh-1)*(2Mw-1) offsets

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from swinv2.config import Pair
from swinv2.ops import triton


def gather(table: Tensor, rows: Tensor, window: Pair, *, by_diagonals: bool | None = None) -> Tensor:
    """table [K, h] and the row of it for every pair of tokens [N, N] -> bias [h, N, N], contiguous.

    Args:
        by_diagonals: how gradients come back. None: so but on a CPU, whose sums are in one order and as fast, and in
            traced and exported programs, which hold the plain gather.
    """
    if by_diagonals is None:
        is_written = torch.compiler.is_exporting() or torch.jit.is_tracing()
        by_diagonals = table.device.type != "cpu" and torch.is_grad_enabled() and not is_written
    return _Gather.apply(table, rows, window) if by_diagonals else _gathered(table, rows)  # type: ignore[no-any-return]


def _gathered(table: Tensor, rows: Tensor) -> Tensor:
    bias = table.index_select(0, rows.flatten()).view(*rows.shape, table.shape[1])  # N N h
    # Contiguous: it is added to every window, and a strided sum took as long as the products.
    return bias.permute(2, 0, 1).contiguous()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(table: Tensor, rows: Tensor, window: Pair) -> Tensor:
        return _gathered(table, rows)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Pair], output: Tensor) -> None:
        ctx.window = inputs[2]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return sum_diagonals(grad, ctx.window), None, None


def sum_diagonals(grad: Tensor, window: Pair, *, backend: str | None = None) -> Tensor:
    """[h, N, N] -> [K, h]: for every offset between two tokens, the sum over all pairs that stand so.

    Args:
        backend: "eager" or "triton", which runs or raises; None chooses.
    """
    if backend is None:  # a compiler makes two kernels of the sums by itself
        by_itself = triton.IS_CHOSEN and grad.is_cuda and not torch.compiler.is_compiling()
        backend = "triton" if by_itself and not unsupported(grad) else "eager"
    if backend == "triton":
        if why := unsupported(grad):
            raise ValueError(f"sums of diagonals by triton cannot run this: {why}")
        return torch.ops.swinv2.sum_diagonals(grad.contiguous(), window)  # type: ignore[no-any-return]
    return _summed(grad, window)


def unsupported(grad: Tensor) -> str | None:
    if grad.dtype not in triton.DTYPES:
        return f"needs torch.float32, bfloat16 or float16, got {grad.dtype}"
    return triton.refusal(grad.device.type, grad.device.index)


def _summed(grad: Tensor, window: Pair) -> Tensor:
    (Mh, Mw), h = window, len(grad)
    # With the second token counted backwards a diagonal is one of constant sum i + j. Rows of 2M numbers, M of them
    # zeros, that are read as rows of 2M - 1 move right by one from row to row: then it is a column.
    x = grad.flip(2).view(h, Mh, Mw, Mh, Mw).transpose(2, 3)  # h Mh Mh Mw Mw: both rows, then both columns
    x = F.pad(x, (0, 0, 0, 0, 0, Mh)).flatten(1, 2)[:, : Mh * (2 * Mh - 1)]
    x = x.reshape(h, Mh, 2 * Mh - 1, Mw, Mw).sum(1)
    x = F.pad(x, (0, Mw)).flatten(2)[:, :, : Mw * (2 * Mw - 1)]
    x = x.reshape(h, 2 * Mh - 1, Mw, 2 * Mw - 1).sum(2)  # h 2Mh-1 2Mw-1
    return x.flatten(1).t()
