"""Nothing of a run is lost: when a checkpoint is written, which one a run goes on from, and what may not be saved."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import swinv2
from swinv2 import world
from swinv2.train import faults
from swinv2.train.faults import Diverged
from swinv2.train.parallel import Parallel, swin
from swinv2.train.request import Request
from swinv2.train.saving import snapshots, state
from swinv2.train.saving.snapshots import Snapshots, Unsaved
from swinv2.train.saving.state import State
from swinv2.train.shown.describe import say
from swinv2.train.shown.progress import duration
from swinv2.train.task import Task

# Settings that decide no weight, but for rounding: a resumed run may have others.
FREE = {"name", "accumulate", "checkpointing", "compile", "max_skipped", "max_unreadable"}
BUSY = 20  # a best epoch gets a checkpoint of its own where saving has taken less than one part in so many


class Keeper:
    """Saves a run and restores it. All processes call its methods; the first one writes."""

    def __init__(self, request: Request, state: State, parallel: Parallel, task: Task):
        self.request, self.state, self.parallel, self.task = request, state, parallel, task
        self.snapshots = Snapshots(request.output)
        self.began = self.saved = time.perf_counter()
        self.saving_seconds = 0.0  # the last time

    @property
    def seconds(self) -> float:
        """That the run has taken, with the pieces before it was resumed."""
        return self.state.seconds + time.perf_counter() - self.began

    @property
    def is_due(self) -> bool:
        """Whether a checkpoint is to be written after the step that is being taken; the first process knows."""
        since = time.perf_counter() - self.saved
        return world.current().is_first and self.request.save_every.is_due(self.state.step + 1, since)

    @property
    def has_time(self) -> bool:
        """Whether a checkpoint more is cheap; the same in all processes."""
        return world.same(
            world.current().is_first and time.perf_counter() - self.saved > BUSY * self.saving_seconds
        )

    def save(self, *, is_best: bool = False) -> None:
        """Write a checkpoint.

        Raises:
            Diverged: weights that are no numbers, which are not saved.
            Unsaved: a full disk, for example.
        """
        began = time.perf_counter()
        facts, tensors = state.capture(self.state, self.parallel, self.task)
        self.refuse_nonfinite({name: t for name, t in tensors.items() if name.startswith(("model/", "ema/"))})
        facts |= self.identity() | {"is_best": is_best, "seconds": self.seconds}
        self.write(lambda: self.snapshots.write(self.state.step, facts, tensors))
        self.saved = time.perf_counter()
        self.saving_seconds = self.saved - began

    def restore(self) -> None:
        """Go on from the newest checkpoint that can be read.

        Raises:
            ValueError: there is none, or it is of another run.
        """
        for path in reversed(self.snapshots.all()):
            try:
                facts, tensors = snapshots.read(path)
            except (OSError, ValueError) as error:
                say(f"{error}; looking for an earlier checkpoint")
                continue
            self._refuse_another(facts, path)
            state.restore(self.state, self.parallel, self.task, facts, tensors)
            place = f"step {self.state.step:,}, {self.state.epoch} epochs done"
            say(f"resumed from {path}: {place}, after {duration(self.state.seconds)}")
            if facts["processes"] != world.current().size:
                say(
                    f"{facts['processes']} processes wrote it, and these are {world.current().size}: the run is "
                    f"the same but for rounding"
                )
            return
        raise ValueError(
            f"{self.snapshots.folder} has no checkpoint that can be read; start again with --overwrite"
        )

    def identity(self) -> dict[str, Any]:
        """What makes a run this run; plain JSON types."""
        return {
            "swinv2": swinv2.__version__,
            "torch": torch.__version__,
            "processes": world.current().size,
            "source": self.request.model,
            "model": swin(self.task.network).config.architecture,
            "recipe": json.loads(json.dumps(self.task.recipe.to_dict())),
            "training pictures": self.task.train.fingerprint,
            "held-out pictures": self.task.held_out.fingerprint,
        }

    def _refuse_another(self, facts: Mapping[str, Any], path: Path) -> None:
        mine = self.identity()
        others = [
            f"{name} is {mine['recipe'].get(name)} and was {value}"
            for name, value in facts["recipe"].items()
            if name not in FREE and mine["recipe"].get(name) != value
        ]
        if facts["model"] != mine["model"]:
            others.append(f"the model is {mine['model']} and was {facts['model']}")
        others += [
            f"the {name} are not those that it was started with"
            for name in ("training pictures", "held-out pictures")
            if facts[name] != mine[name]
        ]
        if others:
            raise ValueError(
                f"{path} is of another run: {'; '.join(others)}. Resume it as it was started, or start a new run "
                f"with another --output"
            )

    def refuse_nonfinite(self, weights: Mapping[str, Tensor]) -> None:
        """Weights are only saved where each of them is a number.

        Args:
            weights: in the first process; the others have none.

        Raises:
            Diverged: in all processes.
        """
        if broken := world.gather(faults.nonfinite(weights))[0]:
            raise Diverged(
                f"step {self.state.step}: {broken} holds values that are no numbers, at a learning rate of "
                f"{self.state.running.lr:.3g}; the weights saved before are kept. Try a lower --lr"
            )

    def write(self, write: Callable[[], Any]) -> None:
        """Write files in the first process; where that fails, the run ends in all of them.

        Raises:
            Unsaved: in one sentence, with what is safe.
        """
        said = None
        if world.current().is_first:
            try:
                write()
            except OSError as error:
                said = (
                    str(error)
                    if isinstance(error, Unsaved)
                    else self.snapshots.unsaved(self.state.step, error)
                )
        if said := world.gather(said)[0]:
            raise Unsaved(said)
