"""AdamW with the official parameter groups, and the learning rate as a function of the step.

Weight decay pulls on the weights of linear layers and convolutions, and on nothing else: not on norms,
biases, the logit scale, or the MLP that makes the position bias (swin_transformer_v2.py,
no_weight_decay_keywords).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from swinv2.train.recipe import Recipe

NO_DECAY = ("cpb_mlp", "logit_scale")  # parts of names, whatever module holds them


@dataclass(frozen=True)
class Group:
    """Parameters that are treated alike."""

    name: str
    about: str
    weight_decay: float
    parameters: dict[str, nn.Parameter]

    @property
    def count(self) -> int:
        return sum(p.numel() for p in self.parameters.values())


def groups(model: nn.Module, weight_decay: float) -> tuple[Group, Group]:
    """Every trainable parameter in one of two groups, by the kind of module that holds it and by name."""
    decayed: dict[str, nn.Parameter] = {}
    free: dict[str, nn.Parameter] = {}
    for where, module in model.named_modules():
        for name, parameter in module.named_parameters(where, recurse=False):
            if parameter.requires_grad:
                is_weight = isinstance(module, (nn.Linear, nn.Conv2d)) and parameter.ndim > 1
                is_exempt = any(part in NO_DECAY for part in name.split("."))
                (decayed if is_weight and not is_exempt else free)[name] = parameter
    return (
        Group("decay", "weights of linear layers and convolutions", weight_decay, decayed),
        Group("no decay", "norms, biases, logit scale, position MLP", 0.0, free),
    )


def adamw(parts: tuple[Group, ...], recipe: Recipe) -> torch.optim.AdamW:
    """The optimizer of a recipe; the loop sets the learning rate before each step."""
    device = next(iter(parts[0].parameters.values())).device
    return torch.optim.AdamW(
        [
            {
                "params": list(group.parameters.values()),
                "weight_decay": group.weight_decay,
                "name": group.name,
            }
            for group in parts
        ],
        lr=recipe.lr,
        betas=recipe.betas,
        eps=recipe.eps,
        fused=device.type in ("cpu", "cuda"),  # one kernel for all parameters of a group
    )


@dataclass(frozen=True)
class Schedule:
    """Learning rate of each step: a straight line up, then half a cosine down.

    Args:
        steps: of the whole run; warmup_steps of them rise.
        lr, warmup_lr, min_lr: highest, first and last rate, for the batch in use.
    """

    steps: int
    warmup_steps: int
    lr: float
    warmup_lr: float
    min_lr: float

    @classmethod
    def of(cls, recipe: Recipe, steps_per_epoch: int, batch: int) -> Schedule:
        """The schedule of a recipe, its rates scaled from the reference batch to the one in use."""
        return cls(
            steps=recipe.epochs * steps_per_epoch,
            warmup_steps=round(recipe.warmup_epochs * steps_per_epoch),
            lr=recipe.learning_rate(batch),
            warmup_lr=recipe.learning_rate(batch, recipe.warmup_lr),
            min_lr=recipe.learning_rate(batch, recipe.min_lr),
        )

    def __call__(self, step: int) -> float:
        """The rate of a step; the first step is 0."""
        if step < self.warmup_steps:
            return self.warmup_lr + (self.lr - self.warmup_lr) * step / self.warmup_steps
        share = (step - self.warmup_steps) / max(self.steps - self.warmup_steps, 1)
        return self.min_lr + (self.lr - self.min_lr) * (1 + math.cos(math.pi * min(share, 1))) / 2
