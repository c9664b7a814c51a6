"""The folded network as an ONNX graph for one image size and any batch.

No result has more than four dimensions; nothing is rolled, gathered or computed on integers. Windows are cut by one
transposition, the mask is part of the bias, and from opset 23 the attention of all windows is one operator.
"""

# B batch, H W map, M window, nh nw windows per axis, n = nh*nw, N = Mh*Mw tokens, h heads, d head dim, C = h*d

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from swinv2.config import Pair, Stage
from swinv2.fold import FoldedBlock, FoldedMerging, FoldedPatchEmbed, FoldedSwinV2
from swinv2.ops.windows import padded, region_mask
from swinv2.runtimes.onnx.attention import LOWEST, Shapes, attend
from swinv2.runtimes.onnx.building import Graph
from swinv2.runtimes.onnx.layers import (
    HALF,
    add_branches,
    embed_patches,
    layer_norm,
    linear,
    merged_weight,
    values,
    write_head,
    write_stages,
)

if TYPE_CHECKING:
    import onnx

OPSET = 23  # the one that measured fastest (docs/log.md)
END = np.iinfo(np.int64).max


def graph(
    network: FoldedSwinV2, *, opset: int = OPSET, half: bool = False, batch: int | None = None
) -> onnx.ModelProto:
    """The network as a model: "images" [batch, in_chans, height, width] -> "logits" [batch, classes], both float32.

    Operators are named after the modules of the folded network: "stages.0.1.fc2/MatMul".

    Args:
        half: weights and computation in float16.
        batch: a number where the graph is to take this batch only.
    """
    g = Graph(opset, np.float16 if half else np.float32)
    x = g.op("Cast", "images", to=HALF) if half else "images"
    x = write_stages(g, x, network, embed=write_patch_embed, merging=write_merging, block=write_block)
    x = write_head(g, x, network)
    config, first = network.config, batch or "batch"
    return g.model(
        [("images", (first, config.in_chans, *network.image_size))],
        [("logits", x, (first, config.num_classes or config.num_features))],
    )


def write_patch_embed(g: Graph, x: str, embed: FoldedPatchEmbed, size: Pair) -> str:
    """[B, in_chans, height, width] -> [B, H*W, C]."""
    bottom, right = (-side % embed.proj.stride[0] for side in size)
    if bottom or right:
        with g.scope("proj"):
            x = g.op("Pad", x, g.numbers(0, 0, 0, 0, 0, 0, bottom, right))
    return embed_patches(g, x, embed)


