"""The gather of the position bias: its gradient by sums of diagonals, in every mode of torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd

from swinv2.config import Pair
from swinv2.model import Offsets
from swinv2.ops import position

WINDOWS = [(1, 1), (2, 2), (3, 5), (5, 3), (1, 7), (7, 1), (8, 8), (12, 12), (24, 24)]


gather = partial(position.gather, by_diagonals=True)


def rows(window: Pair) -> Tensor:
    return Offsets.compute(window, window, torch.device("cpu")).rows


def by_number(grad: Tensor, window: Pair) -> Tensor:
    """The sum as a loop over pairs of tokens, from the definition of an offset."""
    Mh, Mw = window
    table = torch.zeros(2 * Mh - 1, 2 * Mw - 1, len(grad), dtype=torch.float64)
    for i in range(Mh * Mw):
        for j in range(Mh * Mw):
            table[i // Mw - j // Mw + Mh - 1, i % Mw - j % Mw + Mw - 1] += grad[:, i, j]
    return table.flatten(0, 1)


@pytest.mark.parametrize("window", WINDOWS[:6], ids=str)
def test_entries_are_sums_over_the_pairs_that_stand_so(window):
    tokens = window[0] * window[1]
    grad = torch.randn(3, tokens, tokens, dtype=torch.float64)
    torch.testing.assert_close(position.sum_diagonals(grad, window), by_number(grad, window))


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_gradients_are_those_of_the_plain_gather(window):
    places = rows(window)
    grads = []
    for way in (gather, lambda table, places, _: position._gathered(table, places)):
        table = torch.randn(
            int(places.max()) + 1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
        )
        bias = way(table.requires_grad_(), places, window)
        grad = torch.randn(bias.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        grads.append(torch.autograd.grad(bias, table, grad)[0])
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("window", [(2, 3), (3, 1)], ids=str)
def test_the_gradient_is_that_of_differences(window):
    places = rows(window)
    table = torch.randn(int(places.max()) + 1, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: gather(t, places, window), table)
    assert torch.autograd.gradgradcheck(lambda t: gather(t, places, window).square(), table)


def test_gradients_of_any_layout_are_summed():
    """As a sum (every element is one number) and a transposition give them."""
    places = rows((3, 4))
    table = torch.randn(35, 2, dtype=torch.float64, requires_grad=True)
    (of_sum,) = torch.autograd.grad(gather(table, places, (3, 4)).sum(), table)
    torch.testing.assert_close(of_sum, by_number(torch.ones(2, 12, 12), (3, 4)))
    grad = torch.randn(12, 2, 12, dtype=torch.float64).permute(1, 2, 0)
    (found,) = torch.autograd.grad(gather(table, places, (3, 4)), table, grad)
    torch.testing.assert_close(found, by_number(grad, (3, 4)))


def test_the_bias_is_the_same_either_way():
    places, table = rows((3, 4)), torch.randn(35, 2, requires_grad=True)
    expected = position.gather(table, places, (3, 4))  # on a CPU the plain one
    found = gather(table, places, (3, 4))
    assert torch.equal(found, expected)
    assert found.is_contiguous()
    assert expected.is_contiguous()
    assert torch.equal(found[1, 2, 7], table[(0 - 1 + 2) * 7 + (2 - 3 + 3), 1])


def test_compiled_gradients_need_no_sum_by_index():
    """Nothing breaks, and neither the program of the forward pass nor that of the backward pass adds by index."""
    names: list[str] = []

    def look(graph: torch.fx.GraphModule, _: list) -> Callable:
        names.extend(str(node.target) for node in graph.graph.nodes)
        return make_boxed_func(graph.forward)

    torch._dynamo.reset()
    places, table = rows((3, 4)), torch.randn(35, 2, dtype=torch.float64, requires_grad=True)
    compiled = torch.compile(gather, fullgraph=True, backend=aot_autograd(fw_compiler=look, bw_compiler=look))
    grad = torch.randn(2, 12, 12, dtype=torch.float64)
    (found,) = torch.autograd.grad(compiled(table, places, (3, 4)), table, grad)
    torch.testing.assert_close(found, by_number(grad, (3, 4)))
    assert names.count("aten.index_select.default") == 1
    assert names.count("aten.sum.dim_IntList") == 2
    assert not [name for name in names if "index_add" in name or "index_put" in name or "scatter" in name]
    torch._dynamo.reset()


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_exported_and_traced_programs_hold_the_plain_gather(device):
    """Whatever the device: they may run where gradients come back in another way."""

    class Bias(torch.nn.Module):
        def forward(self, table: Tensor) -> Tensor:
            return position.gather(table, places, (3, 4))

    places, table = rows((3, 4)).to(device), torch.randn(35, 2, device=device, requires_grad=True)
    assert (position.gather(table, places, (3, 4)).grad_fn.name() == "_GatherBackward") == (device == "meta")
    for strict in (False, True):
        program = torch.export.export(Bias(), (table,), strict=strict)
        names = [node.name for node in program.graph.nodes if node.op == "call_function"]
        assert [name for name in names if "gather" in name.lower() or "autograd" in name] == []
        assert "index_select" in names
    assert position.gather(table, places, (3, 4), by_diagonals=True).shape == (2, 12, 12)
