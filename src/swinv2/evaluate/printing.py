"""What an evaluation says: notes and progress while it runs, figures for people afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from swinv2 import console, world

if TYPE_CHECKING:
    from swinv2.evaluate import Evaluation
    from swinv2.evaluate.reading import Batch

SHOWN = 30  # classes up to which every one has its line


def say(text: str) -> None:
    """A note on stderr; of several processes the first one gives it."""
    if world.current().is_first:
        console.stderr().print(text, markup=False)


def with_progress(batches: Iterator[Batch], total: int) -> Iterator[Batch]:
    """The batches, with a bar on a terminal."""
    if not console.stderr().is_terminal or not world.current().is_first:
        yield from batches
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = "measuring", BarColumn(), MofNCompleteColumn(), "pictures", TimeRemainingColumn()
    with Progress(*columns, console=console.stderr(), transient=True) as progress:
        task = progress.add_task("", total=total)
        for batch in batches:
            yield batch
            progress.advance(task, len(batch.indices) + len(batch.unreadable))


def print_result(result: Evaluation) -> None:
    """What was measured, the classes, and the figures last, where a person looks first."""
    from swinv2.evaluate.protocol import described

    measured, split, out = result.measured, result.split, console.stdout()
    out.print(
        f"{result.record.config.architecture} on {split.name}/{split.split}: {measured.images:,} pictures, "
        f"{len(measured.present)} of {len(measured.classes)} classes, {result.runtime}, "
        f"{result.images_per_second:,.0f} images/s",
        markup=False,
    )
    rows = measured.per_class()
    figure = "ap" if result.is_multi_label else "accuracy"
    if len(rows) > SHOWN:
        what = "average precision" if result.is_multi_label else "accuracy"
        out.print(f"the {SHOWN} classes with the lowest {what}; all are in results.csv (--output)")
        rows = sorted(rows, key=lambda row: row[figure])[:SHOWN]
    out.print(_table(rows))
    out.print(f"pictures: {described(result.record.preprocess)}", markup=False)
    for line in _multi_label_lines(measured) if result.is_multi_label else _lines(result):
        out.print(line, markup=False)
    if measured.unreadable:
        out.print(
            f"{measured.unreadable:,} of {measured.images:,} pictures could not be read and count as wrong"
        )


def _lines(result: Evaluation) -> Iterator[str]:
    measured = result.measured
    low, high = measured.interval
    yield (
        f"top-1 {measured.top1:.2f} % ({measured.correct:,} of {measured.images:,}), 95 % interval {low:.2f} to "
        f"{high:.2f} %"
    )
    yield (
        f"top-{measured.k} {measured.top5:.2f} % ({int(measured.in_top.sum()):,})   loss {measured.loss:.4f}   "
        f"calibration error {measured.ece:.2f} %"
    )
    if (real := result.real) is not None:
        low, high = real.interval
        yield (
            f"real labels: top-1 {real.top1:.2f} % ({real.correct:,} of {real.images:,}), 95 % interval {low:.2f} "
            f"to {high:.2f} %, top-{real.k} {real.top5:.2f} %; {real.excluded:,} pictures without any left out"
        )


def _multi_label_lines(measured: Any) -> Iterator[str]:
    yield (
        f"mAP {measured.mean_ap:.2f} %   F1 {measured.f1('micro'):.2f} % (of all answers), "
        f"{measured.f1('macro'):.2f} % (mean of the classes)"
    )
    yield (
        f"all classes right: {measured.exact:.2f} % ({measured.correct:,} of {measured.images:,})   "
        f"loss {measured.loss:.4f}"
    )


def _table(rows: list[dict[str, Any]]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    heads = {"ap": "AP", "f1": "F1"}
    table = Table(box=None, pad_edge=False, header_style="dim")
    for key in rows[0] if rows else ():
        table.add_column(heads.get(key, key), justify="left" if key == "class" else "right", overflow="fold")
    for row in rows:
        table.add_row(*(escape(value) if key == "class" else _cell(key, value) for key, value in row.items()))
    return table


def _cell(key: str, value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3f}" if key == "threshold" else f"{value:.2f} %"
