"""What SimMIM hides of a picture, and what it asks for (arXiv 2111.09886, section 3).

Squares of mask_patch pixels are hidden, the same number in each picture. The loss is the mean absolute
difference of the hidden pixels, which are first normalised by the mean and deviation of their neighbourhood.
"""

# B batch, H W pixels, h w tokens (patches of the patch embedding), C colours

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from swinv2.config import Pair, SwinV2Config
from swinv2.train.recipes.recipe import Recipe

EPSILON = 1e-6  # official; added to the variance


@dataclass(frozen=True)
class Masks:
    """Which squares are hidden.

    Args:
        square: pixels a side of what is hidden in one piece.
        ratio: share of the squares that is hidden, rounded up: 22 of 36.
        patch: pixels a side of a token.
        seed: of all choices.
    """

    square: int
    ratio: float
    patch: int
    seed: int

    @classmethod
    def of(cls, recipe: Recipe, config: SwinV2Config) -> Masks:
        """The masks of a recipe.

        Raises:
            ValueError: squares that do not fill the pictures, or that tokens do not fill.
        """
        masks = cls(recipe.mask_patch, recipe.mask_ratio, config.patch_size, recipe.seed)
        if masks.square % masks.patch:
            raise ValueError(
                f"mask_patch is {masks.square}, and tokens are {masks.patch} pixels a side; give a multiple of that"
            )
        stride = config.patch_size * 2 ** (len(config.depths) - 1)
        unit = math.lcm(masks.square, stride)
        for size in (config.image_size, *((side, side) for side in recipe.sizes.values())):
            if any(side % unit for side in size):
                raise ValueError(
                    f"pictures of {size[0]} x {size[1]} pixels cannot be divided into squares of {masks.square} "
                    f"and features of {stride}; give an image size that is a multiple of {unit}"
                )
            if masks.hidden(size) == (size[0] // masks.square) * (size[1] // masks.square):
                raise ValueError(
                    f"mask_ratio {masks.ratio:g} hides all squares of {masks.square} pixels in a picture of "
                    f"{size[0]} x {size[1]}; give a lower ratio or smaller squares"
                )
        return masks

    def hidden(self, size: Pair) -> int:
        """Squares that are hidden in a picture of this size."""
        return math.ceil(size[0] // self.square * (size[1] // self.square) * self.ratio)

    def draw(self, size: Pair, keys: Iterable[tuple[int, ...]]) -> Tensor:
        """[B, h, w], true where a token is hidden; row i follows from (seed, key i) alone. On the CPU."""
        rows, cols = size[0] // self.square, size[1] // self.square
        chosen = []
        for key in keys:
            order = np.random.default_rng((self.seed, *key)).permutation(rows * cols)
            chosen.append(order < self.hidden(size))  # a permutation: exactly so many are below
        squares = torch.from_numpy(np.array(chosen, dtype=bool).reshape(-1, rows, cols))
        return enlarged(squares, self.square // self.patch)


def enlarged(mask: Tensor, times: int) -> Tensor:
    """[B, h, w] -> [B, times * h, times * w]: tokens for squares, or pixels for tokens."""
    return mask.repeat_interleave(times, 1).repeat_interleave(times, 2)


def neighbourhood(images: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each colour in the side x side pixels around each, both [B, C, H, W].

    At a border they are those of the pixels that exist. The deviation has EPSILON in it, and is that of a sample
    (divided by n - 1), as in the official code.
    """

    def mean(x: Tensor) -> Tensor:  # along one axis, then the other: 2 * side instead of side^2 pixels to add
        for kernel in ((side, 1), (1, side)):
            padding = kernel[0] // 2, kernel[1] // 2
            x = F.avg_pool2d(x, kernel, stride=1, padding=padding, count_include_pad=False)
        return x

    def within(length: int) -> Tensor:  # pixels around each place of an axis
        place = torch.arange(length, device=images.device)
        return (place + side // 2).clamp(max=length - 1) - (place - side // 2).clamp(min=0) + 1

    images = images.float()
    means = mean(images)
    count = within(images.shape[2])[:, None] * within(images.shape[3])  # H W
    variance = (mean(images.square()) - means.square()) * (count / (count - 1))
    return means, (variance.clamp(min=0) + EPSILON).sqrt()


def targets(images: Tensor, side: int) -> Tensor:
    """[B, C, H, W] in float32: what is to be reconstructed; 0 for the pixels as they are."""
    if not side:
        return images.float()
    mean, deviation = neighbourhood(images, side)
    return (images.float() - mean) / deviation


def hidden_error(predicted: Tensor, wanted: Tensor, hidden: Tensor) -> Tensor:
    """[B]: the mean absolute error of the hidden pixels of each picture.

    Args:
        predicted, wanted: [B, C, H, W].
        hidden: [B, h, w]; each picture hides at least one token.
    """
    pixels = enlarged(hidden, wanted.shape[2] // hidden.shape[1])[:, None]  # B 1 H W
    error = (predicted.float() - wanted).abs() * pixels
    return error.sum((1, 2, 3)) / (pixels.sum((1, 2, 3)) * wanted.shape[1])
