"""One epoch of training, step by step, on whatever batches it is given.

A step is computed from the state, from (recipe, epoch, step) and from the total batch: how many processes and
micro batches share it changes rounding and nothing else.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from swinv2 import world
from swinv2.data.loader import Batch, Unreadable
from swinv2.data.order import Order
from swinv2.train import faults
from swinv2.train.compute import Compute, Stopwatch
from swinv2.train.method.drop_path import DropPaths
from swinv2.train.method.optim import Schedule, set_rate
from swinv2.train.parallel import Parallel
from swinv2.train.saving.state import State
from swinv2.train.task import Sums, Task

Asks = Callable[
    [], Sequence[float]
]  # what this process wants after the step; sums over all come back in Taken


@dataclass(frozen=True)
class Taken:
    """A step, over all processes.

    Args:
        step: counted from 1.
        loss: mean over its pictures; grad_norm: before clipping.
        is_skipped: the weights are as before, since loss or gradient was no number; is_search: because fp16 looks
            for its scale.
        asked: sums of what the processes want.
    """

    step: int
    loss: float
    grad_norm: float
    lr: float
    images: int
    is_skipped: bool
    is_search: bool
    unreadable: tuple[Unreadable, ...]
    asked: tuple[float, ...]


class Loop:
    """Takes the steps of an epoch.

    Args:
        advice: settings that would save memory, in words, for when it does not suffice.
    """

    def __init__(
        self,
        state: State,
        task: Task,
        parallel: Parallel,
        schedule: Schedule,
        order: Order,
        on: Compute,
        advice: Callable[[], str],
    ):
        self.state, self.task, self.parallel, self.schedule = state, task, parallel, schedule
        self.order, self.on, self.advice, self.recipe = order, on, advice, task.recipe
        self.paths = DropPaths(state.network, task.recipe.seed)
        self.parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
        # Of this process in a step. DDP and FSDP take the mean over the processes, and so the weights of the
        # micro batches add up to 1 in each.
        self.planned = order.batch_size / world.current().size

    def steps(self, batches: Iterable[Batch], asks: Asks) -> Iterator[Taken]:
        """The steps of the epoch that state.offset leaves; what is done between two is nobody's waiting time.

        Raises:
            Diverged: too many steps whose loss or gradient is no number; the weights are those before them.
            OutOfMemory: with what would help.
        """
        self.state.network.train()
        running = self.state.running
        began = time.perf_counter()
        coming = iter(batches)
        while parts := list(islice(coming, self.order.parts)):
            waited = time.perf_counter() - began
            try:
                with Stopwatch(self.on) as transfer:
                    sent = [self.on.send_batch(part) for part in parts]
                taken = self._step(sent, asks)
            except (RuntimeError, MemoryError) as error:
                if faults.is_out_of_memory(error):
                    raise faults.OutOfMemory(f"step {self.state.step + 1}: {self.advice()}") from None
                raise
            seconds = time.perf_counter() - began
            running.seconds += seconds
            running.data_seconds += waited
            running.transfer_seconds += transfer.seconds
            running.compute_seconds += max(seconds - waited - transfer.seconds, 0.0)
            yield taken
            began = time.perf_counter()
        self.paths.clear()

    def _step(self, parts: Sequence[Batch], asks: Asks) -> Taken:
        state, running = self.state, self.state.running
        lr = self.schedule(state.step)
        set_rate(state.optimizer, lr)
        state.optimizer.zero_grad(set_to_none=True)
        losses, figures = [], []
        for number, batch in enumerate(parts, 1):
            with self.parallel.exchanging(number == len(parts)):
                loss, sums = self._forward(batch)
                state.scaler.scale(loss * (len(batch.indices) / self.planned)).backward()
            losses.append(loss.detach().float() * len(batch.indices))
            figures.append(sums if len(batch.indices) else {name: 0 * value for name, value in sums.items()})
        state.scaler.unscale_(state.optimizer)
        norm = self.parallel.clip(self.parameters, self.recipe.clip_grad or math.inf)

        names = [name for name in self.task.figures if name in figures[0]]
        here = [sum(losses), *(sum(f[name] for f in figures) for name in names), norm]
        # One wait for the device in a step, and before the weights change.
        *values, grad_norm = torch.stack([torch.as_tensor(value).float() for value in here]).tolist()
        counted = [sum(len(b.indices) for b in parts), sum(len(b.unreadable) for b in parts)]
        loss_sum, *rest = world.total([*values, *counted, *asks()])
        sums_here, (read, unread, *asked) = rest[: len(names)], rest[len(names) :]
        unreadable = tuple(u for b in parts for u in b.unreadable)
        if unread:
            unreadable = tuple(u for found in world.gather(unreadable) for u in found)

        images, loss_mean = int(read), loss_sum / max(read, 1)
        is_finite = math.isfinite(loss_mean) and math.isfinite(grad_norm)
        # fp16 finds its scale by trying one that is too large: that costs a step and means nothing.
        is_search = math.isfinite(loss_mean) and not is_finite and state.scaler.get_scale() > 1
        if not is_finite and not is_search:
            state.skipped += 1
            running.skipped += 1
            if state.skipped > self.recipe.max_skipped:
                raise self._diverged(parts, loss_mean, grad_norm, lr)
        if images and (is_finite or state.scaler.is_enabled()):
            state.scaler.step(state.optimizer)  # a scaler that is enabled takes no step that is not finite
        state.scaler.update()
        if images and is_finite and state.ema:
            state.ema.update(state.step)
        if images and (is_finite or is_search):
            running.images += images
            running.loss_sum += loss_sum
            for name, value in zip(names, sums_here, strict=True):
                running.sums[name] = running.sums.get(name, 0.0) + value
        running.lr, running.memory_mb = lr, self.on.memory_mb()
        running.steps += 1
        state.step += 1
        state.offset += 1
        return Taken(
            state.step, loss_mean, grad_norm, lr, images, not is_finite, is_search, unreadable, tuple(asked)
        )

    def _forward(self, batch: Batch, *, plain: bool = False) -> tuple[Tensor, Sums]:
        """The loss of a micro batch; plain calls the network itself, as it is without its wrappers."""
        # All processes call the network equally often: one that could read nothing learns from a blank, with
        # weight 0.
        batch = batch if len(batch.indices) else self._blank()
        self.paths.draw(self.state.step, batch.positions, self.order.batch_size)
        with self.on.autocast():
            return self.task.loss(
                self.state.network if plain else self.parallel.model, batch, self.state.step
            )

    def _blank(self) -> Batch:
        task, size = self.task, self.recipe.size_at(self.state.epoch)
        height, width = (size, size) if size else task.preprocess.size
        zero = torch.zeros(1, dtype=torch.long)
        labels = torch.zeros(1, len(task.train.classes)) if task.train.is_multi_label else zero
        images = torch.zeros(1, task.preprocess.channels, height, width)
        return self.on.send_batch(Batch(images, labels, zero, zero, ()))

    def _diverged(self, parts: Sequence[Batch], loss: float, norm: float, lr: float) -> faults.Diverged:
        def again() -> None:
            for part in parts:
                self._forward(part, plain=True)

        where = faults.first_nonfinite(self.state.network, again)
        found = world.gather((where, [i for part in parts for i in part.indices.tolist()]))
        # The process whose own pictures did it, where only one of them knows.
        where = next((said for said, _ in found if "module with" in said), found[0][0])
        files = [self.task.train.names[i] for _, indices in found for i in indices]
        step, skipped = self.state.step + 1, self.state.skipped
        return faults.diverged(step, loss, norm, lr, skipped=skipped, where=where, files=files)
