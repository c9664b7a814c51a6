"""The network for XNNPACK: same logits as the model, without layer norms, and without sums where there are none."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import SMALL, randomized

from swinv2.fold import fold
from swinv2.model import SwinV2
from swinv2.runtimes.xnnpack import for_xnnpack, to_quantise

SIZES = [(64, 64), (33, 47), (20, 200), (9, 14)]
SUMS = pytest.mark.parametrize("sums", [True, False], ids=["sums", "products"])


def error(network: torch.nn.Module, model: SwinV2, size: tuple[int, int]) -> float:
    x = torch.randn(2, model.config.in_chans, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact = model.double()(x.double())
        return float((network(x) - exact).abs().max() / exact.abs().max())


@SUMS
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_it_gives_the_logits_of_the_model(small, size, sums):
    assert error(for_xnnpack(fold(small, image_size=size), sums=sums), small, size) < 1e-5


@SUMS
@pytest.mark.parametrize("changes", [{"num_classes": 0}, {"extra_norm_period": 1}, {"in_chans": 1}], ids=str)
def test_other_architectures(changes, sums):
    model = randomized(SwinV2(replace(SMALL, **changes))).eval()
    assert error(for_xnnpack(fold(model), sums=sums), model, (64, 64)) < 1e-5


@SUMS
def test_norms_that_start_at_zero(sums):
    """Fresh blocks are the identity; nothing may be divided by their gains."""
    torch.manual_seed(0)
    model = SwinV2(SMALL).eval()
    assert error(for_xnnpack(fold(model), sums=sums), model, (64, 64)) < 1e-5


@SUMS
def test_an_image_of_one_colour_gives_finite_logits(small, sums):
    with torch.no_grad():
        assert for_xnnpack(fold(small), sums=sums)(torch.zeros(1, 3, 64, 64)).isfinite().all()


def test_its_graph_has_neither_norms_nor_sums():
    config = replace(SMALL, depths=(2, 1), heads=(1, 2), pretrained_windows=SMALL.pretrained_windows[:2])
    network = for_xnnpack(fold(SwinV2(config).eval()), sums=False)
    program = torch.export.export(network, (torch.zeros(1, 3, 64, 64),))
    names = {node.target.name() for node in program.graph.nodes if node.op == "call_function"}
    assert not [
        name for name in names if any(word in name for word in ("norm", "sum", "mean", "roll", "gather"))
    ]


@SUMS
def test_every_layer_of_the_folded_network_is_quantised_once(small, sums):
    network, folded = for_xnnpack(fold(small), sums=sums), fold(small)
    layers = {n for n, m in folded.named_modules() if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d))}
    assert set(network.layers().values()) == layers
    assert len(to_quantise(network, ())) == len(network.layers()) == len(layers) + 2 * sum(SMALL.depths)


@SUMS
def test_windows_of_one_token_have_neither_q_nor_k(sums):
    """int8 looks for its layers in the graph, where these two would be missing."""
    config = replace(SMALL, image_size=32)  # whose last map is of 1 x 1
    model = randomized(SwinV2(config)).eval()
    network = for_xnnpack(fold(model), sums=sums)
    assert error(network, model, (32, 32)) < 1e-5
    last = {name for name in network.layers() if name.startswith("stages.3.")}
    assert last == {f"stages.3.{i}.{part}" for i in (0, 1) for part in ("v", "proj", "fc1", "fc2")}
    assert "stages.3.1.v" not in to_quantise(network, ["stages.3.1.qkv"])


def test_layers_to_keep_have_their_names_in_the_folded_network(small):
    network = for_xnnpack(fold(small), sums=False)
    kept = set(network.layers()) - set(to_quantise(network, ["stages.0.1.qkv", "head", "stages.0.0.proj"]))
    assert kept == {"stages.0.1.q", "stages.0.1.k", "stages.0.1.v", "head", "stages.0.0.proj"}


def test_a_layer_that_is_not_there_cannot_be_kept(small):
    with pytest.raises(
        ValueError, match=r"no layer 'stages.0.1.qqq' to keep in float; layers are called like"
    ):
        to_quantise(for_xnnpack(fold(small), sums=False), ["stages.0.1.qqq"])
