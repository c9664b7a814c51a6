"""A step of training waits for the device once: seen on torch's device "meta", whose tensors have no values."""

from __future__ import annotations

import traceback
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from training import SPECK, write_split

import swinv2
from swinv2 import config
from swinv2.data import read_training
from swinv2.data.loader import Batch
from swinv2.data.order import Order
from swinv2.train.classify import Classification
from swinv2.train.compute import Compute
from swinv2.train.loop import Loop
from swinv2.train.method.ema import Ema
from swinv2.train.method.optim import Schedule, adamw, groups
from swinv2.train.parallel import Parallel
from swinv2.train.recipes.recipe import Recipe
from swinv2.train.saving.state import State

OURS = Path(swinv2.__file__).parent
ATEN = torch.ops.aten
DEVICE = torch.device("meta")


class Waits(TorchDispatchMode):
    """Where Python would wait for a device: values that it reads, and copies that are not left to go on by themselves.

    Attributes:
        lines: of ours, as "loop.py: the line".
    """

    def __init__(self):
        super().__init__()
        self.lines: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is ATEN._local_scalar_dense.default and args[0].device == DEVICE:
            self._note()
            return 1.0
        if (
            func is ATEN._to_copy.default
            and args[0].device == DEVICE
            and kwargs.get("device") not in (None, DEVICE)
        ):
            self._note()
            return torch.ones(args[0].shape)
        out = func(*args, **kwargs)
        if func in (ATEN._to_copy.default, ATEN.copy_.default) and out.device == DEVICE:
            source = args[1] if func is ATEN.copy_.default else args[0]
            if source.device != DEVICE and not (kwargs.get("non_blocking") or (*args, 0, 0)[2]):
                self._note()
        return out

    def _note(self) -> None:
        frames = [f for f in traceback.extract_stack() if OURS in Path(f.filename).parents]
        self.lines.append(f"{Path(frames[-1].filename).name}: {frames[-1].line}" if frames else "elsewhere")


class OnMeta(Compute):
    """Mixed precision is of devices that compute."""

    def autocast(self) -> AbstractContextManager:
        return nullcontext()

    def scaler(self) -> torch.amp.GradScaler:
        return torch.amp.GradScaler("cpu", enabled=False)


def loop(recipe: Recipe, folder: Path) -> Loop:
    task = Classification("swinv2_speck", recipe, *read_training(folder))
    network = task.network.to(DEVICE).train()
    network.set_drop_path(0.3)
    on = OnMeta(DEVICE, "fp32")
    ema = Ema(network, task.recipe.ema) if task.recipe.ema else None
    state = State(network, adamw(groups(network, task.recipe), task.recipe), on.scaler(), ema)
    order, schedule = Order(24, 8, 0), Schedule.of(task.recipe, 3, 8)
    return Loop(state, task, Parallel(network, on, is_sharded=False), schedule, order, on, lambda: "")


@pytest.mark.parametrize(
    "settings",
    [{}, {"mixup": 0.8, "cutmix": 1.0, "ema": 0.99}, {"loss": "bce", "class_weights": "balanced"}],
    ids=["plain", "mixed and averaged", "weighed"],
)
def test_a_step_waits_once(tmp_path, monkeypatch, settings):
    monkeypatch.setitem(config.VARIANTS, SPECK.architecture, SPECK)
    recipe = Recipe(pretrained=False, augment="none", batch_size=8, crop_pct=1.0, **settings)
    training = loop(recipe, write_split(tmp_path))
    images, labels = torch.empty(8, 3, 32, 32, device=DEVICE), torch.zeros(8, dtype=torch.long, device=DEVICE)
    batch = Batch(images, labels, torch.arange(8), torch.arange(8), ())
    with Waits() as waits:
        taken = [training._step([batch], lambda: ()) for _ in range(2)]
    assert [(one.step, one.is_skipped) for one in taken] == [(1, False), (2, False)]
    assert set(waits.lines) == {
        "loop.py: *values, grad_norm = torch.stack([torch.as_tensor(value).float() for value in here]).tolist()"
    }
