"""Swin Transformer V2: the network, in the order of the paper (arXiv 2111.09883).

Parameters have the official names and nothing else is in the state dict. Maps stay [B, H, W, C] from the patch
embedding to the head. Any height and width go through the same weights: the geometry is solved per input size
by config.stages(), and every block receives it.
"""

# B batch, H W map, N tokens of one window, h heads, C channels

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from swinv2.artifact import Record
from swinv2.config import VARIANTS, Pair, Stage, SwinV2Config, pair, resolve
from swinv2.counts import CPB_HIDDEN, has_extra_norm
from swinv2.linear import Linear, linear
from swinv2.ops import position, window_attention
from swinv2.ops.mlp import mlp
from swinv2.ops.products import merge_patches, pad_to_multiple
from swinv2.ops.residual import add_norm

CACHED_VALUES = 4 << 20  # activations of the images that a CPU takes through a stage at a time (docs/log.md)


@dataclass(frozen=True)
class FeatureMap:
    """One output of SwinV2.features: its name, stride in input pixels, and channels."""

    name: str
    stride: int
    channels: int


class PatchEmbed(nn.Module):
    """Image [B, 3, H, W] -> tokens [B, H/4, W/4, C]; sizes that do not divide are padded right and bottom."""

    def __init__(self, config: SwinV2Config):
        super().__init__()
        self.patch = config.patch_size
        self.proj = nn.Conv2d(config.in_chans, config.embed_dim, config.patch_size, config.patch_size)
        self.norm = nn.LayerNorm(config.embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = pad_to_multiple(x, self.patch).contiguous(memory_format=torch.channels_last)
        return self.norm(self.proj(x).permute(0, 2, 3, 1))  # B H W C as it lies in memory: no transposed copy


class WindowAttention(nn.Module):
    """Scaled cosine attention with log-spaced continuous position bias (sections 3.2 and 3.3)."""

    def __init__(self, stage: Stage):
        super().__init__()
        self.heads = stage.heads
        self.logit_scale = nn.Parameter(torch.full((stage.heads, 1, 1), math.log(10)))
        self.cpb_mlp = nn.Sequential(
            nn.Linear(2, CPB_HIDDEN), nn.ReLU(), nn.Linear(CPB_HIDDEN, stage.heads, bias=False)
        )
        self.qkv = Linear(stage.dim, 3 * stage.dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(stage.dim))  # there is no k bias
        self.v_bias = nn.Parameter(torch.zeros(stage.dim))
        self.proj = Linear(stage.dim, stage.dim)

    def qkv_bias(self) -> Tensor:
        """[3C]: the learned q and v parts around zeros for k."""
        return torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])

    def position_bias(self, offsets: Offsets) -> Tensor:
        """[h, N, N] in [0, 16], float32 or wider; computed from the offsets of this window."""
        table = self.cpb_mlp(offsets.table.to(self.qkv.weight.dtype))  # offsets h
        table = 16 * torch.sigmoid(table.to(torch.promote_types(table.dtype, torch.float32)))
        return position.gather(table, offsets.rows, offsets.window)

    def forward(self, x: Tensor, stage: Stage, offsets: Offsets, shift: Pair, backend: str | None) -> Tensor:
        qkv = linear(x, self.qkv.weight, self.qkv_bias())
        bias = self.position_bias(offsets)
        x = window_attention(
            qkv, self.logit_scale, bias, heads=self.heads, window=stage.window, shift=shift, backend=backend
        )
        return self.proj(x)


class Offsets(NamedTuple):
    """Where tokens of a window stand to each other; the same for all blocks of a stage.

    table: log-spaced offsets [(2Mh-1)*(2Mw-1), 2], float32; rows: the one of every pair of tokens, [N, N]; window: its
    sides (Mh, Mw).
    """

    table: Tensor
    rows: Tensor
    window: Pair

    @classmethod
    def of(cls, stage: Stage, x: Tensor) -> Offsets:
        """On the device of x; kept from call to call, but where a compiler or a fake tensor watches."""
        if type(x) is Tensor and not torch.compiler.is_compiling():
            return _kept(stage.window, stage.span, x.device)
        return cls.compute(stage.window, stage.span, x.device)

    @classmethod
    def compute(cls, window: Pair, spans: Pair, device: torch.device) -> Offsets:
        axes = []
        for side, span in zip(window, spans, strict=True):
            # float32 in every precision, in the official order of operations: what the weights were trained with.
            offset = torch.arange(1 - side, side, device=device, dtype=torch.float32) / span * 8
            axes.append(offset.sign() * (offset.abs() + 1).log2() / math.log2(8))
        table = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 2)
        rows, cols = (torch.arange(side, device=device) for side in window)
        rows, cols = (t.flatten() for t in torch.meshgrid(rows, cols, indexing="ij"))  # N
        vertical = rows[:, None] - rows[None, :] + window[0] - 1
        horizontal = cols[:, None] - cols[None, :] + window[1] - 1
        return cls(table, vertical * (2 * window[1] - 1) + horizontal, window)


