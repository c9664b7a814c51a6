"""Trained SwinV2 -> inference SwinV2.

In eval the position bias, the clamped logit scale and the q/0/v bias are constants, and at one image size the
shift mask is too. fold() computes them once and returns a module that holds them as plain tensors, so exporters
and kernels never see the MLP that produced them. Logits agree to rounding.
"""

# B batch, H W map, N tokens of one window, n windows, h heads, C channels

from __future__ import annotations

import torch
from torch import Tensor, nn

from swinv2.config import Pair, Stage, pair
from swinv2.linear import Linear
from swinv2.model import (
    Block,
    Offsets,
    PatchEmbed,
    PatchMerging,
    SwinV2,
    in_parts,
)
from swinv2.ops import choose, prefers_products, triton, window_attention
from swinv2.ops.products import add_normed, embed, linear_gelu, merge
from swinv2.ops.reference import MAX_LOGIT_SCALE
from swinv2.ops.windows import is_masked, region_mask
from swinv2.verbs import make_callable

make_callable(__name__)  # swinv2.fold is this module and the function in it


def fold(
    model: SwinV2,
    *,
    image_size: int | Pair | None = None,
    dtype: torch.dtype | None = None,
    backend: str | None = None,
) -> FoldedSwinV2:
    """An inference module with the model's weights and its constants for one image size.

    Args:
        image_size: pixels, one number or (height, width); default: that of the model's preprocessing, or config.
        dtype: of weights and activations; logit scale and position bias stay in float32 (float64 for float64).
            Default: the model's.
        backend: of attention, by name (swinv2.ops); None chooses in every call.

    The model is not changed, and shares no storage with the result.
    """
    if image_size is None:
        image_size = model.record.preprocess.size if model.record else model.config.image_size
    dtype = dtype or model.norm.weight.dtype
    with torch.no_grad():
        return FoldedSwinV2(model, pair(image_size), dtype, backend).eval().requires_grad_(False)


