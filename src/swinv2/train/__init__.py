"""The verb train: from a folder of pictures to a model file, with everything that a person wants to see of
it.

recipe.py says how, run.py does it, loop.py is one epoch, optim.py and augment.py what happens in it.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from swinv2 import console
from swinv2.extras import require, share_processors
from swinv2.train import recipe as recipes
from swinv2.train.recipe import Recipe, takes_recipe
from swinv2.verbs import Exit, make_callable

make_callable(__name__)

PACKAGES = ("torch", "torchvision", "timm", "sklearn", "matplotlib")  # the extra "train"


@dataclass(frozen=True)
class Result:
    """What a run made.

    Args:
        output: the folder of the run; best and last are model files in it.
        accuracy: held-out top-1 of the best epoch, in percent.
        epoch: the best one, counted from 1.
    """

    output: Path
    best: Path
    last: Path
    accuracy: float
    epoch: int
    epochs: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}


def train(
    data: str | os.PathLike,
    *,
    model: str = "swinv2_tiny_window8_256",
    recipe: str | os.PathLike | Recipe = "finetune",
    output: str | os.PathLike | None = None,
    overwrite: bool = False,
    device: str = "auto",
    workers: int | None = None,
    skip_unreadable: bool = False,
    **overrides: Any,
) -> Result:
    """Train or fine-tune a model on a folder of pictures, one folder per class.

    Args:
        data: folder with train/ and val/ (or validation/, test/, held-out/), or with the class folders
            themselves.
        model: a published name, a model file, or a hub id "owner/repository".
        recipe: a name, a YAML file or a Recipe; overrides replace single settings of it (epochs=3, lr=1e-4).
        output: folder of the run; default: a new one below runs/.
        overwrite: replace the files of an earlier run in output.
        device: auto, cpu, cuda, cuda:1, mps.
        workers: loader processes; default: none for small pictures, which are kept in memory, otherwise by
            processors and shared memory. The result does not depend on it.
        skip_unreadable: leave training pictures out that cannot be read; they are listed either way.

    Raises:
        ValueError, FileNotFoundError: settings, data or weights that cannot be used, in one sentence.
        KeyboardInterrupt: Ctrl-C; the finished epochs are saved and the sentence says where.
    """
    settled = recipes.load(recipe, **overrides)
    share_processors()
    for package in PACKAGES:  # now, and not after an hour, when the first plot is drawn
        if find_spec(package) is None:
            require(package, extra="train")
    from swinv2.train.run import FILES, Run, Settings
    from swinv2.train.start import default_output

    where = Path(output) if output is not None else default_output(Path(data), model)
    old = [where / name for name in FILES if (where / name).exists()]
    if old and not overwrite:
        raise ValueError(f"{where} already holds a run; give another --output, or --overwrite to replace it")
    run = Run(Settings(Path(data), model, where, device, workers, skip_unreadable), settled)
    for path in old:
        path.unlink()
    run.fit()
    summary = run.summary("done")
    return Result(
        output=where,
        best=where / "best.safetensors",
        last=where / "last.safetensors",
        accuracy=run.state.best,
        epoch=run.state.best_epoch,
        epochs=run.state.epoch,
        seconds=summary["seconds"],
    )


@takes_recipe
def command(
    data: str,
    *,
    model: str = "swinv2_tiny_window8_256",
    recipe: str = "finetune",
    output: str | None = None,
    overwrite: bool = False,
    device: str = "auto",
    workers: int | None = None,
    skip_unreadable: bool = False,
    json: bool = False,
    **overrides: Any,
) -> int:
    """Train or fine-tune a model on a folder of pictures, one folder per class.

    The folder has train/ and val/ (or validation/, test/, held-out/) with one folder per class inside, or the
    class folders themselves; then a fifth of each class is held out. The options after --json replace single
    settings of the recipe. docs/train.md explains the files that a run leaves.

    Examples:
        swinv2 train photos
        swinv2 train photos --model swinv2_base_window8_256 --epochs 10 --lr 2e-4
        swinv2 train runs/demo/digits --model swinv2_pico --recipe scratch_small --image-size 32

    Args:
        data: folder of pictures.
        model: a published name, a model file, or a hub id owner/repository.
        recipe: a name (finetune, scratch_small) or a .yaml file.
        output: folder of the run; default is a new one below runs.
        overwrite: replace the files of an earlier run in the output folder.
        device: auto, cpu, cuda, cuda:1 or mps.
        workers: loader processes; default is by size of the pictures, processors and shared memory.
        skip_unreadable: leave out training pictures that cannot be read.
    """
    try:
        result = train(
            data,
            model=model,
            recipe=recipe,
            output=output,
            overwrite=overwrite,
            device=device,
            workers=workers,
            skip_unreadable=skip_unreadable,
            **overrides,
        )
    except KeyboardInterrupt as stop:
        said = str(stop) or "stopped by Ctrl-C before the first step"
        console.stderr().print(said, markup=False)
        if json:
            console.emit_json({"error": said, "code": int(Exit.INTERRUPTED)})
        return Exit.INTERRUPTED
    if json:
        console.emit_json(result.to_dict())
        return Exit.DONE
    say = console.stdout().print
    say(
        f"best: {result.accuracy:.2f} % top-1 on held-out pictures in epoch {result.epoch} of {result.epochs}"
    )
    say(f"model: {result.best}", markup=False)
    say(f"report: {result.output / 'curves.png'}, confusion.png, results.csv, metrics.jsonl", markup=False)
    say(f"next: swinv2 evaluate {result.best} {data}", markup=False)
    say(f"      swinv2 predict PICTURES --model {result.best}", markup=False)
    return Exit.DONE
