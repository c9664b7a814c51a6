"""Triton's kernels of window attention, in its interpreter: forward, gradients, padding, sums, refusals."""

from __future__ import annotations

import interpreted  # noqa: F401  first
import pytest
import torch
from attention import CASES, LEAVES, assert_at_most_twice_eager, case, errors, exact, with_gradients

from swinv2.ops import BACKENDS, window_attention, windows
from swinv2.ops.triton import unsupported

LARGE = "window 24"  # takes a minute
SEVERAL_TILES = "window 12, ragged, shifted"


@pytest.fixture
def poisoned():
    """Memory that nobody has written to holds NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    "name", [n if n != LARGE else pytest.param(n, marks=pytest.mark.slow) for n in CASES]
)
def test_result_and_gradients_are_those_of_the_reference(name, poisoned):
    inputs = case(name)
    assert_at_most_twice_eager(inputs, with_gradients(inputs, "triton"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["window 4, shifted", "window 8, ragged, shifted", SEVERAL_TILES])
def test_error_in_half_precision_is_at_most_twice_eager(name, dtype):
    inputs = case(name, dtype)
    found = with_gradients(inputs, "triton")
    assert [found[n].dtype for n in ("out", *LEAVES)] == [dtype, dtype, torch.float32, torch.float32]
    assert_at_most_twice_eager(inputs, found)


@pytest.mark.parametrize("name", ["window 4", SEVERAL_TILES])
def test_a_program_goes_over_many_images_and_windows(name, monkeypatch):
    """As with large batches; here there is a program for every window otherwise."""
    from swinv2.ops.triton import launch

    monkeypatch.setattr(launch, "PROGRAMS", 1)
    monkeypatch.setattr(launch, "WAVES", 1)
    inputs = case(name)
    inputs["qkv"] = torch.cat([inputs["qkv"], inputs["qkv"].flip(0, 1)])
    assert_at_most_twice_eager(inputs, with_gradients(inputs, "triton"))


@pytest.mark.parametrize("name", ["window 4", "window 8, ragged, shifted", SEVERAL_TILES])
def test_gradients_are_the_same_to_the_last_bit_every_time(name):
    inputs = case(name, torch.bfloat16)
    first, again = (with_gradients(inputs, "triton") for _ in range(2))
    assert all(torch.equal(first[what], again[what]) for what in first)


@pytest.mark.parametrize("images", [1, 2, 3, 5])
def test_two_images_at_a_time_give_what_one_does(images, monkeypatch):
    """In pairs, and of an odd number the last one twice."""
    from swinv2.ops.triton import launch

    inputs = case(SEVERAL_TILES)
    g = torch.Generator().manual_seed(images)
    inputs["qkv"] = torch.randn(images, *inputs["qkv"].shape[1:], generator=g)
    monkeypatch.setattr(launch, "ODD_IN_PAIRS", 3)
    assert launch.in_pairs(images) == (images > 1)
    together = with_gradients(inputs, "triton")
    assert_at_most_twice_eager(inputs, together)
    monkeypatch.setattr(launch, "in_pairs", lambda images: False)
    assert torch.equal(with_gradients(inputs, "triton")["out"], together["out"])


def test_images_beside_it_are_not_looked_at():
    """Alone, and between images of NaN: the same to the last bit."""
    inputs = case("window 8, ragged, shifted")
    alone = window_attention(**inputs | {"qkv": inputs["qkv"][:1]}, backend="triton")
    around = torch.full_like(inputs["qkv"][:1], torch.nan)
    between = torch.cat([around, inputs["qkv"][:1], around])
    assert torch.equal(window_attention(**inputs | {"qkv": between[1:2]}, backend="triton"), alone)


@pytest.mark.parametrize("name", ["window 4, ragged, shifted", SEVERAL_TILES])
@pytest.mark.parametrize("pixel", [(0, 0), (-1, -1), (-1, 0)])
def test_no_gradient_crosses_a_region(name, pixel):
    inputs = case(name)
    qkv, (y, x) = inputs["qkv"][:1].clone().requires_grad_(), pixel
    H, W = qkv.shape[1:3]
    out = window_attention(**inputs | {"qkv": qkv}, backend="triton")
    (grad,) = torch.autograd.grad(out[0, y, x].sum(), qkv)
    seen = grad[0].abs().sum(-1) > 0
    here = [
        [(i - s) // w == (at % side - s) // w for i in range(side)]
        for at, side, s, w in zip(pixel, (H, W), inputs["shift"], inputs["window"], strict=True)
    ]
    assert torch.equal(seen, torch.tensor(here[0])[:, None] & torch.tensor(here[1])[None, :])


def test_masked_pairs_keep_the_weight_that_the_official_code_gives_them():
    """-100, not -inf: with logits up to 100 a token of another region still weighs in."""
    inputs = case("window 4, shifted")
    inputs["logit_scale"] = torch.full((3, 1, 1), 4.6)
    inputs["qkv"][0, 0, 0, 96:192] = -inputs["qkv"][
        0, 0, 0, :96
    ]  # the key of the corner is not that of its query
    inputs["qkv"][0, -1, -1, 96:192] = inputs["qkv"][0, 0, 0, :96]  # that of the opposite corner is
    found = with_gradients(inputs, "triton")
    assert_at_most_twice_eager(inputs, found)


@pytest.mark.parametrize("name", ["window 4, ragged, shifted", SEVERAL_TILES])
def test_a_bias_for_every_window_holds_the_mask(name):
    """As a folded model has it; its gradient too is that of the reference."""
    inputs = case(name)
    size = (inputs["qkv"].shape[1], inputs["qkv"].shape[2])
    inputs["bias"] = windows.with_mask(inputs["bias"], size, inputs["window"], inputs["shift"]).clamp_min(
        -1e4
    )
    wanted, found = exact(inputs), with_gradients(inputs, "triton")
    for what in wanted:
        torch.testing.assert_close(found[what].double(), wanted[what], rtol=1e-4, atol=1e-4)


def test_inference_needs_no_sums_and_gives_the_same():
    inputs = case("window 8, ragged")
    with torch.no_grad():
        out = window_attention(**inputs, backend="triton")
    inputs["qkv"].requires_grad_()
    assert torch.equal(window_attention(**inputs, backend="triton").detach(), out)
    assert out.is_contiguous()


def test_only_gradients_that_are_asked_for_are_computed():
    inputs = case("window 4")
    inputs["qkv"].requires_grad_()
    window_attention(**inputs, backend="triton").square().sum().backward()
    assert inputs["qkv"].grad.isfinite().all()


def test_maps_may_lie_anyhow_in_memory():
    inputs = case("window 4")
    strided = inputs["qkv"].transpose(1, 2).contiguous().transpose(1, 2)
    assert not strided.is_contiguous()
    grads = []
    for qkv in (inputs["qkv"], strided):
        leaf = qkv.detach().requires_grad_()
        out = window_attention(**inputs | {"qkv": leaf}, backend="triton").transpose(1, 2)
        grads.append(torch.autograd.grad(out.square().sum(), leaf)[0])
    assert torch.equal(*grads)


def test_gradients_are_slopes():
    """Without autograd as a judge: differences of the result along a random direction."""
    inputs = case("window 4, shifted")
    g = torch.Generator().manual_seed(2)
    grads = with_gradients(inputs, "triton")
    weight = torch.randn(grads["out"].shape, generator=torch.Generator().manual_seed(1)).double()
    for name, step in {"qkv": 1e-3, "logit_scale": 1e-2, "bias": 1e-2}.items():
        along = torch.randn(inputs[name].shape, generator=g)
        ends = [
            (
                window_attention(**inputs | {name: inputs[name] + by * along}, backend="triton").double()
                * weight
            ).sum()
            for by in (step, -step)
        ]
        slope = ((ends[0] - ends[1]) / (2 * step)).item()
        assert slope == pytest.approx((grads[name] * along).double().sum().item(), rel=0.02), name


def test_scale_is_clamped_before_the_exponential():
    inputs = case("window 4, shifted")
    inputs["logit_scale"] = torch.tensor([10.0, 4.0, 4.7]).view(3, 1, 1)
    of_scale = with_gradients(inputs, "triton")["logit_scale"].flatten()
    assert of_scale[0] == of_scale[2] == 0 != of_scale[1]
    assert_at_most_twice_eager(inputs, with_gradients(inputs, "triton"))


def test_zero_vectors_stay_finite():
    inputs = case("window 4, shifted")
    inputs["qkv"] = torch.zeros_like(inputs["qkv"])
    assert all(values.isfinite().all() for values in with_gradients(inputs, "triton").values())


def test_autocast_computes_in_its_precision():
    inputs = case("window 4")
    with torch.autocast("cpu", torch.bfloat16):
        out = window_attention(**inputs, backend="triton")
    half = inputs | {"qkv": inputs["qkv"].bfloat16()}
    assert torch.equal(out, window_attention(**half, backend="triton"))


@pytest.mark.filterwarnings("ignore")  # of the checks themselves
def test_operators_keep_what_they_promise():
    """torch.library's own checks: schema, shapes without data, gradients, tracing."""
    inputs = case("window 4, shifted")
    geometry = (inputs["heads"], inputs["window"], inputs["shift"])
    unsupported(inputs["qkv"], heads=3, window=(4, 4), shift=(2, 2))  # registers them
    op = torch.ops.swinv2.window_attention
    leaves = [inputs["qkv"].requires_grad_(), torch.rand(3).requires_grad_(), inputs["bias"].requires_grad_()]
    torch.library.opcheck(op.default, (*leaves, *geometry, True))
    leaves = [leaf.detach() for leaf in leaves]
    out, sums = op(*leaves, *geometry, True)
    torch.library.opcheck(
        torch.ops.swinv2.window_attention_backward.default, (out, *leaves, out, sums, *geometry, True)
    )


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            {"qkv": torch.zeros(1, 8, 8, 3 * 32, dtype=torch.float64)},
            "needs torch.float32, bfloat16 or float16",
        ),
        ({"qkv": torch.zeros(1, 8, 8, 3 * 24)}, "head dim 24 is not 16, 32 or 64"),
        ({"window": (65, 65)}, "windows of 4225 tokens are more than 4096"),
        ({"shift": (4, 0)}, r"shift \(4, 0\) is not within the window"),
        ({"qkv": torch.zeros(1, 8, 8, 3 * 32, device="meta")}, "needs CPU tensors, got meta"),
        (
            {"qkv": torch.zeros(1, device="meta").expand(1, 2**14, 2**13, 96)},
            "one image's map has 2\\^31 values or more",
        ),
    ],
)
def test_what_it_cannot_run_it_refuses(change, why):
    given = {"qkv": torch.zeros(1, 8, 8, 3 * 32), "heads": 1, "window": (4, 4), "shift": (0, 0)} | change
    with pytest.raises(ValueError, match=f"attention back end triton cannot run this: .*{why}"):
        window_attention(
            **given, logit_scale=torch.zeros(1, 1, 1), bias=torch.zeros(1, 16, 16), backend="triton"
        )


def test_kernels_run_in_the_interpreter():
    from triton.runtime.interpreter import InterpretedFunction

    from swinv2.ops.triton import backward, forward, small

    assert "triton" in BACKENDS
    in_parts = (forward.attend, backward.of_queries, backward.of_keys, backward.of_bias)
    for kernel in (*in_parts, small.attend_tile, small.tile_gradients):
        assert isinstance(kernel, InterpretedFunction)


def test_the_measure_notices_a_wrong_gradient():
    inputs = case("window 4")
    wanted = exact(inputs)
    wrong = {name: values * (1.001 if name == "logit_scale" else 1) for name, values in wanted.items()}
    assert errors(wrong, wanted, inputs)["logit_scale"] > 1e-6
