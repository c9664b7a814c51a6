"""The folded network in ncnn's layers, for one image at a time.

Written by hand rather than through a tracer: no reshape has a batch to be guessed, every product is a Gemm (the
layer that ncnn has tuned on all processors), and attention is one layer per block.
"""

# H W map, M window, nh nw windows per axis, n = nh*nw, N = Mh*Mw tokens, h heads, d head dim, C = h*d

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from swinv2.config import Pair, Stage
from swinv2.fold import FoldedBlock, FoldedMerging, FoldedPatchEmbed, FoldedSwinV2
from swinv2.ops.windows import NORM_FLOOR, padded
from swinv2.runtimes.ncnn.layers import Network, plain, sized

INPUT, OUTPUT = "image", "logits"
ADD, MEAN = 0, 3  # of BinaryOp; of Reduction
TRANSPOSED, SWAPPED = 1, 2  # Permute: [a, b] -> [b, a]; [a, b, c, d] -> [a, c, b, d]
NONE, PER_COLUMN = -1, 4  # what Gemm adds
REST = -233  # of Slice: what is left


def network(folded: FoldedSwinV2, *, half: bool) -> Network:
    """[in_chans, height, width] -> [num_classes]."""
    net = Writer(half=half)
    x = net.add("Input", INPUT, **sized(folded.config.in_chans, *folded.image_size))
    for i, parts in enumerate(folded.stages):
        stage: Stage = parts.stage  # type: ignore[assignment]
        for j, part in enumerate(parts):  # type: ignore[arg-type, var-annotated]
            name = f"stages.{i}.{j}"
            if isinstance(part, FoldedPatchEmbed):
                x = net.patch_embed(name, x, part, folded.image_size)
            elif isinstance(part, FoldedMerging):
                x = net.merging(name, x, part, stage)
            else:
                x = net.block(name, x, part, stage)  # type: ignore[arg-type]
    x = net.norm("norm", x, folded.norm)
    has_head = isinstance(folded.head, nn.Linear)
    pool = "pool" if has_head else OUTPUT
    x = net.add("Reduction", pool, x, operation=MEAN, all_axes=0, axes=[0], axes_from_0=1)
    if has_head:
        weight, bias = array(folded.head.weight), array(folded.head.bias)  # type: ignore[arg-type]
        stored = [net.tagged(weight), plain(bias)]
        net.add(
            "InnerProduct",
            OUTPUT,
            x,
            weights=stored,
            outputs=len(weight),
            has_bias=1,
            weights_in_all=weight.size,
        )
    return net


