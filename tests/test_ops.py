"""Every attention back end follows the rules that the reference spells out."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from swinv2.ops import BACKENDS, choose, reference, sdpa, triton, window_attention, windows

CPU = sorted(set(BACKENDS) - {"triton"})  # test_triton_attention.py and test_triton_gpu.py have that
FAST = sorted(set(CPU) - {"reference"})
# heads, map, window, shift: whole and ragged, square and not, one token, one window, larger than the map is wide
CASES = {
    "whole": (2, (8, 12), (4, 4), (0, 0)),
    "whole, shifted": (2, (8, 12), (4, 4), (2, 2)),
    "one window": (3, (7, 7), (7, 7), (0, 0)),
    "one token": (1, (1, 1), (1, 1), (0, 0)),
    "odd window": (1, (14, 21), (7, 7), (3, 3)),
    "ragged": (2, (9, 11), (4, 4), (0, 0)),
    "ragged, shifted": (2, (10, 10), (8, 8), (4, 4)),
    "one more than a window": (1, (5, 9), (4, 4), (2, 2)),
    "strip": (2, (1, 19), (1, 8), (0, 4)),
    "tall window": (1, (16, 3), (8, 3), (4, 0)),
}


def case(name: str, dtype=torch.float64, *, batch: int = 2, head_dim: int = 8, seed: int = 0) -> dict:
    heads, (H, W), window, shift = CASES[name]
    g = torch.Generator().manual_seed(seed)
    tokens = window[0] * window[1]
    return {
        "qkv": torch.randn(batch, H, W, 3 * heads * head_dim, generator=g).to(dtype),
        "logit_scale": (3 + 1.5 * torch.randn(heads, 1, 1, generator=g)).to(dtype),  # some above the clamp
        "bias": 16 * torch.rand(heads, tokens, tokens, generator=g, dtype=torch.float32).to(
            torch.promote_types(dtype, torch.float32)
        ),
        "heads": heads, "window": window, "shift": shift,
    }  # fmt: skip


def in_float64(case: dict) -> dict:
    return {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in case.items()}


def error(out: torch.Tensor, exact: torch.Tensor) -> float:
    return (out.double() - exact).pow(2).mean().sqrt().item()


@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("backend", FAST)
def test_fast_back_ends_equal_the_reference(backend, name, grad):
    inputs = case(name)
    exact = window_attention(**inputs, backend="reference")
    before = inputs["qkv"].clone()
    with torch.set_grad_enabled(grad):
        out = window_attention(**inputs, backend=backend)
    torch.testing.assert_close(out, exact, rtol=0, atol=1e-12)
    assert torch.equal(inputs["qkv"], before), "the back end changed its input"


@pytest.mark.parametrize("name", ["whole, shifted", "ragged, shifted", "one token", "strip"])
@pytest.mark.parametrize("backend", FAST)
def test_gradients_equal_the_reference(backend, name):
    grads = {}
    for which in ("reference", backend):
        inputs = case(name)
        leaves = [inputs[k].requires_grad_() for k in ("qkv", "logit_scale", "bias")]
        out = window_attention(**inputs, backend=which)
        weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
        grads[which] = torch.autograd.grad((out * weight).sum(), leaves)
    for got, want in zip(grads[backend], grads["reference"], strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["whole, shifted", "ragged, shifted", "one window"])
@pytest.mark.parametrize("backend", FAST)
def test_error_is_at_most_twice_eager(backend, name, dtype):
    inputs = case(name, dtype, batch=8, head_dim=32)
    exact = window_attention(**in_float64(inputs), backend="reference")
    # Eager: the reference's operations, one by one, in this dtype (bias included).
    eager = error(window_attention(**inputs | {"bias": inputs["bias"].to(dtype)}, backend="reference"), exact)
    with torch.inference_mode():
        assert error(window_attention(**inputs, backend=backend), exact) <= 2 * eager


@pytest.mark.parametrize("backend", CPU)
@pytest.mark.parametrize("name", ["ragged", "ragged, shifted", "one more than a window", "strip"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_token_sees_another_region(backend, name, dtype):
    """The gradient of every output with respect to every token of another region, or of none, is exactly 0."""
    inputs = case(name, dtype, batch=1)
    qkv = inputs["qkv"].requires_grad_()
    out = window_attention(**inputs, backend=backend)
    _, (H, W), window, shift = CASES[name]
    for y in range(H):
        for x in range(W):
            (grad,) = torch.autograd.grad(out[0, y, x].sum(), qkv, retain_graph=True)
            seen = grad[0].abs().sum(-1) > 0
            neighbours = torch.tensor(
                [[_same_region((y, x), (i, j), (H, W), window, shift) for j in range(W)] for i in range(H)]
            )
            assert not (seen & ~neighbours).any(), (
                f"token {(y, x)} sees {(seen & ~neighbours).nonzero().tolist()}"
            )
            assert seen[y, x]


def _same_region(a, b, size, window, shift) -> bool:
    """Straight from the definition: same window after the shift, without having wrapped around."""
    return all((p - s) // w == (q - s) // w for p, q, w, s in zip(a, b, window, shift, strict=True))


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("value", [1e4, -1e4])
def test_values_of_padding_change_nothing(backend, value, monkeypatch):
    inputs = case("ragged, shifted", torch.float32)
    expected = window_attention(**inputs, backend=backend)
    plain = windows.pad

    def filled(qkv, window):
        out = plain(qkv, window)
        out[:, qkv.shape[1] :] = value
        out[:, :, qkv.shape[2] :] = value
        return out

    monkeypatch.setattr(windows, "pad", filled)
    with torch.no_grad():
        assert torch.equal(window_attention(**inputs, backend=backend), expected)


def test_masked_pairs_keep_weight_where_the_official_code_gives_them_some():
    """-100, not -inf: with logits up to 100 a token of another region still weighs in."""
    inputs = case("whole, shifted")
    inputs["logit_scale"] = torch.full((2, 1, 1), 4.6, dtype=torch.float64)
    qkv = inputs["qkv"].requires_grad_()
    out = window_attention(**inputs, backend="sdpa")
    (grad,) = torch.autograd.grad(out[0, 0, 0].sum(), qkv)
    assert grad[0, -1, -1].abs().sum() > 0  # wrapped around to the same window


@pytest.mark.parametrize("backend", CPU)
def test_a_complete_bias_needs_no_mask(backend):
    inputs = case("ragged, shifted")
    exact = window_attention(**inputs, backend="reference")
    complete = windows.with_mask(inputs["bias"], (10, 10), inputs["window"], inputs["shift"])
    assert complete.shape == (4, 2, 64, 64)
    out = window_attention(**inputs | {"bias": complete}, backend=backend)
    torch.testing.assert_close(out, exact, rtol=0, atol=1e-12)


def test_scale_is_clamped_before_the_exponential():
    inputs = case("whole")
    inputs["logit_scale"] = torch.tensor([10.0, 4.0], dtype=torch.float64).view(2, 1, 1).requires_grad_()
    out = window_attention(**inputs, backend="sdpa")
    (grad,) = torch.autograd.grad(out.square().sum(), inputs["logit_scale"])
    assert grad[0] == 0
    assert grad[1] != 0
    capped = inputs["logit_scale"].detach().clamp(max=reference.MAX_LOGIT_SCALE)
    torch.testing.assert_close(window_attention(**inputs | {"logit_scale": capped}, backend="sdpa"), out)


def test_zero_vectors_stay_finite():
    inputs = case("whole, shifted")
    inputs["qkv"] = torch.zeros_like(inputs["qkv"]).requires_grad_()
    for backend in CPU:
        out = window_attention(**inputs, backend=backend)
        (grad,) = torch.autograd.grad(out.sum(), inputs["qkv"])
        assert out.isfinite().all()
        assert grad.isfinite().all()


def test_unknown_back_end_names_the_known_ones():
    with pytest.raises(ValueError, match="'cuda' is unknown; choose from reference, sdpa, matmul, triton"):
        window_attention(**case("whole"), backend="cuda")


def test_a_named_back_end_that_cannot_run_says_why(monkeypatch):
    monkeypatch.setattr(sdpa, "unsupported", lambda qkv, **_: f"needs a CUDA tensor, got {qkv.device}")
    with pytest.raises(ValueError, match="sdpa cannot run this: needs a CUDA tensor, got cpu"):
        window_attention(**case("whole"), backend="sdpa")


def test_the_mask_of_a_large_batch_is_not_materialised():
    """Memory of the sdpa path: nothing of size batch x windows x N x N exists."""
    heads, batch = 1, 16
    qkv = torch.randn(batch, 32, 32, 3 * heads * 8)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for t in out if isinstance(out, tuple) else (out,):
                if isinstance(t, torch.Tensor) and t.shape[-2:] == (64, 64):
                    largest = max(largest, t.untyped_storage().nbytes() // t.element_size())
            return out

    with Watch(), torch.no_grad():
        bias, scale = torch.zeros(heads, 64, 64), torch.zeros(heads, 1, 1)
        window_attention(qkv, scale, bias, heads=heads, window=(8, 8), shift=(4, 4), backend="sdpa")
    windows_of_an_image = (32 // 8) ** 2
    assert 0 < largest <= windows_of_an_image * heads * 64 * 64, largest


def on_gpu(dtype=torch.bfloat16, head_dim: int = 32) -> torch.Tensor:
    """A map that says it lies on a GPU."""
    with torch._subclasses.FakeTensorMode():
        return torch.empty(2, 16, 16, 3 * head_dim, dtype=dtype, device="cuda")


def test_a_gpu_computes_with_the_fused_kernel_where_that_can_and_somebody_says_so(monkeypatch):
    geometry = {"heads": 1, "window": (8, 8), "shift": (4, 4)}
    monkeypatch.setattr(triton, "refusal", lambda device, *_: None if device == "cuda" else "no GPU")
    monkeypatch.setattr(triton, "IS_CHOSEN", False)
    assert choose(on_gpu(), **geometry) == "sdpa", "no device has computed with it yet"
    monkeypatch.setattr(triton, "IS_CHOSEN", True)
    assert choose(on_gpu(), **geometry) == "triton"
    assert choose(on_gpu(torch.float64), **geometry) == "sdpa"
    assert choose(on_gpu(head_dim=24), **geometry) == "sdpa"
    monkeypatch.setattr(torch.compiler, "_is_exporting_flag", True)
    assert choose(on_gpu(), **geometry) == "sdpa", "an exported program may run where there is no Triton"


def test_a_gpu_that_has_no_triton_computes_without(monkeypatch):
    monkeypatch.setattr(triton, "IS_CHOSEN", True)
    monkeypatch.setattr(triton, "find_spec", lambda name: None)
    triton._asked.cache_clear()
    assert choose(on_gpu(), heads=1, window=(8, 8), shift=(4, 4)) == "sdpa"
    assert triton.unsupported(on_gpu(), heads=1, window=(8, 8), shift=(4, 4)) == "needs the package triton"
    triton._asked.cache_clear()


def test_an_old_gpu_computes_without(monkeypatch):
    monkeypatch.setattr(triton, "IS_CHOSEN", True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 5))
    triton._asked.cache_clear()
    why = triton.unsupported(on_gpu(), heads=1, window=(8, 8), shift=(4, 4))
    assert why == "needs compute capability 8.0, and the device has 7.5"
    triton._asked.cache_clear()


def test_cpus_never_import_triton():
    code = (
        "import sys, torch; from swinv2.model import create_model; import swinv2.fold\n"
        "m = create_model('swinv2_pico'); m(torch.zeros(1, 3, 64, 64)); print('triton' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
