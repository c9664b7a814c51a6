"""AdamW with the official parameter groups, and the learning rate as a function of the step.

Weight decay pulls on the weights of linear layers and convolutions, and on nothing else: not on norms,
biases, the logit scale, or the MLP that makes the position bias (swin_transformer_v2.py,
no_weight_decay_keywords). With layer decay, each block learns at a share of the rate of the block after it.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from swinv2.train.recipes.recipe import Freeze, Settled

NO_DECAY = ("cpb_mlp", "logit_scale")  # parts of names, whatever module holds them
WRAPPERS = ("module.", "_orig_mod.", "encoder.")  # what DDP, torch.compile and SimMIM put before a name


@dataclass(frozen=True)
class Group:
    """Parameters that are treated alike.

    Args:
        part: of the network that they are in: "embed", "stage1" and so on, or "head" for all after the last.
        rate: share of the learning rate; 0 for what is frozen.
    """

    name: str
    about: str
    weight_decay: float
    parameters: dict[str, nn.Parameter]
    part: str = ""
    rate: float = 1.0

    @property
    def count(self) -> int:
        return sum(p.numel() for p in self.parameters.values())

    @property
    def is_frozen(self) -> bool:
        return self.rate == 0


_KINDS = {
    True: ("decay", "weights of linear layers and convolutions"),
    False: ("no decay", "norms, biases, logit scale, position MLP"),
}


def groups(model: nn.Module, recipe: Settled) -> tuple[Group, ...]:
    """Every parameter in one group, by level, by the kind of module that holds it, and by name.

    Freezes what the recipe says; call it before the model is wrapped for several processes.

    Raises:
        ValueError: a stage to freeze that the model does not have.
    """
    frozen = freeze(model, recipe.freeze)
    depths = _depths(model)
    found: dict[tuple[int, bool], Group] = {}
    for name, parameter, is_decayed in _parameters(model):
        if name in frozen or not parameter.requires_grad:
            continue
        level, part = _level(name, depths) if recipe.layer_decay < 1 else (sum(depths) + 1, "")
        kind, about = _KINDS[is_decayed]
        if (level, is_decayed) not in found:
            rate = recipe.layer_decay ** (sum(depths) + 1 - level)
            decay = recipe.weight_decay if is_decayed else 0.0
            title = f"{part} {kind}".strip()
            found[level, is_decayed] = Group(title, about, decay, {}, part, rate)
        found[level, is_decayed].parameters[name] = parameter
    ordered = [found[key] for key in sorted(found, key=lambda key: (key[0], not key[1]))]
    if frozen:
        ordered.insert(0, Group("frozen", f"everything up to {recipe.freeze}", 0.0, frozen, rate=0.0))
    return tuple(ordered)


def freeze(model: nn.Module, last: Freeze) -> dict[str, nn.Parameter]:
    """Let everything up to and including a part of the network keep its weights; which those are.

    Raises:
        ValueError: a stage that the model does not have.
    """
    if last == "none":
        return {}
    depths = _depths(model)
    stages = 0 if last == "embed" else int(last.removeprefix("stage"))
    if stages > len(depths):
        raise ValueError(f"freeze is {last}, and the model has {len(depths)} stages; give one that it has")
    parts = {"embed", *(f"stage{s + 1}" for s in range(stages))}
    frozen = {name: p for name, p in model.named_parameters() if _level(name, depths)[1] in parts}
    for parameter in frozen.values():
        parameter.requires_grad_(False)
    return frozen


def summary(parts: Sequence[Group]) -> list[Group]:
    """The groups for a table: those of the same stage and kind in one row, with the highest rate among them."""
    rows: dict[tuple[str, float, str], Group] = {}
    for group in parts:
        key = group.part, group.weight_decay, group.about
        before = rows.get(key, group)
        rows[key] = replace(
            group,
            parameters=before.parameters | group.parameters,
            rate=max(before.rate, group.rate),
        )
    return list(rows.values())


def adamw(parts: Sequence[Group], recipe: Settled) -> torch.optim.AdamW:
    """The optimizer of a recipe; set_rate() sets the learning rate before each step."""
    learning = [group for group in parts if not group.is_frozen]
    device = next(iter(learning[0].parameters.values())).device
    return torch.optim.AdamW(
        [
            {
                "params": list(group.parameters.values()),
                "weight_decay": group.weight_decay,
                "name": group.name,
                "rate": group.rate,
            }
            for group in learning
        ],
        lr=recipe.lr,
        betas=recipe.betas,
        eps=recipe.eps,
        fused=device.type in ("cpu", "cuda"),  # one kernel for all parameters of a group
        capturable=device.type == "cuda",  # a step may be part of a CUDA graph; it computes the same
    )


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The learning rate of the next step, for each group its share of it."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["rate"]


@dataclass(frozen=True)
class Schedule:
    """Learning rate of each step: a straight line up, then half a cosine down, or a staircase.

    Args:
        steps: of the whole run; warmup_steps of them rise.
        lr, warmup_lr, min_lr: highest, first and last rate, for the batch in use.
        falls: steps of a staircase at which the rate is multiplied by fall; empty for a cosine.
    """

    steps: int
    warmup_steps: int
    lr: float
    warmup_lr: float
    min_lr: float
    falls: tuple[int, ...] = ()
    fall: float = 0.1

    @classmethod
    def of(cls, recipe: Settled, steps_per_epoch: int, batch: int) -> Schedule:
        """The schedule of a recipe, its rates scaled from the reference batch to the one in use."""
        stairs = recipe.decay_epochs if recipe.schedule == "steps" else ()
        return cls(
            steps=recipe.epochs * steps_per_epoch,
            warmup_steps=round(recipe.warmup_epochs * steps_per_epoch),
            lr=recipe.learning_rate(batch),
            warmup_lr=recipe.learning_rate(batch, recipe.warmup_lr),
            min_lr=recipe.learning_rate(batch, recipe.min_lr),
            falls=tuple(epoch * steps_per_epoch for epoch in stairs),
            fall=recipe.decay_rate,
        )

    def __call__(self, step: int) -> float:
        """The rate of a step; the first step is 0."""
        if step < self.warmup_steps:
            return self.warmup_lr + (self.lr - self.warmup_lr) * step / self.warmup_steps
        if self.falls:
            return self.lr * self.fall ** bisect_right(self.falls, step)
        share = (step - self.warmup_steps) / max(self.steps - self.warmup_steps, 1)
        return self.min_lr + (self.lr - self.min_lr) * (1 + math.cos(math.pi * min(share, 1))) / 2

    def __str__(self) -> str:
        """In words, as it is printed before the first step."""
        end = f"then cosine to {self.min_lr:.3g}"
        if self.falls:
            end = f"then x {self.fall:g} at step {', '.join(f'{step:,}' for step in self.falls)}"
        return f"from {self.warmup_lr:.3g} in {self.warmup_steps:,} steps, {end}"


def _parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, bool]]:
    """Name, parameter, and whether weight decay pulls on it."""
    for where, module in model.named_modules():
        for name, parameter in module.named_parameters(where, recurse=False):
            is_weight = isinstance(module, (nn.Linear, nn.Conv2d)) and parameter.ndim > 1
            is_exempt = any(part in NO_DECAY for part in name.split("."))
            yield name, parameter, is_weight and not is_exempt


def _depths(model: nn.Module) -> list[int]:
    """Blocks of each stage, counted in the names."""
    blocks = {
        (int(found[1]), int(found[2]))
        for name, _ in model.named_parameters()
        if (found := re.match(r"layers\.(\d+)\.blocks\.(\d+)\.", _plain(name)))
    }
    return [
        sum(stage == s for stage, _ in blocks) for s in range(1 + max((s for s, _ in blocks), default=-1))
    ]


def _level(name: str, depths: list[int]) -> tuple[int, str]:
    """The official layer id (SimMIM, optimizer.py) and the part of the network.

    Patch embedding and mask token 0, then one level a block; a patch merging is with the last block of its stage;
    final norm and head are one more.
    """
    name = _plain(name)
    if name.startswith(("patch_embed.", "mask_token")):
        return 0, "embed"
    if found := re.match(r"layers\.(\d+)\.(?:blocks\.(\d+)|downsample)\.", name):
        stage = int(found[1])
        inside = int(found[2]) + 1 if found[2] else depths[stage]
        return sum(depths[:stage]) + inside, f"stage{stage + 1}"
    return sum(depths) + 1, "head"


def _plain(name: str) -> str:
    while wrapper := next((w for w in WRAPPERS if name.startswith(w)), None):
        name = name.removeprefix(wrapper)
    return name
