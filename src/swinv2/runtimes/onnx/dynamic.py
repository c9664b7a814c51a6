"""The network as an ONNX graph for any height and width, and any batch.

What fold() computes once for one image size is computed here at run time, on few and small numbers: windows that
clamp to a small map, shifts, padding, and who may see whom. Tokens go into their windows by one gather, which pads and
shifts as well, and back by another. The position bias stays a constant: windows of one stage differ in size only, and
that of a smaller window is a corner of that of the largest.
"""

# B batch, H W map, M window, nh nw windows per axis, n = nh*nw, N = Mh*Mw tokens, h heads, d head dim, C = h*d
# Whole numbers that are known at run time only are results of one element.

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from swinv2.config import Pair, Stage
from swinv2.fold import FoldedBlock, FoldedMerging, FoldedPatchEmbed, fold
from swinv2.model import Block, Offsets, SwinV2, WindowAttention
from swinv2.ops.reference import REGION_PENALTY
from swinv2.runtimes.onnx.attention import LOWEST, Shapes, attend
from swinv2.runtimes.onnx.building import Graph
from swinv2.runtimes.onnx.layers import (
    FLOAT,
    HALF,
    add_branches,
    embed_patches,
    layer_norm,
    linear,
    merged_weight,
    values,
    write_head,
)
from swinv2.runtimes.onnx.static import OPSET

if TYPE_CHECKING:
    import onnx

INT = 7  # onnx.TensorProto.INT64
Sides = tuple[str, str]  # height and width


def dynamic_graph(model: SwinV2, *, opset: int = OPSET, half: bool = False) -> onnx.ModelProto:
    """The network as a model: "images" [batch, in_chans, height, width] -> "logits" [batch, classes], both float32.

    Operators are named after the modules of the folded network, as in the static graph.

    Args:
        half: weights and computation in float16.
    """
    network, config = fold(model), model.config
    g = Graph(opset, np.float16 if half else np.float32)
    shape = g.op("Shape", "images")
    grid: Sides = (
        g.op("Slice", shape, g.numbers(2), g.numbers(3)),
        g.op("Slice", shape, g.numbers(3), g.numbers(4)),
    )
    x = g.op("Cast", "images", to=HALF) if half else "images"
    for i, parts in enumerate(network.stages):
        stage: Stage = parts.stage  # type: ignore[assignment]
        blocks = iter(model.layers[i].blocks)  # type: ignore[arg-type]
        windows: tuple[Windows, Windows] | None = None
        for j, part in enumerate(parts):  # type: ignore[arg-type, var-annotated]
            if isinstance(part, FoldedBlock):
                trained: Block = next(blocks)
                if windows is None:
                    with g.scope(f"stages.{i}.windows"):
                        windows = (
                            lay_windows(g, grid, config.window),
                            lay_windows(g, grid, config.window, shifts=True),
                        )
                here = windows[trained.index % 2]
                unit = config.trained_windows[i]
                position = partial(position_bias, g, trained.attn, stage, unit, config.window, here)
                with g.scope(f"stages.{i}.{j}"):
                    x = write_block(g, x, part, stage, here, position)
                continue
            with g.scope(f"stages.{i}.{j}"):
                if isinstance(part, FoldedPatchEmbed):
                    x, grid = write_patch_embed(g, x, part, grid)
                else:
                    x, grid = write_merging(g, x, part, stage, grid)
    x = write_head(g, x, network)
    return g.model(
        [("images", ("batch", config.in_chans, "height", "width"))],
        [("logits", x, ("batch", config.num_classes or config.num_features))],
    )


def write_patch_embed(g: Graph, x: str, embed: FoldedPatchEmbed, size: Sides) -> tuple[str, Sides]:
    """[B, in_chans, height, width] -> [B, H*W, C], and H and W."""
    patch = g.numbers(embed.proj.stride[0])
    with g.scope("proj"):
        grid: Sides = tuple(_parts(g, side, patch) for side in size)  # type: ignore[assignment]
        missing = [
            g.op("Sub", g.op("Mul", count, patch), side) for count, side in zip(grid, size, strict=True)
        ]
        x = g.op("Pad", x, g.op("Concat", g.numbers(0, 0, 0, 0, 0, 0), *missing, axis=0))
    return embed_patches(g, x, embed), grid


def write_merging(g: Graph, x: str, merging: FoldedMerging, stage: Stage, size: Sides) -> tuple[str, Sides]:
    """[B, H*W, C] -> [B, H/2*W/2, 2C], and the new H and W; an odd side is padded with zeros."""
    C, two = stage.dim, g.numbers(2)
    half: Sides = tuple(_parts(g, side, two) for side in size)  # type: ignore[assignment]
    missing = [g.op("Sub", g.op("Mul", count, two), side) for count, side in zip(half, size, strict=True)]
    x = g.op("Reshape", x, g.op("Concat", g.numbers(-1), *size, g.numbers(C), axis=0))
    x = g.op("Pad", x, g.op("Concat", g.numbers(0, 0, 0, 0, 0), *missing, g.numbers(0), axis=0))
    x = g.op("Reshape", x, g.op("Concat", g.numbers(-1, 2), half[1], g.numbers(2 * C), axis=0))
    x = g.op("Transpose", x, perm=[0, 2, 1, 3])  # B*H/2 W/2 2 2C
    x = g.op("Reshape", x, g.op("Concat", g.numbers(-1), g.op("Mul", *half), g.numbers(4 * C), axis=0))
    with g.scope("reduction"):
        x = linear(g, x, merged_weight(merging.reduction.weight), None)
    with g.scope("norm"):
        return layer_norm(g, x, merging.norm), half


