"""From a map to its windows and back, and who may see whom: shared by the fast back ends.

reference.py states the rules; this file applies them to whole tensors. Nothing is created on another device
or needs the host to wait.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from swinv2.config import Pair
from swinv2.ops.reference import MAX_LOGIT_SCALE, REGION_PENALTY

NORM_FLOOR = 1e-12  # as in torch.nn.functional.normalize


def padded(size: Pair, window: Pair) -> Pair:
    """size rounded up to whole windows."""
    return -(-size[0] // window[0]) * window[0], -(-size[1] // window[1]) * window[1]


def pad(qkv: Tensor, window: Pair) -> Tensor:
    """Extend [B, H, W, C] right and bottom to whole windows. The values do not matter: region_mask hides them."""
    H, W = qkv.shape[1:3]
    rows, cols = padded((H, W), window)
    return qkv if (rows, cols) == (H, W) else F.pad(qkv, (0, 0, 0, cols - W, 0, rows - H))


# B batch, n = nh*nw windows, M window, N = Mh*Mw tokens, h heads, d head dim, C = h*d
def partition(qkv: Tensor, heads: int, window: Pair, shift: Pair) -> tuple[Tensor, Tensor]:
    """[B, H, W, 3C] -> q and k as a fresh [2, B, n, h, N, d] in at least float32, and v, padded and shifted."""
    x = pad(qkv, window)
    x = rolled(x, (-shift[0], -shift[1]))
    B, H, W, C3 = x.shape
    (Mh, Mw), d = window, C3 // 3 // heads
    x = x.view(B, H // Mh, Mh, W // Mw, Mw, 3, heads, d).permute(
        5, 0, 1, 3, 6, 2, 4, 7
    )  # 3 B nh nw h Mh Mw d
    wide = torch.promote_types(x.dtype, torch.float32)
    qk = x[:2].to(wide, memory_format=torch.contiguous_format, copy=True)  # one pass for order and precision
    shape = (B, (H // Mh) * (W // Mw), heads, Mh * Mw, d)
    return qk.view(2, *shape), x[2].reshape(shape)


def reverse(out: Tensor, size: Pair, window: Pair, shift: Pair) -> Tensor:
    """[B, n, h, N, d] -> [B, H, W, C] with the shift undone and the padding cut off; size is (H, W)."""
    B, _, heads, _, d = out.shape
    (rows, cols), (Mh, Mw) = padded(size, window), window
    x = out.view(B, rows // Mh, cols // Mw, heads, Mh, Mw, d)
    x = x.permute(0, 1, 4, 2, 5, 3, 6).reshape(B, rows, cols, heads * d)  # B rows cols C
    return rolled(x, shift)[:, : size[0], : size[1]]


def rolled(x: Tensor, shift: Pair) -> Tensor:
    """[B, H, W, C] moved down and right by shift, wrapping around. torch.roll copies once an axis; this once."""
    if shift == (0, 0):
        return x
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return x.roll(shift, (1, 2))
    out = torch.empty_like(x)
    (top, bottom), (left, right) = (_halves(side, by) for side, by in zip(x.shape[1:3], shift, strict=True))
    for to_row, from_row in (top, bottom):
        for to_col, from_col in (left, right):
            out[:, to_row, to_col] = x[:, from_row, from_col]
    return out


def _halves(side: int, by: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Along one axis: (to, from) of what wraps around and of what does not."""
    by %= side
    return (slice(0, by), slice(side - by, side)), (slice(by, side), slice(0, side - by))


def unit(qk: Tensor, logit_scale: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """[2, B, n, h, N, d] -> unit q times exp(min(logit_scale, ln 100)) and unit k, in dtype.

    Norms and scale are computed in qk's precision. Without gradients qk is overwritten.
    """
    scale = logit_scale.to(qk.dtype).clamp(max=MAX_LOGIT_SCALE).exp()  # h 1 1; the clamp comes first
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        q, k = qk.unbind()  # a sum of squares has half of the passes of a norm on the way back
        q_inverse, k_inverse = (
            (t * t).sum(-1, keepdim=True).clamp_min(NORM_FLOOR**2).rsqrt() for t in (q, k)
        )
        return (q * (q_inverse * scale)).to(dtype), (k * k_inverse).to(dtype)
    inverse = torch.linalg.vector_norm(qk, dim=-1, keepdim=True).clamp_min(NORM_FLOOR).reciprocal()
    inverse[0].mul_(scale)
    q, k = qk.mul_(inverse).to(dtype)
    return q, k


def with_mask(bias: Tensor, size: Pair, window: Pair, shift: Pair) -> Tensor:
    """What is added to the logits: [h, N, N] where nothing is masked, [n, h, N, N] otherwise.

    A bias of four dimensions already holds the mask (a folded model's does) and is returned as it is.
    """
    if bias.ndim == 4 or not is_masked(size, window, shift):
        return bias
    return region_mask(size, window, shift, dtype=bias.dtype, device=bias.device)[:, None] + bias


def is_masked(size: Pair, window: Pair, shift: Pair) -> bool:
    """Whether any pair of tokens that share a window must not see each other."""
    return shift != (0, 0) or padded(size, window) != size


def region_mask(size: Pair, window: Pair, shift: Pair, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[n, N, N], to be added to the logits: 0 inside a region; between regions -100, or more where there is padding.

    Padding is a region of its own, so that its tokens have someone to see and stay finite.
    """
    rows, cols = padded(size, window)
    Mh, Mw = window
    # Along one axis a token has a code: 0 ordinary, 1 wrapped around by the shift, 2 padding.
    vertical = _codes(size[0], rows, shift[0], device).view(rows // Mh, 1, Mh, 1)
    horizontal = _codes(size[1], cols, shift[1], device).view(1, cols // Mw, 1, Mw)
    region = vertical * 3 + horizontal  # nh nw Mh Mw
    region = torch.where((vertical == 2) | (horizontal == 2), 8, region).reshape(-1, Mh * Mw)  # n N
    differs = region[:, :, None] != region[:, None, :]  # n N N
    # Half the lowest number is exactly 0 after a softmax beside any logit, and unlike -inf never makes a NaN.
    penalty = REGION_PENALTY if (rows, cols) == size else torch.finfo(dtype).min / 2
    return differs.to(dtype) * penalty


def _codes(size: int, padded_size: int, shift: int, device: torch.device) -> Tensor:
    place = torch.arange(padded_size, device=device).roll(-shift)
    return (place < shift).to(torch.int32) + 2 * (place >= size).to(torch.int32)
