"""Window attention by two matrix products and a softmax: the fastest on a CPU while windows are small.

Norms and scale are computed in at least float32, products and their sum with the bias in the dtype of qkv. Without
gradients it works in place, on as many images at a time as keep their scores in the caches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from swinv2.config import Pair
from swinv2.ops.windows import padded, partition, reverse, unit, with_mask

CACHED_SCORES = 1 << 20  # 4 MB in float32


def unsupported(qkv: Tensor, *, heads: int, window: Pair, shift: Pair) -> str | None:
    return None


# B batch, n windows, N tokens of one window, h heads, d head dim
def attend(
    qkv: Tensor, logit_scale: Tensor, bias: Tensor, *, heads: int, window: Pair, shift: Pair
) -> Tensor:
    size: Pair = (qkv.shape[1], qkv.shape[2])
    added = with_mask(bias, size, window, shift).to(qkv.dtype)  # h N N, or n h N N
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return _attend(qkv, logit_scale, added, heads, window, shift)
    rows, cols = padded(size, window)
    scores = rows * cols * window[0] * window[1] * heads  # of one image
    images = max(1, CACHED_SCORES // scores)
    if qkv.shape[0] <= images:
        return _attend(qkv, logit_scale, added, heads, window, shift)
    return torch.cat([_attend(part, logit_scale, added, heads, window, shift) for part in qkv.split(images)])


def _attend(qkv: Tensor, logit_scale: Tensor, added: Tensor, heads: int, window: Pair, shift: Pair) -> Tensor:
    size: Pair = (qkv.shape[1], qkv.shape[2])
    qk, v = partition(qkv, heads, window, shift)
    q, k = unit(qk, logit_scale, qkv.dtype)  # each B n h N d, as v
    logits = q @ k.transpose(-2, -1)  # B n h N N
    logits = logits + added if logits.requires_grad else logits.add_(added)
    return reverse(logits.softmax(-1) @ v, size, window, shift)