@dataclass(frozen=True)
class Windows:
    """The windows of a map, straight or shifted.

    Args:
        tokens, count: N and n; sides: Mh and Mw.
        into: which token of the map every token of the windows is, [n*N]; back: the other way round, [H*W].
        mask: what is added to the logits, [n, 1, N, N].
    """

    tokens: str
    count: str
    sides: Sides
    into: str
    back: str
    mask: str


@dataclass(frozen=True)
class Axis:
    """One axis of a map.

    Args:
        size: H; window: Mh; count: nh; padded: nh*Mh.
        token: which token stands where after padding and shift, [nh*Mh]; any one in the place of padding.
        code: 0 ordinary, 1 wrapped around by the shift, 2 padding, [nh*Mh].
        place: where every token of the map stands, [H].
    """

    size: str
    window: str
    count: str
    padded: str
    token: str
    code: str
    place: str


def lay_windows(g: Graph, grid: Sides, largest: int, *, shifts: bool = False) -> Windows:
    """Windows of at most this side over a map, as config.stages() lays them."""
    rows, cols = (_axis(g, side, largest, shifts=shifts) for side in grid)
    tokens, count = g.op("Mul", rows.window, cols.window), g.op("Mul", rows.count, cols.count)
    one, every = g.numbers(1), g.numbers(-1)
    row_shape = g.op(
        "Concat", rows.count, one, rows.window, one, axis=0
    )  # of what varies with the row: nh 1 Mh 1
    col_shape = g.op("Concat", one, cols.count, one, cols.window, axis=0)

    def combined(row: str, factor: str, col: str) -> str:
        """row * factor + col of every token of the windows, nh nw Mh Mw."""
        return g.op(
            "Add", g.op("Reshape", g.op("Mul", row, factor), row_shape), g.op("Reshape", col, col_shape)
        )

    into = g.op("Reshape", combined(rows.token, cols.size, cols.token), every)
    # On the way back a token is in window (row // Mh, col // Mw), and there in row % Mh and col % Mw.
    (up, down), (left, right) = (
        (g.op("Div", axis.place, axis.window), g.op("Mod", axis.place, axis.window)) for axis in (rows, cols)
    )
    vertical = g.op("Mul", up, g.op("Mul", cols.count, tokens))
    vertical = g.op("Unsqueeze", g.op("Add", vertical, g.op("Mul", down, cols.window)), one)  # H 1
    back = g.op("Reshape", g.op("Add", vertical, g.op("Add", g.op("Mul", left, tokens), right)), every)
    # Who may see whom, by the rules of ops/reference.py. Padding is one region, whatever the other axis says.
    three = g.numbers(3)
    region = combined(rows.code, three, cols.code)
    is_padding = g.op("GreaterOrEqual", region, g.numbers(6))
    is_padding = g.op("Or", is_padding, g.op("Equal", g.op("Mod", region, three), g.numbers(2)))
    region = g.op("Where", is_padding, g.numbers(8), region)
    region = g.op("Reshape", region, g.op("Concat", count, one, tokens, axis=0))  # n 1 N
    same = g.op("Equal", region, g.op("Transpose", region, perm=[0, 2, 1]))  # n N N
    has_padding = g.op("Or", *(g.op("Greater", axis.padded, axis.size) for axis in (rows, cols)))
    penalty = g.op("Where", has_padding, g.number(LOWEST), g.number(REGION_PENALTY))
    mask = g.op("Where", same, g.number(0.0), penalty)
    return Windows(tokens, count, (rows.window, cols.window), into, back, g.op("Unsqueeze", mask, one))


def _axis(g: Graph, size: str, largest: int, *, shifts: bool) -> Axis:
    window = g.op("Min", size, g.numbers(largest))
    shift = g.numbers(0)
    if shifts:  # by half a window, where one window does not cover the axis
        is_larger = g.op("Cast", g.op("Greater", size, window), to=INT)
        shift = g.op("Mul", g.op("Div", window, g.numbers(2)), is_larger)
    count = _parts(g, size, window)
    padded = g.op("Mul", count, window)
    moved = g.op("Mod", g.op("Add", _range(g, padded), shift), padded)
    wrapped, padding = g.op("Less", moved, shift), g.op("GreaterOrEqual", moved, size)
    code = g.op(
        "Add", g.op("Cast", wrapped, to=INT), g.op("Mul", g.op("Cast", padding, to=INT), g.numbers(2))
    )
    token = g.op("Min", moved, g.op("Sub", size, g.numbers(1)))
    place = g.op("Mod", g.op("Add", _range(g, size), g.op("Sub", padded, shift)), padded)
    return Axis(size, window, count, padded, token, code, place)


