"""Layers for the tests of kernels with products, in Triton's interpreter and on a GPU."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from swinv2.ops.mlp import mlp

# images, map, channels: odd sides, one token, tiles of the norm narrow, wide and too wide
MERGED = [
    (2, (6, 4), 32),
    (1, (1, 1), 32),
    (3, (5, 7), 24),
    (2, (1, 9), 96),
    (1, (7, 2), 200),
    (1, (3, 4), 264),
]
# images, pixels, colours, side of a patch, channels: sides that do not divide, less than a patch, one colour and four,
# small and large patches, a token too wide for the norm
EMBEDDED = [
    (2, (24, 16), 3, 4, 96),
    (3, (13, 22), 3, 4, 32),
    (1, (1, 3), 3, 4, 40),
    (1, (9, 8), 1, 4, 128),
    (2, (8, 6), 4, 2, 48),
    (1, (17, 30), 3, 8, 24),
    (1, (8, 12), 3, 4, 520),
]
# Below it an error is luck. The interpreter cuts bfloat16 off where a device rounds it.
FLOOR = {torch.float32: 4e-7, torch.float16: 3e-4, torch.bfloat16: 4e-3}


def filled(*shape: int, dtype: torch.dtype, seed: int = 0, device: str = "cpu") -> Tensor:
    """Random numbers in the middle of memory that holds NaN: what is read beside them shows."""
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)
    memory = torch.full((values.numel() + 256,), torch.nan, device=device, dtype=dtype)
    middle = memory[128:-128].view(shape)
    return middle.copy_(values)


def linear(ins: int, outs: int, dtype: torch.dtype, *, bias: bool, device: str = "cpu") -> nn.Linear:
    layer = nn.Linear(ins, outs, bias=bias, device=device, dtype=dtype)
    layer.weight = nn.Parameter(filled(outs, ins, dtype=dtype, seed=1, device=device).mul_(ins**-0.5))
    if bias:
        layer.bias = nn.Parameter(filled(outs, dtype=dtype, seed=2, device=device))
    return layer.requires_grad_(False)


def convolution(colours: int, outs: int, side: int, dtype: torch.dtype, device: str = "cpu") -> nn.Conv2d:
    """Of patches, its weights in memory as a folded model has them: channels last."""
    layer = nn.Conv2d(colours, outs, side, side, device=device, dtype=dtype)
    places = colours * side**2
    weight = filled(outs, side, side, colours, dtype=dtype, seed=1, device=device).mul_(places**-0.5)
    layer.weight = nn.Parameter(weight.permute(0, 3, 1, 2))
    layer.bias = nn.Parameter(filled(outs, dtype=dtype, seed=2, device=device))
    return layer.requires_grad_(False)


def layer_norm(channels: int, dtype: torch.dtype, device: str = "cpu") -> nn.LayerNorm:
    norm = nn.LayerNorm(channels, device=device, dtype=dtype)
    norm.weight = nn.Parameter(filled(channels, dtype=dtype, seed=3, device=device).mul_(0.3).add_(1))
    norm.bias = nn.Parameter(filled(channels, dtype=dtype, seed=4, device=device))
    return norm.requires_grad_(False)


def assert_products_at_most_twice_eager(run: Callable[..., Tensor], x: Tensor, *layers: nn.Module) -> None:
    """run(x, *layers, backend=...), over memory that nobody has written to and that holds NaN."""
    torch.use_deterministic_algorithms(True)
    try:
        found = run(x, *layers, backend="triton")
    finally:
        torch.use_deterministic_algorithms(False)
    eager = run(x, *layers, backend="eager")
    wanted = run(x.double(), *(copy.deepcopy(layer).double() for layer in layers), backend="eager")
    assert (found.shape, found.dtype) == (eager.shape, eager.dtype)
    ours, theirs = ((values.double() - wanted).norm() / wanted.norm() for values in (found, eager))
    assert ours <= max(2 * theirs, FLOOR[x.dtype]), (ours, theirs)


def mlp_with_gradients(x: Tensor, fc1: nn.Module, fc2: nn.Module, backend: str) -> list[Tensor]:
    """The result, and the gradients of x and of both weights and biases."""
    leaves = [x.detach().requires_grad_(), *fc1.parameters(), *fc2.parameters()]
    out = mlp(leaves[0], fc1, fc2, backend=backend)
    grad = filled(*out.shape, dtype=torch.float32, seed=5).to(x.dtype).to(out)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad)]


def assert_mlp_at_most_twice_eager(x: Tensor, fc1: nn.Module, fc2: nn.Module) -> None:
    """The result and every gradient, over memory that nobody has written to and that holds NaN."""
    torch.use_deterministic_algorithms(True)
    try:
        found = mlp_with_gradients(x, fc1, fc2, "triton")
    finally:
        torch.use_deterministic_algorithms(False)
    eager = mlp_with_gradients(x, fc1, fc2, "eager")
    exact = mlp_with_gradients(x.double(), *(copy.deepcopy(layer).double() for layer in (fc1, fc2)), "eager")
    for ours, theirs, wanted in zip(found, eager, exact, strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        off, eager_off = ((values.double() - wanted).norm() / wanted.norm() for values in (ours, theirs))
        assert off <= max(2 * eager_off, FLOOR[x.dtype]), (off, eager_off)


def watched(monkeypatch: pytest.MonkeyPatch, *names: str) -> list[str]:
    """The names of these kernels, in the order in which they are launched from here on."""
    from swinv2.ops.triton import products

    launched: list[str] = []
    for name in names:
        kernel = getattr(products, name)

        class Watched:
            def __getitem__(self, grid: Any, kernel: Any = kernel, name: str = name) -> Any:
                launched.append(name)
                return kernel[grid]

        monkeypatch.setattr(products, name, Watched())
    return launched
