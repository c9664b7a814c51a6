"""The folded network in the patterns that OpenVINO's compiler has kernels for.

The same graph as the one for ONNX Runtime (onnx/static.py), with four differences, each of which measured faster:

- The patches are cut by two transpositions and embedded by a product, because the result of OpenVINO's convolution
  is reordered by its slowest kernel.
- A norm that follows a linear layer subtracts no mean: the mean over the channels of W x + b is linear in x, so it is
  taken out of W and b here, once. What remains is the root-mean-square norm, one kernel.
- q and k become unit vectors by that same kernel, before they are transposed.
- The windows of a masked block lie on the axis of the heads, where bias and mask are one constant that is added
  without a reshape; so masked attention becomes one kernel too.

Logits agree to rounding.
"""

# B batch, H W map, P patch, n windows, N tokens of a window, h heads, d head dim, C = h*d

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from swinv2.config import Pair, Stage
from swinv2.fold import FoldedBlock, FoldedMerging, FoldedPatchEmbed, FoldedSwinV2
from swinv2.ops.windows import NORM_FLOOR, padded
from swinv2.runtimes.onnx.building import Graph
from swinv2.runtimes.onnx.layers import gelu, linear, merged_weight, values, write_stages
from swinv2.runtimes.onnx.static import fill, into_map, into_windows, write_bias

if TYPE_CHECKING:
    import onnx
    from torch import Tensor, nn


OPSET = 20  # has Gelu; newer ones bring nothing that OpenVINO does not find by itself


def graph(network: FoldedSwinV2, *, opset: int = OPSET) -> onnx.ModelProto:
    """The network as a model: "images" [batch, in_chans, height, width] -> "logits" [batch, classes]."""
    g = Graph(opset)
    x = write_stages(g, "images", network, embed=patch_embed, merging=merging, block=block)
    with g.scope("norm"):
        x = layer_norm(g, x, network.norm)
    x = mean(g, x, 1)
    if isinstance(network.head, torch.nn.Linear):
        with g.scope("head"):
            x = linear(g, x, network.head.weight, network.head.bias)
    config = network.config
    return g.model(
        [("images", ("batch", config.in_chans, *network.image_size))],
        [("logits", x, ("batch", config.num_classes or config.num_features))],
    )


