"""One epoch of training, on whatever batches it is given.

State holds all that changes during a run; a step is computed from it and from (recipe, epoch, step) alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from swinv2.data.folder import DataError
from swinv2.data.loader import Batch, Unreadable
from swinv2.train.augment import Mix
from swinv2.train.compute import Compute
from swinv2.train.optim import Schedule
from swinv2.train.recipe import Recipe

OnStep = Callable[["Running"], None]


@dataclass
class State:
    """What a run has come to.

    Args:
        step: steps taken, which is also the number of the next one; epoch: likewise.
        best: highest held-out accuracy so far, in percent.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    epoch: int = 0
    best: float = -1.0
    best_epoch: int = 0


@dataclass
class Running:
    """Figures of the epoch so far."""

    started: float
    steps: int = 0
    images: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    lr: float = 0.0
    is_mixed: bool = False
    unreadable: tuple[Unreadable, ...] = ()

    @property
    def loss(self) -> float:
        return self.loss_sum / max(self.images, 1)

    @property
    def top1(self) -> float | None:
        """Percent; None where pictures are mixed and have no one label."""
        return None if self.is_mixed else 100 * self.correct / max(self.images, 1)

    @property
    def images_per_second(self) -> float:
        return self.images / max(time.perf_counter() - self.started, 1e-9)


class Diverged(ValueError):
    """The loss or the gradient is no longer a number."""


def train_epoch(
    state: State,
    batches: Iterable[Batch],
    recipe: Recipe,
    schedule: Schedule,
    mix: Mix,
    on: Compute,
    on_step: OnStep,
) -> Running:
    """One pass over the training batches.

    Raises:
        Diverged: before the weights are touched by a loss or gradient that is not finite.
        DataError: batches without one readable picture.
    """
    state.model.train()
    running = Running(time.perf_counter(), is_mixed=bool(mix.kinds))
    parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
    for batch in batches:
        running.unreadable += batch.unreadable
        running.lr = schedule(state.step)
        for group in state.optimizer.param_groups:
            group["lr"] = running.lr
        if len(batch.labels):
            labels = on.send(batch.labels)
            images, targets = mix(on.send(batch.images), labels, state.step)
            with on.autocast():
                logits = state.model(images)
            loss = F.cross_entropy(logits.float(), targets, label_smoothing=recipe.label_smoothing)
            state.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            limit = recipe.clip_grad or math.inf
            norm = nn.utils.clip_grad_norm_(parameters, limit)
            correct = (logits.argmax(1) == labels).sum()
            # One wait for the device per step, and before the weights change.
            loss_value, norm_value, right = torch.stack([loss.detach(), norm, correct]).tolist()
            if not math.isfinite(loss_value + norm_value):
                raise Diverged(_diverged(state.step, loss_value, norm_value, running.lr))
            state.optimizer.step()
            running.images += len(labels)
            running.loss_sum += loss_value * len(labels)
            running.correct += int(right)
        state.step += 1
        running.steps += 1
        on_step(running)
    state.epoch += 1
    if not running.images:
        raise DataError("not one training picture could be read; the files are damaged or no pictures")
    return running


def _diverged(step: int, loss: float, norm: float, lr: float) -> str:
    what = f"loss is {loss}" if not math.isfinite(loss) else f"gradient norm is {norm} (loss {loss:.4g})"
    return (
        f"step {step + 1}: {what} at a learning rate of {lr:.3g}; the weights before it are kept. "
        f"Try a lower --lr, a longer --warmup-epochs, or --precision fp32"
    )
