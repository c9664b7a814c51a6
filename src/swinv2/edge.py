"""Inference SwinV2 -> the same network in the few operators that every converter and every small runtime has.

No tensor has more than four dimensions, nothing is rolled, gathered or computed on integers, and all sizes but the
batch are numbers. Windows are cut out of the map before the projection to q, k and v, which moves a third of the
values; masks are part of the bias already (fold.py). Logits agree to rounding.
"""

# B batch, H W map, M window, nh nw windows per axis, n = nh*nw, N = Mh*Mw tokens, h heads, d head dim, C = h*d

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swinv2.config import Pair, Stage
from swinv2.fold import FoldedBlock, FoldedMerging, FoldedPatchEmbed, FoldedSwinV2
from swinv2.ops.windows import NORM_FLOOR, padded
from swinv2.verbs import make_callable

make_callable(__name__)  # swinv2.edge is this module and the function in it

MAX_RANK = 4


def edge(network: FoldedSwinV2) -> EdgeSwinV2:
    """The folded network in plain operators; [B, in_chans, height, width] -> logits [B, num_classes]."""
    with torch.no_grad():
        return EdgeSwinV2(network).eval().requires_grad_(False)


class Windows:
    """How a map is cut into the windows of one block, and put together again."""

    def __init__(self, block: FoldedBlock, stage: Stage):
        self.size, self.window, self.shift, self.dim = stage.grid, block.window, block.shift, stage.dim
        self.padded = padded(self.size, self.window)
        self.tokens = self.window[0] * self.window[1]  # of one window
        self.count = self.padded[0] * self.padded[1] // self.tokens
        self.columns = self.padded[1] // self.window[1]
        # Moved back by moving on: what leaves on one side comes in on the other.
        self.back = tuple((side - by) % side for side, by in zip(self.padded, self.shift, strict=True))

    def cut(self, x: Tensor) -> Tensor:
        """[B*H*W, C] -> [B*n*N, C]: padded, shifted, and one transposition of rank 4."""
        x = shifted(fill(x.reshape(-1, *self.size, self.dim), self.size, self.padded), self.shift)
        if self.columns > 1:  # otherwise windows lie one after the other already
            x = x.reshape(-1, self.window[0], self.columns, self.window[1] * self.dim).permute(0, 2, 1, 3)
        return x.reshape(-1, self.dim)

    def join(self, x: Tensor) -> Tensor:
        """[..., C], the tokens of all windows -> [B*H*W, C]."""
        if self.columns > 1:
            x = x.reshape(-1, self.columns, self.window[0], self.window[1] * self.dim).permute(0, 2, 1, 3)
        x = shifted(x.reshape(-1, *self.padded, self.dim), self.back)
        if self.padded != self.size:
            x = x[:, : self.size[0], : self.size[1]]
        return x.reshape(-1, self.dim)


class EdgeBlock(nn.Module):
    """One block on tokens [B*H*W, C]."""

    bias: Tensor
    scale: Tensor
    q: nn.Linear
    k: nn.Linear
    v: nn.Linear

    def __init__(self, block: FoldedBlock, stage: Stage):
        super().__init__()
        self.heads, self.windows = block.heads, Windows(block, stage)
        dtype = block.qkv.weight.dtype
        for name, weight, bias in zip(
            ("q", "k", "v"), block.qkv.weight.chunk(3), block.qkv.bias.chunk(3), strict=True
        ):
            self.add_module(name, linear(weight, None if name == "k" else bias))  # the k bias is zero
        self.proj, self.fc1, self.fc2 = (
            linear(layer.weight, layer.bias) for layer in (block.proj, block.fc1, block.fc2)
        )
        self.norm1, self.norm2, self.norm3 = block.norm1, block.norm2, block.norm3
        self.register_buffer("scale", block.logit_scale.exp().to(dtype)[None])  # 1 h 1 1; clamped by fold()
        self.register_buffer("bias", flat_bias(block).to(dtype))  # 1 h N N, or 1 n*h N N
        self.biases = self.bias.shape[1]

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.norm1(self.proj(self.attend(x)))
        x = x + self.norm2(self.fc2(F.gelu(self.fc1(x))))
        return x if self.norm3 is None else self.norm3(x)

    def attend(self, x: Tensor) -> Tensor:
        """[B*H*W, C] -> [B*H*W, C], before the output projection."""
        h, N, d = self.heads, self.windows.tokens, self.windows.dim // self.heads
        x = self.windows.cut(x)  # B*n*N C
        q, k, v = (layer(x).reshape(-1, N, h, d).permute(0, 2, 1, 3) for layer in (self.q, self.k, self.v))
        logits = (unit(q) * self.scale) @ unit(k).transpose(-2, -1)  # B*n h N N
        if self.biases != h:  # masked: another bias for every window
            logits = (logits.reshape(-1, self.biases, N, N) + self.bias).reshape(-1, h, N, N)
        else:
            logits = logits + self.bias
        x = (logits.softmax(-1) @ v).permute(0, 2, 1, 3)  # B*n N h d
        return self.windows.join(x)


