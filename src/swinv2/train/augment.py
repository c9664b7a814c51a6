"""From a decoded picture to one training tensor, and the mixing of a whole batch.

photo is timm's training pipeline with the settings of the paper; small moves, turns and scales the whole
picture and is made for pictures of a few dozen pixels, where a crop loses the subject. What a picture looks
like is decided by (seed, epoch, index) alone, so that neither the number of workers nor their order changes a
run.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from swinv2.data.loader import AsPredicted
from swinv2.extras import require
from swinv2.preprocess import Preprocess
from swinv2.train.recipe import Recipe

if TYPE_CHECKING:
    from PIL import Image

Augmentation = Callable[[Any], Tensor]  # Pillow image -> [C, H, W], normalised


class Augment:
    """What a recipe does to the pictures of the training part."""

    def __init__(self, recipe: Recipe, preprocess: Preprocess):
        kinds = {"photo": _photo, "small": _small, "none": _none}
        self.seed, self.augmentation = recipe.seed, kinds[recipe.augment](recipe, preprocess)

    def __call__(self, image: Any, key: tuple[int, int]) -> Tensor:
        """One picture as it looks in (epoch, index)."""
        with seeded(self.seed, *key):
            return self.augmentation(image)


@contextmanager
def seeded(*keys: int) -> Iterator[None]:
    """Inside, every random number follows from the keys; outside, nothing has happened.

    torchvision draws from torch, timm also from random and numpy.
    """
    seed = int.from_bytes(hashlib.blake2b(repr(keys).encode(), digest_size=8).digest(), "little")
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would also reseed every accelerator
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])


class Mix:
    """Mixup or CutMix, one of the two chosen for every batch; any batch size, also 1.

    Args:
        recipe: mixup and cutmix are the parameters of their beta distributions; 0 leaves one out.
    """

    def __init__(self, recipe: Recipe, classes: int):
        v2 = require("torchvision.transforms.v2", extra="train")
        self.seed = recipe.seed
        self.kinds = [
            kind(alpha=alpha, num_classes=classes)
            for kind, alpha in ((v2.MixUp, recipe.mixup), (v2.CutMix, recipe.cutmix))
            if alpha > 0
        ]

    def __call__(self, images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Images [B, C, H, W] and labels [B] -> the same, or mixed images and targets [B, classes]."""
        if not self.kinds:
            return images, labels
        with seeded(self.seed, step):
            return random.choice(self.kinds)(images, labels)


def _none(recipe: Recipe, preprocess: Preprocess) -> Augmentation:
    return AsPredicted(preprocess)


def _photo(recipe: Recipe, preprocess: Preprocess) -> Augmentation:
    create_transform = require("timm.data", extra="train").create_transform
    pipeline = create_transform(
        preprocess.size,
        is_training=True,
        scale=recipe.crop_scale,
        hflip=0.5 if recipe.flip else 0.0,
        color_jitter=0.4,  # timm leaves it out where RandAugment is on, as the official runs do
        auto_augment=None if recipe.auto_augment == "none" else recipe.auto_augment,
        interpolation=preprocess.interpolation,
        mean=preprocess.mean,
        std=preprocess.std,
        re_prob=recipe.random_erasing,
        re_mode="pixel",
    )
    for step in pipeline.transforms:
        for op in getattr(step, "ops", ()):
            if op.name.startswith("Posterize"):
                op.aug_fn = posterize
    return pipeline


def posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """Keep so many bits of every colour.

    timm's strongest RandAugment keeps 0, which was a black picture up to Pillow 12 (the official runs had it) and
    is an error since Pillow 13.
    """
    from PIL import Image, ImageOps

    if bits >= 8:
        return image
    return ImageOps.posterize(image, bits) if bits > 0 else Image.new(image.mode, image.size)


def _small(recipe: Recipe, preprocess: Preprocess) -> Augmentation:
    v2 = require("torchvision.transforms.v2", extra="train")
    height, width = preprocess.size
    bicubic, bilinear = v2.InterpolationMode.BICUBIC, v2.InterpolationMode.BILINEAR
    squash = preprocess.resize == "squash" or height != width
    margin = width // 4, height // 4
    # RandomAffine counts moves in shares of the padded picture, the recipe in shares of the picture.
    move = tuple(
        recipe.shift * side / (side + 2 * more) for side, more in zip((width, height), margin, strict=True)
    )
    steps = [
        v2.Resize((height, width) if squash else min(height, width), interpolation=bicubic),
        v2.CenterCrop((height, width)),
        # The border is continued outwards before the picture moves: no black edge tells where it came from.
        v2.Pad(margin, padding_mode="edge"),
        v2.RandomAffine(recipe.rotate, move, (1 - recipe.zoom, 1 + recipe.zoom), interpolation=bilinear),
        v2.CenterCrop((height, width)),
    ]
    if recipe.flip:
        steps.append(v2.RandomHorizontalFlip())
    steps += [
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(preprocess.mean, preprocess.std),
    ]
    return v2.Compose(steps)
