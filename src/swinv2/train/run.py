"""One training run from pictures to files: prepared, then driven step by step.

Loop takes the steps, Keeper saves and restores, results.py makes the report; here is when which of them acts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import replace

import torch

from swinv2 import report, world
from swinv2.data import DataError
from swinv2.train.compute import Compute, be_deterministic
from swinv2.train.faults import Diverged
from swinv2.train.feed import Feed
from swinv2.train.loop import Loop, Taken
from swinv2.train.method.ema import Ema
from swinv2.train.method.optim import Schedule, adamw, groups
from swinv2.train.parallel import Parallel, swin
from swinv2.train.recipes.recipe import Recipe
from swinv2.train.request import Request
from swinv2.train.saving.keeper import Keeper
from swinv2.train.saving.state import Running, State
from swinv2.train.shown import describe, results
from swinv2.train.shown.describe import say
from swinv2.train.shown.loggers import Log
from swinv2.train.shown.progress import Progress, duration
from swinv2.train.shown.rows import StepRows, epoch_row
from swinv2.train.stop import SAID, Stop, Stopped
from swinv2.train.task import Measured, Task


class Run:
    """A prepared run; fit() does it.

    Args:
        make: reads the data and builds the network. Called in every process, after the seed is set.

    Raises:
        ValueError, OSError, ImportError: what cannot be used, in one sentence; the same in all processes.
    """

    def __init__(self, request: Request, recipe: Recipe, make: Callable[[Request, Recipe], Task]):
        self.request = request
        self.on = Compute.of(request.device, recipe.precision)
        self.world = world.start(self.on.device)
        if request.is_deterministic:
            be_deterministic()
        torch.manual_seed(recipe.seed)
        with world.together():
            self.task = make(request, recipe)
        self.recipe = self.task.recipe
        describe.data(self.task)
        self.feed = Feed(self.task, self.on, workers=request.workers, skip_unreadable=request.skip_unreadable)
        self.order = self.feed.order
        self.network = self.task.network.to(self.on.device)
        self.groups = groups(self.network, self.recipe)
        self.parallel = Parallel(self.network, self.on, is_sharded=request.is_sharded)
        if request.is_sharded:  # the parameters are others now
            self.groups = groups(self.network, self.recipe)
        if self.recipe.compile:
            self.network.compile()
        ema = Ema(self.network, self.recipe.ema) if self.recipe.ema else None
        self.state = State(self.network, adamw(self.groups, self.recipe), self.on.scaler(), ema)
        self.schedule = Schedule.of(self.recipe, self.order.steps, self.order.batch_size)
        self.keeper = Keeper(request, self.state, self.parallel, self.task)
        self.rows = StepRows(self.state)
        self.stop = Stop()
        self.log: Log | None = None
        self.progress: Progress | None = None
        self.has_said_slow = False

    @property
    def title(self) -> str:
        return f"{swin(self.network).config.architecture} on {self.task.train.name}"

    def fit(self) -> None:
        """All epochs, then the report.

        Raises:
            Diverged: loss or gradient not finite, too often; what was saved before stays.
            Stopped: by a signal; a checkpoint is saved, and the sentence says how to go on.
            Unsaved: the disk is full; the checkpoint before is whole.
        """
        self._prepare()
        loop = Loop(self.state, self.task, self.parallel, self.schedule, self.order, self.on, self._advice)
        try:
            with ExitStack() as stack:
                stack.enter_context(world.answered())
                stack.enter_context(self.stop)
                if self.world.is_first:
                    self.log = self._open_log()
                    stack.callback(self.log.close)
                    self.progress = stack.enter_context(Progress(self.recipe.epochs, self.order.steps))
                while self.state.epoch < self.recipe.epochs:
                    self._epoch(loop)
        except Diverged as error:
            self._report("diverged", error.files)
            raise
        except Stopped:
            self._report("interrupted")
            raise
        self._report("done")

    def _prepare(self) -> None:
        """What is restored, said and written before the first step."""
        request, output = self.request, self.request.output
        if request.is_resumed:
            self.keeper.restore()
        weights = f"weights of {request.model}" if self.recipe.pretrained else "random weights"
        describe.plan(
            self.task, weights, self.groups, self.schedule, self.order.batch_size, self.on,
            is_sharded=request.is_sharded,
        )  # fmt: skip
        if self.world.is_first:
            output.mkdir(parents=True, exist_ok=True)
            self.keeper.snapshots.sweep()
            report.write_text(output / "recipe.yaml", self.recipe.to_yaml())
            results.attempt(
                "augmented.png",
                lambda: report.save(self.task.preview(self.feed.first()), output / "augmented.png"),
            )

    def _epoch(self, loop: Loop) -> None:
        state = self.state
        if state.offset == 0:
            state.running = Running()
        self.order.epoch, self.order.start = state.epoch, state.offset
        self.rows.restart()
        if self.progress:
            self.progress.start_epoch(state.epoch + 1)
        for taken in loop.steps(self.feed.training, self._asks):
            self._after_step(taken)
        if state.running.skipped == state.running.steps:
            raise Diverged(
                f"step {state.step}: not one step of epoch {state.epoch + 1} could be taken, since loss or "
                f"gradient was no number in any; try a lower --lr"
            )
        if not state.running.images:
            raise DataError("not one training picture could be read; the files are damaged or no pictures")
        is_best = False
        with state.ema.in_place() if state.ema else nullcontext():
            measured = self._measure()
            asked = world.total([self.stop.number == number for number in SAID])
            if not any(asked):
                is_best = self._end_epoch(measured)
        self._stop_if(asked)
        if state.epoch == self.recipe.epochs or (is_best and self.keeper.has_time):
            self.keeper.save(is_best=is_best)

    def _asks(self) -> tuple[float, ...]:
        """What this process wants after the step: to stop, by which signal; that a checkpoint is written."""
        return (*(self.stop.number == number for number in SAID), self.keeper.is_due)

    def _after_step(self, taken: Taken) -> None:
        self.feed.refuse(taken.unreadable)
        if taken.is_skipped and not taken.is_search:
            say(
                f"step {taken.step} is skipped: loss {taken.loss:.4g}, gradient norm {taken.grad_norm:.4g} "
                f"({self.state.skipped} such steps so far)"
            )
        if self.progress:
            self.progress.step(self.state.running)
        if self.log and taken.step % self.request.log_every == 0:
            self.log.step(self.rows.row(taken))
        *signals, is_due = taken.asked
        self._stop_if(signals)
        if is_due:
            self.keeper.save()

    def _measure(self) -> Measured:
        """The held-out figures; a signal breaks measuring off, and the resumed run measures again."""
        self.network.eval()
        held_out = self.feed.held_out
        # Sharded, all processes have to call the network equally often.
        batches = held_out if self.request.is_sharded else self.stop.until(held_out)
        measured = self.task.measure(self.network, batches, self.on)
        if not all(map(math.isfinite, measured.row.values())):
            raise Diverged(
                f"step {self.state.step}: loss is {measured.row['loss']} on held-out pictures, at a learning rate "
                f"of {self.state.running.lr:.3g}; the epochs before are kept. Try a lower --lr, a longer "
                f"--warmup-epochs, or --precision fp32"
            )
        return measured

    def _end_epoch(self, measured: Measured) -> bool:
        """Save and show an epoch; whether it is the best so far. The network has the weights that were measured."""
        state, output = self.state, self.request.output
        weights = self.parallel.weights()
        self.keeper.refuse_nonfinite(weights)
        state.epoch, state.offset = state.epoch + 1, 0
        is_best = not state.best_epoch or list(measured.score) > state.best_score
        if is_best:
            state.best_epoch, state.best_score = state.epoch, list(measured.score)
        row = epoch_row(state, self.task, measured, self.keeper.seconds)
        state.rows.append(row)

        def write() -> None:
            for name in ("last.safetensors", "best.safetensors")[: 1 + is_best]:
                self.task.save(weights, output / name, measured, state.epoch)
            report.results_csv(output / "results.csv", state.rows)
            if self.log:
                self.log.epoch(row)

        self.keeper.write(write)
        results.attempt(
            "the picture of the epoch",
            lambda: self.task.after_epoch(output, measured, state.epoch, is_best=is_best),
        )
        if self.progress:
            self.progress.end_epoch(row, is_best=is_best)
        line = describe.waiting(state.running, self.feed.slow_because())
        if line and not self.has_said_slow:
            say(line)
            self.has_said_slow = True
        return is_best

    def _stop_if(self, asked: list[float]) -> None:
        """Save and end where a signal has come to any process, by the order of SAID."""
        if not any(asked):
            return
        self.keeper.save()
        number = next(number for number, count in zip(SAID, asked, strict=True) if count)
        epochs = self.recipe.epochs
        raise Stopped(
            f"stopped by {SAID[number]} in epoch {min(self.state.epoch + 1, epochs)} of {epochs} after "
            f"{duration(self.keeper.seconds)}; step {self.state.step:,} is saved, and the same command with "
            f"--resume {self.request.output} goes on from there",
            number,
        )

    def _report(self, status: str, files: list[str] | None = None) -> None:
        if self.world.is_first:
            results.write(self, status, files or [])

    def _open_log(self) -> Log:
        request = self.request
        return Log(
            request.output, tensorboard=request.tensorboard, wandb=request.wandb, title=self.title,
            settings=self.recipe.to_dict(), step=self.state.step, epoch=self.state.epoch,
        )  # fmt: skip

    def _advice(self) -> str:
        """Settings that save memory, where it did not suffice."""
        from swinv2.train import plan

        return plan.advice(
            swin(self.network).config, replace(self.recipe, precision=self.on.precision),  # type: ignore[arg-type]
            images=len(self.task.train), classes=len(self.task.train.classes), world=self.world.size,
            device=self.on.kind, is_sharded=self.request.is_sharded,
        )  # fmt: skip