class Writer(Network):
    """Parts of SwinV2; tokens are [H*W, C] between them."""

    def patch_embed(self, name: str, x: str, embed: FoldedPatchEmbed, size: Pair) -> str:
        """[in_chans, height, width] -> [H*W, C]."""
        weight, patch = array(embed.proj.weight), embed.proj.stride[0]
        H, W = (-(-side // patch) for side in size)
        if (H * patch, W * patch) != size:
            x = self.add("Padding", f"{name}.pad", x, bottom=H * patch - size[0], right=W * patch - size[1])
        x = self.add(
            "Convolution", f"{name}.proj", x, weights=[self.tagged(weight), plain(array(embed.proj.bias))],
            outputs=len(weight), kernel=patch, stride=patch, has_bias=1, weights_in_all=weight.size,
        )  # fmt: skip
        x = self.reshape(f"{name}.flat", x, len(weight), H * W)
        return self.norm(
            f"{name}.norm", self.add("Permute", f"{name}.tokens", x, order=TRANSPOSED), embed.norm
        )

    def merging(self, name: str, x: str, merging: FoldedMerging, stage: Stage) -> str:
        """[H*W, C] -> [H/2*W/2, 2C]."""
        (H, W), C = stage.grid, stage.dim
        x = self.fill(f"{name}.pad", x, stage.grid, even := (H + H % 2, W + W % 2), C)
        x = self.reshape(f"{name}.rows", x, even[0] // 2, 2, even[1] // 2, 2 * C)
        x = self.add("Permute", f"{name}.neighbours", x, order=SWAPPED)  # H/2 W/2 2 2C
        x = self.reshape(f"{name}.tokens", x, even[0] * even[1] // 4, 4 * C)
        weight = array(merging.reduction.weight)  # 2C 4C, neighbours (0,0), (1,0), (0,1), (1,1)
        first, below, right, diagonal = np.split(weight, 4, axis=1)
        x = self.product(
            f"{name}.reduction", x, np.concatenate([first, right, below, diagonal], axis=1), None
        )
        return self.norm(f"{name}.norm", x, merging.norm)

    def block(self, name: str, x: str, block: FoldedBlock, stage: Stage) -> str:
        y = self.linear(f"{name}.proj", self.attend(name, x, block, stage), block.proj)
        y = self.norm(f"{name}.norm1", y, block.norm1)
        x = self.add("BinaryOp", f"{name}.add1", x, y, operation=ADD)
        y = self.add("GELU", f"{name}.gelu", self.linear(f"{name}.fc1", x, block.fc1))
        y = self.norm(f"{name}.norm2", self.linear(f"{name}.fc2", y, block.fc2), block.norm2)
        x = self.add("BinaryOp", f"{name}.add2", x, y, operation=ADD)
        return x if block.norm3 is None else self.norm(f"{name}.norm3", x, block.norm3)

    def attend(self, name: str, x: str, block: FoldedBlock, stage: Stage) -> str:
        """[H*W, C] -> [H*W, C], before the output projection."""
        C, h, window = stage.dim, block.heads, block.window
        full, d, N = padded(stage.grid, window), C // h, window[0] * window[1]
        n = full[0] * full[1] // N
        x = self.fill(f"{name}.pad", x, stage.grid, full, C)
        x = self.shifted(f"{name}.shift", x, full, block.shift, C)
        x = self.partition(f"{name}.windows", x, full, window, C)  # n*N C
        heads = {}
        weights, added = np.split(array(block.qkv.weight), 3), np.split(array(block.qkv.bias), 3)
        for part, weight, vector in zip("qkv", weights, added, strict=True):
            y = self.product(
                f"{name}.{part}", x, weight, None if part == "k" else vector
            )  # the k bias is zero
            y = self.reshape(f"{name}.{part}.split", y, n, N, h, d)
            y = self.add("Permute", f"{name}.{part}.swap", y, order=SWAPPED)
            heads[part] = self.reshape(f"{name}.{part}.heads", y, n * h, N, d)
        for part in "qk":  # to a root mean square of 1, so a length of d**.5
            floor = NORM_FLOOR**2 / d
            heads[part] = self.add("RMSNorm", f"{name}.{part}.unit", heads[part], size=d, eps=floor, affine=0)
        scale = np.tile(np.exp(array(block.logit_scale).reshape(h)) / d, n)
        q = self.add("Scale", f"{name}.q.scaled", heads["q"], weights=[plain(scale)], size=n * h)
        bias = self.bias(name, block, n)
        x = self.add("SDPA", f"{name}.attention", q, heads["k"], heads["v"], bias, has_bias=1, scale=1.0)
        x = self.reshape(f"{name}.joined", x, n, h, N, d)
        x = self.add("Permute", f"{name}.merge", x, order=SWAPPED)
        x = self.restore(f"{name}.map", x, full, window, C)
        back = tuple((side - by) % side for side, by in zip(full, block.shift, strict=True))
        x = self.shifted(f"{name}.unshift", x, full, back, C)  # type: ignore[arg-type]
        return self.cut(f"{name}.cut", x, full, stage.grid, C)

    def bias(self, name: str, block: FoldedBlock, n: int) -> str:
        """[n*h, N, N]; stored once where it is the same for all windows."""
        values = array(block.bias)
        values = values.reshape(-1, *values.shape[-2:])
        x = self.add(
            "MemoryData", f"{name}.bias", weights=[self.tagged(values)], **sized(*values.shape), raw=0
        )
        return (
            self.add("Tile", f"{name}.bias.tiled", x, axis=0, times=n)
            if block.bias.ndim == 3 and n > 1
            else x
        )

    def partition(self, name: str, x: str, size: Pair, window: Pair, C: int) -> str:
        """[H*W, C] -> [n*N, C]."""
        (H, W), (Mh, Mw) = size, window
        if Mw < W:
            x = self.reshape(f"{name}.rows", x, H // Mh, Mh, W // Mw, Mw * C)
            x = self.add("Permute", f"{name}.swap", x, order=SWAPPED)
        return self.reshape(name, x, H * W, C)

    def restore(self, name: str, x: str, size: Pair, window: Pair, C: int) -> str:
        """The values of [n*N, C], in any shape -> [H*W, C]."""
        (H, W), (Mh, Mw) = size, window
        if Mw < W:
            x = self.reshape(f"{name}.rows", x, H // Mh, W // Mw, Mh, Mw * C)
            x = self.add("Permute", f"{name}.swap", x, order=SWAPPED)
        return self.reshape(name, x, H * W, C)

    def shifted(self, name: str, x: str, size: Pair, by: Pair, C: int) -> str:
        """[H*W, C], moved up and left, wrapping around."""
        (H, W), (up, left) = size, by
        if up:
            x = self.turned(f"{name}.rows", self.reshape(f"{name}.by_row", x, H, W * C), 0, up)
        if left:
            x = self.turned(f"{name}.columns", self.reshape(f"{name}.by_column", x, H, W, C), 1, left)
        return self.reshape(name, x, H * W, C) if up or left else x

    def turned(self, name: str, x: str, axis: int, by: int) -> str:
        names = [f"{name}.first", f"{name}.rest"]
        first, rest = self.add_several("Slice", f"{name}.cut", x, names=names, sizes=[by, REST], axis=axis)
        return self.add("Concat", name, rest, first, axis=axis)

    def fill(self, name: str, x: str, size: Pair, to: Pair, C: int) -> str:
        """[H*W, C] with zeros right and bottom."""
        if size == to:
            return x
        x = self.reshape(f"{name}.map", x, *size, C)  # ncnn's words for these axes are c, h, w
        x = self.add("Padding", name, x, behind=to[0] - size[0], bottom=to[1] - size[1])
        return self.reshape(f"{name}.tokens", x, to[0] * to[1], C)

    def cut(self, name: str, x: str, size: Pair, to: Pair, C: int) -> str:
        """The inverse of fill."""
        if size == to:
            return x
        x = self.reshape(f"{name}.map", x, *size, C)
        x = self.add("Crop", name, x, c=to[0], h=to[1], w=C)
        return self.reshape(f"{name}.tokens", x, to[0] * to[1], C)

    def reshape(self, name: str, x: str, *shape: int) -> str:
        return self.add("Reshape", name, x, **sized(*shape))

    def linear(self, name: str, x: str, layer: nn.Linear) -> str:
        return self.product(name, x, array(layer.weight), array(layer.bias))

    def product(self, name: str, x: str, weight: np.ndarray, bias: np.ndarray | None) -> str:
        """[M, K] -> [M, N]."""
        N, K = weight.shape
        stored = [self.tagged(values) for values in (weight, bias) if values is not None]
        kind = NONE if bias is None else PER_COLUMN
        return self.add(
            "Gemm",
            name,
            x,
            weights=stored,
            transposed_b=1,
            constant_b=1,
            constant_c=1,
            n=N,
            k=K,
            kind_of_c=kind,
        )

    def norm(self, name: str, x: str, norm: nn.LayerNorm) -> str:
        stored = [plain(array(norm.weight)), plain(array(norm.bias))]
        return self.add(
            "LayerNorm", name, x, weights=stored, size=norm.normalized_shape[0], eps=float(norm.eps)
        )


def array(tensor: Tensor | None) -> np.ndarray:
    assert tensor is not None
    return tensor.detach().to(torch.float32).numpy()
