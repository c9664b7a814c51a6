"""What people see of a benchmark: progress, and one table, on the terminal, in Markdown and as CSV."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swinv2 import console, report
from swinv2.benchmark.result import Benchmark, Row

if TYPE_CHECKING:
    from swinv2.benchmark.comparing import Changes
    from swinv2.benchmark.measuring import Tell

Cells = list[tuple[str, ...]]  # the first is the head


@contextmanager
def progress(quiet: bool) -> Iterator[Tell]:
    """A bar on a terminal; elsewhere a line for each thing that is begun."""
    out = console.stderr()
    if out.is_terminal:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn()
        with Progress(*columns, console=out, transient=True) as bar:
            task = bar.add_task("", total=1.0)

            def move(what: str, share: float) -> None:
                if bar.tasks[task].description != what and share == 0:
                    bar.reset(task, total=1.0)  # the time that remains is that of one thing
                bar.update(task, description=what, completed=share)

            yield move
    else:
        said = [""]

        def say(what: str, share: float) -> None:
            if what != said[0] and not quiet:
                said[0] = what
                out.print(what, markup=False)

        yield say


def print_benchmark(result: Benchmark) -> None:
    """The table, what could not run, and what a reader must know."""
    out = console.stdout()
    for line in heading(result):
        out.print(line, markup=False)
    if result.ran:
        out.print(aligned(table(result)), markup=False)
    for line in [*reasons(result), *result.notes]:
        out.print(line, markup=False)


def print_comparison(found: Changes) -> None:
    """What has changed between two runs."""
    out = console.stdout()
    out.print(aligned(found.table()), markup=False)
    for line in found.notes:
        out.print(line, markup=False)


def write_markdown(path: Path, found: Benchmark | Changes) -> None:
    """The same table, to be pasted into a document."""
    if isinstance(found, Benchmark):
        parts = [" ".join(f"{line}." for line in heading(found)), markdown(table(found)) if found.ran else ""]
        parts += [f"- {line}" for line in [*reasons(found), *found.notes]]
    else:
        parts = [markdown(found.table()), *(f"- {line}" for line in found.notes)]
    head, body, *lines = parts if isinstance(found, Benchmark) else ["", *parts]
    report.write_text(path, "\n\n".join(filter(None, (head, body, "\n".join(lines)))) + "\n")


def write_csv(path: Path, result: Benchmark) -> None:
    """A row per contender and batch, figures as they are; one row without figures for what did not run."""
    report.results_csv(path, [line for row in result.rows for line in _csv(row, result)])


def heading(result: Benchmark) -> list[str]:
    """What was measured, and with what."""
    model, machine, settings = result.model, result.machine, result.settings
    size = " x ".join(map(str, model["image_size"])) + " pixels" if "image_size" in model else ""
    clock = f" at {machine['clock_mhz'] / 1000:.1f} GHz" if machine["clock_mhz"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    lines = [
        ", ".join(filter(None, (model.get("architecture", model["source"]), size))),
        ", ".join(filter(None, (
            f"{machine['cpu']}{clock}", counted(settings["threads"], "thread"), counted(settings["rounds"], "round"),
            result.date, f"commit {result.commit}" if result.commit else "",
        ))),
        versions,
    ]  # fmt: skip
    if result.data is not None:
        data = result.data
        lines.append(f"answers: {data['images']:,} pictures of {data['name']}/{data['part']}")
    elif result.reference:
        images = max((row.comparison.batch for row in result.rows if row.comparison), default=0)
        lines.append(f"answers: {images} probe images, compared with {result.reference}")
    return lines


def table(result: Benchmark) -> Cells:
    """A line per contender and batch; what does not depend on the batch is in the first."""
    has_accuracy = any(row.answers and row.answers.accuracy is not None for row in result.rows)
    has_data = any(row.answers for row in result.rows)
    answers = (("accuracy", "interval") if has_accuracy else ()) + ("same class",)
    head = ("contender", "batch", "ms", "+-", "p90", "p99", "images/s", "speed", "with pictures", "peak MB",
            "size MB", "load ms", "first ms", *answers, "error")  # fmt: skip
    rows: Cells = [head]
    for row in result.ran:
        for i, batch in enumerate(row.latency):
            rows.append((
                row.label if i == 0 else "", str(batch), *_speed(result, row, batch), _mb(row.memory.get(batch)),
                *(_once(row, has_accuracy, has_data) if i == 0 else [""] * (4 + len(answers))),
            ))  # fmt: skip
    return rows


def _speed(result: Benchmark, row: Row, batch: int) -> tuple[str, ...]:
    latency = row.latency[batch]
    known = "" if latency.uncertainty is None else f"{latency.uncertainty:.1%}"
    times = result.speed(row, batch)
    whole = row.whole.get(batch)
    return (
        number(latency.p50), known, number(latency.p90), number(latency.p99), number(latency.images_per_second),
        "1" if row is result.ran[0] else "" if times is None else f"{times[0]:.2f}",
        number(whole.p50) if whole else "",
    )  # fmt: skip


def _once(row: Row, has_accuracy: bool, has_data: bool) -> list[str]:
    """What is told once per contender."""
    cells = [_mb(row.size), number(row.load_ms), number(row.first_ms)]
    if has_accuracy:
        accuracy, between = (row.answers.accuracy, row.answers.interval) if row.answers else (None, None)
        cells += [_percent(accuracy, 2), f"{between[0]:.1f} to {between[1]:.1f}" if between else ""]
    compared = row.comparison
    if has_data:
        cells.append(_percent(row.answers.agreement if row.answers else None, 1))
    else:
        cells.append(_percent(100 * compared.agreement, 1) if compared else "")
    return [*cells, f"{compared.error:.0e}" if compared else ""]


def reasons(result: Benchmark) -> list[str]:
    """Why contenders did not run, a line each."""
    found = []
    for row in result.rows:
        if row.not_run:
            file = "" if row.path in row.label else f" ({row.path})"
            found.append(
                f"{row.label}{file} {'ended early' if row.latency else 'did not run'}: {row.not_run}"
            )
    return found


def _csv(row: Row, result: Benchmark) -> Iterator[dict[str, Any]]:
    answers = row.answers
    about = {
        "contender": row.label, "path": row.path, "runtime": row.runtime, "device": row.device,
        "precision": row.precision,
    }  # fmt: skip
    once = {
        "bytes": row.size, "import_ms": row.import_ms, "load_ms": row.load_ms, "first_ms": row.first_ms,
        "accuracy": answers and answers.accuracy, "agreement": _agreement(row),
        "error": row.comparison and row.comparison.error, "not_run": row.not_run,
    }  # fmt: skip
    for batch in row.latency or (None,):
        latency = row.latency[batch] if batch is not None else None
        whole = row.whole.get(batch) if batch is not None else None
        low, high = latency.interval or (None, None) if latency else (None, None)
        speed = result.speed(row, batch) if batch is not None else None
        yield about | {
            "batch": batch, "p50_ms": latency and latency.p50, "p50_low_ms": low, "p50_high_ms": high,
            "p90_ms": latency and latency.p90, "p99_ms": latency and latency.p99,
            "images_per_second": latency and latency.images_per_second, "speed": speed and speed[0],
            "with_pictures_p50_ms": whole and whole.p50,
            "with_pictures_images_per_second": whole and whole.images_per_second,
            "memory_bytes": row.memory.get(batch) if batch is not None else None, **once,
        }  # fmt: skip


def _agreement(row: Row) -> float | None:
    if row.answers is not None:
        return row.answers.agreement
    return None if row.comparison is None else 100 * row.comparison.agreement


def number(value: float | None) -> str:
    """Three digits that count, or all before the point."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def counted(count: int, what: str) -> str:
    """1 thread, 2 threads."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _mb(value: int | None) -> str:
    return number(None if value is None else value / 1e6)


def _percent(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f} %"


def aligned(rows: Cells) -> str:
    """Columns as wide as they need to be, whatever the width of the terminal; numbers end at the same place."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)


def markdown(rows: Cells) -> str:
    """The same as a table of a document."""
    head, *body = rows
    marks = ("---", *["---:"] * (len(head) - 1))
    return "\n".join(
        f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in (head, marks, *body)
    )
