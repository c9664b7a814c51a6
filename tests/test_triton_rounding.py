"""Triton's kernel that rounds rows to float8, in its interpreter.

That loses the carry where a value is rounded up to a power of two, so rows here need no rounding; the instruction that
a device rounds by is looked up in test_triton_compile.py.
"""

from __future__ import annotations

import interpreted  # noqa: F401  first
import pytest
import torch
from torch import Tensor

from swinv2 import float8
from swinv2.ops.triton import refusal, rounding


def representable(rows: int, width: int) -> tuple[Tensor, Tensor]:
    """Values of E4M3 with the largest in every row, and powers of two for scales."""
    g = torch.Generator().manual_seed(0)
    values = torch.randint(0, 256, (rows, width), generator=g, dtype=torch.uint8).view(float8.E4M3).float()
    values = torch.where((values.abs() < 2**-6) | values.isnan(), 0.0, values)  # without the subnormal ones
    values[:, 0] = 448
    return values, 2.0 ** torch.randint(-8, 8, (rows, 1), generator=g)


@pytest.fixture(autouse=True)
def registered_and_poisoned():
    """The operator is there, and memory that nobody has written to holds NaN."""
    assert refusal("cpu", None) is None
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 16), (37, 96), (3, 1536), (5, 6144)])
def test_rows_become_values_and_scales(shape, dtype):
    values, scales = representable(*shape)
    found, found_scales = torch.ops.swinv2.round_rows((values * scales).to(dtype))
    assert found.dtype == float8.E4M3
    assert torch.equal(found.float(), values)
    assert torch.equal(found_scales, scales)
    wanted, _ = float8.rounded((values * scales).to(dtype))
    assert torch.equal(wanted.float(), values)


def test_a_row_of_zeros_stays_one():
    found, scales = torch.ops.swinv2.round_rows(torch.zeros(2, 32))
    assert not found.float().any()
    assert torch.equal(scales, float8.rounded(torch.zeros(2, 32))[1])


def test_programs_take_several_rows_or_one(monkeypatch):
    values, _ = representable(50, 48)
    for size in (64, 256, 1 << 14):
        monkeypatch.setattr(rounding, "VALUES", size)
        assert torch.equal(torch.ops.swinv2.round_rows(values)[0].float(), values)


@pytest.mark.filterwarnings("ignore")  # of the checks themselves
def test_the_operator_keeps_what_it_promises():
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.swinv2.round_rows.default, (torch.randn(7, 48),), test_utils=checks)
