"""Triton's MLP of a training step, forward and backward, in its interpreter, against the layers in float64."""

from __future__ import annotations

import sys
from functools import partial

import interpreted  # noqa: F401  first
import pytest
import torch
from conftest import SMALL, randomized
from products import assert_mlp_at_most_twice_eager, filled, linear, mlp_with_gradients, watched
from torch import nn

from swinv2.config import SwinV2Config
from swinv2.linear import Linear
from swinv2.model import SwinV2
from swinv2.ops.mlp import mlp
from swinv2.ops.triton import products_op, refusal

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHALLOW = SwinV2Config(**SMALL.to_dict() | {"depths": (2, 1, 1, 1)})


def layers(ins: int, hidden: int, dtype: torch.dtype) -> tuple[nn.Linear, nn.Linear]:
    pair = linear(ins, hidden, dtype, bias=True), linear(hidden, ins, dtype, bias=True)
    for layer in pair:
        layer.requires_grad_()
    return pair


# map, channels, and those within: one token and many, a tile exactly, ragged in all directions
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("size", "ins", "hidden"),
    [((1, 1), 96, 384), ((13, 11), 40, 72), ((16, 8), 64, 128), ((3, 50), 96, 200)],
    ids=str,
)
def test_result_and_gradients_err_at_most_twice_eager(size, ins, hidden, dtype):
    assert_mlp_at_most_twice_eager(filled(2, *size, ins, dtype=dtype), *layers(ins, hidden, dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_several_tiles_of_tokens_and_channels(dtype, monkeypatch):
    small = products_op.Tile(16, 16, 16, 4, 1)
    monkeypatch.setattr(products_op, "TILES", dict.fromkeys(products_op.TILES, small))
    x, pair = filled(37, 24, dtype=dtype), layers(24, 40, dtype)
    assert_mlp_at_most_twice_eager(x, *pair)
    found = mlp_with_gradients(x, *pair, "triton")
    again = mlp_with_gradients(x, *pair, "triton")
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True)), "sums are in a fixed order"


@pytest.mark.filterwarnings(
    "ignore:overflow"
)  # of what GELU is taken of, whose density is then the right one
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_slope_of_gelu_of_every_number_in_16_bits(dtype):
    """Its polynomial shows nowhere: what is rounded is off by two millionths."""
    assert refusal("cpu", None) is None
    numbers = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype).view(-1, 16)
    sums = numbers.masked_fill(~numbers.isfinite(), 0.0)
    found, _ = torch.ops.swinv2.linear_gelu_backward(
        torch.ones(len(sums), 16, dtype=dtype), torch.eye(16, dtype=dtype), sums
    )
    wide = sums.double().requires_grad_()
    (wanted,) = torch.autograd.grad(nn.functional.gelu(wide).sum(), wide)
    rounding = torch.finfo(dtype).eps  # the interpreter cuts bfloat16 off
    assert ((found.double() - wanted).abs() <= rounding * wanted.abs() + 2e-6).all()


def test_only_what_is_wanted_has_gradients():
    x, (fc1, fc2) = filled(5, 32, dtype=torch.float32), layers(32, 48, torch.float32)
    for layer in (fc1, fc2):
        layer.requires_grad_(False)
    x = x.clone().requires_grad_()
    mlp(x, fc1, fc2, backend="triton").sum().backward()
    wanted = torch.autograd.grad(mlp(x, fc1, fc2, backend="eager").sum(), x)[0]
    torch.testing.assert_close(x.grad, wanted, rtol=1e-5, atol=1e-5)
    fc2.bias.requires_grad_()
    mlp(x.detach(), fc1, fc2, backend="triton").sum().backward()
    torch.testing.assert_close(fc2.bias.grad, torch.full((32,), 5.0))
    assert (fc1.weight.grad, fc1.bias.grad, fc2.weight.grad) == (None, None, None)


