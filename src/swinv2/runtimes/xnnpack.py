"""Inference SwinV2 -> the same network in what XNNPACK computes, the library under ExecuTorch and LiteRT.

XNNPACK has no layer norm, and passes over memory are what costs next to its matrix products. So

- every norm that follows a linear layer finds its input without a mean: the mean is taken out of the weights (each
  column minus its mean), and what is left to do is y / sqrt(mean(y * y) + eps) * gain;
- the biases of norms stay out of the tokens: the layers that read them have them in their own biases. Tokens are
  those of the model minus `offset`, which every part hands on to the next;
- lengths of q and k are those of whole tokens before heads are transposed, with the logit scale in the same product.

Constants are computed in float64. Logits agree to rounding.
"""

# B batch, H W map, n windows, N tokens of a window, T = B*H*W or B*n*N tokens, h heads, d head dim, C = h*d

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swinv2.config import Pair, Stage
from swinv2.edge import EdgePatchEmbed, Windows, as_they_lie, flat_bias, linear, neighbours
from swinv2.fold import FoldedBlock, FoldedMerging, FoldedPatchEmbed, FoldedSwinV2
from swinv2.ops.windows import NORM_FLOOR

# Layers of this network that are one layer of the folded one.
PARTS = {"q": "qkv", "k": "qkv", "v": "qkv"}


def for_xnnpack(network: FoldedSwinV2, *, sums: bool) -> XnnSwinV2:
    """The folded network, in float32; [B, in_chans, height, width] -> logits [B, num_classes].

    Args:
        sums: the runtime has sums over the last axis; otherwise linear layers with constant weights take them.
    """
    with torch.no_grad():
        return XnnSwinV2(network, sums=sums).eval().requires_grad_(False)


class XnnSwinV2(nn.Module):
    """The whole network; made by for_xnnpack()."""

    def __init__(self, network: FoldedSwinV2, *, sums: bool):
        super().__init__()
        self.config, self.image_size = network.config, network.image_size
        self.stages = nn.ModuleList()
        offset = torch.zeros(0)
        for parts in network.stages:
            stage: Stage = parts.stage  # type: ignore[assignment]
            made: list[nn.Module] = []
            for part in parts:  # type: ignore[union-attr, attr-defined]
                if isinstance(part, FoldedPatchEmbed):
                    one: XnnPatchEmbed | XnnMerging | XnnBlock = XnnPatchEmbed(part, self.image_size, sums)
                elif isinstance(part, FoldedMerging):
                    one = XnnMerging(part, stage, offset, sums)
                else:
                    one = XnnBlock(part, stage, offset, sums)  # type: ignore[arg-type]
                offset = one.offset
                made.append(one)
            self.stages.append(nn.Sequential(*made))
        self.norm = Norm(network.norm, offset, sums)
        self.tokens, self.mean = stage.grid[0] * stage.grid[1], Mean(stage.grid[0] * stage.grid[1], sums)
        head = network.head
        self.head = linear(head.weight, head.bias) if isinstance(head, nn.Linear) else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage(x)
        x = self.norm(x)
        C = x.shape[-1]
        if self.tokens > 1:
            x = self.mean(x.reshape(-1, self.tokens, C).permute(0, 2, 1))  # B C 1
        return self.head(x.reshape(-1, C))

    def layers(self) -> dict[str, str]:
        """The layers with weights of the model: their names here -> their names in the folded network."""
        found = {}
        for name, module in self.named_modules():
            stem, _, last = name.rpartition(".")
            if isinstance(module, (nn.Linear, nn.Conv2d)) and last != "sum":
                found[name] = f"{stem}.{PARTS[last]}" if last in PARTS else name
        return found


