"""Window attention behind one name, so that a fused kernel can be one kernel.

    window_attention(qkv, logit_scale, bias, heads=..., window=..., shift=...) -> out

Shift, partition, cosine normalisation, scale, bias, mask, softmax, the product with v, and the way back all
happen inside. Which rules hold is written in reference.py, the slow back end that obviously follows them.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from swinv2.config import Pair
from swinv2.ops import matmul, reference, sdpa, triton

BACKENDS: dict[str, ModuleType] = {"reference": reference, "sdpa": sdpa, "matmul": matmul, "triton": triton}


def window_attention(
    qkv: Tensor,
    logit_scale: Tensor,
    bias: Tensor,
    *,
    heads: int,
    window: Pair,
    shift: Pair = (0, 0),
    backend: str | None = None,
) -> Tensor:
    """Scaled cosine attention inside (shifted) windows; Swin V2, sections 3.2 and 3.3.

    Args:
        qkv: [B, H, W, 3C], the un-permuted projection. H and W need not be multiples of the window.
        logit_scale: [heads, 1, 1], the learned parameter; clamped at ln 100 and exponentiated here.
        bias: [heads, N, N] for N = window[0] * window[1] tokens, added to the logits. Or [n, heads, N, N] for
            n windows, which then holds the mask between regions too (a folded model's constant).
        shift: cyclic shift of the windows; (0, 0) for none.
        backend: a name in BACKENDS, which runs or raises; None chooses one that runs.

    Returns:
        [B, H, W, C], in the order of the input.

    Raises:
        ValueError: an unknown back end, or a named one that cannot run this case, with its reason.
    """
    if backend is None:
        backend = choose(qkv, heads=heads, window=window, shift=shift)
    elif backend not in BACKENDS:
        raise ValueError(f"attention back end {backend!r} is unknown; choose from {', '.join(BACKENDS)}")
    elif why := BACKENDS[backend].unsupported(qkv, heads=heads, window=window, shift=shift):
        raise ValueError(f"attention back end {backend} cannot run this: {why}")
    return BACKENDS[backend].attend(qkv, logit_scale, bias, heads=heads, window=window, shift=shift)


def choose(qkv: Tensor, *, heads: int, window: Pair, shift: Pair) -> str:
    """The back end that is the fastest in whole models (docs/log.md, docs/gpu.md); all give the same result."""
    if torch.jit.is_tracing():
        return "sdpa"
    if qkv.device.type != "cpu":
        # An exported program may run where our kernels are not.
        fused = triton.IS_CHOSEN and qkv.is_cuda and not torch.compiler.is_exporting()
        return (
            "triton"
            if fused and not triton.unsupported(qkv, heads=heads, window=window, shift=shift)
            else "sdpa"
        )
    return "matmul" if prefers_products(qkv.dtype, window) else "sdpa"


def prefers_products(dtype: torch.dtype, window: Pair) -> bool:
    """On a CPU the fused kernel pays once the scores of one window outgrow the first-level caches."""
    tokens = window[0] * window[1]
    return tokens <= 144 or (dtype != torch.float32 and tokens <= 256)
