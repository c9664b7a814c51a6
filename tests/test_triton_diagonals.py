"""Triton's sums of diagonals, in its interpreter, against the same by tensors and a loop over pairs."""

from __future__ import annotations

import interpreted  # noqa: F401  first
import pytest
import torch
from test_position import WINDOWS, by_number, rows

from swinv2.ops import position
from swinv2.ops.triton import diagonals, refusal


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_sums_are_those_of_tensors(window):
    tokens = window[0] * window[1]
    grad = torch.randn(2, tokens, tokens)
    torch.use_deterministic_algorithms(True)  # memory that nobody has written to holds NaN
    try:
        found = position.sum_diagonals(grad, window, backend="triton")
    finally:
        torch.use_deterministic_algorithms(False)
    expected = position.sum_diagonals(grad.double(), window, backend="eager")
    assert (found - expected).norm() <= 1e-6 * expected.norm()


def test_a_window_of_several_tiles(monkeypatch):
    monkeypatch.setattr(diagonals, "OFFSETS", 4)
    monkeypatch.setattr(diagonals, "COLUMNS", 2)
    grad = torch.randn(3, 15, 15)
    found = position.sum_diagonals(grad, (3, 5), backend="triton")
    torch.testing.assert_close(found.double(), by_number(grad, (3, 5)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(dtype):
    grad = torch.randn(2, 64, 64).to(dtype)
    found = position.sum_diagonals(grad, (8, 8), backend="triton")
    assert found.dtype == dtype
    expected = position.sum_diagonals(grad.double(), (8, 8))
    assert (found - expected).norm() <= torch.finfo(dtype).eps * expected.norm()


def test_the_gradient_of_the_table_takes_the_kernel(monkeypatch):
    monkeypatch.setattr(
        position,
        "sum_diagonals",
        lambda grad, window, own=position.sum_diagonals: own(grad, window, backend="triton"),
    )
    places, table = rows((3, 4)), torch.randn(35, 2, requires_grad=True)
    grad = torch.randn(2, 12, 12).transpose(1, 2)
    (found,) = torch.autograd.grad(position.gather(table, places, (3, 4), by_diagonals=True), table, grad)
    torch.testing.assert_close(found.double(), by_number(grad, (3, 4)), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore")  # of the checks themselves
def test_the_operator_keeps_what_it_promises():
    assert refusal("cpu", None) is None  # and it is registered
    torch.library.opcheck(torch.ops.swinv2.sum_diagonals.default, (torch.randn(2, 12, 12), [3, 4]))


def test_float64_is_refused_in_words():
    with pytest.raises(ValueError, match=r"cannot run this: needs torch\.float32, bfloat16 or float16, got"):
        position.sum_diagonals(torch.randn(1, 4, 4, dtype=torch.float64), (2, 2), backend="triton")