class FoldedBlock(nn.Module):
    """One block as plain layers and two constants: logit_scale [h, 1, 1] and bias [h, N, N] or [n, h, N, N]."""

    logit_scale: Tensor
    bias: Tensor

    def __init__(
        self, block: Block, stage: Stage, offsets: Offsets, dtype: torch.dtype, backend: str | None = None
    ):
        super().__init__()
        attn, self.heads, self.backend = block.attn, stage.heads, backend
        self.window, self.shift = stage.window, stage.shift_of(block.index)
        self.qkv = _linear(attn.qkv.weight, attn.qkv_bias())
        self.proj = _linear(attn.proj.weight, attn.proj.bias)
        self.fc1 = _linear(block.mlp.fc1.weight, block.mlp.fc1.bias)
        self.fc2 = _linear(block.mlp.fc2.weight, block.mlp.fc2.bias)
        self.norm1, self.norm2 = _norm(block.norm1), _norm(block.norm2)
        self.norm3 = None if block.norm3 is None else _norm(block.norm3)
        bias = attn.position_bias(offsets)
        # Our kernel computes the mask where it is needed, and then one bias is enough for all windows.
        if backend != "triton" and is_masked(stage.grid, self.window, self.shift):
            mask = region_mask(stage.grid, self.window, self.shift, dtype=bias.dtype, device=bias.device)
            bias = mask[:, None] + bias
        self.register_buffer("bias", bias)
        # Products on a CPU add the bias in their own precision: rounded here, and not in every call.
        on_cpu = attn.qkv.weight.device.type == "cpu"
        is_rounded = on_cpu and prefers_products(dtype, self.window) and dtype != bias.dtype
        self.rounded_bias = bias.to(dtype) if is_rounded else None
        wide = torch.promote_types(attn.logit_scale.dtype, torch.float32)
        self.register_buffer("logit_scale", attn.logit_scale.detach().to(wide).clamp(max=MAX_LOGIT_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        qkv, bias = self.qkv(x), self.bias
        if self.rounded_bias is not None and self._backend(qkv) == "matmul":
            bias = self.rounded_bias
        attended = window_attention(
            qkv, self.logit_scale, bias, heads=self.heads, window=self.window, shift=self.shift,
            backend=self.backend,
        )  # fmt: skip
        x = _added(x, attended, self.proj, self.norm1)
        x = _added(x, linear_gelu(x, self.fc1), self.fc2, self.norm2)
        return x if self.norm3 is None else self.norm3(x)

    def _backend(self, qkv: Tensor) -> str:
        return self.backend or choose(qkv, heads=self.heads, window=self.window, shift=self.shift)


def _added(x: Tensor, inner: Tensor, layer: nn.Module, norm: nn.LayerNorm) -> Tensor:
    """x + norm(layer(inner))."""
    if triton.IS_CHOSEN and x.is_cuda:
        return add_normed(x, inner, layer, norm)
    return norm(layer(inner)).add_(x)  # in place: nobody else reads the normalised map


class FoldedMerging(nn.Module):
    def __init__(self, merging: PatchMerging):
        super().__init__()
        self.reduction = _linear(merging.reduction.weight, None)
        self.norm = _norm(merging.norm)

    def forward(self, x: Tensor) -> Tensor:
        return merge(x, self.reduction, self.norm)


class FoldedPatchEmbed(nn.Module):
    def __init__(self, embed: PatchEmbed):
        super().__init__()
        proj = embed.proj
        self.proj = nn.Conv2d(proj.in_channels, proj.out_channels, embed.patch, embed.patch, device="meta")
        weight = proj.weight.contiguous(
            memory_format=torch.channels_last
        )  # so is its result: no copy after it
        self.proj.weight, self.proj.bias = _copy(weight), _copy(proj.bias)  # type: ignore[arg-type]
        self.norm = _norm(embed.norm)

    def forward(self, x: Tensor) -> Tensor:
        return embed(x, self.proj, self.norm)


class FoldedStage(nn.Sequential):
    """The layers of one stage, for one image size."""

    def __init__(self, stage: Stage, *layers: nn.Module):
        super().__init__(*layers)
        self.stage = stage

    def forward(self, x: Tensor) -> Tensor:
        return in_parts(super().forward, x, self.stage)


class FoldedSwinV2(nn.Module):
    """The network for one image size: [B, in_chans, height, width] -> logits [B, num_classes]; made by fold()."""

    def __init__(self, model: SwinV2, image_size: Pair, dtype: torch.dtype, backend: str | None = None):
        super().__init__()
        self.config, self.record, self.image_size = model.config, model.record, image_size
        self.stages = nn.ModuleList()
        for layer, stage in zip(model.layers, model.config.stages(*image_size), strict=True):
            offsets = Offsets.of(stage, model.norm.weight.detach())
            parts: list[nn.Module] = [FoldedPatchEmbed(model.patch_embed)] if stage.index == 0 else []
            parts += [FoldedBlock(block, stage, offsets, dtype, backend) for block in layer.blocks]  # type: ignore[union-attr]
            if layer.downsample is not None:
                parts.append(FoldedMerging(layer.downsample))  # type: ignore[arg-type]
            self.stages.append(FoldedStage(stage, *parts))
        self.norm = _norm(model.norm)
        head = model.head
        self.head = _linear(head.weight, head.bias) if isinstance(head, nn.Linear) else nn.Identity()
        self._cast(dtype)

    def _cast(self, dtype: torch.dtype) -> None:
        for parameter in self.parameters():  # buffers are the constants: they keep their precision
            parameter.data = parameter.data.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != (self.config.in_chans, *self.image_size):
            raise ValueError(
                f"images have shape {list(x.shape)}; this folded model takes [batch, {self.config.in_chans}, "
                f"{self.image_size[0]}, {self.image_size[1]}]; fold(model, image_size=...) makes one for another size"
            )
        x = x.to(self.norm.weight.dtype)
        for stage in self.stages:
            x = stage(x)
        return self.head(self.norm(x).mean((1, 2)))


def _copy(parameter: Tensor) -> nn.Parameter:
    return nn.Parameter(parameter.detach().clone())


def _linear(weight: Tensor, bias: Tensor | None) -> Linear:
    layer = Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = _copy(weight)
    if bias is not None:
        layer.bias = _copy(bias)
    return layer


def _norm(norm: nn.LayerNorm) -> nn.LayerNorm:
    copy = nn.LayerNorm(norm.normalized_shape, eps=norm.eps, device="meta")  # type: ignore[arg-type]
    copy.weight, copy.bias = _copy(norm.weight), _copy(norm.bias)
    return copy