@lru_cache(maxsize=32)
def _kept(window: Pair, spans: Pair, device: torch.device) -> Offsets:
    with torch.inference_mode(False):  # or a later training step could not use them
        return Offsets.compute(window, spans, device)


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = Linear(dim, hidden)
        self.fc2 = Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return mlp(x, self.fc1, self.fc2)


class Block(nn.Module):
    """Attention and MLP, each normalised after it and then added (residual post-norm, section 3.2).

    Attributes:
        keep: [2, B], drawn before the forward pass: what each of the two branches is multiplied with in training.
            None draws here.
    """

    def __init__(self, stage: Stage, index: int, config: SwinV2Config, drop_path: float):
        super().__init__()
        self.index, self.drop_path = index, drop_path
        self.keep: Tensor | None = None
        self.attn = WindowAttention(stage)
        self.norm1 = nn.LayerNorm(stage.dim)
        self.mlp = Mlp(stage.dim, int(stage.dim * config.mlp_ratio))
        self.norm2 = nn.LayerNorm(stage.dim)
        self.norm3 = nn.LayerNorm(stage.dim) if has_extra_norm(config, stage.index, index) else None

    def forward(self, x: Tensor, stage: Stage, offsets: Offsets, backend: str | None = None) -> Tensor:
        attended = self.attn(x, stage, offsets, stage.shift_of(self.index), backend)
        first, second = (None, None) if self.keep is None else self.keep
        x = add_branch(x, attended, self.norm1, self.drop_path if self.training else 0, first)
        x = add_branch(x, self.mlp(x), self.norm2, self.drop_path if self.training else 0, second)
        return x if self.norm3 is None else self.norm3(x)


def add_branch(x: Tensor, branch: Tensor, norm: nn.Module, rate: float, keep: Tensor | None = None) -> Tensor:
    """x + norm(branch), leaving the branch out of whole samples and scaling it up in the others (stochastic depth).

    Args:
        x, branch: [B, H, W, C].
        rate: share of the samples that go without.
        keep: [B], 0 or 1 / (1 - rate), where it is drawn already.
    """
    if rate == 0:
        return add_norm(x, branch, norm)
    if keep is None:
        keep = x.new_empty(x.shape[0]).bernoulli_(1 - rate).div_(1 - rate)
    return add_norm(x, branch, norm, keep)


class PatchMerging(nn.Module):
    """[B, H, W, C] -> [B, H/2, W/2, 2C]; an odd side is padded with zeros."""

    def __init__(self, dim: int):
        super().__init__()
        self.reduction = Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(2 * dim)  # after the reduction; V1 had it before

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.reduction(merge_patches(x)))


class Layer(nn.Module):
    """One stage: its blocks, and the patch merging that ends it (the official place)."""

    def __init__(self, stage: Stage, config: SwinV2Config, rates: list[float]):
        super().__init__()
        self.blocks = nn.ModuleList(Block(stage, b, config, rate) for b, rate in enumerate(rates))
        self.downsample = PatchMerging(stage.dim) if stage.index < len(config.depths) - 1 else None


