"""Both ways to compute a linear layer give torch's result; which one runs follows from device, dtype and rows."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from swinv2.linear import HALF_PRECISION_ROWS, Linear, linear, prefers_convolution


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 1, 5), (2, 3, 7, 32), (1, 48), (3, 4, 4, 33)])
def test_values_and_gradients_are_those_of_torch(shape, has_bias):
    torch.manual_seed(0)
    x, weight = torch.randn(shape, requires_grad=True), torch.randn(11, shape[-1], requires_grad=True)
    bias = torch.randn(11, requires_grad=True) if has_bias else None
    inputs = [t for t in (x, weight, bias) if t is not None]
    assert prefers_convolution(x)
    ours, theirs = (
        linear(x, weight, bias),
        F.linear(x.double(), weight.double(), None if bias is None else bias.double()),
    )
    torch.testing.assert_close(ours, theirs.float())
    pull = torch.randn_like(ours)
    for ours_grad, theirs_grad in zip(
        torch.autograd.grad(ours, inputs, pull),
        torch.autograd.grad(theirs, inputs, pull.double()),
        strict=True,
    ):
        torch.testing.assert_close(ours_grad, theirs_grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [HALF_PRECISION_ROWS - 1, HALF_PRECISION_ROWS])
def test_bfloat16_is_as_exact_as_torch(rows):
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(*s).bfloat16() for s in ((rows, 64), (24, 64), (24,)))
    assert prefers_convolution(x) == (rows >= HALF_PRECISION_ROWS)
    exact = F.linear(x.double(), weight.double(), bias.double())
    ours, theirs = (f(x, weight, bias).double() - exact for f in (linear, F.linear))
    assert ours.abs().max() <= 2 * theirs.abs().max()


def test_autocast_counts_as_its_dtype():
    x = torch.randn(8, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert not prefers_convolution(x)  # 8 rows in bfloat16
        assert Linear(16, 4)(x).dtype == torch.bfloat16


def test_compilers_and_other_devices_get_the_product():
    assert not prefers_convolution(torch.randn(4, 8, dtype=torch.float64))
    assert not prefers_convolution(torch.randn(4, 8, device="meta"))
    program = torch.export.export(Linear(8, 4), (torch.randn(3, 8),))
    names = {node.target.__name__ for node in program.graph.nodes if node.op == "call_function"}
    assert names == {"linear.default"}


def test_no_rows_are_no_error():
    assert linear(torch.randn(0, 8), torch.randn(4, 8)).shape == (0, 4)