class EdgeMerging(nn.Module):
    """[B*H*W, C] -> [B*H/2*W/2, 2C]."""

    def __init__(self, merging: FoldedMerging, stage: Stage):
        super().__init__()
        self.size, self.dim, self.norm = stage.grid, stage.dim, merging.norm
        self.reduction = linear(as_they_lie(merging.reduction.weight), None)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.reduction(neighbours(x, self.size, self.dim)))


class EdgePatchEmbed(nn.Module):
    """[B, in_chans, height, width] -> [B*H*W, C]."""

    def __init__(self, embed: FoldedPatchEmbed, image_size: Pair):
        super().__init__()
        proj = embed.proj
        patch = proj.stride[0]
        self.size = image_size
        self.padded = (-(-image_size[0] // patch) * patch, -(-image_size[1] // patch) * patch)
        self.proj = nn.Conv2d(proj.in_channels, proj.out_channels, patch, patch, device="meta")
        self.proj.weight, self.proj.bias = nn.Parameter(proj.weight.contiguous()), proj.bias
        self.norm = embed.norm

    def forward(self, x: Tensor) -> Tensor:
        bottom, right = (big - small for big, small in zip(self.padded, self.size, strict=True))
        if bottom or right:
            x = F.pad(x, (0, right, 0, bottom))
        x = self.proj(x).permute(0, 2, 3, 1)  # B H W C
        return self.norm(x.reshape(-1, self.proj.out_channels))


class EdgeSwinV2(nn.Module):
    """The whole network; made by edge()."""

    def __init__(self, network: FoldedSwinV2):
        super().__init__()
        self.config, self.record, self.image_size = network.config, network.record, network.image_size
        self.stages = nn.ModuleList()
        for parts in network.stages:
            stage: Stage = parts.stage  # type: ignore[assignment]
            self.stages.append(nn.Sequential(*(self._plain(part, stage) for part in parts)))  # type: ignore[union-attr, attr-defined]
        self.tokens = stage.grid[0] * stage.grid[1]
        self.norm = network.norm
        head = network.head
        self.head = linear(head.weight, head.bias) if isinstance(head, nn.Linear) else nn.Identity()

    def _plain(self, part: nn.Module, stage: Stage) -> nn.Module:
        if isinstance(part, FoldedPatchEmbed):
            return EdgePatchEmbed(part, self.image_size)
        return EdgeMerging(part, stage) if isinstance(part, FoldedMerging) else EdgeBlock(part, stage)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage(x)
        x = self.norm(x)
        return self.head(x.reshape(-1, self.tokens, self.config.num_features).mean(1))


def fill(x: Tensor, size: Pair, whole: Pair) -> Tensor:
    """[B, H, W, C] with zeros right and bottom; from size to whole."""
    bottom, right = (
        whole[0] - size[0],
        whole[1] - size[1],
    )  # numbers: x.shape would be computed again in a trace
    return F.pad(x, (0, 0, 0, right, 0, bottom)) if bottom or right else x


def neighbours(x: Tensor, size: Pair, C: int) -> Tensor:
    """[B*H*W, C] -> [B*H/2*W/2, 4C]: four tokens side by side, those of a row first. An odd side gets zeros."""
    H, W = size
    even = (H + H % 2, W + W % 2)
    x = fill(x.reshape(-1, H, W, C), size, even)
    return x.reshape(-1, 2, even[1] // 2, 2 * C).permute(0, 2, 1, 3).reshape(-1, 4 * C)


def as_they_lie(weight: Tensor) -> Tensor:
    """The columns of a reduction [2C, 4C], neighbours (0,0), (1,0), (0,1), (1,1), in the order of neighbours()."""
    first, below, right, diagonal = weight.chunk(4, dim=1)
    return torch.cat([first, right, below, diagonal], dim=1)


def shifted(x: Tensor, by: tuple[int, ...]) -> Tensor:
    """[B, H, W, C] moved up and left, wrapping around: two slices and their concatenation per axis."""
    if by[0]:
        x = torch.cat([x[:, by[0] :], x[:, : by[0]]], dim=1)
    return torch.cat([x[:, :, by[1] :], x[:, :, : by[1]]], dim=2) if by[1] else x


def unit(x: Tensor) -> Tensor:
    """Vectors of the last axis, of length 1. A zero vector stays zero.

    Squares are summed in at least float32: in half precision those of long vectors overflow, and the floor is 0.
    """
    if x.dtype.itemsize < 4:
        return unit(x.float()).to(x.dtype)
    return x * (x * x).sum(-1, keepdim=True).clamp_min(NORM_FLOOR**2).rsqrt()


def flat_bias(block: FoldedBlock) -> Tensor:
    """Position bias and mask of a block in four dimensions: [1, h, N, N], or [1, n*h, N, N] where windows differ."""
    N = block.bias.shape[-1]
    return block.bias.reshape(1, -1, N, N).contiguous()


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A plain layer with these weights, which are its own where they are contiguous."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().contiguous())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().contiguous())
    return layer
