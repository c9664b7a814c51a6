"""What a run says of itself: before the first step, when waiting dominates, and in summary.json."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import swinv2
from swinv2 import world
from swinv2.train.compute import Compute
from swinv2.train.method.optim import Group, Schedule
from swinv2.train.parallel import swin
from swinv2.train.saving.state import Running
from swinv2.train.shown import progress
from swinv2.train.task import Task

SLOW = 1 / 3  # share of the time that steps may wait for pictures without a word
SHORT = 10.0  # seconds of an epoch that nobody needs to make shorter
PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow", "scikit-learn", "matplotlib")


def say(text: Any) -> None:
    """A line, or a table, on stderr; by the first process only."""
    if world.current().is_first:
        progress.say(text)


def data(task: Task) -> None:
    """What is learnt from and measured on."""
    train, held_out = task.train, task.held_out
    classes = f", {len(train.classes)} classes" if len(train.classes) > 1 else ""
    say(
        f"{train.name}: {len(train):,} pictures to learn from ({train.split}), "
        f"{len(held_out):,} held out ({held_out.split}){classes}"
    )
    if held_out.is_divided:
        of = " of each class" if classes else ""
        say(
            f"{train.name} has no val/: a fifth{of} is held out, chosen by the hash of the file names, the same "
            f"files every time"
        )
    if empty := [train.classes[c] for c, n in enumerate(held_out.counts) if not n]:
        say(f"no held-out pictures of {', '.join(empty[:5])}: these classes are not measured")


def plan(
    task: Task,
    source: str,
    groups: Sequence[Group],
    schedule: Schedule,
    batch: int,
    on: Compute,
    *,
    is_sharded: bool,
) -> None:
    """Everything about the run that follows from recipe and data.

    Args:
        source: where the weights come from, in words.
        batch: pictures of a step, over all processes.
    """
    recipe, me = task.recipe, world.current()
    height, width = task.preprocess.size
    count = sum(group.count for group in groups)
    name = swin(task.network).config.architecture
    how = ""
    if me.size > 1:
        how = f", {me.size} processes" + (" that share the model" if is_sharded else "")
    say(f"{name}, {source}, {count:,} parameters, image {height} x {width}, on {on}{how}")
    steps = schedule.steps // recipe.epochs
    say(
        f"recipe {recipe.name}: {recipe.epochs} epochs of {steps:,} steps = {schedule.steps:,} steps, "
        f"batch {batch}{divided(batch, recipe.accumulate)}"
    )
    say(
        f"learning rate {recipe.lr:g} per {recipe.reference_batch} pictures x batch {batch} = "
        f"{schedule.lr:.4g}; {schedule}"
    )
    say(progress.groups_table(groups))


def divided(batch: int, accumulate: int) -> str:
    """How a batch is divided, in words: " = 4 processes x 2 parts x 16 pictures"."""
    size = world.current().size
    parts = [f"{size} processes"] if size > 1 else []
    parts += [f"{accumulate} parts"] if accumulate > 1 else []
    return f" = {' x '.join(parts)} x {batch // (size * accumulate)} pictures" if parts else ""


def waiting(running: Running, cure: str) -> str | None:
    """A line about an epoch that mostly waited for its pictures; None for one that did not."""
    share = running.data_seconds / max(running.seconds, 1e-9)
    if share < SLOW or running.seconds < SHORT:
        return None
    rest = f"{100 * running.transfer_seconds / running.seconds:.0f} % transfer"
    return (
        f"steps wait for pictures {100 * share:.0f} % of the time ({rest}, "
        f"{100 * running.compute_seconds / running.seconds:.0f} % compute); {cure}"
    )


def environment(on: Compute) -> dict[str, Any]:
    """What the run was computed on; plain JSON types."""
    found = {"swinv2": swinv2.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "device": torch.cuda.get_device_name(on.device) if on.kind == "cuda" else processor(),
        "cpu": processor(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "processes": world.current().size,
        "versions": found,
    }


def processor() -> str:
    """The name of the processor, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
