"""What a Swin V2 holds and what it costs, by arithmetic: parameter names, shapes, multiply-adds.

No network is built. parameter_shapes() is the contract that an artifact is checked against, and the
counters agree with the official table (attention products and the position MLP included).
"""

from __future__ import annotations

from math import prod

from swinv2.config import SwinV2Config

CPB_HIDDEN = 512  # width of the continuous position bias MLP (paper, section 3.3)


def parameter_shapes(config: SwinV2Config) -> dict[str, tuple[int, ...]]:
    """Official parameter names -> shapes, in the order of the official state dict."""
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, outs: int, ins: int, *, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (outs, ins)
        if bias:
            shapes[f"{name}.bias"] = (outs,)

    def norm(name: str, dim: int) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (dim,)

    patch = config.patch_size
    shapes["patch_embed.proj.weight"] = (config.embed_dim, config.in_chans, patch, patch)
    shapes["patch_embed.proj.bias"] = (config.embed_dim,)
    norm("patch_embed.norm", config.embed_dim)
    for i, (depth, heads) in enumerate(zip(config.depths, config.heads, strict=True)):
        dim, hidden = config.dim(i), int(config.dim(i) * config.mlp_ratio)
        for b in range(depth):
            block = f"layers.{i}.blocks.{b}"
            norm(f"{block}.norm1", dim)
            shapes[f"{block}.attn.logit_scale"] = (heads, 1, 1)
            shapes[f"{block}.attn.q_bias"] = shapes[f"{block}.attn.v_bias"] = (dim,)
            linear(f"{block}.attn.cpb_mlp.0", CPB_HIDDEN, 2)
            linear(f"{block}.attn.cpb_mlp.2", heads, CPB_HIDDEN, bias=False)
            linear(f"{block}.attn.qkv", 3 * dim, dim, bias=False)
            linear(f"{block}.attn.proj", dim, dim)
            norm(f"{block}.norm2", dim)
            linear(f"{block}.mlp.fc1", hidden, dim)
            linear(f"{block}.mlp.fc2", dim, hidden)
            if has_extra_norm(config, i, b):
                norm(f"{block}.norm3", dim)
        if i < len(config.depths) - 1:
            linear(f"layers.{i}.downsample.reduction", 2 * dim, 4 * dim, bias=False)
            norm(f"layers.{i}.downsample.norm", 2 * dim)
    norm("norm", config.num_features)
    if config.num_classes:
        linear("head", config.num_classes, config.num_features)
    return shapes


def has_extra_norm(config: SwinV2Config, stage: int, block: int) -> bool:
    """SwinV2-H and G normalise the main branch once more, after every 6th block of stage 3 (paper, section 3.2)."""
    return bool(config.extra_norm_period) and stage == 2 and (block + 1) % config.extra_norm_period == 0


def parameters(config: SwinV2Config) -> int:
    """Number of trainable parameters."""
    return sum(prod(shape) for shape in parameter_shapes(config).values())


def macs(
    config: SwinV2Config, height: int | None = None, width: int | None = None, *, position_bias: bool = True
) -> int:
    """Multiply-adds of one image of height x width pixels (default: the config's own size).

    Counted: convolution, linear layers, both attention products, the norms (one multiply-add an element)
    and the position bias MLP. The official flops() leaves that MLP out, and a folded model does not run it:
    position_bias=False gives the official figure.
    """
    h, w = height or config.image_size[0], width or config.image_size[1]
    total = 0
    for stage in config.stages(h, w):
        tokens, dim, hidden = prod(stage.grid), stage.dim, int(stage.dim * config.mlp_ratio)
        if stage.index == 0:
            total += tokens * dim * (config.in_chans * config.patch_size**2 + 1)
        in_window = prod(stage.window)
        block = tokens * (3 * dim * dim + dim * dim + 2 * dim * hidden + 2 * dim)
        block += 2 * stage.windows * in_window * in_window * dim  # q k^T and the product with v
        if position_bias:
            block += (2 * stage.window[0] - 1) * (2 * stage.window[1] - 1) * CPB_HIDDEN * (2 + stage.heads)
        extra = sum(has_extra_norm(config, stage.index, b) for b in range(stage.depth))
        total += stage.depth * block + extra * tokens * dim
        if stage.index < len(config.depths) - 1:
            merged = ((stage.grid[0] + 1) // 2) * ((stage.grid[1] + 1) // 2)
            total += merged * (4 * dim * 2 * dim + 2 * dim)
        else:
            total += tokens * dim + dim * config.num_classes
    return total
