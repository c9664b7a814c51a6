"""Triton's kernels on a device: real sizes, thousands of windows, graphs, compilers. Without one: test_triton_*.py."""

from __future__ import annotations

import pytest
import torch
from attention import CASES, assert_at_most_twice_eager, case, made, with_gradients
from conftest import SMALL, randomized

from swinv2.fold import fold
from swinv2.model import SwinV2, create_model
from swinv2.ops import choose, triton, window_attention

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def chosen(monkeypatch):
    """The kernels compute by themselves, as they will once this file has passed."""
    monkeypatch.setattr(triton, "IS_CHOSEN", True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_error_is_at_most_twice_eager(name, dtype):
    inputs = case(name, dtype, "cuda")
    assert choose(inputs["qkv"], **{key: inputs[key] for key in ("heads", "window", "shift")}) == "triton"
    assert_at_most_twice_eager(inputs, with_gradients(inputs, "triton"))


@pytest.mark.parametrize("window", [8, 12, 16, 24])
def test_error_at_the_sizes_of_published_models(window):
    size = 96 if window in (12, 24) else 64
    inputs = made(
        2, 4, 32, (size, size), (window, window), (window // 2,) * 2, dtype=torch.bfloat16, device="cuda"
    )
    assert_at_most_twice_eager(inputs, with_gradients(inputs, "triton"))


@pytest.mark.parametrize("window", [8, 16])
def test_gradients_are_the_same_to_the_last_bit_every_time(window):
    inputs = made(
        8, 3, 32, (64, 64), (window, window), (window // 2,) * 2, dtype=torch.bfloat16, device="cuda"
    )
    first = with_gradients(inputs, "triton")
    for _ in range(5):
        again = with_gradients(inputs, "triton")
        assert all(torch.equal(first[what], again[what]) for what in first)


def test_more_windows_than_a_second_axis_of_a_grid_has():
    images = 1100  # of 64 windows: more than 65,535
    inputs = made(images, 1, 32, (32, 32), (4, 4), (2, 2), dtype=torch.bfloat16, device="cuda")
    with torch.no_grad():
        out = window_attention(**inputs, backend="triton")
        for part in (slice(0, 2), slice(images - 2, images)):
            few = inputs | {"qkv": inputs["qkv"][part]}
            assert torch.equal(out[part], window_attention(**few, backend="triton"))


def test_a_graph_of_cuda_replays_a_model():
    model = fold(randomized(SwinV2(SMALL)).eval().cuda(), dtype=torch.bfloat16)
    x = torch.randn(4, 3, 64, 64, device="cuda", dtype=torch.bfloat16)
    with torch.inference_mode():
        for _ in range(3):
            model(x)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = model(x)
        x.copy_(torch.randn_like(x))
        graph.replay()
        assert torch.equal(captured, model(x))


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_a_model_trains_as_on_a_cpu(mode):
    model, x = randomized(SwinV2(SMALL)).train(), torch.randn(4, 3, 64, 64)
    model.set_drop_path(0)
    model(x).square().sum().backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    model.cuda()
    run = torch.compile(model, fullgraph=True) if mode == "compiled" else model
    run(x.cuda()).square().sum().backward()
    for name, p in model.named_parameters():
        wanted = expected[name]
        assert (p.grad.cpu() - wanted).norm() <= 1e-3 * wanted.norm() + 1e-4, name


def test_logits_of_a_published_architecture_are_those_of_a_cpu():
    model = randomized(create_model("swinv2_tiny_window8_256")).eval()
    x = torch.randn(2, 3, 256, 256)
    with torch.inference_mode():
        expected = model(x)
        found = model.cuda()(x.cuda()).cpu()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
