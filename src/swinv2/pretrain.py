"""The verb pretrain: an encoder learns from pictures without labels (SimMIM), to be trained on others afterwards.

train/simmim/ is what is learnt; the run is that of `swinv2 train`, with its checkpoints, processes and reports.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swinv2 import console, world
from swinv2.train import ready, stopped
from swinv2.train.recipes.recipe import Recipe
from swinv2.train.recipes.settings import takes_recipe
from swinv2.verbs import Exit, make_callable

if TYPE_CHECKING:
    from swinv2.train.request import Request
    from swinv2.train.simmim.pretraining import Pretraining

make_callable(__name__)

DEFAULTS = ("swinv2_base_window12_192", "simmim_pretrain")  # model and recipe
ABOUT_LABELS = (
    "loss", "class_weights", "label_smoothing", "mixup", "cutmix", "mix_prob", "mix_switch_prob", "teacher",
    "distill_weight", "distill_temperature",
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """What a run made.

    Args:
        output: the folder of the run; best and last are model files in it, of an encoder without a head.
        loss: mean error of hidden pixels in held-out pictures, in the best epoch.
        epoch: the best one, counted from 1.
    """

    output: Path
    best: Path
    last: Path
    loss: float
    epoch: int
    epochs: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}


def pretrain(
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
    """Pre-train a model on pictures without labels; swinv2.train(..., model=result.last) goes on from it.

    Args:
        data: a folder with pictures at any depth, or any data set that train takes, whose labels are left out.
        model: the name of a variant; with pretrained=True a published name or a model file. Default
            swinv2_base_window12_192, or that of the run that is resumed.
        recipe: a name, a YAML file or a Recipe; default simmim_pretrain.

    The others are those of swinv2.train.

    Raises:
        ValueError, OSError: settings, data or weights that cannot be used, or a full disk, in one sentence.
        KeyboardInterrupt: Ctrl-C or SIGTERM; a checkpoint is saved and the sentence says how to go on.
    """
    ready()
    from swinv2.train.begin import begin

    run = begin(
        _task, data, defaults=DEFAULTS, model=model, recipe=recipe, overrides=overrides, output=output,
        overwrite=overwrite, resume=resume, device=device, save_every=save_every, workers=workers,
        skip_unreadable=skip_unreadable, is_deterministic=deterministic, is_sharded=shard, log_every=log_every,
        tensorboard=tensorboard, wandb=wandb,
    )  # fmt: skip
    where = run.request.output
    return Result(
        output=where,
        best=where / "best.safetensors",
        last=where / "last.safetensors",
        loss=-run.state.best_score[0],
        epoch=run.state.best_epoch,
        epochs=run.state.epoch,
        seconds=run.keeper.seconds,
    )


def _task(request: Request, recipe: Recipe) -> Pretraining:
    from swinv2.data.unlabelled import read_unlabelled
    from swinv2.train.simmim.pretraining import Pretraining

    return Pretraining(request.model, recipe, *read_unlabelled(request.data))


@takes_recipe(without=ABOUT_LABELS)
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
    """Pre-train a model on pictures without labels, by filling in what is hidden of them (SimMIM).

    The folder may hold pictures at any depth; train/ and val/ are taken for what they are called. What comes of it is
    a model file without a head, from which `swinv2 train` starts. The options after --json replace single settings
    of the recipe. docs/pretrain.md explains the rest.

    Examples:
        swinv2 pretrain photos
        swinv2 pretrain photos --model swinv2_tiny_window8_256 --image-size 192 --epochs 100 --batch-size 64
        swinv2 pretrain photos --plan

    Args:
        data: folder of pictures, or any data set that `swinv2 train` takes.
        model: the name of a variant, or with --pretrained true a published name or a model file; default is
            swinv2_base_window12_192, or that of the run that is resumed.
        recipe: a name or a .yaml file; default is simmim_pretrain, or that of the run that is resumed.
        output: folder of the run; default is a new one below runs.
        overwrite: replace the files of an earlier run in the output folder.
        resume: go on with a run, by its folder; without one, with the run in the output folder, or the newest
            run of this data.
        save_every: time between two checkpoints, in steps (500) or minutes (10m).
        processes: processes on this machine that share each batch, one for each GPU; other machines are reached
            with torchrun -m swinv2 pretrain.
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
        from swinv2.data.unlabelled import read_unlabelled
        from swinv2.train.plan import show

        train, _ = read_unlabelled(data)
        return show(
            train, model or DEFAULTS[0], recipe or DEFAULTS[1], overrides, classes=0, processes=processes,
            device=device, is_sharded=shard, json=json,
        )  # fmt: skip
    asked = {
        "model": model, "recipe": recipe, "output": output, "overwrite": overwrite, "resume": resume,
        "save_every": save_every, "device": device, "workers": workers, "skip_unreadable": skip_unreadable,
        "deterministic": deterministic, "shard": shard, "log_every": log_every, "tensorboard": tensorboard,
        "wandb": wandb, **overrides,
    }  # fmt: skip
    if processes is not None and world.current().size == 1:
        from swinv2.train.launch import again

        return again("pretrain", data, asked | {"json": json}, processes)
    try:
        result = pretrain(data, **asked)
    except KeyboardInterrupt as stop:
        return stopped(stop, json=json)
    if not world.current().is_first:
        return Exit.DONE
    if json:
        console.emit_json(result.to_dict())
        return Exit.DONE
    say = console.stdout().print
    say(f"best: error {result.loss:.4f} on held-out pictures in epoch {result.epoch} of {result.epochs}")
    say(f"model: {result.last}, without a head; last.pth holds the whole network", markup=False)
    say(f"pictures: {result.output / 'reconstruction.png'}, reconstructions/", markup=False)
    say(f"next: swinv2 train LABELLED --model {result.last} --recipe simmim_finetune", markup=False)
    return Exit.DONE
