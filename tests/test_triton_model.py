"""Whole models with Triton's kernels, in its interpreter: results, gradients, folding, compilers, exports."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import interpreted  # noqa: F401  first
import pytest
import torch
from conftest import SMALL, randomized

from swinv2 import model, ops
from swinv2.config import SwinV2Config
from swinv2.fold import fold
from swinv2.model import SwinV2

SHALLOW = SwinV2Config(**SMALL.to_dict() | {"depths": (2, 1, 1, 1)})  # one shifted block


@pytest.fixture
def shallow() -> SwinV2:
    return randomized(SwinV2(SHALLOW)).eval()


@pytest.fixture
def launches(monkeypatch) -> list[str]:
    """The kernels that ran: no fallback counts as a pass."""
    from swinv2.ops.triton import op

    found: list[str] = []

    def watched(name: str, run: Callable) -> Callable:
        return lambda *args, **kwargs: found.append(name) or run(*args, **kwargs)

    for name in ("attend", "gradients"):
        monkeypatch.setattr(op, name, watched(name, getattr(op, name)))
    return found


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """What chooses by itself chooses the kernels."""
    monkeypatch.setattr(ops, "choose", lambda *_, **__: "triton")


def gradients(network: SwinV2, x: torch.Tensor) -> dict[str, torch.Tensor]:
    network.zero_grad()
    network(x).square().sum().backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("size", [(64, 64), (50, 70)])
def test_a_model_gives_the_logits_of_the_reference(shallow, size, launches):
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        shallow.backend = "reference"
        expected = shallow(x)
        shallow.backend = "triton"
        torch.testing.assert_close(shallow(x), expected, rtol=0, atol=1e-5)
    assert launches == ["attend"] * 5


def test_a_model_has_the_gradients_of_the_reference(shallow, launches, monkeypatch):
    """With both kernels: window attention, and the end of a residual branch."""
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    shallow.train().backend = "reference"
    expected = gradients(shallow, x)
    shallow.backend = "triton"
    monkeypatch.setattr(model, "add_norm", partial(model.add_norm, backend="triton"))
    found = gradients(shallow, x)
    assert launches == ["attend"] * 5 + ["gradients"] * 5
    assert found.keys() == expected.keys()
    for name, wanted in expected.items():
        assert (found[name] - wanted).norm() <= 1e-4 * wanted.norm() + 1e-5, name


def test_recomputed_blocks_have_the_same_gradients(shallow):
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    shallow.train().backend = "triton"
    expected = gradients(shallow, x)
    shallow.checkpointing = True
    assert all(torch.equal(grad, expected[name]) for name, grad in gradients(shallow, x).items())


@pytest.mark.parametrize("size", [(64, 64), (50, 70)])
def test_a_folded_model_gives_the_same_logits(shallow, size, as_on_a_gpu, launches):
    x = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        shallow.backend = "reference"
        torch.testing.assert_close(fold(shallow, image_size=size)(x), shallow(x), rtol=0, atol=1e-5)
    assert launches == ["attend"] * 5


@pytest.mark.filterwarnings("ignore")  # of the compiler
def test_a_compiled_model_has_no_breaks_and_the_same_gradients(shallow, launches):
    torch._dynamo.reset()
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    shallow.train().backend = "triton"
    expected = gradients(shallow, x)
    launches.clear()
    found = gradients(torch.compile(shallow, fullgraph=True, backend="aot_eager"), x)
    assert launches == ["attend"] * 5 + ["gradients"] * 5
    for name, wanted in expected.items():
        assert (found[f"_orig_mod.{name}"] - wanted).norm() <= 1e-4 * wanted.norm() + 1e-5, name


def test_an_exported_program_has_none_of_our_operators(shallow):
    program = torch.export.export(fold(shallow), (torch.randn(1, 3, 64, 64),))
    assert not [node for node in program.graph.nodes if "swinv2" in str(node.target)]


def test_autocast_trains_in_half_precision(shallow, launches):
    """Gradients of all weights together: at most half as much again off as those of SDPA."""
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    shallow.train().backend = "sdpa"
    exact = gradients(shallow, x)
    found = {}
    for backend in ("triton", "sdpa"):
        shallow.backend = backend
        with torch.autocast("cpu", torch.bfloat16):
            found[backend] = gradients(shallow, x)
    assert launches == ["attend"] * 5 + ["gradients"] * 5
    ours, theirs = (
        sum((grad - exact[name]).norm() / exact[name].norm() for name, grad in found[backend].items())
        for backend in ("triton", "sdpa")
    )
    assert {grad.dtype for grad in found["triton"].values()} == {torch.float32}
    assert 0 < ours <= 1.5 * theirs
