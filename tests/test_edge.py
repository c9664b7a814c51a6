"""The edge network is the folded one in few operators: same logits at any size, ranks up to four, nothing rolled."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from conftest import SMALL, TWO_STAGES, randomized

from swinv2.edge import edge
from swinv2.fold import fold
from swinv2.lint import problems
from swinv2.model import SwinV2
from swinv2.runtimes import Node

# Divides, odd in every stage, wider than one window, windows clamped on one axis only, fewer tokens than a window.
SIZES = [(64, 64), (33, 47), (80, 64), (20, 200), (9, 14)]
OPERATORS = {
    "conv2d", "linear", "layer_norm", "gelu", "matmul", "softmax", "add", "mul", "sum", "clamp_min", "rsqrt", "mean",
    "reshape", "permute", "transpose", "slice", "cat", "pad",
}  # fmt: skip


@pytest.fixture
def two_stages() -> SwinV2:
    return randomized(SwinV2(TWO_STAGES)).eval()


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found.double() - exact).abs().max() / exact.abs().max())


@pytest.fixture
def images():
    return lambda size, batch=3: torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_it_gives_the_logits_of_the_model(small, images, size):
    x = images(size)
    exact = small.double()(x.double())
    assert error(edge(fold(small, image_size=size))(x.double()), exact) < 1e-12
    assert error(edge(fold(small.float(), image_size=size))(x), exact) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_it_is_as_near_as_the_folded_network(small, images, dtype):
    x = images((64, 64))
    exact, folded = small.double()(x.double()), fold(small.float(), dtype=dtype)
    found = edge(folded)(x.to(dtype))
    assert found.dtype == dtype
    assert error(found, exact) < 2 * error(folded(x.to(dtype)), exact)


@torch.no_grad()
def test_a_part_of_a_batch_is_the_same_alone(small, images):
    network, x = edge(fold(small)), images((64, 64), 5)
    assert error(network(x)[1:3], network(x[1:3]).double()) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("changes", [{"num_classes": 0}, {"extra_norm_period": 1}, {"in_chans": 1}], ids=str)
def test_other_architectures(images, changes):
    model = randomized(SwinV2(replace(SMALL, **changes))).eval()
    x = images((64, 64))[:, : model.config.in_chans]
    assert error(edge(fold(model))(x), model.double()(x.double())) < 1e-5


def traced(model: SwinV2, size: tuple[int, int]) -> list[torch.fx.Node]:
    """The operators of the edge network as torch.export sees it, for any batch."""
    x = torch.zeros(2, 3, *size)
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    program = torch.export.export(edge(fold(model, image_size=size)), (x,), dynamic_shapes=(batch,))
    return [node for node in program.graph.nodes if node.op == "call_function"]


# With windows clamped on one axis nothing is cut out of the other one.
@pytest.mark.parametrize("size", [(64, 64), (33, 47), (20, 200)], ids=str)
def test_its_graph_keeps_to_a_list_of_operators_and_to_four_dimensions(two_stages, size):
    nodes = [node for node in traced(two_stages, size) if isinstance(node.meta["val"], torch.Tensor)]
    names = Counter(node.target.name().removeprefix("aten::").partition(".")[0] for node in nodes)
    assert set(names) <= OPERATORS
    assert names["softmax"] == sum(two_stages.config.depths)
    graph = [Node(str(node.target), node.meta["val"].dim()) for node in nodes]
    assert max(node.rank for node in graph) == 4
    assert problems(graph, edge=True) == []
    for node in nodes:
        if node.target is torch.ops.aten.slice.Tensor:
            assert len(node.args) < 5, "a step"
            assert 0 not in node.meta["val"].shape


def test_unit_vectors_of_nothing_are_nothing(small):
    from swinv2.edge import unit

    assert torch.equal(unit(torch.zeros(2, 3)), torch.zeros(2, 3))
