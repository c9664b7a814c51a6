"""Cosine attention in the windows of one block, for the static and the dynamic graph.

From opset 23 it is one operator, which keeps the scores of a head in the caches; before, two products and a softmax.
"""

# B batch, n windows, N tokens of one window, h heads, d head dim, C = h*d

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from swinv2.runtimes.onnx.building import Graph
from swinv2.runtimes.onnx.layers import linear, unit, values

if TYPE_CHECKING:
    from torch import Tensor

    from swinv2.fold import FoldedBlock

ATTENTION = 23  # the opset that brings the operator
LOWEST = (
    -30000.0
)  # what padding adds to logits: beside any other a softmax of exactly 0, and finite in float16


@dataclass(frozen=True)
class Shapes:
    """Shapes that Reshape takes: names of constants, or of results where the image size is not known.

    Args:
        tokens: [-1, N, C]; heads: [-1, N, h, d].
        own: [-1, n*h, N, d], as if an image had n*h heads, where every window has its own bias; None where all share
            one.
        scores: [-1, n*h, N, N]; each: [-1, h, N, N]; split: [-1, h, N, d].
    """

    tokens: str
    heads: str
    own: str | None = None
    scores: str = ""
    each: str = ""
    split: str = ""


def attend(g: Graph, x: str, block: FoldedBlock, shapes: Shapes, bias: str) -> str:
    """[B*n, N, C] -> [B*n, N, C], from the map before q, k and v to behind the output projection.

    Args:
        bias: [1, h, N, N], or [1, n*h, N, N] where every window has its own.
    """
    h = block.heads
    q_bias, _, v_bias = block.qkv.bias.chunk(3)  # there is none of k
    parts = []
    for name, weight in zip("qkv", block.qkv.weight.chunk(3), strict=True):
        with g.scope(f"qkv.{name}"):
            parts.append(linear(g, x, weight, q_bias if name == "q" else None))
    q, k, v = parts
    with g.scope("attention"):
        scale = g.exact("scale", values(block.logit_scale.exp()).reshape(1, 1, h, 1))  # clamped by fold()
        q = unit(g, g.op("Reshape", q, shapes.heads), scale)  # B*n N h d
        k = unit(g, g.op("Reshape", k, shapes.heads))
        if g.opset < ATTENTION:
            y = _in_products(g, q, k, g.op("Reshape", v, shapes.heads), shapes, bias)
        elif shapes.own is None:
            q, k = (g.op("Reshape", part, shapes.tokens) for part in (q, k))
            y = g.op("Attention", q, k, v, bias, q_num_heads=h, kv_num_heads=h, scale=1.0)
        else:
            y = _in_one(g, q, k, g.op("Reshape", v, shapes.heads), shapes, bias)
    with g.scope("proj"):
        return linear(g, y, block.proj.weight, _output_bias(block, v_bias))


def _in_one(g: Graph, q: str, k: str, v: str, shapes: Shapes, bias: str) -> str:
    """q, k, v [B*n, N, h, d] -> [B*n, N, C]; the windows of an image are further heads of it."""
    assert shapes.own is not None
    q, k, v = (g.op("Reshape", g.op("Transpose", part, perm=[0, 2, 1, 3]), shapes.own) for part in (q, k, v))
    y = g.op("Reshape", g.op("Attention", q, k, v, bias, scale=1.0), shapes.split)  # B*n h N d
    return g.op("Reshape", g.op("Transpose", y, perm=[0, 2, 1, 3]), shapes.tokens)


def _in_products(g: Graph, q: str, k: str, v: str, shapes: Shapes, bias: str) -> str:
    """q, k, v [B*n, N, h, d] -> [B*n, N, C]."""
    q, v = (g.op("Transpose", part, perm=[0, 2, 1, 3]) for part in (q, v))
    logits = g.op("MatMul", q, g.op("Transpose", k, perm=[0, 2, 3, 1]))  # B*n h N N
    if shapes.own is None:
        logits = g.op("Add", logits, bias)
    else:
        logits = g.op("Add", g.op("Reshape", logits, shapes.scores), bias)
        logits = g.op("Reshape", logits, shapes.each)
    y = g.op("MatMul", g.op("Softmax", logits, axis=-1), v)
    return g.op("Reshape", g.op("Transpose", y, perm=[0, 2, 1, 3]), shapes.tokens)


def _output_bias(block: FoldedBlock, v_bias: Tensor) -> Tensor:
    """That of v moved behind the attention, whose weights add up to 1: every token gets all of it."""
    assert block.proj.bias is not None
    return block.proj.bias.float() + block.proj.weight.float() @ v_bias.float()
