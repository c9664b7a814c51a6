"""The verb train: from a folder of pictures to a model file, with everything that a person wants to see of it.

recipes/ says how; begin.py finds the run that is meant and run.py drives it; loop.py takes its steps, with what method/
does in each; saving/ keeps it, shown/ says what it does, classify.py is what is learnt.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swinv2 import console, world
from swinv2.extras import require, share_processors
from swinv2.train.recipes.recipe import Recipe
from swinv2.train.recipes.settings import takes_recipe
from swinv2.verbs import Exit, make_callable

if TYPE_CHECKING:
    from swinv2.train.classify import Classification
    from swinv2.train.request import Request

make_callable(__name__)

DEFAULTS = ("swinv2_tiny_window8_256", "finetune")  # model and recipe
PACKAGES = ("torch", "torchvision", "timm", "sklearn", "matplotlib")  # the extra "train"


@dataclass(frozen=True)
class Result:
    """What a run made.

    Args:
        output: the folder of the run; best and last are model files in it.
        accuracy: held-out figure of the best epoch, in percent; figure: which one, top-1, or mAP (mean average
            precision) where pictures have several labels.
        epoch: the best one, counted from 1.
    """

    output: Path
    best: Path
    last: Path
    accuracy: float
    figure: str
    epoch: int
    epochs: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}


def train(
    data: str | os.PathLike,
    *,
    model: str | None = None,
    recipe: str | os.PathLike | Recipe | None = None,
    output: str | os.PathLike | None = None,
    overwrite: bool = False,
    resume: bool | str | os.PathLike = False,
    save_every: str = "10m",
    device: str = "auto",
    workers: int | None = None,
    skip_unreadable: bool = False,
    deterministic: bool = False,
    shard: bool = False,
    log_every: int = 10,
    tensorboard: bool = False,
    wandb: bool = False,
    **overrides: Any,
) -> Result:
    """Train or fine-tune a model on a folder of pictures, one folder per class.

    Under torchrun, every process calls it with the same arguments.

    Args:
        data: folder with train/ and val/ (or validation/, test/, held-out/), or with the class folders
            themselves.
        model: a published name, a model file, or a hub id "owner/repository"; default
            swinv2_tiny_window8_256, or that of the run that is resumed.
        recipe: a name, a YAML file or a Recipe; overrides replace single settings of it (epochs=3, lr=1e-4).
            Default finetune, or that of the run that is resumed.
        output: folder of the run; default: a new one below runs/.
        overwrite: replace the files of an earlier run in output.
        resume: the folder of a run to go on with; True takes output, or the newest run of this data, and
            starts a new one where there is none.
        save_every: time between two checkpoints, in steps ("500") or minutes ("10m").
        device: auto, cpu, cuda, cuda:1, mps.
        workers: loader processes; default: none for small pictures, which are kept in memory, otherwise by
            processors and shared memory. The result does not depend on it.
        skip_unreadable: leave out training pictures that cannot be read, more than max_unreadable of the recipe
            as well; they are listed either way.
        deterministic: use only kernels that give the same bits each time.
        shard: divide a model that no device holds whole over the processes (FSDP2).
        log_every: steps from one line in metrics.jsonl to the next.
        tensorboard, wandb: send the figures there as well.

    Raises:
        ValueError, OSError: settings, data or weights that cannot be used, or a full disk, in one sentence.
        KeyboardInterrupt: Ctrl-C or SIGTERM; a checkpoint is saved and the sentence says how to go on.
    """
    ready()
    from swinv2.train.begin import begin

    run = begin(
        classification, data, defaults=DEFAULTS, model=model, recipe=recipe, overrides=overrides, output=output,
        overwrite=overwrite, resume=resume, device=device, save_every=save_every, workers=workers,
        skip_unreadable=skip_unreadable, is_deterministic=deterministic, is_sharded=shard, log_every=log_every,
        tensorboard=tensorboard, wandb=wandb,
    )  # fmt: skip
    where = run.request.output
    return Result(
        output=where,
        best=where / "best.safetensors",
        last=where / "last.safetensors",
        accuracy=run.state.best_score[0],
        figure="mAP" if run.task.train.is_multi_label else "top-1",
        epoch=run.state.best_epoch,
        epochs=run.state.epoch,
        seconds=run.keeper.seconds,
    )


def ready() -> None:
    """Before torch is loaded.

    Raises:
        ImportError: a package is missing, said now and not after an hour, when the first plot is drawn.
    """
    share_processors()
    for package in PACKAGES:
        if find_spec(package) is None:
            require(package, extra="train")


def classification(request: Request, recipe: Recipe) -> Classification:
    """The task of a run: its data, its network."""
    from swinv2.data import read_training
    from swinv2.train.classify import Classification

    return Classification(request.model, recipe, *read_training(request.data))


@takes_recipe(without=("mask_patch", "mask_ratio", "mask_norm"))
def command(
    data: str,
    *,
    model: str | None = None,
    recipe: str | None = None,
    output: str | None = None,
    overwrite: bool = False,
    resume: bool | str = False,
    save_every: str = "10m",
    processes: int | None = None,
    shard: bool = False,
    plan: bool = False,
    device: str = "auto",
    workers: int | None = None,
    skip_unreadable: bool = False,
    deterministic: bool = False,
    log_every: int = 10,
    tensorboard: bool = False,
    wandb: bool = False,
    json: bool = False,
    **overrides: Any,
) -> int:
    """Train or fine-tune a model on a folder of pictures, one folder per class.

    The folder has train/ and val/ (or validation/, test/, held-out/) with one folder per class inside, or the
    class folders themselves; then a fifth of each class is held out. The options after --json replace single
    settings of the recipe. docs/training.md explains the files that a run leaves.

    Examples:
        swinv2 train photos
        swinv2 train photos --model swinv2_base_window8_256 --epochs 10 --lr 2e-4
        swinv2 train photos --resume runs/photos-swinv2_tiny_window8_256
        swinv2 train runs/demo/digits --model swinv2_pico --recipe scratch_small --image-size 32

    Args:
        data: folder of pictures.
        model: a published name, a model file, or a hub id owner/repository; default is
            swinv2_tiny_window8_256, or that of the run that is resumed.
        recipe: a name (finetune, scratch_small) or a .yaml file; default is finetune, or that of the run that is
            resumed.
        output: folder of the run; default is a new one below runs.
        overwrite: replace the files of an earlier run in the output folder.
        resume: go on with a run, by its folder; without one, with the run in the output folder, or the newest
            run of this data.
        save_every: time between two checkpoints, in steps (500) or minutes (10m).
        processes: processes on this machine that share each batch, one for each GPU; other machines are reached
            with torchrun -m swinv2 train.
        shard: divide a model that no device holds whole over the processes.
        plan: say what the run would take in steps and memory, and do not begin it.
        device: auto, cpu, cuda, cuda:1 or mps.
        workers: loader processes; default is by size of the pictures, processors and shared memory.
        skip_unreadable: leave out training pictures that cannot be read, however many there are.
        deterministic: use only kernels that give the same bits each time.
        log_every: steps from one line in metrics.jsonl to the next.
        tensorboard: write figures for TensorBoard as well, into the folder of the run.
        wandb: send figures to Weights & Biases as well.
    """
    if plan:
        from swinv2.data import read_training
        from swinv2.train.plan import show

        learnt, _ = read_training(data)
        return show(
            learnt, model or DEFAULTS[0], recipe or DEFAULTS[1], overrides, classes=len(learnt.classes),
            processes=processes, device=device, is_sharded=shard, json=json,
        )  # fmt: skip
    asked = {
        "model": model, "recipe": recipe, "output": output, "overwrite": overwrite, "resume": resume,
        "save_every": save_every, "device": device, "workers": workers, "skip_unreadable": skip_unreadable,
        "deterministic": deterministic, "shard": shard, "log_every": log_every, "tensorboard": tensorboard,
        "wandb": wandb, **overrides,
    }  # fmt: skip
    if processes is not None and world.current().size == 1:
        from swinv2.train.launch import again

        return again("train", data, asked | {"json": json}, processes)
    try:
        result = train(data, **asked)
    except KeyboardInterrupt as stop:
        return stopped(stop, json=json)
    if not world.current().is_first:
        return Exit.DONE
    if json:
        console.emit_json(result.to_dict())
        return Exit.DONE
    say, files = console.stdout().print, ("report.html", "curves.png", "confusion.png", "results.csv")
    made = [name for name in files if (result.output / name).exists()]
    say(
        f"best: {result.accuracy:.2f} % {result.figure} on held-out pictures in epoch {result.epoch} of "
        f"{result.epochs}"
    )
    say(f"model: {result.best}", markup=False)
    say(f"report: {result.output / made[0]}, {', '.join(made[1:])}, metrics.jsonl", markup=False)
    say(f"next: swinv2 evaluate {result.best} {data}", markup=False)
    say(f"      swinv2 predict PICTURES --model {result.best}", markup=False)
    return Exit.DONE


def stopped(stop: KeyboardInterrupt, *, json: bool) -> int:
    """Say that a run has ended on a signal; the exit code, as shells know it: 130 after Ctrl-C, 143 after SIGTERM."""
    said, code = (
        str(stop) or "stopped by Ctrl-C before the first step",
        getattr(stop, "code", Exit.INTERRUPTED),
    )
    if world.current().is_first:
        console.stderr().print(said, markup=False)
        if json:
            console.emit_json({"error": said, "code": int(code)})
    return int(code)
