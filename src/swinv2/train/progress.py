"""What a person sees of a run: a bar on a terminal, plain lines elsewhere, all of it on stderr."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from swinv2 import console
from swinv2.train.loop import Running
from swinv2.train.optim import Group

PLAIN_SECONDS = 30  # between two lines within an epoch, where there is no terminal


def say(text: Any) -> None:
    """A line, or a table, on stderr; above the bar where there is one."""
    console.stderr().print(text, markup=False)


class Progress:
    """Shows steps and epochs. Use as a context manager.

    Args:
        epochs, steps: of the whole run, and per epoch.
    """

    def __init__(self, epochs: int, steps: int):
        self.epochs, self.steps = epochs, steps
        self.epoch, self.began, self.said = 0, time.perf_counter(), time.perf_counter()
        self.console = console.stderr()
        self.bar = _bar(self.console) if self.console.is_terminal else None
        self.task: Any = None

    def __enter__(self) -> Progress:
        if self.bar:
            self.bar.start()
            self.task = self.bar.add_task("", total=self.steps, figures="")
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar:
            self.bar.stop()

    def start_epoch(self, epoch: int) -> None:
        """epoch counts from 1."""
        self.epoch = epoch
        if self.bar:
            self.bar.reset(
                self.task, total=self.steps, description=f"epoch {epoch}/{self.epochs}", figures=""
            )

    def step(self, running: Running) -> None:
        """After each step."""
        left = self._left(running.steps)
        if self.bar:
            self.bar.update(self.task, completed=running.steps, figures=f"{_figures(running)}  {left} left")
        elif time.perf_counter() - self.said >= PLAIN_SECONDS and running.steps < self.steps:
            place = f"epoch {self.epoch}/{self.epochs} step {running.steps}/{self.steps}"
            say(f"{place}  {_figures(running)}  {left} left")
            self.said = time.perf_counter()

    def end_epoch(self, row: dict[str, Any], *, is_best: bool) -> None:
        """One line for an epoch that is done: row as it goes into metrics.jsonl."""
        learnt = f"train loss {row['train_loss']:.4f}"
        if row["train_top1"] is not None:
            learnt += f" top-1 {row['train_top1']:5.2f} %"
        held_out = f"held out loss {row['loss']:.4f} top-1 {row['top1']:5.2f} %{' *' if is_best else '  '}"
        left = "" if row["epoch"] == self.epochs else f"  {self._left(self.steps)} left"
        epoch = f"{row['epoch']:>{len(str(self.epochs))}}/{self.epochs}"
        say(f"epoch {epoch}  {learnt}  {held_out}  {row['images_per_second']:,.0f} images/s{left}")
        self.said = time.perf_counter()

    def _left(self, steps: int) -> str:
        """Time left, from the time taken so far; measuring and saving are in it."""
        done = (self.epoch - 1) * self.steps + steps
        seconds = (time.perf_counter() - self.began) / max(done, 1) * (self.epochs * self.steps - done)
        return duration(seconds)


def duration(seconds: float) -> str:
    """95 -> "1:35", 3700 -> "1:01:40"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def groups_table(parts: Sequence[Group]) -> Any:
    """The optimizer groups, for people."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("group", "decay", "tensors", "parameters", "what"):
        table.add_column(name, justify="left" if name in ("group", "what") else "right", no_wrap=True)
    for group in parts:
        row = f"{group.weight_decay:g}", f"{len(group.parameters):,}", f"{group.count:,}"
        table.add_row(group.name, *row, group.about)
    return table


def _figures(running: Running) -> str:
    top1 = "" if running.top1 is None else f"  top-1 {running.top1:5.2f} %"
    return f"loss {running.loss:.4f}{top1}  {running.images_per_second:,.0f} images/s"


def _bar(where: Any) -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    return Bar(*columns, console=where, transient=True)
