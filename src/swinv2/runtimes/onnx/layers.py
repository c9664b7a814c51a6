"""The layers that the static and the dynamic graph have in common."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from swinv2.config import Pair, Stage
from swinv2.fold import FoldedBlock, FoldedMerging, FoldedPatchEmbed, FoldedSwinV2
from swinv2.ops.windows import NORM_FLOOR
from swinv2.runtimes.onnx.building import Graph

if TYPE_CHECKING:
    from torch import Tensor, nn


FLOAT, HALF = 1, 10  # onnx.TensorProto.FLOAT, FLOAT16


def values(tensor: Tensor) -> np.ndarray:
    """float32 values of a parameter or buffer."""
    return tensor.detach().float().cpu().numpy()


def linear(g: Graph, x: str, weight: Tensor, bias: Tensor | None) -> str:
    """[..., in] -> [..., out]; weight is [out, in] as torch has it, and transposed here, once."""
    x = g.op("MatMul", x, g.constant("weight", values(weight).T))
    return x if bias is None else g.op("Add", x, g.constant("bias", values(bias)))


def layer_norm(g: Graph, x: str, norm: nn.LayerNorm) -> str:
    """Over the last axis."""
    scale, bias = g.constant("weight", values(norm.weight)), g.constant("bias", values(norm.bias))
    return g.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=float(norm.eps))


def gelu(g: Graph, x: str) -> str:
    """The exact one, by the error function."""
    if g.opset >= 20:
        return g.op("Gelu", x)
    bent = g.op("Erf", g.op("Div", x, g.number(math.sqrt(2))))
    return g.op("Mul", g.op("Mul", x, g.op("Add", bent, g.number(1.0))), g.number(0.5))


def unit(g: Graph, x: str, scale: str | None = None) -> str:
    """Vectors of the last axis at length 1, or at the length that scale says; a zero vector stays zero.

    Computed in float32: squares leave the range of float16. Spelled out, because LpNormalization keeps to one thread
    in ONNX Runtime.
    """
    is_half = g.dtype == np.float16
    x = g.op("Cast", x, to=FLOAT) if is_half else x
    squares = g.op("ReduceSum", g.op("Mul", x, x), g.numbers(-1), keepdims=1)
    length = g.op("Sqrt", g.op("Add", squares, g.number(NORM_FLOOR**2, np.float32)))
    x = g.op("Mul", x, g.op("Reciprocal", length) if scale is None else g.op("Div", scale, length))
    return g.op("Cast", x, to=HALF) if is_half else x


def embed_patches(g: Graph, x: str, embed: FoldedPatchEmbed) -> str:
    """Whole patches: [B, in_chans, H*patch, W*patch] -> [B, H*W, C]."""
    proj = embed.proj
    assert proj.bias is not None
    with g.scope("proj"):
        weight, bias = g.constant("weight", values(proj.weight)), g.constant("bias", values(proj.bias))
        x = g.op("Conv", x, weight, bias, kernel_shape=list(proj.kernel_size), strides=list(proj.stride))
        x = g.op("Transpose", g.op("Reshape", x, g.numbers(0, proj.out_channels, -1)), perm=[0, 2, 1])
    with g.scope("norm"):
        return layer_norm(g, x, embed.norm)


def add_branches(g: Graph, x: str, attended: str, block: FoldedBlock) -> str:
    """What follows the attention in a block: x and attended [B, H*W, C] -> [B, H*W, C]."""
    with g.scope("norm1"):
        y = layer_norm(g, attended, block.norm1)
    x = g.op("Add", x, y)
    with g.scope("fc1"):
        y = gelu(g, linear(g, x, block.fc1.weight, block.fc1.bias))
    with g.scope("fc2"):
        y = linear(g, y, block.fc2.weight, block.fc2.bias)
    with g.scope("norm2"):
        y = layer_norm(g, y, block.norm2)
    x = g.op("Add", x, y)
    if block.norm3 is not None:
        with g.scope("norm3"):
            x = layer_norm(g, x, block.norm3)
    return x


def mean(g: Graph, x: str, axis: int) -> str:
    """The mean over one axis, which stays with one element."""
    return g.op("ReduceMean", x, g.numbers(axis)) if g.opset >= 18 else g.op("ReduceMean", x, axes=[axis])


def write_stages(
    g: Graph,
    x: str,
    network: FoldedSwinV2,
    *,
    embed: Callable[[Graph, str, FoldedPatchEmbed, Pair], str],
    merging: Callable[[Graph, str, FoldedMerging, Stage], str],
    block: Callable[[Graph, str, FoldedBlock, Stage], str],
) -> str:
    """Images through all stages of the network, in operators named after its modules: "stages.0.1.fc2/MatMul"."""
    for i, parts in enumerate(network.stages):
        stage: Stage = parts.stage  # type: ignore[assignment]
        for j, part in enumerate(parts):  # type: ignore[arg-type, var-annotated]
            with g.scope(f"stages.{i}.{j}"):
                if isinstance(part, FoldedPatchEmbed):
                    x = embed(g, x, part, network.image_size)
                elif isinstance(part, FoldedMerging):
                    x = merging(g, x, part, stage)
                else:
                    x = block(g, x, part, stage)
    return x


def write_head(g: Graph, x: str, network: FoldedSwinV2) -> str:
    """The last map [B, H*W, C] -> logits [B, classes], or features [B, C] without a head; float32.

    A product of three dimensions, like all others: ONNX Runtime makes a Gemm of those with two, of which it has no
    fast int8 one.
    """
    with g.scope("norm"):
        x = mean(g, layer_norm(g, x, network.norm), axis=1)  # B 1 C
    with g.scope("head"):
        if isinstance(network.head, torch.nn.Linear):
            x = linear(g, x, network.head.weight, network.head.bias)
        x = g.op("Squeeze", x, g.numbers(1))
    return g.op("Cast", x, to=FLOAT) if g.dtype == np.float16 else x


def merged_weight(weight: Tensor) -> Tensor:
    """[2C, 4C] of a patch merging for neighbours in the order in which they lie, which is not the trained one."""
    first, below, right, diagonal = weight.chunk(4, dim=1)  # (0,0), (1,0), (0,1), (1,1)
    return torch.cat([first, right, below, diagonal], dim=1)
