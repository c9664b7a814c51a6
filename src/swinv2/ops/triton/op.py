"""The kernels as operators of PyTorch: with shapes for compilers that run nothing, and with gradients."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from swinv2.ops.triton.launch import Windows, attend, gradients
from swinv2.ops.triton.tiles import INTERPRETED
from swinv2.ops.windows import padded

# Compilers look into this one, and AOTInductor puts its kernel into packages. In the interpreter there is none to find.
seen_by_compilers = torch.library.custom_op if INTERPRETED.value else torch.library.triton_op


@seen_by_compilers("swinv2::window_attention", mutates_args=())
def window_attention(
    qkv: Tensor, logit_scale: Tensor, bias: Tensor, heads: int, window: list[int], shift: list[int], keep_sums: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """qkv [B, H, W, 3C], logit_scale [heads] in float32, bias as in swinv2.ops; all contiguous -> out, sums."""
    windows = Windows.of(qkv, heads, (window[0], window[1]), (shift[0], shift[1]))
    return attend(qkv, logit_scale, bias, windows, keep_sums=keep_sums)


@window_attention.register_fake
def _(
    qkv: Tensor, logit_scale: Tensor, bias: Tensor, heads: int, window: list[int], shift: list[int], keep_sums: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    B, H, W, C3 = qkv.shape
    rows, cols = padded((H, W), (window[0], window[1]))
    items = B * (rows // window[0]) * (cols // window[1])
    sums = (items, heads, math.prod(window)) if keep_sums else (0,)
    return qkv.new_empty(B, H, W, C3 // 3), logit_scale.new_empty(sums)


@torch.library.custom_op("swinv2::window_attention_backward", mutates_args=())
def window_attention_backward(
    grad: Tensor, qkv: Tensor, logit_scale: Tensor, bias: Tensor, out: Tensor, sums: Tensor,
    heads: int, window: list[int], shift: list[int], of_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    windows = Windows.of(qkv, heads, (window[0], window[1]), (shift[0], shift[1]))
    return gradients(grad.contiguous(), qkv, logit_scale, bias, out, sums, windows, of_bias=of_bias)


@window_attention_backward.register_fake
def _(
    grad: Tensor, qkv: Tensor, logit_scale: Tensor, bias: Tensor, out: Tensor, sums: Tensor,
    heads: int, window: list[int], shift: list[int], of_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return (
        torch.empty_like(qkv),
        torch.empty_like(logit_scale),
        torch.empty_like(bias) if of_bias else bias.new_empty(0),
    )


def _keep(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    qkv, logit_scale, bias, ctx.heads, ctx.window, ctx.shift, keep_sums = inputs
    assert keep_sums, "gradients need the sums of the softmax"
    ctx.save_for_backward(qkv, logit_scale, bias, *output)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 7
    of_bias = ctx.needs_input_grad[2]
    dqkv, dscale, dbias = torch.ops.swinv2.window_attention_backward(
        grad, *ctx.saved_tensors, ctx.heads, ctx.window, ctx.shift, of_bias
    )
    return dqkv, dscale, dbias if of_bias else None, None, None, None, None


window_attention.register_autograd(_backward, setup_context=_keep)
