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
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from swinv2.data.loader import AsPredicted
from swinv2.data.order import Key
from swinv2.extras import require
from swinv2.preprocess import Preprocess
from swinv2.train.recipes.recipe import Settled

if TYPE_CHECKING:
    from PIL import Image

Augmentation = Callable[[Any], Tensor]  # Pillow image -> [C, H, W], normalised


class Augment:
    """What a recipe does to the pictures of the training part; at another size in the epochs that have one."""

    def __init__(self, recipe: Settled, preprocess: Preprocess):
        self.recipe, self.preprocess = recipe, preprocess
        self.by_size: dict[int | None, Augmentation] = {None: _augmentation(recipe, preprocess)}
        for size in recipe.sizes.values():
            self.by_size[size] = _augmentation(recipe, at_size(preprocess, size))

    def __call__(self, image: Any, key: Key) -> Tensor:
        """One picture as it looks in an epoch; the same wherever it stands in a batch."""
        augmentation = self.by_size[self.recipe.size_at(key.epoch)]
        with seeded(self.recipe.seed, key.epoch, key.index):
            return augmentation(image)


@contextmanager
def seeded(*keys: int | str) -> Iterator[None]:
    """Inside, every random number follows from the keys; outside, nothing has happened.

    torchvision draws from torch, timm also from random and numpy.
    """
    seed = seed_of(*keys)
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


def seed_of(*keys: int | str) -> int:
    """A seed for a generator, of 64 bits, that is another one for other keys."""
    return int.from_bytes(hashlib.blake2b(repr(keys).encode(), digest_size=8).digest(), "little")


class Mix:
    """Mixup or CutMix of a batch, by timm: one of the two and one strength for the whole batch.

    What is drawn follows from (seed, step), so that the parts of a step are mixed alike. A picture is mixed with
    the one as far from the end as it is from the start; the order of a run keeps such pairs in one part.

    Args:
        recipe: mixup and cutmix are the parameters of their beta distributions; 0 leaves one out.
    """

    def __init__(self, recipe: Settled, classes: int):
        self.seed, self.classes = recipe.seed, classes
        self.mixup: Any = None
        if (recipe.mixup or recipe.cutmix) and recipe.mix_prob:
            self.mixup = require("timm.data", extra="train").Mixup(
                mixup_alpha=recipe.mixup,
                cutmix_alpha=recipe.cutmix,
                prob=recipe.mix_prob,
                switch_prob=recipe.mix_switch_prob,
                label_smoothing=0.0,  # by the loss
            )

    @property
    def is_on(self) -> bool:
        """Whether pictures may be mixed, and so have no one label."""
        return self.mixup is not None

    def __call__(self, images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Images [B, C, H, W] with labels [B] or [B, classes] -> the same, or mixed with targets [B, classes]."""
        if not self.is_on:
            return images, labels
        count = len(images)
        if labels.ndim == 1:
            labels = F.one_hot(labels, self.classes)
        # timm mixes in place, and pairs of pictures only: of an odd batch, the first one is its own partner.
        doubled = torch.arange(count + count % 2, device=images.device) % count
        images = images[doubled]
        with seeded(self.seed, step):
            self.mixup.num_classes = len(doubled)
            images, shares = self.mixup(images, torch.arange(len(doubled), device=images.device))
        # shares [B, B]: how much of each picture is in each
        return images[:count], (shares @ labels[doubled].to(shares))[:count]


def at_size(preprocess: Preprocess, size: int) -> Preprocess:
    """The same preprocessing for images of so many pixels a side."""
    scale = size / min(preprocess.size)
    return replace(preprocess, size=(size, size), resize_to=round(preprocess.resize_to * scale))


def _augmentation(recipe: Settled, preprocess: Preprocess) -> Augmentation:
    return {"photo": _photo, "small": _small, "none": _none}[recipe.augment](recipe, preprocess)


def _none(recipe: Settled, preprocess: Preprocess) -> Augmentation:
    return AsPredicted(preprocess)


def _photo(recipe: Settled, preprocess: Preprocess) -> Augmentation:
    create_transform = require("timm.data", extra="train").create_transform
    pipeline = create_transform(
        preprocess.size,
        is_training=True,
        scale=recipe.crop_scale,
        hflip=0.5 if recipe.flip else 0.0,
        color_jitter=recipe.color_jitter
        or None,  # timm leaves it out where RandAugment is on, as the official runs do
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


def _small(recipe: Settled, preprocess: Preprocess) -> Augmentation:
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