def write_block(
    g: Graph, x: str, block: FoldedBlock, stage: Stage, windows: Windows, position: Callable[[], str]
) -> str:
    """[B, H*W, C] -> [B, H*W, C]; position() writes the position bias."""
    C, h = stage.dim, block.heads
    d, N, every = C // h, windows.tokens, g.numbers(-1)
    with g.scope("attention"):
        many = g.op("Mul", windows.count, g.numbers(h))
        shapes = Shapes(
            tokens=g.op("Concat", every, N, g.numbers(C), axis=0),
            heads=g.op("Concat", every, N, g.numbers(h, d), axis=0),
            own=g.op("Concat", every, many, N, g.numbers(d), axis=0),
            scores=g.op("Concat", every, many, N, N, axis=0),
            each=g.op("Concat", g.numbers(-1, h), N, N, axis=0),
            split=g.op("Concat", g.numbers(-1, h), N, g.numbers(d), axis=0),
        )
        bias = g.op("Add", position(), windows.mask)  # n h N N
        bias = g.op("Reshape", bias, g.op("Concat", g.numbers(1), many, N, N, axis=0))
    y = g.op("Reshape", g.op("Gather", x, windows.into, axis=1), shapes.tokens)  # B*n N C
    y = attend(g, y, block, shapes, bias)
    y = g.op("Reshape", y, g.op("Concat", every, g.op("Mul", windows.count, N), g.numbers(C), axis=0))
    return add_branches(g, x, g.op("Gather", y, windows.back, axis=1), block)


def position_bias(
    g: Graph, attn: WindowAttention, stage: Stage, trained: Pair, largest: int, windows: Windows
) -> str:
    """[1, h, N, N] for these windows: a corner of that of the largest, since only distances matter.

    Args:
        trained: the window of the training, which gives distances their unit. Where it was one token, the window
            of today does (config.stages), so that the bias has to be computed.
    """
    M, h = largest, attn.heads
    offsets = Offsets.compute((M, M), stage.span, attn.logit_scale.device)
    if min(trained) > 1:
        full = g.constant("bias", values(attn.position_bias(offsets)).reshape(1, h, M, M, M, M))
    else:
        spans = [
            g.op("Max", g.op("Sub", today, g.numbers(1)), g.numbers(1)) if then == 1 else g.numbers(then - 1)
            for then, today in zip(trained, windows.sides, strict=True)
        ]
        distances = np.stack(
            np.meshgrid(*[np.arange(1 - M, M, dtype=np.float32)] * 2, indexing="ij"), axis=-1
        )
        table = _computed_bias(g, attn, distances.reshape(-1, 2), g.op("Concat", *spans, axis=0))  # h pairs
        full = g.op("Gather", table, g.exact("rows", offsets.rows.flatten().numpy()), axis=1)
        full = g.op("Reshape", full, g.numbers(1, h, M, M, M, M))
    ends = g.op("Concat", *windows.sides, *windows.sides, axis=0)
    corner = g.op("Slice", full, g.numbers(0, 0, 0, 0), ends, g.numbers(2, 3, 4, 5))
    return g.op("Reshape", corner, g.op("Concat", g.numbers(1, h), windows.tokens, windows.tokens, axis=0))


def _computed_bias(g: Graph, attn: WindowAttention, distances: np.ndarray, spans: str) -> str:
    """The MLP of the position bias: distances [pairs, 2] in tokens, spans [2] -> [h, pairs]; section 3.3."""
    one, eight = g.number(1, np.float32), g.number(8, np.float32)
    x = g.op("Div", g.exact("distances", distances), g.op("Cast", spans, to=FLOAT))
    logs = g.op("Log", g.op("Add", g.op("Abs", g.op("Mul", x, eight)), one))
    x = g.op("Mul", g.op("Sign", x), g.op("Div", logs, g.number(math.log(8), np.float32)))
    first, _, second = attn.cpb_mlp
    x = g.op("MatMul", x, g.exact("first", values(first.weight).T))  # type: ignore[arg-type]
    x = g.op("Relu", g.op("Add", x, g.exact("first.bias", values(first.bias))))  # type: ignore[arg-type]
    x = g.op("Sigmoid", g.op("MatMul", x, g.exact("second", values(second.weight).T)))  # type: ignore[arg-type]
    x = g.op("Transpose", g.op("Mul", x, g.number(16, np.float32)), perm=[1, 0])
    return g.op("Cast", x, to=HALF) if g.dtype == np.float16 else x


def _parts(g: Graph, size: str, part: str) -> str:
    """How many parts cover a size."""
    return g.op("Div", g.op("Sub", g.op("Add", size, part), g.numbers(1)), part)


def _range(g: Graph, end: str) -> str:
    """0, 1, ..., end - 1."""
    zero, one = g.number(0, np.int64), g.number(1, np.int64)
    return g.op("Range", zero, g.op("Squeeze", end, g.numbers(0)), one)