def test_autocast_gives_what_the_layers_give_under_it():
    """Computed in bfloat16, gradients in float32; without gradients the layers run as they are."""
    x, pair = filled(2, 7, 32, dtype=torch.float32), layers(32, 64, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        ours, eager = (mlp_with_gradients(x, *pair, backend) for backend in ("triton", "eager"))
        with torch.no_grad():
            assert torch.equal(mlp(x, *pair), mlp(x, *pair, backend="eager"))
    for found, wanted in zip(ours, eager, strict=True):
        assert found.dtype == wanted.dtype
        assert (found - wanted).norm() <= 1e-2 * wanted.norm()
    assert not torch.equal(ours[1], eager[1]), "this is not our kernel"


def test_without_gradients_the_kernel_of_inference_computes(monkeypatch):
    x, pair = filled(5, 32, dtype=torch.float32), layers(32, 48, torch.float32)
    launched = watched(monkeypatch, "linear_gelu", "of_sums")
    with torch.no_grad():
        found = mlp(x, *pair, backend="triton")
    assert launched == ["linear_gelu"]
    assert torch.equal(found, mlp(x, *pair, backend="triton"))


@pytest.fixture
def launches(monkeypatch) -> list[str]:
    """A model takes our MLP, as on a GPU; the names of the kernels that ran."""
    found = watched(monkeypatch, "linear_gelu", "of_sums")
    monkeypatch.setattr(sys.modules["swinv2.model"], "mlp", partial(mlp, backend="triton"))
    return found


def gradients(network: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    network.zero_grad()
    network(x).square().sum().backward()
    return {name.removeprefix("_orig_mod."): p.grad.clone() for name, p in network.named_parameters()}


@pytest.mark.parametrize("how", ["eager", "recomputed", "compiled"])
@pytest.mark.filterwarnings("ignore")  # of the compiler
def test_a_model_has_the_gradients_of_its_layers(how, launches, monkeypatch):
    torch._dynamo.reset()
    network = randomized(SwinV2(SHALLOW)).train()
    network.set_drop_path(0)
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with monkeypatch.context() as plain:
        plain.setattr(sys.modules["swinv2.model"], "mlp", mlp)
        expected = gradients(network, x)
    assert not launches
    network.checkpointing = how == "recomputed"
    run = torch.compile(network, fullgraph=True, backend="aot_eager") if how == "compiled" else network
    found = gradients(run, x)
    assert sorted(launches) == ["linear_gelu"] * (10 if how == "recomputed" else 5) + ["of_sums"] * 5
    for name, wanted in expected.items():
        assert (found[name] - wanted).norm() <= 1e-4 * wanted.norm() + 1e-5, name
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore")  # of the checks themselves
def test_operators_keep_what_they_promise():
    assert refusal("cpu", None) is None  # and they are registered
    fc1, fc2 = layers(32, 48, torch.float32)
    x, weights = torch.randn(2, 3, 32), [p.detach() for p in (fc1.weight, fc1.bias, fc2.weight)]
    torch.library.opcheck(torch.ops.swinv2.linear_gelu.default, (x, *weights[:2], True))
    hidden, sums = torch.ops.swinv2.linear_gelu(x, *weights[:2], True)
    assert torch.equal(hidden, torch.ops.swinv2.linear_gelu(x, *weights[:2], False)[0])
    torch.library.opcheck(torch.ops.swinv2.linear_gelu_backward.default, (x, weights[2], sums))


class Scaled(nn.Linear):
    """A layer that is more than its weight, as those for training in few bits are."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def test_what_the_kernels_cannot_is_refused_in_words():
    x, (fc1, fc2) = torch.randn(2, 32), layers(32, 48, torch.float32)
    refused = partial(pytest.raises, ValueError)
    with refused(match="cannot run this: needs torch.float32, bfloat16 or float16, got torch.float64"):
        mlp(x.double(), fc1, fc2, backend="triton")
    with refused(match="got torch.float64"), torch.autocast("cpu", torch.bfloat16):
        mlp(x.double(), fc1, fc2, backend="triton")
    with refused(match=r"weights are torch.float32, and what goes in is torch.bfloat16"):
        mlp(x.bfloat16(), fc1, fc2, backend="triton")
    with refused(match=r"needs an nn.Linear with a bias, got Linear\(.*bias=False"):
        mlp(x, fc1, Linear(48, 32, bias=False), backend="triton")
    with refused(match=r"needs an nn.Linear with a bias, got Scaled"):
        mlp(x, fc1, Scaled(48, 32), backend="triton")
    fc1.register_forward_hook(lambda *_: None)
    with refused(match="somebody watches a layer alone"):
        mlp(x, fc1, fc2, backend="triton")
