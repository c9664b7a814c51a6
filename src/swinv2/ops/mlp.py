"""The MLP of a block, fc2(gelu(fc1(x))), forward and backward.

By itself PyTorch writes what GELU is taken of, reads it, writes the result, and passes over both again on the way back:
the widest maps of the network. Our kernels take GELU to the sums of the first product, and its derivative to those of
the product that brings the gradient back. The other four products of a step are left to the library.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swinv2.ops import products, triton


def mlp(x: Tensor, fc1: nn.Module, fc2: nn.Module, *, backend: str | None = None) -> Tensor:
    """fc2(gelu(fc1(x))), with the exact GELU: [..., C] -> [..., outs].

    Args:
        fc1, fc2: linear layers with a bias; in eager mode anything.
        backend: "eager" or "triton", which runs or raises; None chooses.
    """
    if not _wants_gradients(x, fc1, fc2):
        return fc2(products.linear_gelu(x, fc1, backend=backend))  # type: ignore[no-any-return]
    if backend == "eager" or (backend is None and not is_chosen(x, fc1, fc2)):
        return fc2(F.gelu(fc1(x)))  # type: ignore[no-any-return]
    if backend is not None and (why := unsupported(x, fc1, fc2)):
        raise ValueError(f"MLP back end triton cannot run this: {why}")
    assert isinstance(fc1, nn.Linear)
    assert isinstance(fc2, nn.Linear)
    dtype = computed_in(x)
    weights = (layer.to(dtype) for layer in (fc1.weight, fc1.bias, fc2.weight, fc2.bias))
    return _Mlp.apply(x.to(dtype).contiguous(), *weights)  # type: ignore[no-any-return]


class _Mlp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor
    ) -> Tensor:  # type: ignore[override]
        hidden, sums = torch.ops.swinv2.linear_gelu(x, weight1, bias1, True)
        ctx.save_for_backward(x, weight1, sums, hidden, weight2)
        return F.linear(hidden, weight2, bias2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight1, sums, hidden, weight2 = ctx.saved_tensors
        grad = grad.contiguous()
        dsums, dbias1 = torch.ops.swinv2.linear_gelu_backward(grad, weight2, sums)
        of_x, of_weight1, _, of_weight2, of_bias2 = ctx.needs_input_grad
        return (
            dsums @ weight1 if of_x else None,
            _rows(dsums).t() @ _rows(x) if of_weight1 else None,
            dbias1,
            _rows(grad).t() @ _rows(hidden) if of_weight2 else None,
            _rows(grad).sum(0) if of_bias2 else None,
        )


def _rows(x: Tensor) -> Tensor:
    return x.view(-1, x.shape[-1])


def computed_in(x: Tensor) -> torch.dtype:
    """What autocast casts to, where it is on."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def is_chosen(x: Tensor, fc1: nn.Module, fc2: nn.Module) -> bool:
    """Whether our kernels compute where nobody names a back end."""
    return products.may_choose(x) and products.is_fast(computed_in(x)) and unsupported(x, fc1, fc2) is None


def unsupported(x: Tensor, fc1: nn.Module, fc2: nn.Module) -> str | None:
    if x.dtype not in triton.DTYPES:  # of which autocast leaves float64 as it is
        return f"needs torch.float32, bfloat16 or float16, got {x.dtype}"
    for layer in (fc1, fc2):
        if why := products.is_other_than(products.LINEAR, layer):
            return why
        if products.is_watched(layer):
            return "somebody watches a layer alone"
        if layer.weight.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
            return f"weights are {layer.weight.dtype}, and what goes in is {x.dtype}"
    return triton.refusal(x.device.type, x.device.index)


def _wants_gradients(x: Tensor, fc1: nn.Module, fc2: nn.Module) -> bool:
    leaves = (x, *fc1.parameters(), *fc2.parameters())
    return torch.is_grad_enabled() and any(leaf.requires_grad for leaf in leaves)
