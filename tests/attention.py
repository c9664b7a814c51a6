"""Cases of window attention for the tests of Triton's kernels, in its interpreter and on a GPU, and their errors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from swinv2.ops import window_attention
from swinv2.ops.reference import MAX_LOGIT_SCALE

# images, heads, head dim, map, window, shift: whole and ragged, square and not, smaller than a tile and several tiles
CASES: dict[str, tuple] = {
    "window 4":                     (2, 2, 32, (8, 12), (4, 4), (0, 0)),
    "window 4, shifted":            (1, 3, 32, (8, 8), (4, 4), (2, 2)),
    "window 4, ragged, shifted":    (2, 1, 16, (5, 9), (4, 4), (2, 2)),
    "window 7, shifted":            (1, 2, 32, (14, 7), (7, 7), (3, 3)),
    "window 8":                     (1, 2, 32, (8, 16), (8, 8), (0, 0)),
    "window 8, ragged":             (1, 1, 64, (9, 11), (8, 8), (0, 0)),
    "window 8, ragged, shifted":    (2, 1, 32, (10, 10), (8, 8), (4, 4)),
    "one token":                    (2, 2, 32, (1, 1), (1, 1), (0, 0)),
    "strip":                        (2, 2, 16, (1, 19), (1, 8), (0, 4)),
    "tall window":                  (1, 1, 32, (16, 3), (8, 3), (4, 0)),
    "window 12, shifted":           (1, 1, 32, (24, 12), (12, 12), (6, 0)),
    "window 12, ragged, shifted":   (1, 1, 32, (13, 12), (12, 12), (6, 6)),
    "window 16":                    (1, 1, 32, (16, 16), (16, 16), (0, 0)),
    "window 24":                    (1, 1, 32, (24, 24), (24, 24), (0, 0)),
}  # fmt: skip
LEAVES = ("qkv", "logit_scale", "bias")


def case(name: str, dtype: torch.dtype = torch.float32, device: str = "cpu", seed: int = 0) -> dict[str, Any]:
    """Arguments of window_attention; logit scale and bias are float32, as a model has them."""
    return made(*CASES[name], dtype=dtype, device=device, seed=seed)


def made(images, heads, head_dim, size, window, shift, *, dtype, device="cpu", seed=0) -> dict[str, Any]:
    g = torch.Generator().manual_seed(seed)
    tokens = window[0] * window[1]
    return {
        "qkv": torch.randn(images, *size, 3 * heads * head_dim, generator=g).to(device, dtype),
        "logit_scale": (3 + 1.5 * torch.randn(heads, 1, 1, generator=g)).to(device),  # some above the clamp
        "bias": (16 * torch.rand(heads, tokens, tokens, generator=g)).to(device),
        "heads": heads, "window": window, "shift": shift,
    }  # fmt: skip


def with_gradients(inputs: dict[str, Any], backend: str) -> dict[str, Tensor]:
    """The result, and the gradients of what goes in by their names, for the same random gradient of the result."""
    leaves = {name: inputs[name].detach().clone().requires_grad_() for name in LEAVES}
    out = window_attention(**inputs | leaves, backend=backend)
    g = torch.Generator().manual_seed(1)
    grad = torch.randn(out.shape, generator=g).to(out.device, out.dtype)
    return {"out": out.detach()} | dict(
        zip(LEAVES, torch.autograd.grad(out, list(leaves.values()), grad), strict=True)
    )


def exact(inputs: dict[str, Any]) -> dict[str, Tensor]:
    """with_gradients of the reference in float64; the random gradient of the result is that of inputs' dtype."""
    leaves = {name: inputs[name].detach().double().requires_grad_() for name in LEAVES}
    out = window_attention(**inputs | leaves, backend="reference")
    g = torch.Generator().manual_seed(1)
    grad = torch.randn(out.shape, generator=g).to(inputs["qkv"].dtype).to(out)
    return {"out": out.detach()} | dict(
        zip(LEAVES, torch.autograd.grad(out, list(leaves.values()), grad), strict=True)
    )


def eager(inputs: dict[str, Any]) -> dict[str, Tensor]:
    """with_gradients of the reference's operations, one by one in this dtype, bias included."""
    return with_gradients(inputs | {"bias": inputs["bias"].to(inputs["qkv"].dtype)}, "reference")


def errors(found: dict[str, Tensor], wanted: dict[str, Tensor], inputs: dict[str, Any]) -> dict[str, float]:
    """By name, relative to all of what is wanted (or to 1, where that is less).

    The gradient of a logit scale is one number, a sum in which nearly all cancels: by the size of what is summed up.
    """
    sizes = {name: values.norm() for name, values in wanted.items()}
    scale = inputs["logit_scale"].double().clamp(max=MAX_LOGIT_SCALE).exp()
    sizes["logit_scale"] = (scale * wanted["bias"].norm(dim=(-2, -1), keepdim=True).clamp_min(1)).norm()
    return {
        name: ((found[name].double() - wanted[name]).norm() / sizes[name].clamp_min(1)).item()
        for name in wanted
    }


# Below it an error is luck, as with eager's of a few numbers.
FLOOR = {torch.float32: 4e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def assert_at_most_twice_eager(inputs: dict[str, Any], found: dict[str, Tensor]) -> None:
    wanted = exact(inputs)
    eagers, ours = errors(eager(inputs), wanted, inputs), errors(found, wanted, inputs)
    floor = FLOOR[inputs["qkv"].dtype]
    worse = {
        name: (ours[name], eagers[name]) for name in wanted if not ours[name] <= max(2 * eagers[name], floor)
    }
    assert not worse, f"error, and eager's: {worse}"
