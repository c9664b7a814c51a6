"""Window attention as a loop over windows: slow, obvious, right in any dtype.

The rules, which every other back end must reproduce:

1. The map is extended right and bottom to whole windows. The added tokens are padding: nobody sees them.
2. Windows are laid over the map moved up and left by the shift, wrapping around. Two tokens that share a window
   only because one of them wrapped around (vertically or horizontally) are in different regions.
3. logits = cos(q, k) * exp(min(logit_scale, ln 100)) + bias. No 1/sqrt(d).
4. Between regions -100 is added, not -inf: the released weights were trained with it, and with logits up to 100
   a masked pair keeps some weight. The official code knows no padding; where there is some, no released result
   is at stake, and regions are separated exactly.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from swinv2.config import Pair

# The paper caps the temperature at 0.01. ln 100 as float32 holds it: the official code clamps with a float32
# tensor in every precision, which shows in the ninth digit of float64 logits.
MAX_LOGIT_SCALE = 4.605170249938965
REGION_PENALTY = -100.0


def unsupported(qkv: Tensor, *, heads: int, window: Pair, shift: Pair) -> str | None:
    return None


# B batch, H W map, M window, N tokens of one window, h heads, d head dim, C = h*d
def attend(
    qkv: Tensor, logit_scale: Tensor, bias: Tensor, *, heads: int, window: Pair, shift: Pair
) -> Tensor:
    B, H, W, C3 = qkv.shape
    d = C3 // 3 // heads
    rows_padded, cols_padded = -(-H // window[0]) * window[0], -(-W // window[1]) * window[1]
    has_padding = (rows_padded, cols_padded) != (H, W)
    scale = logit_scale.clamp(
        max=MAX_LOGIT_SCALE
    ).exp()  # clamp before exp: the gradient above the cap is zero
    out = qkv.new_zeros(B, H, W, C3 // 3)
    for top in range(0, rows_padded, window[0]):
        for left in range(0, cols_padded, window[1]):
            tokens = [
                ((y + shift[0]) % rows_padded, (x + shift[1]) % cols_padded, place)
                for place, (y, x) in enumerate(
                    (top + i, left + j) for i in range(window[0]) for j in range(window[1])
                )
            ]
            tokens = [(y, x, place) for y, x, place in tokens if y < H and x < W]  # padding is left out
            if not tokens:
                continue
            y, x, place = (torch.tensor(t, device=qkv.device) for t in zip(*tokens, strict=True))
            region = torch.stack([y < shift[0], x < shift[1]])  # wrapped around, per axis
            differs = (region[:, :, None] != region[:, None, :]).any(0)  # N N
            q, k, v = qkv[:, y, x].view(B, len(tokens), 3, heads, d).permute(2, 0, 3, 1, 4)  # each B h N d
            q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
            number = top // window[0] * (cols_padded // window[1]) + left // window[1]
            here = bias if bias.ndim == 3 else bias[number]
            logits = q @ k.transpose(-2, -1) * scale + here[:, place][:, :, place]  # B h N N
            if bias.ndim == 3 and has_padding:
                logits = logits.masked_fill(differs, -torch.inf)
            elif bias.ndim == 3:
                logits = logits + REGION_PENALTY * differs.to(logits.dtype)
            attended = logits.softmax(-1).to(v.dtype) @ v  # B h N d
            attended = attended.transpose(1, 2).reshape(B, len(tokens), C3 // 3)
            out = out.index_put((torch.arange(B, device=y.device)[:, None], y, x), attended)
    return out
