"""Attention maps: which places of a picture the others look at.

The weights of every head are computed again from what its block was given, since the fused kernels do not
return them. Attention rollout (Abnar and Zuidema, arXiv 2005.00928) follows them from the average over the last
map back to the patches: half of what a token holds comes from itself (the residual), half from the tokens of
its window; patch merging shares it among the four tokens that were merged.
"""

# H W map, n windows, N tokens of one window, h heads, d head dim

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swinv2.config import Pair, Stage
from swinv2.explain.gradcam import Seen, evaluating, stage_of
from swinv2.model import Offsets, SwinV2, WindowAttention
from swinv2.ops import windows


class Look(NamedTuple):
    """What the attention of one block was given."""

    attention: WindowAttention
    x: Tensor  # 1 H W C
    stage: Stage
    offsets: Offsets
    shift: Pair

    @property
    def size(self) -> Pair:
        return self.x.shape[1], self.x.shape[2]


@torch.no_grad()
def rollout(model: SwinV2, x: Tensor) -> Seen:
    """How much of each patch arrives in the average that the head sees, [H, W] of the first stage.

    Args:
        x: [1, C, H, W], normalised; any height and width.
    """
    looks, logits = watch(model, x)
    size = looks[-1].size
    share = x.new_full(size, 1 / (size[0] * size[1]))
    for look in reversed(looks):
        if share.shape != look.size:
            share = _unmerge(share, look.size)
        share = (share + looked_at(look, share)) / 2
    return Seen(_stretched(share), logits)


@torch.no_grad()
def received(model: SwinV2, x: Tensor, stage: int) -> Seen:
    """How much each token of a stage is looked at by the tokens of its window, mean over blocks and heads.

    Args:
        x: [1, C, H, W], normalised; any height and width.
        stage: counted from 1.
    """
    number = stage_of(model, stage)
    looks, logits = watch(model, x)
    of_stage = [look for look in looks if look.stage.index == number - 1]
    everyone = x.new_ones(of_stage[0].size)
    return Seen(_stretched(torch.stack([looked_at(look, everyone) for look in of_stage]).mean(0)), logits)


def watch(model: SwinV2, x: Tensor) -> tuple[list[Look], Tensor]:
    """What the attention of every block is given for one picture, in order, and the logits [classes]."""
    looks: list[Look] = []

    def keep(attention: nn.Module, given: Any) -> None:
        tokens, stage, offsets, shift, _ = given
        looks.append(Look(attention, tokens, stage, offsets, shift))  # type: ignore[arg-type]

    handles = [block.attn.register_forward_pre_hook(keep) for block in model.blocks()]
    try:
        with evaluating(model):
            logits = model(x)
    finally:
        for handle in handles:
            handle.remove()
    return looks, logits[0]


def looked_at(look: Look, share: Tensor) -> Tensor:
    """Each token gives its share to those it looks at, by the mean over the heads; [H, W] -> [H, W]."""
    by_window = _partition(share, look)  # n N; padding gives nothing
    got = torch.zeros_like(by_window)
    for weights in head_weights(look):
        got += torch.einsum("nij,ni->nj", weights, by_window)
    got = got / look.stage.heads
    return windows.reverse(got[None, :, None, :, None], look.size, look.stage.window, look.shift)[0, ..., 0]


def head_weights(look: Look) -> Any:
    """Attention weights [n, N, N] of one head after the other; a row sums to 1."""
    attention, window = look.attention, look.stage.window
    qkv = F.linear(look.x, attention.qkv.weight, attention.qkv_bias())
    bias = windows.with_mask(attention.position_bias(look.offsets), look.size, window, look.shift)
    qk, _ = windows.partition(qkv, look.stage.heads, window, look.shift)
    q, k = windows.unit(qk, attention.logit_scale, qkv.dtype)  # each 1 n h N d
    for head in range(look.stage.heads):  # all at once would be hundreds of megabytes for large windows
        logits = q[0, :, head] @ k[0, :, head].mT  # n N N
        yield (logits + bias[..., head, :, :]).softmax(-1)


def _partition(share: Tensor, look: Look) -> Tensor:
    """[H, W] -> [n, N], in the windows of a block."""
    (Mh, Mw), (down, right) = look.stage.window, look.shift
    x = windows.rolled(windows.pad(share[None, ..., None], look.stage.window), (-down, -right))
    x = x[0, ..., 0].unflatten(1, (-1, Mw)).unflatten(0, (-1, Mh))  # nh Mh nw Mw
    return x.transpose(1, 2).reshape(-1, Mh * Mw)


def _unmerge(share: Tensor, size: Pair) -> Tensor:
    """[H/2, W/2] -> [H, W]: each token's share in equal parts to those it was merged from; padding gets none."""
    rows, cols = (torch.arange(side, device=share.device) // 2 for side in size)
    members = rows.bincount()[:, None] * cols.bincount()[None, :]  # 4, less at an odd edge
    return (share / members)[rows][:, cols]


def _stretched(share: Tensor) -> Tensor:
    """Least 0, most 1: every place is looked at, what matters is where more."""
    least, most = share.min(), share.max()
    return (share - least) / (most - least) if most > least else torch.zeros_like(share)
