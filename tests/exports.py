"""Shared by the tests of exports: a small model on disk, and a format whose runtime does as it is told."""

from __future__ import annotations

import importlib
import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import TWO_STAGES, randomized

from swinv2 import artifact, child, runtimes
from swinv2.artifact import Record
from swinv2.config import SwinV2Config
from swinv2.model import SwinV2
from swinv2.preprocess import Preprocess
from swinv2.runtimes import Node, Session, beside


def small_model(seed: int = 0, config: SwinV2Config = TWO_STAGES) -> SwinV2:
    """A small model with a record. Most converters take their time for every block, so it has three."""
    model = randomized(SwinV2(config), seed).eval()
    model.record = Record(config, Preprocess.official(64), tuple("abcdefg"), provenance={"recipe": "none"})
    return model


def write_small(path: Path, seed: int = 0, config: SwinV2Config = TWO_STAGES) -> Path:
    model = small_model(seed, config)
    artifact.write(path, model.record, model.state_dict())
    return path


@contextmanager
def one_process() -> Iterator[None]:
    """What has a process of its own is called in this one, as JSON: for many exports that are not about processes."""

    def call(function, arguments, *, doing, environment=None):
        assert not environment, "variables are for a process of its own"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as there
            found = child.attempt(lambda: child.find(function)(**json.loads(json.dumps(arguments))))
        return child.outcome(json.loads(json.dumps(found)), doing)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(child, "call", call)
        yield


class Pretend:
    """The format "pretend" (.pretend): a saved state dict, run by the torch model. What goes wrong is set here.

    Attributes:
        gain: what the runtime multiplies logits with.
        nodes: what the lint sees.
        error: raised by the converter.
        absent: why the runtime cannot run here.
    """

    def __init__(self) -> None:
        self.gain = 1.0
        self.nodes = [Node("MatMul", 3)]
        self.error: Exception | None = None
        self.absent: str | None = None
        self.options: list[runtimes.Options] = []

    def module(self) -> SimpleNamespace:
        def export(model, path, options, calibration):
            self.options.append(options)
            torch.save(model.state_dict(), path)
            if self.error:
                raise self.error
            return {"level": 3}

        def opened(source, *, device, precision, threads):
            return PretendSession(Path(source), self.gain)

        return SimpleNamespace(
            export=export, open=opened, nodes=lambda path: self.nodes,
            unsupported=lambda device, precision: self.absent,
        )  # fmt: skip


class PretendSession(Session):
    runtime, device, precision = "pretend", "cpu", "fp32"

    def __init__(self, path: Path, gain: float):
        self.record, self.gain = beside.read_record(path), gain
        self.model = SwinV2(self.record.config).eval()
        self.model.load_state_dict(torch.load(path))

    def run(self, images: np.ndarray) -> np.ndarray:
        self.check(images)
        with torch.no_grad():
            return self.gain * self.model(torch.from_numpy(images)).numpy()


def install_pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """The format in RUNTIMES, and what would run in another process runs in this one, where it is known."""
    told = Pretend()
    monkeypatch.setitem(sys.modules, "pretend_runtime", told.module())
    row = replace(
        runtimes.RUNTIMES["torchscript"], name="pretend", suffixes=(".pretend",), module="pretend_runtime",
        package="numpy", extra="pretend", exports=("fp32",), converters=(),
    )  # fmt: skip
    monkeypatch.setitem(runtimes.RUNTIMES, "pretend", row)

    def call(function, arguments, **_):
        module, _, name = function.partition(":")
        return getattr(importlib.import_module(module), name)(**arguments)

    monkeypatch.setattr(child, "call", call)
    return told
