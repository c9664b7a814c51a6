"""Window attention alone: our kernels against the same operations in eager mode, SDPA, FlexAttention and a compiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from gpu_timing import Runs, checked, interleaved, medians, peak_mb, spreads
from torch import Tensor

from swinv2.ops import window_attention
from swinv2.ops.reference import REGION_PENALTY
from swinv2.ops.windows import partition, region_mask, reverse, unit


class Case(NamedTuple):
    name: str
    images: int
    grid: int
    heads: int
    window: int

    @property
    def shift(self) -> int:
        return self.window // 2 if self.grid > self.window else 0

    @property
    def geometry(self) -> dict[str, Any]:
        return {"heads": self.heads, "window": (self.window,) * 2, "shift": (self.shift,) * 2}

    @property
    def flops(self) -> int:
        """Of the two products."""
        return 4 * self.images * self.grid**2 * self.window**2 * 32 * self.heads


CASES = (
    Case("tiny window 8, stage 1", 256, 64, 3, 8),
    Case("tiny window 8, stage 3", 256, 16, 12, 8),
    Case("tiny window 16, stage 1", 128, 64, 3, 16),
    Case("base window 16, stage 3", 256, 16, 16, 16),
    Case("large window 24, stage 1", 32, 96, 6, 24),
    Case("large window 24, stage 3", 64, 24, 24, 24),
)
DRY = (Case("one stage", 1, 8, 1, 4),)


def measure(
    case: Case, device: torch.device, rounds: int, ceiling: float, *, dry: bool
) -> list[dict[str, Any]]:
    """One row: forward, and forward with backward, in bfloat16."""
    leaves = inputs(case, device)
    few = [t.detach().double() for t in (leaves[0][:1], *leaves[1:])]
    exact = window_attention(*few, **case.geometry, backend="matmul")
    row: dict[str, Any] = case._asdict() | {"shift": case.shift}
    for what, training in (("forward", False), ("training", True)):
        calls = contenders(case, leaves, dry)
        errors, wrong = checked({label: lambda c=call: c()[:1] for label, call in calls.items()}, exact, 0.05)
        runs: Runs = {
            label: stepped(call, leaves) if training else unrecorded(call)
            for label, call in calls.items()
            if label not in wrong
        }
        times, failed = interleaved(runs, device, rounds)
        found = medians(times)
        flops = case.flops * (
            3.5 if training else 1
        )  # backward computes the logits again, and four products more
        speeds = {label: float(f"{flops / ms / 1e9:.3g}") for label, ms in found.items()}
        row[what] = {
            "median_ms": found, "quartiles_ms": spreads(times), "failed": wrong | failed, "tflops": speeds,
            "peak_mb": {label: peak_mb(runs[label], device) for label in times},
            "of_product": round(speeds["triton"] / ceiling, 3) if "triton" in speeds else None,
        }  # fmt: skip
    return [row | {"relative_error": errors}]


def inputs(case: Case, device: torch.device) -> list[Tensor]:
    torch.manual_seed(0)
    tokens = case.window**2
    qkv = torch.randn(case.images, case.grid, case.grid, 3 * 32 * case.heads, device=device).bfloat16()
    scale = torch.empty(case.heads, 1, 1, device=device).uniform_(2, 4)
    bias = 16 * torch.rand(case.heads, tokens, tokens, device=device)
    return [t.requires_grad_() for t in (qkv, scale, bias)]


def contenders(case: Case, leaves: list[Tensor], dry: bool) -> dict[str, Callable[[], Tensor]]:
    def ours(backend: str) -> Callable[..., Tensor]:
        return lambda *t: window_attention(*t, **case.geometry, backend=backend)

    compiler = "aot_eager" if dry else "inductor"
    calls = {
        "eager": ours("matmul"),
        "sdpa": ours("sdpa"),
        "compiled": torch.compile(ours("matmul"), backend=compiler, fullgraph=True, dynamic=False),
        "flex": torch.compile(flex(case, leaves[0].device), backend=compiler, fullgraph=True, dynamic=False),
        "triton": ours("triton"),
    }
    return {label: lambda call=call: call(*leaves) for label, call in calls.items()}


def flex(case: Case, device: torch.device) -> Callable[..., Tensor]:
    """The same by FlexAttention: windows in the batch, bias and mask in its score function."""
    from torch.nn.attention.flex_attention import flex_attention

    size, window, shift = (case.grid,) * 2, (case.window,) * 2, (case.shift,) * 2
    windows = (case.grid // case.window) ** 2
    mask = region_mask(size, window, shift, dtype=torch.float32, device=device) == REGION_PENALTY

    def attend(qkv: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        qk, v = partition(qkv, case.heads, window, shift)
        q, k = (t.flatten(0, 1) for t in unit(qk, scale, qkv.dtype))

        def score(s: Tensor, item: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return s + bias[head, i, j] + REGION_PENALTY * mask[item % windows, i, j]

        out = flex_attention(q, k, v.flatten(0, 1), score_mod=score, scale=1.0)
        return reverse(out.view(v.shape), size, window, shift)

    return attend


def unrecorded(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def run() -> Tensor:
        with torch.no_grad():
            return call()

    return run


def stepped(call: Callable[[], Tensor], leaves: list[Tensor]) -> Callable[[], Any]:
    """Forward and backward."""
    grad = torch.randn_like(leaves[0][..., : leaves[0].shape[-1] // 3])
    return lambda: torch.autograd.grad(call(), leaves, grad)


def sweep(case: Case, device: torch.device, rounds: int) -> list[dict[str, Any]]:
    """Times of other tile sizes than those of launch.py, one row of its tables at a time: what these should hold."""
    from swinv2.ops.triton import launch

    leaves, found = inputs(case, device), []
    call = lambda: window_attention(*leaves, **case.geometry, backend="triton")  # noqa: E731
    is_tile = case.window**2 <= 64
    row = "one tile" if is_tile else "several"
    sizes = ((64, 64),) if is_tile else ((64, 64), (64, 32), (32, 64), (128, 64), (128, 32))
    tables = [(launch.FORWARD, row, unrecorded(call)), (launch.BACKWARD, row, stepped(call, leaves))]
    if not is_tile:
        tables.append((launch.BACKWARD, f"{row}, bias", tables[-1][-1]))
    for table, name, run in tables:
        kept = table[name]
        for chosen in (
            launch.Tiles(*of, warps, stages) for of in sizes for warps in (4, 8) for stages in (1, 2, 3)
        ):
            table[name] = chosen
            try:
                times, failed = interleaved({"triton": run}, device, rounds)
            finally:
                table[name] = kept
            what = f"{'forward' if table is launch.FORWARD else 'training'}: {name}"
            found.append(
                {
                    "case": case.name,
                    "row": what,
                    "tiles": list(chosen),
                    "median_ms": medians(times),
                    "failed": failed,
                }
            )
    return found
