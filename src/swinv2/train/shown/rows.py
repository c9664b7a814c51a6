"""The lines of metrics.jsonl: one for every few steps, one for every epoch."""

from __future__ import annotations

import time
from typing import Any

from swinv2.train.loop import Taken
from swinv2.train.saving.state import State
from swinv2.train.task import Measured, Task

SPLIT = ("data_seconds", "transfer_seconds", "compute_seconds")


class StepRows:
    """Rows about the steps since the row before; seconds are those of a step."""

    def __init__(self, state: State):
        self.state = state
        self.restart()

    def restart(self) -> None:
        """Begin a new stretch, with an epoch for example."""
        running = self.state.running
        self.began, self.steps, self.images = time.perf_counter(), running.steps, running.images
        self.loss_sum, self.spent = running.loss_sum, [getattr(running, name) for name in SPLIT]

    def row(self, taken: Taken) -> dict[str, Any]:
        """The row after a step."""
        running = self.state.running
        steps, images = running.steps - self.steps, running.images - self.images
        # Where every step was skipped there is no mean, and no number that JSON could hold.
        loss = (running.loss_sum - self.loss_sum) / images if images else None
        row = {
            "epoch": self.state.epoch + 1,
            "step": taken.step,
            "loss": loss,
            "lr": taken.lr,
            "grad_norm": None if taken.is_skipped else taken.grad_norm,
            "images_per_second": images / max(time.perf_counter() - self.began, 1e-9),
            **{
                name: (getattr(running, name) - before) / max(steps, 1)
                for name, before in zip(SPLIT, self.spent, strict=True)
            },
            "memory_mb": running.memory_mb,
        }
        self.restart()
        return row


def epoch_row(state: State, task: Task, measured: Measured, seconds: float) -> dict[str, Any]:
    """The row of an epoch that is done; results.csv has the same."""
    running = state.running
    return {
        "epoch": state.epoch,
        "step": state.step,
        "lr": running.lr,
        "train_loss": running.loss,
        **{f"train_{name}": running.mean(name) for name in task.figures},
        **measured.row,
        "images_per_second": running.images_per_second,
        **{name: getattr(running, name) for name in SPLIT},
        "skipped": running.skipped,
        "memory_mb": running.memory_mb,
        "seconds": seconds,
    }
