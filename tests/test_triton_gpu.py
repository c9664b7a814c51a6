"""Triton's kernels on a device: real sizes, thousands of windows, graphs, compilers. Without one: test_triton_*.py."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from attention import CASES, assert_at_most_twice_eager, case, made, with_gradients
from conftest import SMALL, randomized
from products import (
    EMBEDDED,
    MERGED,
    assert_mlp_at_most_twice_eager,
    assert_products_at_most_twice_eager,
    convolution,
    filled,
    layer_norm,
    linear,
)

from swinv2.artifact import Record
from swinv2.float8 import Float8Linear, rounded
from swinv2.fold import fold
from swinv2.model import Offsets, SwinV2, create_model
from swinv2.ops import choose, mlp, position, products, triton, window_attention
from swinv2.preprocess import Preprocess
from swinv2.runtimes import Options, pt2
from swinv2.runtimes.graphs import SIZES
from swinv2.runtimes.torch import TorchSession
from swinv2.train.method.optim import adamw, groups
from swinv2.train.recipes.recipe import Settled

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def with_record() -> SwinV2:
    model = randomized(SwinV2(SMALL)).eval()
    model.record = Record(SMALL, Preprocess.official(64), tuple("abcdefg"))
    return model


def pictures(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, 3, 64, 64)).astype(np.float32)


RECIPE = Settled(lr=1e-3)
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


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_session_answers_by_graphs_as_without(precision):
    model = with_record()
    exact = TorchSession(model, device="cuda", precision=precision, graphs=False)
    limit = {"fp32": 1e-4, "bf16": 4e-2}[precision]
    with TorchSession(model, device="cuda", precision=precision, graphs=True) as session:
        for seed in range(4):  # as it is, recorded, and replayed
            for n in (1, 5, 2, 9, 33):
                x = pictures(n, seed)
                wanted = exact.run(x)
                assert abs(session.run(x) - wanted).max() <= limit * abs(wanted).max(), (n, seed)
        assert session._graphs.recorded == [1, 2, 6, 12]


def test_threads_share_a_session_with_graphs():
    model = with_record()
    with TorchSession(model, device="cuda", graphs=True) as session:
        wanted = {n: session.run(pictures(n)) for n in range(1, 9)}

        def work(turn: int) -> float:
            n = 1 + turn % 8
            return float(abs(session.run(pictures(n)) - wanted[n]).max() / abs(wanted[n]).max())

        with ThreadPoolExecutor(4) as pool:
            assert max(pool.map(work, range(200))) <= 1e-4


def test_recordings_of_all_sizes_need_the_memory_of_the_largest():
    session = TorchSession(with_record(), device="cuda", graphs=True)
    held = {}
    for sizes in ((32,), SIZES):
        for n in sizes:
            for _ in range(2):
                session.run(pictures(n))
        torch.cuda.synchronize()
        held[len(sizes)] = torch.cuda.memory_allocated()
    assert held[len(SIZES)] <= 1.5 * held[1]


def test_a_package_computes_with_our_kernels_and_without_our_code(tmp_path):
    model = with_record()
    model.backend = "triton"
    pt2.export(model, tmp_path / "model.pt2", Options(precision="bf16", device="cuda"))
    with torch.inference_mode():
        exact = model.cuda()(torch.from_numpy(pictures(3)).cuda()).cpu()
    (tmp_path / "run.py").write_text(
        "import sys; sys.modules['swinv2'] = None\n"
        "import torch\n"
        "model = torch._inductor.aoti_load_package('model.pt2')\n"
        "torch.save(model(torch.load('x.pt').cuda()).cpu(), 'logits.pt')\n"
    )
    torch.save(torch.from_numpy(pictures(3)), tmp_path / "x.pt")
    subprocess.run([sys.executable, "run.py"], cwd=tmp_path, check=True)
    found = torch.load(tmp_path / "logits.pt")
    assert (found - exact).abs().max() <= 8e-2 * exact.abs().max()


@pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 9), reason="needs capability 8.9"
)
@pytest.mark.parametrize("by_triton", [True, False])
def test_float8_on_a_device_is_that_of_its_values_in_float32(by_triton, monkeypatch):
    monkeypatch.setattr(triton, "IS_CHOSEN", by_triton)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(300, 256, generator=g).bfloat16()
    layer = torch.nn.Linear(256, 512).bfloat16()
    here, there = Float8Linear(layer), Float8Linear(layer).cuda()
    small, scale = rounded(x)
    found, found_scale = rounded(x.cuda())
    torch.testing.assert_close(found_scale.cpu(), scale, rtol=1e-6, atol=0)
    assert (found.cpu().float() != small.float()).sum() <= 1e-3 * x.numel()
    torch.testing.assert_close(there(x.cuda()).cpu(), here(x), rtol=1e-2, atol=1e-2)


def test_a_session_in_float8_answers_nearly_as_in_bfloat16():
    model = with_record()
    half, small = (TorchSession(model, device="cuda", precision=p).run(pictures(5)) for p in ("bf16", "fp8"))
    assert 0 < abs(half - small).max() <= 0.2 * abs(half).max()


def test_a_step_of_training_never_waits_and_is_a_graph():
    """Forward, backward, clipping and AdamW, replayed: the weights of steps that were launched one by one."""
    x, y = torch.from_numpy(pictures(4)).cuda(), torch.arange(4, device="cuda")
    weights = {}
    for how in ("launched", "replayed"):
        model = randomized(SwinV2(SMALL)).train().cuda()
        model.set_drop_path(0)
        optimizer = adamw(groups(model, RECIPE), RECIPE)

        def step(model=model, optimizer=optimizer) -> None:
            with torch.autocast("cuda", torch.bfloat16):
                loss = torch.nn.functional.cross_entropy(model(x), y)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            optimizer.zero_grad()

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        run = step
        if how == "replayed":
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                step()  # recorded, not done
            run = graph.replay
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(4):
                run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        weights[how] = torch.cat([p.detach().flatten() for p in model.parameters()])
    torch.testing.assert_close(weights["replayed"], weights["launched"], rtol=1e-5, atol=1e-6)


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


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tokens", [1, 64, 1000, 40_000])
@pytest.mark.parametrize("channels", [40, 96, 192, 768])
def test_gelu_of_a_product_errs_at_most_twice_eager(channels, tokens, dtype):
    x = filled(tokens, channels, dtype=dtype, device="cuda")
    layer = linear(channels, 4 * channels, dtype, bias=True, device="cuda")
    assert products.is_chosen(products.LINEAR, x, layer) == (dtype != torch.float32)
    assert_products_at_most_twice_eager(products.linear_gelu, x, layer)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tokens", [1, 64, 1000, 40_000])
@pytest.mark.parametrize(("ins", "outs"), [(96, 96), (384, 96), (512, 128), (768, 192), (1024, 256)])
def test_the_end_of_a_branch_errs_at_most_twice_eager(ins, outs, tokens, dtype):
    layers = (
        linear(ins, outs, dtype, bias=True, device="cuda"),
        layer_norm(outs, dtype, device="cuda"),
    )
    inner = filled(tokens, ins, dtype=dtype, seed=1, device="cuda")
    x = filled(tokens, outs, dtype=dtype, device="cuda")
    assert products.is_chosen(products.BRANCH, x, *layers) == (dtype != torch.float32)

    def ended(
        x: torch.Tensor, layer: torch.nn.Module, norm: torch.nn.Module, *, backend: str
    ) -> torch.Tensor:
        return products.add_normed(x, inner.to(x.dtype), layer, norm, backend=backend)

    assert_products_at_most_twice_eager(ended, x, *layers)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tokens", [1, 64, 1000, 40_000])
@pytest.mark.parametrize("channels", [40, 96, 192, 768])
def test_an_mlp_and_its_gradients_err_at_most_twice_eager(channels, tokens, dtype):
    x = filled(tokens, channels, dtype=dtype, device="cuda")
    pair = [
        linear(*sides, dtype, bias=True, device="cuda").requires_grad_()
        for sides in ((channels, 4 * channels), (4 * channels, channels))
    ]
    assert mlp.is_chosen(x, *pair) == (dtype != torch.float32)
    assert_mlp_at_most_twice_eager(x, *pair)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("images", "size", "channels"), [*MERGED, (64, (64, 63), 96), (8, (31, 32), 512)], ids=str
)
def test_merging_errs_at_most_twice_eager(images, size, channels, dtype):
    layers = (
        linear(4 * channels, 2 * channels, dtype, bias=False, device="cuda"),
        layer_norm(2 * channels, dtype, device="cuda"),
    )
    x = filled(images, *size, channels, dtype=dtype, device="cuda")
    assert_products_at_most_twice_eager(products.merge, x, *layers)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("images", "size", "colours", "side", "channels"),
    [*EMBEDDED, (64, (256, 256), 3, 4, 96), (8, (384, 383), 3, 4, 192)],
    ids=str,
)
def test_embedding_errs_at_most_twice_eager(images, size, colours, side, channels, dtype):
    layers = (
        convolution(colours, channels, side, dtype, device="cuda"),
        layer_norm(channels, dtype, device="cuda"),
    )
    x = filled(images, colours, *size, dtype=dtype, device="cuda")
    assert_products_at_most_twice_eager(products.embed, x, *layers)


@pytest.mark.parametrize("window", [(1, 1), (3, 5), (8, 8), (24, 24)], ids=str)
def test_gradients_of_the_position_bias_are_sums_of_diagonals(window):
    tokens, heads = window[0] * window[1], 24
    grad = torch.randn(heads, tokens, tokens, device="cuda")
    expected = position.sum_diagonals(grad.double(), window, backend="eager")
    found = [position.sum_diagonals(grad, window, backend=backend) for backend in ("triton", "eager")]
    assert all((sums - expected).norm() <= 1e-6 * expected.norm() for sums in found)
    assert torch.equal(found[0], position.sum_diagonals(grad, window, backend="triton"))
    places = Offsets.compute(window, window, torch.device("cuda")).rows
    table = torch.randn(int(places.max()) + 1, heads, device="cuda", requires_grad=True)
    (of_table,) = torch.autograd.grad(position.gather(table, places, window), table, grad)
    assert torch.equal(of_table, found[0])  # by itself, since it is chosen
