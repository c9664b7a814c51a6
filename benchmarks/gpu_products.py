"""Layers and the gradient of the position bias: our kernels against the same in eager mode and compiled.

At inference the two layers of an MLP with what follows them, patch merging and embedding; in training an MLP forward
and backward, and the sums of diagonals that bring a gradient from the position bias to its table.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from gpu_timing import Runs, checked, interleaved, medians, spreads
from torch import Tensor, nn

from swinv2.model import Offsets
from swinv2.ops import position, products
from swinv2.ops.mlp import mlp
from swinv2.ops.residual import add_norm

Ways = dict[str, Callable[[], Tensor]]


class Case(NamedTuple):
    """Of kind gelu, mlp and merge on a square map, with channels of what goes in, of kind branch with those of what
    comes out; of kind embed an image, with channels of what comes out; of kind diagonals a window, with heads."""

    name: str
    kind: str
    images: int
    side: int
    channels: int


CASES = (
    Case("tiny, stage 1", "gelu", 256, 64, 96),
    Case("tiny, stage 3", "gelu", 256, 16, 384),
    Case("base, stage 3", "gelu", 256, 16, 512),
    Case("large at 384, stage 3", "gelu", 64, 24, 768),
    Case("tiny, stage 1, one image", "gelu", 1, 64, 96),
    Case("tiny, stage 4, one image", "gelu", 1, 8, 768),
    Case("tiny, stage 1", "branch", 256, 64, 96),
    Case("tiny, stage 2", "branch", 256, 32, 192),
    Case("base, stage 2", "branch", 256, 32, 256),
    Case("tiny, stage 1, one image", "branch", 1, 64, 96),
    Case("tiny, stage 1", "mlp", 256, 64, 96),
    Case("tiny, stage 3", "mlp", 256, 16, 384),
    Case("large at 384, stage 3", "mlp", 12, 24, 768),
    Case("tiny, stage 1", "merge", 256, 64, 96),
    Case("base, stage 2", "merge", 256, 32, 256),
    Case("large at 384, stage 1", "merge", 32, 96, 192),
    Case("large at 384, stage 3", "merge", 64, 24, 768),
    Case("tiny", "embed", 256, 256, 96),
    Case("large at 384", "embed", 64, 384, 192),
    Case("tiny, one image", "embed", 1, 256, 96),
    Case("tiny, window 8, stage 3", "diagonals", 1, 8, 12),
    Case("base, window 16, stage 3", "diagonals", 1, 16, 16),
    Case("large, window 24, stage 3", "diagonals", 1, 24, 24),
)
DRY = (
    Case("one", "gelu", 1, 8, 32),
    Case("one", "branch", 1, 8, 32),
    Case("one", "mlp", 1, 8, 32),
    Case("one", "merge", 1, 7, 32),
    Case("one", "embed", 1, 13, 32),
    Case("one", "diagonals", 1, 4, 2),
)


@torch.no_grad()
def measure(
    case: Case, device: torch.device, rounds: int, limits: dict[str, float], *, dry: bool
) -> list[dict[str, Any]]:
    """One row; products are in bfloat16, sums of diagonals in float32."""
    ways, exact, flops, values = KINDS[case.kind](case, device, "aot_eager" if dry else "inductor")
    errors, wrong = checked(ways, exact, 0.05)
    runs: Runs = {label: way for label, way in ways.items() if label not in wrong}
    times, failed = interleaved(runs, device, rounds)
    found = medians(times)
    ours = found.get("triton")
    return [case._asdict() | {
        "median_ms": found, "quartiles_ms": spreads(times), "failed": wrong | failed, "relative_error": errors,
        "of_product": round(flops / ours / 1e9 / limits["product_tflops"], 3) if ours else None,
        "of_copy": round(values / ours / 1e9 / limits["copy_tb_per_s"], 3) if ours else None,
    }]  # fmt: skip


def gelu(case: Case, device: torch.device, compiler: str) -> tuple[Ways, Tensor, int, int]:
    """The ways, the exact result, operations and bytes that cannot be saved."""
    x, layer = tokens(case, device), nn.Linear(case.channels, 4 * case.channels).to(device)
    exact = F.gelu(copy_of(layer)(x.double()))
    layer.bfloat16()
    flat, transposed = x.view(-1, case.channels), layer.weight.t()
    ways = ways_of(products.linear_gelu, compiler, x, layer)
    # cuBLAS has a GELU after its products too, but the one by tanh.
    ways["tanh"] = lambda: torch._addmm_activation(layer.bias, flat, transposed, use_gelu=True).view(
        exact.shape
    )
    flops = 2 * x.numel() * layer.out_features
    return ways, exact, flops, 2 * (x.numel() + exact.numel() + layer.weight.numel())


def mlp_step(case: Case, device: torch.device, compiler: str) -> tuple[Ways, Tensor, int, int]:
    """Forward and backward; the result is the gradient of what goes in."""
    x, hidden = tokens(case, device), 4 * case.channels
    pair = nn.Linear(case.channels, hidden).to(device), nn.Linear(hidden, case.channels).to(device)

    def step(x: Tensor, fc1: nn.Linear, fc2: nn.Linear, backend: str) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            out = mlp(x, fc1, fc2, backend=backend)
            of_x, *_ = torch.autograd.grad(
                out, [x, *fc1.parameters(), *fc2.parameters()], torch.ones_like(out)
            )
        return of_x

    exact = step(x.double(), *(copy_of(layer) for layer in pair), "eager")
    for layer in pair:
        layer.bfloat16()
    flops = 6 * 2 * x.numel() * hidden
    values = 6 * x.numel() + 8 * x.numel() // case.channels * hidden  # that six products read and write
    return ways_of(step, compiler, x, *pair), exact, flops, 2 * values


def branch(case: Case, device: torch.device, compiler: str) -> tuple[Ways, Tensor, int, int]:
    """The end of an MLP: its last layer, the norm, and the sum."""
    x, ins = tokens(case, device), 4 * case.channels
    inner = torch.randn(*x.shape[:-1], ins, device=device).bfloat16()
    layer, norm = nn.Linear(ins, case.channels).to(device), nn.LayerNorm(case.channels).to(device)

    def run(x: Tensor, inner: Tensor, layer: nn.Module, norm: nn.Module, backend: str) -> Tensor:
        if backend == "separate":  # the library's product, and our kernel of the rest
            return add_norm(x, layer(inner), norm, backend="triton")
        return products.add_normed(x, inner, layer, norm, backend=backend)

    exact = run(x.double(), inner.double(), copy_of(layer), copy_of(norm), "eager")
    layer.bfloat16(), norm.bfloat16()
    ways = ways_of(run, compiler, x, inner, layer, norm)
    ways["separate"] = lambda: run(x, inner, layer, norm, "separate")
    values = 2 * x.numel() + inner.numel() + layer.weight.numel()
    return ways, exact, 2 * x.numel() * ins, 2 * values


def merge(case: Case, device: torch.device, compiler: str) -> tuple[Ways, Tensor, int, int]:
    x = tokens(case, device)
    reduction = nn.Linear(4 * case.channels, 2 * case.channels, bias=False).to(device)
    norm = nn.LayerNorm(2 * case.channels).to(device)
    exact = products.merge(x.double(), copy_of(reduction), copy_of(norm), backend="eager")
    reduction.bfloat16(), norm.bfloat16()
    ways = ways_of(products.merge, compiler, x, reduction, norm)
    flops = 2 * exact.numel() * reduction.in_features
    return ways, exact, flops, 2 * (x.numel() + exact.numel() + reduction.weight.numel())


def embed(case: Case, device: torch.device, compiler: str) -> tuple[Ways, Tensor, int, int]:
    torch.manual_seed(0)
    x = torch.randn(case.images, 3, case.side, case.side, device=device).bfloat16()
    proj, norm = nn.Conv2d(3, case.channels, 4, 4).to(device), nn.LayerNorm(case.channels).to(device)
    proj.weight.data = proj.weight.data.contiguous(
        memory_format=torch.channels_last
    )  # as folded models have it
    exact = products.embed(x.double(), copy_of(proj), copy_of(norm), backend="eager")
    proj.bfloat16(), norm.bfloat16()
    ways = ways_of(products.embed, compiler, x, proj, norm)
    flops = 2 * exact.numel() * proj.weight[0].numel()
    return ways, exact, flops, 2 * (x.numel() + exact.numel() + proj.weight.numel())


def diagonals(case: Case, device: torch.device, compiler: str) -> tuple[Ways, Tensor, int, int]:
    window, heads = (case.side, case.side), case.channels
    grad = torch.randn(heads, case.side**2, case.side**2, device=device)
    rows = Offsets.compute(window, window, device).rows.flatten()
    exact = position.sum_diagonals(grad.double(), window, backend="eager")
    empty = torch.zeros_like(exact, dtype=torch.float32)
    ways = ways_of(position.sum_diagonals, compiler, grad, window)
    ways["by index"] = lambda: empty.index_add(0, rows, grad.flatten(1).t())  # what autograd does by itself
    return ways, exact, grad.numel(), 4 * (grad.numel() + exact.numel())


def ways_of(run: Callable[..., Tensor], compiler: str, x: Tensor, *given: Any) -> Ways:
    """run(x, *given, backend=...) by PyTorch, by its compiler, and by our kernel."""
    compiled = torch.compile(lambda t: run(t, *given, backend="eager"), backend=compiler, dynamic=False)
    return {
        "eager": lambda: run(x, *given, backend="eager"),
        "compiled": lambda: compiled(x),
        "triton": lambda: run(x, *given, backend="triton"),
    }


KINDS = {
    "gelu": gelu,
    "branch": branch,
    "mlp": mlp_step,
    "merge": merge,
    "embed": embed,
    "diagonals": diagonals,
}


def tokens(case: Case, device: torch.device) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(case.images, case.side, case.side, case.channels, device=device).bfloat16()


def copy_of(layer: nn.Module) -> nn.Module:
    """In float64, with the weights as bfloat16 holds them."""
    return copy.deepcopy(layer).bfloat16().double()


@torch.no_grad()
def sweep(case: Case, device: torch.device, rounds: int) -> list[dict[str, Any]]:
    """Times of other tile sizes than those of products_op.py, where its tables should have theirs from."""
    from swinv2.ops.triton import products_op
    from swinv2.ops.triton.products_op import Tile

    if case.kind == "diagonals":
        return []
    way, rows = KINDS[case.kind](case, device, "aot_eager")[0]["triton"], []
    outs = {"merge": 2 * case.channels, "embed": case.channels}.get(case.kind)
    if case.kind == "branch":
        table, sides = products_op.ADDED, ((32, 256), (64, 256), (128, 256))
    elif outs is not None and products_op.can_norm(outs):
        table, sides = products_op.NORMED, ((32, 512), (64, 512))
    else:
        table, sides = products_op.TILES, ((64, 64), (128, 64), (128, 128), (128, 256), (256, 128))
    depths = (16,) if case.kind == "embed" else (32, 64)  # a step takes one colour of a patch
    for size in [Tile(*tile, depth, warps, stages) for tile in sides
                 for depth in depths for warps in (4, 8, 16) for stages in (2, 3, 4)]:  # fmt: skip
        kept = dict(table)
        table.update(dict.fromkeys(table, size))
        try:
            times, failed = interleaved({"forward": way}, device, rounds)
        finally:
            table.update(kept)
        rows.append({"case": f"{case.kind}: {case.name}", "tiles": list(size),
                     "median_ms": medians(times), "failed": failed})  # fmt: skip
    return rows
