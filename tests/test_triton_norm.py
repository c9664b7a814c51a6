"""Triton's kernels of x + keep * LayerNorm(branch), in its interpreter."""

from __future__ import annotations

from typing import Any

import interpreted  # noqa: F401  first
import pytest
import torch
from torch import Tensor, nn

from swinv2.ops.residual import add_norm
from swinv2.ops.triton import norm_op, refusal

# images, map, channels: fewer tokens than a tile and several tiles, channels that are no power of two
CASES = [(2, (3, 5), 96), (1, (1, 1), 16), (3, (16, 9), 32), (2, (2, 3), 1536)]


def case(
    images: int, size: tuple[int, int], channels: int, dtype: torch.dtype = torch.float32
) -> dict[str, Any]:
    g = torch.Generator().manual_seed(0)
    norm = nn.LayerNorm(channels)
    with torch.no_grad():
        norm.weight.copy_(1 + 0.3 * torch.randn(channels, generator=g))
        norm.bias.copy_(torch.randn(channels, generator=g))
    x = torch.randn(images, *size, channels, generator=g).to(dtype)
    branch = (3 + 5 * torch.randn(images, *size, channels, generator=g)).to(dtype)
    return {"x": x, "branch": branch, "norm": norm.to(dtype), "keep": None}


def with_gradients(inputs: dict[str, Any], backend: str) -> list[Tensor]:
    """The result, and the gradients of x, branch, weight and bias."""
    norm = inputs["norm"]
    x, branch = (inputs[name].detach().clone().requires_grad_() for name in ("x", "branch"))
    out = add_norm(x, branch, norm, inputs["keep"], backend=backend)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    return [out.detach(), *torch.autograd.grad(out, [x, branch, norm.weight, norm.bias], grad)]


def exact(inputs: dict[str, Any]) -> list[Tensor]:
    norm = nn.LayerNorm(inputs["x"].shape[-1], dtype=torch.float64)
    norm.load_state_dict(inputs["norm"].state_dict())
    wide = {name: inputs[name].double() for name in ("x", "branch")}
    keep = inputs["keep"] if inputs["keep"] is None else inputs["keep"].double()
    leaves = [values.requires_grad_() for values in wide.values()]
    out = add_norm(*leaves, norm, keep, backend="eager")
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(inputs["x"].dtype).double()
    return [out.detach(), *torch.autograd.grad(out, [*leaves, norm.weight, norm.bias], grad)]


def assert_at_most_twice_eager(inputs: dict[str, Any], found: list[Tensor]) -> None:
    for ours, eager, wanted in zip(found, with_gradients(inputs, "eager"), exact(inputs), strict=True):
        assert ours.dtype == eager.dtype
        size = wanted.norm().clamp_min(1)
        ours_off, eager_off = ((values.double() - wanted).norm() / size for values in (ours, eager))
        assert ours_off <= max(2 * eager_off, 1e-6)


@pytest.mark.parametrize("drops", [False, True], ids=["all", "some left out"])
@pytest.mark.parametrize("shape", CASES, ids=str)
def test_result_and_gradients_are_those_of_layer_norm(shape, drops):
    inputs = case(*shape)
    if drops:
        inputs["keep"] = torch.tensor([0.0, 1.25, 1.25])[-shape[0] :]
    torch.use_deterministic_algorithms(True)  # memory that nobody has written to holds NaN
    try:
        found = with_gradients(inputs, "triton")
    finally:
        torch.use_deterministic_algorithms(False)
    assert_at_most_twice_eager(inputs, found)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_error_in_half_precision_is_at_most_twice_eager(dtype):
    inputs = case(2, (5, 7), 96, dtype) | {"keep": torch.tensor([0.0, 1.25])}
    assert_at_most_twice_eager(inputs, with_gradients(inputs, "triton"))


def test_a_program_sums_over_many_tiles(monkeypatch):
    monkeypatch.setattr(norm_op, "PROGRAMS", 2)
    monkeypatch.setattr(norm_op, "VALUES", 256)
    inputs = case(2, (5, 7), 96)
    found = with_gradients(inputs, "triton")
    assert_at_most_twice_eager(inputs, found)
    assert all(torch.equal(a, b) for a, b in zip(found, with_gradients(inputs, "triton"), strict=True))


def test_an_image_that_is_left_out_stays_as_it_is():
    inputs = case(2, (3, 5), 96) | {"keep": torch.tensor([0.0, 2.0])}
    out, _, of_branch, *_ = with_gradients(inputs, "triton")
    assert torch.equal(out[0], inputs["x"][0])
    assert not of_branch[0].any()
    assert of_branch[1].any()


def test_under_autocast_the_sum_is_float32_as_that_of_layer_norm():
    inputs = case(1, (2, 3), 32)
    inputs["branch"] = inputs["branch"].bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        ours, eager = (add_norm(**inputs, backend=backend) for backend in ("triton", "eager"))
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, eager.float(), rtol=1e-2, atol=3e-2)


@pytest.mark.parametrize("drops", [False, True], ids=["all", "some left out"])
@pytest.mark.parametrize(
    "dtypes", [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)], ids=str
)
def test_the_result_has_the_dtype_of_what_is_added_to(dtypes, drops):
    inputs = case(2, (3, 5), 32)
    inputs |= {name: inputs[name].to(dtype) for name, dtype in zip(("x", "branch"), dtypes, strict=True)}
    inputs["keep"] = torch.tensor([0.0, 1.25]) if drops else None
    with torch.autocast("cpu", torch.bfloat16):
        found = with_gradients(inputs, "triton")
    assert [values.dtype for values in found] == [dtypes[0], *dtypes, torch.float32, torch.float32]
    with torch.autocast("cpu", torch.bfloat16):
        eager = with_gradients(inputs, "eager")
    for ours, theirs, wanted in zip(found, eager, exact(inputs), strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert (ours.double() - wanted).norm() <= 1e-2 * wanted.norm().clamp_min(1)


@pytest.mark.filterwarnings("ignore")  # of the checks themselves
def test_operators_keep_what_they_promise():
    assert refusal("cpu", None) is None  # and they are registered
    inputs = case(2, (3, 5), 32)
    weight, bias = inputs["norm"].weight, inputs["norm"].bias
    leaves = [inputs["x"].requires_grad_(), inputs["branch"].requires_grad_(), weight, bias]
    keep = torch.tensor([0.0, 1.25])
    torch.library.opcheck(torch.ops.swinv2.add_norm.default, (*leaves, keep, 1e-5, True))
    leaves = [leaf.detach() for leaf in leaves]
    out, *sums = torch.ops.swinv2.add_norm(*leaves, keep, 1e-5, True)
    torch.library.opcheck(torch.ops.swinv2.add_norm_backward.default, (out, *leaves[1:3], keep, *sums))


def test_a_norm_that_somebody_watches_is_run():
    inputs = case(1, (2, 3), 32)
    inputs["norm"].register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="residual back end triton cannot run this: somebody watches"):
        add_norm(**inputs, backend="triton")