def patch_embed(g: Graph, x: str, embed: FoldedPatchEmbed, size: Pair) -> str:
    """[B, in_chans, height, width] -> [B, H*W, C]."""
    channels, P = embed.proj.in_channels, embed.proj.stride[0]
    H, W = (-(-side // P) for side in size)
    with g.scope("proj"):
        if size != (H * P, W * P):
            x = g.op("Pad", x, g.numbers(0, 0, 0, 0, 0, 0, H * P - size[0], W * P - size[1]))
        x = g.op("Reshape", x, g.numbers(-1, P, W, P))
        x = g.op("Transpose", x, perm=[0, 2, 1, 3])  # B*in_chans*H W P P
        x = g.op("Reshape", x, g.numbers(-1, channels, H * W, P * P))
        x = g.op("Transpose", x, perm=[0, 2, 1, 3])  # B H*W in_chans P*P
        x = g.op("Reshape", x, g.numbers(-1, H * W, channels * P * P))
    return normed_linear(g, x, embed.proj.weight.flatten(1), embed.proj.bias, embed.norm, "proj", "norm")


def merging(g: Graph, x: str, merging: FoldedMerging, stage: Stage) -> str:
    """[B, H*W, C] -> [B, H/2*W/2, 2C]."""
    (H, W), C = stage.grid, stage.dim
    even = (H + H % 2, W + W % 2)
    if even != (H, W):
        x = fill(g, g.op("Reshape", x, g.numbers(-1, H, W, C)), (H, W), even)
    x = g.op("Reshape", x, g.numbers(-1, 2, even[1] // 2, 2 * C))
    x = g.op("Transpose", x, perm=[0, 2, 1, 3])  # B*H/2 W/2 2 2C
    x = g.op("Reshape", x, g.numbers(-1, even[0] * even[1] // 4, 4 * C))
    return normed_linear(
        g, x, merged_weight(merging.reduction.weight), None, merging.norm, "reduction", "norm"
    )


def block(g: Graph, x: str, block: FoldedBlock, stage: Stage) -> str:
    """[B, H*W, C] -> [B, H*W, C]."""
    y = attend(g, x, block, stage)
    x = normed_linear(g, y, block.proj.weight, block.proj.bias, block.norm1, "proj", "norm1", residual=x)
    with g.scope("fc1"):
        y = gelu(g, linear(g, x, block.fc1.weight, block.fc1.bias))
    x = normed_linear(g, y, block.fc2.weight, block.fc2.bias, block.norm2, "fc2", "norm2", residual=x)
    if block.norm3 is not None:
        with g.scope("norm3"):
            x = layer_norm(g, x, block.norm3)
    return x


def attend(g: Graph, x: str, block: FoldedBlock, stage: Stage) -> str:
    """[B, H*W, C] -> [B, H*W, C], before the output projection."""
    C, h, window = stage.dim, block.heads, block.window
    N, whole = window[0] * window[1], padded(stage.grid, window)
    d, n = C // h, whole[0] * whole[1] // N
    is_masked = block.bias.ndim == 4 and n > 1
    bias = write_bias(g, block, stage, (1, n * h if is_masked else h, N, N))
    with g.scope("windows"):
        x = into_windows(g, x, stage, window, block.shift)  # B*n N C
    parts = []
    for i, name in enumerate("qkv"):
        with g.scope(f"qkv.{name}"):
            part = None if name == "k" else block.qkv.bias.chunk(3)[i]  # the k bias is zero
            y = linear(g, x, block.qkv.weight.chunk(3)[i], part)
            y = g.op("Reshape", y, g.numbers(-1, N, h, d))
            if name != "v":
                y = unit(g, y, d)
            y = g.op("Transpose", y, perm=[0, 2, 1, 3])  # B*n h N d
            parts.append(g.op("Reshape", y, g.numbers(-1, n * h, N, d)) if is_masked else y)
    q, k, v = parts
    with g.scope("attention"):
        scale = values(block.logit_scale.exp())[None]  # 1 h 1 1; clamped by fold()
        logits = g.op("MatMul", q, g.op("Transpose", k, perm=[0, 1, 3, 2]))  # B*n h N N, or B n*h N N
        logits = g.op(
            "Mul", logits, g.constant("scale", np.tile(scale, (1, n, 1, 1)) if is_masked else scale)
        )
        logits = g.op("Add", logits, bias)
        y = g.op("MatMul", g.op("Softmax", logits, axis=-1), v)
        if is_masked:
            y = g.op("Reshape", y, g.numbers(-1, h, N, d))
        y = g.op("Reshape", g.op("Transpose", y, perm=[0, 2, 1, 3]), g.numbers(-1, N, C))
    with g.scope("map"):
        return into_map(g, y, stage, window, block.shift)


def unit(g: Graph, x: str, d: int) -> str:
    """Vectors of the last axis, which is d long, at length 1. A zero vector stays zero."""
    return root_mean_square_norm(g, x, np.full(d, d**-0.5, np.float32), NORM_FLOOR**2 / d)


def normed_linear(
    g: Graph,
    x: str,
    weight: Tensor,
    bias: Tensor | None,
    norm: nn.LayerNorm,
    first: str,
    second: str,
    residual: str | None = None,
) -> str:
    """A linear layer called first, the norm over its results called second, and the residual added."""
    exact = weight.double()
    with g.scope(first):
        centred = None if bias is None else (bias.double() - bias.double().mean()).float()
        x = linear(g, x, (exact - exact.mean(0)).float(), centred)
    with g.scope(second):
        x = root_mean_square_norm(g, x, values(norm.weight), norm.eps)
        if residual is not None:  # before the constant: in this order the two are one kernel
            x = g.op("Add", x, residual)
        return g.op("Add", x, g.constant("bias", values(norm.bias)))


def layer_norm(g: Graph, x: str, norm: nn.LayerNorm) -> str:
    """Over the last axis. Spelled out, because LayerNormalization is read with an axis that is computed."""
    x = root_mean_square_norm(g, g.op("Sub", x, mean(g, x, -1, stays=True)), values(norm.weight), norm.eps)
    return g.op("Add", x, g.constant("bias", values(norm.bias)))


def root_mean_square_norm(g: Graph, x: str, weight: np.ndarray, epsilon: float) -> str:
    """x / sqrt(mean(x^2) + epsilon) * weight over the last axis, as OpenVINO looks for it to make it one kernel."""
    length = g.op(
        "Sqrt", g.op("Add", mean(g, g.op("Pow", x, g.number(2.0)), -1, stays=True), g.number(epsilon))
    )
    x = g.op("Mul", x, g.op("Div", g.number(1.0), length))
    return g.op("Mul", x, g.constant("weight", weight))


def mean(g: Graph, x: str, axis: int, *, stays: bool = False) -> str:
    """The mean over an axis, which goes, or stays and is one long."""
    if g.opset >= 18:
        return g.op("ReduceMean", x, g.numbers(axis), keepdims=int(stays))
    return g.op("ReduceMean", x, axes=[axis], keepdims=int(stays))