def write_merging(g: Graph, x: str, merging: FoldedMerging, stage: Stage) -> str:
    """[B, H*W, C] -> [B, H/2*W/2, 2C]."""
    (H, W), C = stage.grid, stage.dim
    even = (H + H % 2, W + W % 2)
    if even != (H, W):
        x = fill(g, g.op("Reshape", x, g.numbers(-1, H, W, C)), (H, W), even)
    x = g.op("Reshape", x, g.numbers(-1, 2, even[1] // 2, 2 * C))
    x = g.op("Transpose", x, perm=[0, 2, 1, 3])  # B*H/2 W/2 2 2C
    x = g.op("Reshape", x, g.numbers(-1, even[0] * even[1] // 4, 4 * C))
    with g.scope("reduction"):
        x = linear(g, x, merged_weight(merging.reduction.weight), None)
    with g.scope("norm"):
        return layer_norm(g, x, merging.norm)


def write_block(g: Graph, x: str, block: FoldedBlock, stage: Stage) -> str:
    """[B, H*W, C] -> [B, H*W, C]."""
    window, shift = block.window, block.shift
    with g.scope("windows"):
        y = into_windows(g, x, stage, window, shift)  # B*n N C
    C, h, N = stage.dim, block.heads, window[0] * window[1]
    d, n = C // h, math.prod(padded(stage.grid, window)) // N
    shapes = Shapes(tokens=g.numbers(-1, N, C), heads=g.numbers(-1, N, h, d))
    if block.bias.ndim == 4 and n > 1:
        shapes = replace(
            shapes, own=g.numbers(-1, n * h, N, d), scores=g.numbers(-1, n * h, N, N), each=g.numbers(-1, h, N, N),
            split=g.numbers(-1, h, N, d),
        )  # fmt: skip
    bias = write_bias(g, block, stage, (1, n * h if shapes.own else h, N, N))
    y = attend(g, y, block, shapes, bias)
    with g.scope("map"):
        y = into_map(g, y, stage, window, shift)
    return add_branches(g, x, y, block)


def write_bias(g: Graph, block: FoldedBlock, stage: Stage, shape: tuple[int, ...]) -> str:
    """The position bias [1, h, N, N]; with the mask, where there is one, [1, n*h, N, N].

    The two are kept apart, and the mask once for all blocks of a stage: together they would be n times as large in the
    file. Runtimes add them when they open it.
    """
    if block.bias.ndim == 3:
        with g.scope("attention"):
            return g.constant("bias", values(block.bias)[None])
    mask = region_mask(stage.grid, block.window, block.shift, dtype=torch.float32, device=block.bias.device)
    seen = torch.where(mask[:, None] == 0, block.bias, -torch.inf).amax(0)  # h N N, as it was before the mask
    bias = torch.where(seen.isinf(), 0, seen)  # of pairs that see each other nowhere
    shifts = "x".join(map(str, block.shift))
    lowest = np.maximum(values(mask), LOWEST)[:, None]
    shared = g.shared(f"stages.{stage.index}.mask.{shifts}", lowest.astype(g.dtype))  # n 1 N N
    with g.scope("attention"):
        masked = g.op("Add", g.constant("bias", values(bias)[None]), shared)  # n h N N
        return g.op("Reshape", masked, g.numbers(*shape))


def into_windows(g: Graph, x: str, stage: Stage, window: Pair, shift: Pair) -> str:
    """[B, H*W, C] -> [B*n, N, C], padded to whole windows and shifted."""
    C, whole = stage.dim, padded(stage.grid, window)
    if whole != stage.grid or any(shift):
        x = g.op("Reshape", x, g.numbers(-1, *stage.grid, C))
        x = shifted(g, fill(g, x, stage.grid, whole), shift)
    nw = whole[1] // window[1]
    if nw > 1:
        x = g.op("Reshape", x, g.numbers(-1, window[0], nw, window[1] * C))
        x = g.op("Transpose", x, perm=[0, 2, 1, 3])  # B*nh nw Mh Mw*C
    return g.op("Reshape", x, g.numbers(-1, window[0] * window[1], C))


def into_map(g: Graph, x: str, stage: Stage, window: Pair, shift: Pair) -> str:
    """[B*n, N, C] -> [B, H*W, C]: into_windows undone."""
    (H, W), C, whole = stage.grid, stage.dim, padded(stage.grid, window)
    nw = whole[1] // window[1]
    if nw > 1:
        x = g.op("Reshape", x, g.numbers(-1, nw, window[0], window[1] * C))
        x = g.op("Transpose", x, perm=[0, 2, 1, 3])  # B*nh Mh nw Mw*C
    if whole != stage.grid or any(shift):
        x = g.op("Reshape", x, g.numbers(-1, *whole, C))
        x = shifted(g, x, (-shift[0] % whole[0], -shift[1] % whole[1]))
        if whole != stage.grid:
            x = g.op("Slice", x, g.numbers(0, 0), g.numbers(H, W), g.numbers(1, 2))
    return g.op("Reshape", x, g.numbers(-1, H * W, C))


def shifted(g: Graph, x: str, by: Pair) -> str:
    """[B, H, W, C] moved up and left, wrapping around: two slices and their concatenation per axis."""
    for axis, step in enumerate(by, start=1):
        if step:
            rest = g.op("Slice", x, g.numbers(step), g.numbers(END), g.numbers(axis))
            wrapped = g.op("Slice", x, g.numbers(0), g.numbers(step), g.numbers(axis))
            x = g.op("Concat", rest, wrapped, axis=axis)
    return x


def fill(g: Graph, x: str, size: Pair, whole: Pair) -> str:
    """[B, H, W, C] with zeros right and bottom, up to whole."""
    if size == whole:
        return x
    return g.op("Pad", x, g.numbers(0, 0, 0, 0, 0, whole[0] - size[0], whole[1] - size[1], 0))
