"""torch.compile without graph breaks and torch.export with a dynamic batch."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from conftest import SMALL, randomized

from swinv2.config import SwinV2Config
from swinv2.fold import fold
from swinv2.model import SwinV2
from swinv2.ops import position

SHALLOW = SwinV2Config(**SMALL.to_dict() | {"depths": (2, 1, 1, 1)})  # one shifted block; compiles sooner


@pytest.fixture
def shallow() -> SwinV2:
    return randomized(SwinV2(SHALLOW)).eval()


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("size", [(64, 64), (50, 70)])
def test_the_graph_has_no_breaks(shallow, size):
    x = torch.randn(2, 3, *size)
    compiled = torch.compile(shallow, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), shallow(x))


@pytest.mark.parametrize("like", ["a CPU", "a GPU"])
def test_training_compiles_too(shallow, like, monkeypatch):
    """On a GPU the gradient of the position bias comes back by sums of diagonals."""
    by_diagonals = partial(position.gather, by_diagonals=like == "a GPU")
    monkeypatch.setattr(position, "gather", by_diagonals)
    # In float64, where both compute the same products; in float32 eager takes other ones on a CPU (linear.py).
    model, x = shallow.double().train(), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    model(x).square().sum().backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    torch.compile(model, fullgraph=True, backend="aot_eager")(x).square().sum().backward()
    for got, want in zip((p.grad for p in model.parameters()), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)


def test_changing_batches_do_not_compile_again_and_again(shallow):
    counter = torch._dynamo.testing.CompileCounterWithBackend("eager")
    compiled = torch.compile(shallow, fullgraph=True, backend=counter)
    with torch.no_grad():
        for batch in (2, 3, 5, 7, 4):
            assert compiled(torch.randn(batch, 3, 64, 64)).shape == (batch, 7)
    assert counter.frame_count <= 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # inductor's own
def test_inductor_gives_the_same_logits(shallow):
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            torch.compile(shallow, fullgraph=True)(x), shallow(x), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("what", ["model", "folded"])
def test_export_with_a_dynamic_batch(shallow, what):
    module = shallow if what == "model" else fold(shallow)
    batch = torch.export.Dim("batch", min=1, max=64)
    with torch.no_grad():
        program = torch.export.export(module, (torch.randn(2, 3, 64, 64),), dynamic_shapes=({0: batch},))
        for n in (1, 2, 7, 32):
            x = torch.randn(n, 3, 64, 64)
            torch.testing.assert_close(program.module()(x), shallow(x), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings(
    "ignore:.*torch.jit.trace.*:FutureWarning"
)  # 2026-11: deprecated, still embedded by many
@pytest.mark.filterwarnings(
    "ignore::torch.jit.TracerWarning"
)  # the checks of the fixed size become constants
def test_a_traced_model_takes_other_batches(shallow):
    """P39: traces used to fail on the second call."""
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        traced = torch.jit.trace(fold(shallow), x, check_trace=False)
        for n in (2, 5, 1):
            y = torch.randn(n, 3, 64, 64)
            torch.testing.assert_close(traced(y), shallow(y), rtol=1e-5, atol=1e-5)
