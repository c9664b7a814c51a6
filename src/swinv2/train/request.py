"""What a run is asked for beside its recipe: nothing here decides what is learnt."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Every:
    """How often a checkpoint is written: after so many steps, or so much time."""

    steps: int | None = None
    seconds: float | None = None

    @classmethod
    def of(cls, text: str) -> Every:
        """From "500" (steps) or "10m" (minutes).

        Raises:
            ValueError: anything else.
        """
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(m?)", text)
        if found and float(found[1]) > 0:
            if found[2]:
                return cls(seconds=60 * float(found[1]))
            if found[1].isdigit():
                return cls(steps=int(found[1]))
        raise ValueError(f"save_every is {text!r}; give steps, as in 500, or minutes, as in 10m")

    def is_due(self, step: int, seconds: float) -> bool:
        """Whether a checkpoint is due after this step, so many seconds after the last one."""
        if self.steps:
            return step % self.steps == 0
        return seconds >= (self.seconds or 0)


@dataclass(frozen=True)
class Request:
    """What the user wants of a run.

    Args:
        data, model: as the user named them; output: the folder of the run.
        workers: loader processes; None chooses.
        skip_unreadable: leave out training pictures that cannot be read, however many there are.
        is_resumed: go on from the newest checkpoint in output.
        log_every: steps from one line of figures to the next.
        is_deterministic: only kernels that give the same bits each time.
        is_sharded: divide the model over the processes.
        tensorboard, wandb: send figures there as well.
    """

    data: str
    model: str
    output: Path
    device: str = "auto"
    workers: int | None = None
    skip_unreadable: bool = False
    is_resumed: bool = False
    save_every: Every = Every(seconds=600)
    log_every: int = 10
    is_deterministic: bool = False
    is_sharded: bool = False
    tensorboard: bool = False
    wandb: bool = False
