"""Where the rows of a run go: metrics.jsonl always, TensorBoard and Weights & Biases where asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Protocol

from swinv2.extras import require
from swinv2.report import read_lines, write_text

Row = Mapping[str, Any]


class Logger(Protocol):
    """One place that rows go to."""

    def step(self, row: Row) -> None:
        """Figures of one step."""

    def epoch(self, row: Row) -> None:
        """Figures of one epoch."""

    def close(self) -> None:
        """Everything is written when this returns."""


class Log:
    """Hands every row to every logger.

    Args:
        folder: of the run.
        tensorboard: write folder/tensorboard as well; `tensorboard --logdir runs` shows it.
        wandb: send to Weights & Biases as well.
        title: what to call the run there.
        settings: shown there beside the run, such as the recipe.
        step: the last step that a resumed run keeps; rows of later ones are dropped, since they come again.
        epoch: the last epoch that it keeps the row of; one that ended with that step may not be measured yet.
    """

    def __init__(
        self,
        folder: Path,
        *,
        tensorboard: bool = False,
        wandb: bool = False,
        title: str = "",
        settings: Mapping[str, Any] | None = None,
        step: int = 0,
        epoch: int | None = None,
    ):
        if tensorboard:
            require("tensorboard", extra="tensorboard")  # before any file is touched
        if wandb:
            require("wandb", extra="wandb")
        self.loggers: list[Logger] = [Lines(folder / "metrics.jsonl", step, epoch)]
        if tensorboard:
            self.loggers.append(TensorBoard(folder / "tensorboard", step))
        if wandb:
            self.loggers.append(WeightsAndBiases(folder, title, dict(settings or {}), is_resumed=step > 0))

    def step(self, row: Row) -> None:
        """A step: epoch, step, loss, lr, grad_norm, images_per_second, data_seconds, ..."""
        for logger in self.loggers:
            logger.step(row)

    def epoch(self, row: Row) -> None:
        """An epoch: epoch, step, train_loss, loss, top1, ..."""
        for logger in self.loggers:
            logger.epoch(row)

    def close(self) -> None:
        for logger in self.loggers:
            logger.close()


class Lines:
    """metrics.jsonl: a JSON object a line, {"kind": "step", ...} or {"kind": "epoch", ...}."""

    def __init__(self, path: Path, step: int = 0, epoch: int | None = None):
        self.path = path
        kept = [line for line in read_lines(path) if line.get("step", 0) <= step] if step else []
        if epoch is not None:
            kept = [line for line in kept if line.get("kind") != "epoch" or line["epoch"] <= epoch]
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))  # a kill here loses nothing
        self.file: IO[str] = path.open("a", encoding="utf-8")

    def step(self, row: Row) -> None:
        self._write({"kind": "step", **row})

    def epoch(self, row: Row) -> None:
        self._write({"kind": "epoch", **row})

    def _write(self, row: Row) -> None:
        self.file.write(json.dumps(row) + "\n")
        self.file.flush()  # people follow it with tail -f, and a run may be killed

    def close(self) -> None:
        self.file.close()


class TensorBoard:
    """Scalars in TensorBoard's own format: step/loss, epoch/top1, ..."""

    def __init__(self, folder: Path, step: int = 0):
        events = require("torch.utils.tensorboard", extra="tensorboard")
        self.writer = events.SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def step(self, row: Row) -> None:
        self._write("step", row)

    def epoch(self, row: Row) -> None:
        self._write("epoch", row)
        self.writer.flush()

    def _write(self, kind: str, row: Row) -> None:
        for name, value in _numbers(row).items():
            self.writer.add_scalar(f"{kind}/{name}", value, row["step"])

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases:
    """A run at Weights & Biases, or a local one where WANDB_MODE=offline says so."""

    def __init__(self, folder: Path, title: str, settings: dict[str, Any], *, is_resumed: bool = False):
        wandb = require("wandb", extra="wandb")
        latest = folder / "wandb" / "latest-run"  # a link that wandb makes, to run-DATE_TIME-ID
        known = latest.resolve().name.rpartition("-")[2] if is_resumed and latest.exists() else None
        self.run = wandb.init(
            project="swinv2", name=title or folder.name, dir=str(folder), config=settings, id=known,
            resume="allow" if known else None,
        )  # fmt: skip

    def step(self, row: Row) -> None:
        self._write("step", row)

    def epoch(self, row: Row) -> None:
        self._write("epoch", row)

    def _write(self, kind: str, row: Row) -> None:
        self.run.log({f"{kind}/{name}": value for name, value in _numbers(row).items()}, step=row["step"])

    def close(self) -> None:
        self.run.finish()


def _numbers(row: Row) -> dict[str, float]:
    """What can be drawn: the numbers of a row, without the two that say where they belong."""
    return {
        name: float(value)
        for name, value in row.items()
        if name not in ("epoch", "step") and isinstance(value, int | float)
    }
