"""From what a user asks for to a run: its folder and recipe, and the run that it goes on with where one has ended."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from swinv2 import world
from swinv2.train.compute import Compute
from swinv2.train.recipes import settings
from swinv2.train.recipes.recipe import Recipe
from swinv2.train.request import Every, Request
from swinv2.train.run import Run
from swinv2.train.saving import snapshots
from swinv2.train.saving.snapshots import Snapshots
from swinv2.train.shown import results
from swinv2.train.shown.describe import say
from swinv2.train.start import default_output
from swinv2.train.task import Task

Path_ = str | os.PathLike


def begin(
    make: Callable[[Request, Recipe], Task],
    data: Path_,
    *,
    defaults: tuple[str, str],
    model: str | None,
    recipe: Path_ | Recipe | None,
    overrides: dict[str, Any],
    output: Path_ | None = None,
    overwrite: bool = False,
    resume: bool | Path_ = False,
    device: str = "auto",
    save_every: str = "10m",
    **asked: Any,
) -> Run:
    """Take a run to its last step, from its first or from where it ended.

    Args:
        make: the task, from the data; see Run.
        defaults: model and recipe of a new run that names none; a resumed run has its own.
        resume: the folder of a run, or True: output, or the newest unfinished run of this data.
        asked: the other fields of Request.

    Raises:
        ValueError, OSError, ImportError: what cannot be used, in one sentence.
        Stopped, Diverged, Unsaved: as Run.fit.
    """
    every = Every.of(save_every)
    settled = None if recipe is None else settings.load(recipe, **overrides)
    me = world.start(Compute.of(device).device)
    with world.together():
        earlier = find(resume, Path(data), output)
        if earlier is None:
            settled = settled or settings.load(defaults[1], **overrides)
            model = model or defaults[0]
            where = Path(output) if output is not None else default_output(Path(data), model)
            if not overwrite and me.is_first and holds_run(where, begun=resume is not True):
                raise ValueError(
                    f"{where} already holds a run; give another --output, --overwrite to replace it, or --resume "
                    f"to go on with it"
                )
        else:
            where = earlier
            settled = settled or settings.load(earlier / "recipe.yaml", **overrides)
            model = model or snapshots.facts(Snapshots(earlier).all()[-1])["source"]
    where = Path(world.gather(str(where))[0])  # the first process may have been about to make it
    request = Request(
        str(data), model, where, device=device, save_every=every, is_resumed=earlier is not None, **asked
    )
    run = Run(request, settled, make)
    if earlier is None and me.is_first:
        results.remove(where)
        shutil.rmtree(where / snapshots.FOLDER, ignore_errors=True)
    if me.size == 1 and run.on.kind == "cuda" and (count := torch.cuda.device_count()) > 1:
        say(f"one of {count} GPUs is used; --processes {count} uses all of them")
    run.fit()
    return run


def find(resume: bool | Path_, data: Path, output: Path_ | None) -> Path | None:
    """The run to go on with; None where none is asked for, or where it has not come to a checkpoint yet.

    Raises:
        FileNotFoundError: a run is named, and there is none.
    """
    if resume is False:
        return None
    if resume is not True:
        named = Path(resume)
        if not named.is_dir():
            raise FileNotFoundError(f"there is no run {named}; --resume takes the folder of a run")
        if not Snapshots(named).all():
            raise FileNotFoundError(
                f"{named} has no checkpoint to go on from; start the run again with --overwrite"
            )
        return named
    if output is not None:
        runs = [Path(output)]
    else:
        runs = sorted(Path("runs").glob(f"{data.resolve().name}-*"), key=lambda path: path.stat().st_mtime)
    begun = [run for run in runs if Snapshots(run).all()]
    if not begun:
        say("there is no checkpoint to go on from; the run starts at its first step")
        return None
    return begun[-1]


def holds_run(folder: Path, *, begun: bool) -> bool:
    """Whether a folder has files of a run.

    Args:
        begun: count a run that has come to nothing as well: neither to a checkpoint nor to a model file.
    """
    names = (*results.FILES, snapshots.FOLDER) if begun else ("last.safetensors",)
    return any((folder / name).exists() for name in names)
