"""Pictures and a model that train in a second, for the tests of data, train and evaluate."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from swinv2.config import SwinV2Config

SPECK = SwinV2Config(
    architecture="swinv2_speck", image_size=32, window=4, embed_dim=32, depths=(1, 1), heads=(1, 2),
    pretrained_windows=((0, 0), (0, 0)), num_classes=3,
)  # fmt: skip
COLOURS = {"blue": (30, 60, 200), "green": (40, 180, 60), "red": (200, 40, 40)}


def write_pictures(
    folder: Path, count: int, *, classes: tuple[str, ...] = tuple(COLOURS), seed: int = 0
) -> Path:
    """folder/red/0.png ...: 24 x 20 pixels of noise around a colour of the class; sizes differ from the model's."""
    noise = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = np.array(COLOURS.get(name, (128, 128, 128))) + noise.normal(0, 40, (20, 24, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


def write_split(root: Path, *, train: int = 8, held_out: int = 3) -> Path:
    """root/train and root/val."""
    write_pictures(root / "train", train, seed=1)
    write_pictures(root / "val", held_out, seed=2)
    return root


OPTIONS = ("--pretrained=false", "--augment=none", "--batch-size=8", "--crop-pct=1")


def started(function: Callable[..., Any], *arguments: Any, said: Path, ranks: int = 1) -> list[BaseProcess]:
    """function(*arguments) in so many processes that know each other; what they say is appended to a file.

    They are forked from a server that has everything imported, and begin in no time.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["conftest", "training", "swinv2.train.begin", "swinv2.train.classify", "timm"]
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free.getsockname()[1]),
            "WORLD_SIZE": str(ranks),
        }
    processes: list[BaseProcess] = []
    for rank in range(ranks):
        mine = place | {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(ranks)}
        processes.append(context.Process(target=_enter, args=(function, arguments, mine, said)))
        processes[-1].start()
    return processes


def exit_codes(processes: Sequence[BaseProcess], seconds: float = 120) -> list[int | None]:
    """Their exit codes; those that do not end are ended, and have none."""
    for process in processes:
        process.join(seconds)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return codes


def command(*arguments: str) -> int:
    """`swinv2 ARGUMENTS`, where the speck is known."""
    from swinv2.cli import main

    return main(arguments)


def _enter(function: Callable[..., Any], arguments: tuple, place: dict[str, str], said: Path) -> None:
    import torch

    from swinv2 import config, report
    from swinv2.train.shown import results

    os.environ.update(place)
    number = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(number, 1)
    os.dup2(number, 2)
    torch.set_num_threads(1)
    config.VARIANTS[SPECK.architecture] = SPECK
    results.write = lambda *_: None  # no pictures and no page: they take longer than the run
    report.save = lambda *_: None
    code = function(*arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0)
