"""Where a run starts: the network with its weights, its preprocessing, what the recipe leaves open, and the folder
it will write to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from swinv2 import checkpoints
from swinv2.config import ALIASES, published, resolve
from swinv2.data.split import Split
from swinv2.model import SwinV2, create_model
from swinv2.preprocess import Preprocess
from swinv2.train.method.loss import Loss
from swinv2.train.recipes.recipe import Recipe, Settled


def build(model: str, recipe: Recipe, classes: tuple[str, ...]) -> SwinV2:
    """The network of a run, with the weights that the recipe starts from.

    The head starts anew where the weights know other classes than these, also where they are as many.

    Raises:
        ValueError: a name without published weights and a recipe that wants them, or the other way around.
    """
    size, drop_path = recipe.image_size, recipe.drop_path
    if not recipe.pretrained:
        if Path(model).exists():
            raise ValueError(f"{model} has weights, and the recipe starts from random ones; give a name")
        return create_model(model, num_classes=len(classes), image_size=size, drop_path=drop_path)
    if _is_name(model) and not published(resolve(model)):
        raise ValueError(
            f"no weights of {model} are published; give a model file, or start from random weights with "
            f"--recipe scratch_small (small pictures) or --pretrained false"
        )
    network = checkpoints.load(model, num_classes=len(classes), image_size=size, drop_path=drop_path)
    known = network.record
    if known and known.classes and classes not in (known.classes, known.synsets):
        assert isinstance(network.head, nn.Linear)
        nn.init.trunc_normal_(network.head.weight, std=0.02)
        nn.init.zeros_(network.head.bias)
        network.record = replace(known, classes=(), synsets=())
    return network


def settle(network: SwinV2, recipe: Recipe, train: Split) -> Settled:
    """Choose what the recipe leaves open for this network and these pictures, and prepare the network for it."""
    settled = recipe.settled(images=len(train), classes=len(train.classes), config=network.config)
    if settled.drop_path is not None:
        network.set_drop_path(settled.drop_path)
    network.checkpointing = settled.checkpointing
    network.residual = torch.bfloat16 if settled.precision == "bf16_all" else None
    is_new = network.record is None or not network.record.classes
    if is_new and Loss.of(settled, train).is_binary and isinstance(network.head, nn.Linear):
        # Each class starts as likely as it is: from one half, the first steps only learn that most answers are no.
        shares = torch.tensor(train.counts, dtype=torch.float32) / max(len(train), 1)
        with torch.no_grad():
            network.head.bias.copy_(shares.clamp(1e-4, 1 - 1e-4).logit())
    return settled


def preprocessing(network: SwinV2, recipe: Recipe) -> Preprocess:
    """What the trained model will do to pictures: as its weights had it, at the size of the run.

    Raises:
        ValueError: a model that does not take pictures.
    """
    config = network.config
    if config.in_chans not in (1, 3):
        raise ValueError(
            f"the model takes {config.in_chans} channels; pictures have 3, or 1 where they are grey"
        )
    official = Preprocess.official(config.image_size, config.in_chans)
    base = network.record.preprocess if network.record else official
    if recipe.crop_pct is None:
        return base
    return replace(base, resize="shorter", resize_to=round(min(base.size) / recipe.crop_pct))


def default_output(data: Path, model: str) -> Path:
    """runs/photos-swinv2_tiny_window8_256, or the same with a number where that exists."""
    name = resolve(model) if _is_name(model) else Path(model).stem
    first = Path("runs") / f"{data.resolve().name}-{name}"
    path, number = first, 1
    while path.exists():
        number += 1
        path = first.with_name(f"{first.name}-{number}")
    return path


def _is_name(model: str) -> bool:
    """Whether this is a name of a variant, rather than a file or a hub id of somebody's."""
    return not Path(model).exists() and (model in ALIASES or ("/" not in model and "." not in model))