class SwinV2(nn.Module):
    """The classifier. model(x) gives logits, model.features(x) the maps of a backbone.

    Attributes:
        config: the architecture; record: preprocessing, class names and origin, where weights were loaded.
        feature_info: name, stride and channels of every map that features() returns.
        backend: attention back end by name; None chooses (swinv2.ops).
        checkpointing: recompute blocks in the backward pass to save memory.
        residual: dtype of the sum that runs through the blocks. None is that of the norms: under autocast float32 on a
            GPU. bfloat16 is for autocast to bfloat16.
    """

    def __init__(self, config: SwinV2Config):
        super().__init__()
        self.config, self.record = config, None
        self.backend: str | None = None
        self.checkpointing = False
        self.residual: torch.dtype | None = None
        stages = config.stages(*config.image_size)
        rates = torch.linspace(0, config.drop_path, sum(config.depths), device="cpu").tolist()
        self.patch_embed = PatchEmbed(config)
        self.layers = nn.ModuleList(
            Layer(stage, config, [rates.pop(0) for _ in range(stage.depth)]) for stage in stages
        )
        self.norm = nn.LayerNorm(config.num_features)
        self.head = (
            nn.Linear(config.num_features, config.num_classes) if config.num_classes else nn.Identity()
        )
        self.feature_info = tuple(FeatureMap(f"stage{s.index + 1}", s.stride, s.dim) for s in stages)
        self.apply(_initialize)
        for block in self.blocks():  # a block starts as the identity
            for norm in (block.norm1, block.norm2):
                nn.init.zeros_(norm.weight)

    record: Record | None

    def blocks(self) -> Iterator[Block]:
        """All blocks, in the order of the forward pass."""
        for layer in self.layers:
            yield from layer.blocks  # type: ignore[misc]

    def set_drop_path(self, rate: float) -> None:
        """Another rate: 0 in the first block, rising to this in the last."""
        self.config = replace(self.config, drop_path=rate)
        rates = torch.linspace(0, rate, sum(self.config.depths), device="cpu").tolist()
        for block, rate in zip(self.blocks(), rates, strict=True):
            block.drop_path = rate

    def stage_outputs(self, x: Tensor) -> Iterator[Tensor]:
        """[B, H, W, C] of every stage, before its patch merging.

        Args:
            x: images [B, in_chans, height, width], normalised; any height and width.
        """
        if x.ndim != 4 or x.shape[1] != self.config.in_chans:
            raise ValueError(
                f"images have shape {list(x.shape)}; this model takes [batch, {self.config.in_chans}, height, width]"
            )
        stages = self.config.stages(int(x.shape[2]), int(x.shape[3]))
        yield from self.through_stages(self.patch_embed(x), stages)

    def through_stages(self, x: Tensor, stages: tuple[Stage, ...]) -> Iterator[Tensor]:
        """stage_outputs() of tokens [B, H/4, W/4, C] that are embedded already."""
        for layer, stage in zip(self.layers, stages, strict=True):
            run = partial(self._blocks, layer, stage, Offsets.of(stage, x))  # type: ignore[arg-type]
            x = in_parts(run, x if self.residual is None else x.to(self.residual), stage)
            yield x
            x = layer.downsample(x) if layer.downsample is not None else x  # type: ignore[operator]

    def _blocks(self, layer: Layer, stage: Stage, offsets: Offsets, x: Tensor) -> Tensor:
        for block in layer.blocks:
            if self.checkpointing and self.training and torch.is_grad_enabled():
                x = checkpoint(block, x, stage, offsets, self.backend, use_reentrant=False)
            else:
                x = block(x, stage, offsets, self.backend)
        return x

    def forward_features(self, x: Tensor) -> Tensor:
        """[B, 3, height, width] -> the normalised last map, [B, H, W, C]."""
        *_, last = self.stage_outputs(x)
        return self.norm(last)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, height, width] -> logits [B, num_classes], or pooled features [B, C] without a head."""
        return self.head(self.forward_features(x).mean((1, 2)))

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """[B, 3, height, width] -> maps [B, C, H, W] at strides 4, 8, 16, 32, by the names in feature_info.

        The last one is normalised, as the head sees it.
        """
        maps = list(self.stage_outputs(x))
        maps[-1] = self.norm(maps[-1])
        return {info.name: m.permute(0, 3, 1, 2) for info, m in zip(self.feature_info, maps, strict=True)}


def in_parts(run: Callable[[Tensor], Tensor], x: Tensor, stage: Stage) -> Tensor:
    """run(x) for a batch x; on a CPU without gradients as many images at a time as keep their activations small.

    Bigger tensors are returned to the system after every layer, and cost a page fault every 4 KB to get again.
    """
    if (
        x.device.type != "cpu"
        or torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
    ):
        return run(x)
    widest = 4 * stage.dim * stage.grid[0] * stage.grid[1]  # values of an image inside the MLP
    images = max(1, CACHED_VALUES // widest)
    return run(x) if x.shape[0] <= images else torch.cat([run(part) for part in x.split(images)])


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):  # the position bias MLP and the head too
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    in_chans: int | None = None,
    image_size: int | Pair | None = None,
    window: int | None = None,
    drop_path: float | None = None,
) -> SwinV2:
    """A model with fresh weights; swinv2.load gives one with trained weights.

    Args:
        name: any known name of a variant (timm's, Microsoft's, PaddleClas' or transformers').
        num_classes: 0 for no head; the others as in SwinV2Config. None keeps what the variant has.

    Raises:
        ValueError: an unknown name (with the nearest ones) or impossible settings.
    """
    config = VARIANTS[resolve(name)]
    given: dict[str, Any] = {
        "num_classes": num_classes, "in_chans": in_chans, "window": window, "drop_path": drop_path,
        "image_size": None if image_size is None else pair(image_size),
    }  # fmt: skip
    return SwinV2(replace(config, **{key: value for key, value in given.items() if value is not None}))
