"""Window attention by torch's scaled_dot_product_attention.

Tensors stay 4-D, or the fused kernels refuse them. Where windows differ in what they mask, they are folded into
the heads, and the mask broadcasts over the batch: nothing of size batch x windows exists for it.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from swinv2.config import Pair
from swinv2.ops.windows import partition, reverse, unit, with_mask


def unsupported(qkv: Tensor, *, heads: int, window: Pair, shift: Pair) -> str | None:
    return None


# B batch, n windows, N tokens of one window, h heads, d head dim
def attend(
    qkv: Tensor, logit_scale: Tensor, bias: Tensor, *, heads: int, window: Pair, shift: Pair
) -> Tensor:
    size: Pair = (qkv.shape[1], qkv.shape[2])
    added = with_mask(bias, size, window, shift)
    qk, v = partition(qkv, heads, window, shift)
    q, k = unit(qk, logit_scale, qkv.dtype)  # each B n h N d, as v
    B, n, h, N, d = v.shape
    if added.ndim == 4:
        added = added.reshape(1, n * h, N, N)
        q, k, v = (t.reshape(B, n * h, N, d) for t in (q, k, v))
    else:
        added = added[None]  # 1 h N N
        q, k, v = (t.reshape(B * n, h, N, d) for t in (q, k, v))
    if (
        q.device.type != "cpu"
    ):  # only the CPU kernel takes a wider mask; rounding the bias costs half of the accuracy
        added = added.to(q.dtype)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=added, scale=1.0)
    return reverse(out.reshape(B, n, h, N, d), size, window, shift)