class XnnBlock(nn.Module):
    """One block on tokens [B*H*W, C]."""

    bias: Tensor

    def __init__(self, block: FoldedBlock, stage: Stage, offset: Tensor, sums: bool):
        super().__init__()
        self.heads, self.windows = block.heads, Windows(block, stage)
        weights, biases = block.qkv.weight.chunk(3), block.qkv.bias.chunk(3)
        q, k, self.v = (moved(w, b, offset) for w, b in zip(weights, biases, strict=True))
        if self.windows.tokens > 1:  # one token attends to itself, whatever q and k are
            self.q, self.k = q, k
            scale = block.logit_scale.double().exp().flatten()  # h; clamped by fold()
            self.length_q = Inverse(stage.dim, scale**-2, NORM_FLOOR**2, sums)
            self.length_k = Inverse(stage.dim, torch.ones_like(scale), NORM_FLOOR**2, sums)
            self.register_buffer("bias", flat_bias(block))  # 1 h N N, or 1 n*h N N
        self.proj, self.norm1 = centred(block.proj.weight, block.proj.bias), CentredNorm(block.norm1, sums)
        offset = offset + block.norm1.bias.double()
        self.fc1 = moved(block.fc1.weight, block.fc1.bias, offset)
        self.fc2, self.norm2 = centred(block.fc2.weight, block.fc2.bias), CentredNorm(block.norm2, sums)
        self.offset = offset + block.norm2.bias.double()
        self.norm3 = None
        if block.norm3 is not None:
            self.norm3 = Norm(block.norm3, self.offset, sums)
            self.offset = torch.zeros_like(self.offset)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.norm1(self.proj(self.attend(x)))
        x = x + self.norm2(self.fc2(F.gelu(self.fc1(x))))
        return x if self.norm3 is None else self.norm3(x)

    def attend(self, x: Tensor) -> Tensor:
        """[B*H*W, C] -> [B*H*W, C], before the output projection."""
        h, N, d = self.heads, self.windows.tokens, x.shape[-1] // self.heads
        x = self.windows.cut(x)  # B*n*N C; where the map is padded, masked keys hide that 0 is not -offset
        if N == 1:  # the softmax is 1; and XNNPACK refuses products of such windows as it runs
            return self.windows.join(self.v(x).reshape(-1, 1, h, d))
        q, k = self.q(x), self.k(x)
        q = q.reshape(-1, h, d) * self.length_q(q).reshape(-1, h, 1)
        k = k.reshape(-1, h, d) * self.length_k(k).reshape(-1, h, 1)
        q = q.reshape(-1, N, h, d).permute(0, 2, 1, 3).reshape(-1, N, d)  # B*n*h N d
        k = k.reshape(-1, N, h, d).permute(0, 2, 3, 1).reshape(-1, d, N)
        v = self.v(x).reshape(-1, N, h, d).permute(0, 2, 1, 3).reshape(-1, N, d)
        logits = torch.bmm(q, k).reshape(-1, self.bias.shape[1], N, N) + self.bias
        x = torch.bmm(logits.softmax(-1).reshape(-1, N, N), v)
        return self.windows.join(x.reshape(-1, h, N, d).permute(0, 2, 1, 3))  # B*n N h d


class XnnMerging(nn.Module):
    """[B*H*W, C] -> [B*H/2*W/2, 2C]."""

    given: Tensor

    def __init__(self, merging: FoldedMerging, stage: Stage, offset: Tensor, sums: bool):
        super().__init__()
        self.size, self.dim = stage.grid, stage.dim
        weight = as_they_lie(merging.reduction.weight)
        self.is_odd = any(side % 2 for side in stage.grid)
        if self.is_odd:  # zeros are added to the map: it has to be what it is in the model
            self.register_buffer("given", offset.float())
            self.reduction = centred(weight, None)
        else:
            self.reduction = centred(weight, weight.double() @ offset.repeat(4))
        self.norm = CentredNorm(merging.norm, sums)
        self.offset = merging.norm.bias.double()

    def forward(self, x: Tensor) -> Tensor:
        if self.is_odd:
            x = x + self.given
        return self.norm(self.reduction(neighbours(x, self.size, self.dim)))


