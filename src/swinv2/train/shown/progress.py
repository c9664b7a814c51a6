"""What a person sees of a run: a bar on a terminal, plain lines elsewhere, all of it on stderr."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from swinv2 import console
from swinv2.train.method.optim import Group, summary
from swinv2.train.saving.state import Running

SCORES = {"top1": "top-1", "map": "mAP"}  # figures of an epoch that people follow; those that it has
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
        self.epoch = 0
        self.began = self.said = time.perf_counter()
        self.before: int | None = None  # steps that a resumed run had done before
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
            self.bar.reset(self.task, total=self.steps, description=self._place, figures="")

    def step(self, running: Running) -> None:
        """After each step."""
        if self.before is None:
            self.before = self._done(running.steps) - 1
        is_last = running.steps >= self.steps
        if self.bar:
            parts = [*_figures(running), f"{self._left(running.steps)} left"]
            room = self.console.width - len(f"{self._place} measuring {self.steps}/{self.steps} ")
            self.bar.update(
                self.task, completed=running.steps, figures=fitted(parts, room - _bar_width(self.console))
            )
            if is_last:
                self.bar.update(self.task, description=f"{self._place} measuring")
        elif time.perf_counter() - self.said >= PLAIN_SECONDS and not is_last:
            parts = [f"{self._place} step {running.steps}/{self.steps}", *_figures(running)]
            say("  ".join([*parts, f"{self._left(running.steps)} left"]))
            self.said = time.perf_counter()

    def end_epoch(self, row: dict[str, Any], *, is_best: bool) -> None:
        """One line for an epoch that is done: row as it goes into metrics.jsonl."""
        learnt = f"train {_loss_and_score(row, 'train_')}"
        held_out = f"held out {_loss_and_score(row, '')}{' *' if is_best else '  '}"
        left = "" if row["epoch"] == self.epochs else f"  {self._left(self.steps)} left"
        epoch = f"{row['epoch']:>{len(str(self.epochs))}}/{self.epochs}"
        say(f"epoch {epoch}  {learnt}  {held_out}  {row['images_per_second']:,.0f} images/s{left}")
        self.said = time.perf_counter()

    @property
    def _place(self) -> str:
        return f"epoch {self.epoch}/{self.epochs}"

    def _done(self, steps: int) -> int:
        """Steps of the whole run, so many of them in this epoch."""
        return (self.epoch - 1) * self.steps + steps

    def _left(self, steps: int) -> str:
        """Time left, from the time that the steps here have taken; measuring and saving are in it."""
        done = self._done(steps)
        taken = (time.perf_counter() - self.began) / max(done - (self.before or 0), 1)
        return duration(taken * (self.epochs * self.steps - done))


def duration(seconds: float) -> str:
    """95 -> "1:35", 3700 -> "1:01:40"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def groups_table(parts: Sequence[Group]) -> Any:
    """The optimizer groups, for people: what is in them, or by stage with the highest rate of each."""
    from rich.table import Table

    rows, by_stage = summary(parts), any(group.part for group in parts)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("group", "decay", "tensors", "parameters", "rate" if by_stage else "what"):
        table.add_column(name, justify="left" if name in ("group", "what") else "right", no_wrap=True)
    for group in rows:
        figures = f"{group.weight_decay:g}", f"{len(group.parameters):,}", f"{group.count:,}"
        table.add_row(group.name, *figures, f"x {group.rate:.3g}" if by_stage else group.about)
    return table


def fitted(parts: Sequence[str], room: int) -> str:
    """Figures in so many columns: closer together, then without those before the last, which is the time left."""
    shown = list(parts)
    while len(shown) > 2 and len(" ".join(shown)) > room:
        shown.pop(-2)
    spaced = "  ".join(shown)
    return spaced if len(spaced) <= room else " ".join(shown)


def _figures(running: Running) -> list[str]:
    """The running figures of an epoch, the most important first."""
    scores = [(name, running.mean(key)) for key, name in SCORES.items()]
    parts = [f"loss {running.loss:.4f}"]
    parts += [f"{name} {value:.2f} %" for name, value in scores if value is not None]
    parts += [f"lr {running.lr:.2g}", f"{running.images_per_second:,.0f} images/s"]
    return parts + ([f"{running.memory_mb:,.0f} MB"] if running.memory_mb else [])


def _loss_and_score(row: Mapping[str, Any], kind: str) -> str:
    """loss 0.4321 top-1 91.20 %; a score only where there is one."""
    said = f"loss {row[f'{kind}loss']:.4f}"
    for key, name in SCORES.items():
        if row.get(f"{kind}{key}") is not None:
            said += f" {name} {row[f'{kind}{key}']:5.2f} %"
    return said


def _bar_width(where: Any) -> int:
    """On a narrow terminal the bar gives way to the figures."""
    return 24 if where.width >= 130 else 10 if where.width >= 105 else 0


def _bar(where: Any) -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn
    from rich.progress import Progress as Bar
    from rich.table import Column

    whole = Column(no_wrap=True)
    columns: list[ProgressColumn] = [TextColumn("{task.description}", table_column=whole)]
    if width := _bar_width(where):
        columns.append(BarColumn(width))
    columns += [
        MofNCompleteColumn(table_column=whole),
        TextColumn("{task.fields[figures]}", table_column=whole),
    ]
    return Bar(*columns, console=where, transient=True)
