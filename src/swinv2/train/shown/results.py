"""What is made of a run when it ends, however it ends: tables, pictures, summary.json, report.html.

None of it can end a run: the weights are what it was for, and they are saved.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swinv2 import report
from swinv2.train.parallel import swin
from swinv2.train.shown import describe
from swinv2.train.shown.describe import say

if TYPE_CHECKING:
    from swinv2.train.run import Run

FILES = (
    "best.safetensors", "last.safetensors", "recipe.yaml", "summary.json", "metrics.jsonl", "results.csv",
    "predictions.csv", "augmented.png", "curves.png", "confusion.png", "report.html",
    "best.pth", "last.pth", "reconstruction.png",
)  # fmt: skip


def write(run: Run, status: str, files: Sequence[str] = ()) -> None:
    """Everything about a run that is done, diverged or interrupted.

    Args:
        files: of the batch that a run diverged on.
    """
    output, rows = run.request.output, run.state.rows
    attempt("predictions.csv and confusion.png", lambda: run.task.after_run(output))
    if rows:
        attempt("curves.png", lambda: report.save(report.curves(rows, run.title), output / "curves.png"))
    described = summary(run, status) | ({"diverged_on": list(files)} if files else {})

    def describe_it() -> None:
        made = [name for name in FILES if (output / name).exists() or name == "summary.json"]
        report.write_text(output / "summary.json", json.dumps(described | {"files": made}, indent=2) + "\n")

    attempt("summary.json", describe_it)
    attempt("report.html", lambda: report.write(output))
    attempt("summary.json", describe_it)  # the page is among the files now


def attempt(what: str, make: Callable[[], Any]) -> None:
    """Make a picture or a page; one line says what failed."""
    try:
        make()
    except Exception as error:
        say(f"{what} could not be made: {type(error).__name__}: {' '.join(str(error).split())}")


def summary(run: Run, status: str) -> dict[str, Any]:
    """The run in figures; plain JSON types."""
    state, environment = run.state, describe.environment(run.on)
    return {
        "status": status,
        "model": swin(run.network).config.architecture,
        "data": str(run.request.data),
        **run.task.summary(),
        "best_epoch": state.best_epoch,
        "epochs": state.epoch,
        "steps": state.step,
        "skipped_steps": state.skipped,
        "seconds": run.keeper.seconds,
        "unreadable": sorted(u.name for u in run.feed.left_out.found.values()),
        "parameters": sum(group.count for group in run.groups),
        "batch": run.order.batch_size,
        "steps_per_epoch": run.order.steps,
        "learning_rate": run.schedule.lr,
        "recipe": run.recipe.to_dict(),
        "device": str(run.on),
        "environment": environment,
        "versions": environment["versions"],
    }


def remove(output: Path) -> None:
    """The files of an earlier run in a folder; others in it stay."""
    for name in FILES:
        (output / name).unlink(missing_ok=True)