class XnnPatchEmbed(EdgePatchEmbed):
    """[B, in_chans, height, width] -> [B*H*W, C]."""

    def __init__(self, embed: FoldedPatchEmbed, image_size: Pair, sums: bool):
        super().__init__(embed, image_size)
        plain = centred(embed.proj.weight.flatten(1), embed.proj.bias)
        self.proj.weight, self.proj.bias = (
            nn.Parameter(plain.weight.reshape(embed.proj.weight.shape)),
            plain.bias,
        )
        self.norm = CentredNorm(embed.norm, sums)  # type: ignore[assignment]
        self.offset = embed.norm.bias.double()


class CentredNorm(nn.Module):
    """A layer norm without its bias, of vectors whose mean is 0."""

    def __init__(self, norm: nn.LayerNorm, sums: bool):
        super().__init__()
        size = norm.normalized_shape[0]
        self.length = Inverse(size, torch.full((1,), 1 / size, dtype=torch.float64), norm.eps, sums)
        self.gain = norm.weight

    def forward(self, y: Tensor) -> Tensor:
        return y * self.length(y) * self.gain


class Norm(nn.Module):
    """A layer norm of tokens to which offset is to be added."""

    given: Tensor

    def __init__(self, norm: nn.LayerNorm, offset: Tensor, sums: bool):
        super().__init__()
        self.register_buffer("given", offset.float())
        self.mean, self.centred, self.bias = Mean(len(offset), sums), CentredNorm(norm, sums), norm.bias

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.given
        return self.centred(x - self.mean(x)) + self.bias


class Inverse(nn.Module):
    """[T, C] -> [T, groups]: 1 / sqrt(factor * (sum of the squares of C/groups channels) + floor)."""

    factors: Tensor

    def __init__(self, channels: int, factors: Tensor, floor: float, sums: bool):
        super().__init__()
        self.groups = len(factors)
        self.sum: nn.Linear | None = None
        if sums:
            self.register_buffer("factors", factors.float())
            self.floor = floor
        else:
            members = torch.eye(self.groups, dtype=torch.float64).repeat_interleave(
                channels // self.groups, dim=1
            )
            self.sum = linear((members * factors[:, None]).float(), torch.full((self.groups,), floor))

    def forward(self, x: Tensor) -> Tensor:
        squares = x * x
        if self.sum is not None:
            return self.sum(squares).rsqrt()
        total = squares.reshape(-1, self.groups, x.shape[-1] // self.groups).sum(-1)
        return (total * self.factors + self.floor).rsqrt()


class Mean(nn.Module):
    """[..., size] -> [..., 1]."""

    def __init__(self, size: int, sums: bool):
        super().__init__()
        self.sum = None if sums else linear(torch.full((1, size), 1 / size), None)

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(-1, keepdim=True) if self.sum is None else self.sum(x)


def centred(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A layer [out, in] whose results have no mean."""
    weight = weight.double()
    bias = torch.zeros(len(weight)) if bias is None else bias
    return linear((weight - weight.mean(0)).float(), (bias.double() - bias.double().mean()).float())


def moved(weight: Tensor, bias: Tensor, offset: Tensor) -> nn.Linear:
    """A layer whose input lacks offset."""
    return linear(weight, (bias.double() + weight.double() @ offset).float())


def to_quantise(network: XnnSwinV2, keep_float: Iterable[str]) -> list[str]:
    """The layers that int8 takes: all but those to keep, which have their names in the folded network.

    Raises:
        ValueError: a name that no layer has.
    """
    layers, keep = network.layers(), set(keep_float)
    if unknown := sorted(keep - set(layers.values())):
        raise ValueError(
            f"there is no layer {unknown[0]!r} to keep in float; layers are called like 'stages.0.1.fc2'"
        )
    return [name for name, folded in layers.items() if folded not in keep]
