"""What a recipe leaves open, chosen from the number of pictures and classes and from the model.

Two tables, one for a start from weights and one for a start from nothing; a run takes the first row that its number
of training pictures fits into. docs/recipes.md explains the columns; the reasons in short:

- epochs: a small set needs many passes to take enough steps, a large one few. Whatever the row says, a run takes at
  least MIN_STEPS steps: an optimizer needs them to get anywhere, however few the pictures.
- batch: an epoch of a small set should still be a dozen steps or more.
- crops, RandAugment, erasing: a crop of 8 % of a picture teaches a million pictures and confuses a thousand. What
  starts from nothing on a few thousand has enough to learn without RandAugment, erasing and dropped branches
  (docs/log.md).
- mixup, cutmix: regularise long runs on many pictures of each class; in short ones they only slow learning down.
- bottom: the patch embedding of trained weights learns with this share of the rate. The fewer the pictures, the more
  is kept of what the weights know. The layer decay follows from it and from the depth, so that deep and shallow
  models hold on to their bottom alike.
- drop path: the rates of the architectures are made for 300 epochs.
- rate: proportional to the root of the batch, as Adam's steps are normalised (a given lr stays proportional), and to
  1 / width: the wider the layers, the more a step of the same size changes their output.
"""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any, NamedTuple

from swinv2.config import VARIANTS, SwinV2Config
from swinv2.train.recipes.recipe import Recipe, Settled


class Row(NamedTuple):
    """Settings for up to so many training pictures."""

    images: float
    batch: int
    epochs: int
    bottom: float
    drop_path: float
    crop: float
    auto_augment: str
    erasing: float
    mixup: float
    cutmix: float


_M5, _M7, _M9 = (f"rand-m{m}-mstd0.5-inc1" for m in (5, 7, 9))
FROM_WEIGHTS = (
    # up to images  batch  epochs bottom drop path crop  RandAugment erasing mixup cutmix
    Row(200,        8,     40,    0.03,  0.1,      0.5,  _M5,        0.0,    0.0,  0.0),
    Row(1_000,      16,    30,    0.05,  0.1,      0.5,  _M5,        0.0,    0.0,  0.0),
    Row(5_000,      32,    20,    0.05,  0.1,      0.35, _M7,        0.1,    0.0,  0.0),
    Row(20_000,     64,    15,    0.1,   0.2,      0.25, _M7,        0.1,    0.0,  0.0),
    Row(100_000,    64,    12,    0.2,   0.2,      0.2,  _M9,        0.25,   0.2,  0.5),
    Row(math.inf,   128,   10,    0.5,   0.2,      0.08, _M9,        0.25,   0.8,  1.0),
)  # fmt: skip
FROM_NOTHING = (
    Row(1_000,      16,    150,   1.0,   0.0,      0.5,  "none",     0.0,    0.0,  0.0),
    Row(5_000,      32,    100,   1.0,   0.0,      0.35, "none",     0.0,    0.0,  0.0),
    Row(20_000,     64,    80,    1.0,   1.0,      0.25, _M7,        0.1,    0.2,  0.5),
    Row(100_000,    128,   100,   1.0,   1.0,      0.15, _M9,        0.25,   0.8,  1.0),
    Row(math.inf,   256,   100,   1.0,   1.0,      0.08, _M9,        0.25,   0.8,  1.0),
)  # fmt: skip

# At a batch of 64 and the width of the tiny model. From nothing: near the official 1e-3 at 1024.
RATE_FROM_WEIGHTS, RATE_FROM_NOTHING = 2e-4, 3e-4
RATE_BATCH, RATE_WIDTH = 64, 96
MIN_STEPS = 1000
MAX_EPOCHS = 300  # for a handful of pictures, which more steps would only learn by heart
WARMUP_SHARE, MAX_WARMUP_EPOCHS = 0.1, 20
MIN_MIXED = 50  # pictures of a class, on average, below which pictures are not mixed
# An average over a twentieth of the run. Below 500 steps it would still hold what the run began with.
EMA_SHARE, EMA_STEPS, MAX_EMA = 0.05, 500, 0.9999


def settle(recipe: Recipe, *, images: int, classes: int, config: SwinV2Config | None = None) -> Settled:
    """The recipe with everything that it leaves open chosen; what is given stays.

    Args:
        images: training pictures; classes: what they are divided into.
        config: of the model; default is the tiny one.
    """
    config = config or VARIANTS["swinv2_tiny_window8_256"]
    table, rate = (
        (FROM_WEIGHTS, RATE_FROM_WEIGHTS) if recipe.pretrained else (FROM_NOTHING, RATE_FROM_NOTHING)
    )
    row = next(row for row in table if images <= row.images)
    batch = recipe.batch_size or min(row.batch, 2 ** int(math.log2(max(images, 1))))
    steps_per_epoch = max(images // batch, 1)
    epochs = recipe.epochs or max(row.epochs, min(math.ceil(MIN_STEPS / steps_per_epoch), MAX_EPOCHS))
    steps = epochs * steps_per_epoch
    if recipe.lr is not None:
        lr = recipe.lr
    else:
        rate *= math.sqrt(batch / RATE_BATCH) * RATE_WIDTH / config.embed_dim
        lr = _short(rate * recipe.reference_batch / batch)
    is_mixed = images >= MIN_MIXED * classes
    groups = sum(config.depths) + 1  # below the head: the patch embedding, and every block
    chosen: dict[str, Any] = {
        "batch_size": batch,
        "epochs": epochs,
        "warmup_epochs": _short(min(WARMUP_SHARE * epochs, MAX_WARMUP_EPOCHS)),
        "lr": lr,
        "warmup_lr": _short(lr / 1000),
        "min_lr": _short(lr / 100),
        "layer_decay": _short(row.bottom ** (1 / groups)),
        "ema": _short(min(1 - 1 / (EMA_SHARE * steps), MAX_EMA), 4) if steps >= EMA_STEPS else 0.0,
        "drop_path": min(row.drop_path, config.drop_path),
        "crop_scale": (row.crop, 1.0),
        "auto_augment": row.auto_augment,
        "random_erasing": row.erasing,
        "mixup": row.mixup if is_mixed else 0.0,
        "cutmix": row.cutmix if is_mixed else 0.0,
    }
    given = {field.name: getattr(recipe, field.name) for field in fields(Recipe)}
    return Settled(**given | {name: value for name, value in chosen.items() if given[name] is None})


def _short(value: float, digits: int = 3) -> float:
    """Rounded to what a person would write."""
    return float(f"{value:.{digits}g}")
