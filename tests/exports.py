"""Shared by the tests of exports: a small model on disk, and a format whose runtime does as it is told."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import SMALL, randomized

from swinv2 import artifact, child, runtimes
from swinv2.artifact import Record
from swinv2.model import SwinV2
from swinv2.preprocess import Preprocess
from swinv2.runtimes import Node, Session, beside


def small_model(seed: int = 0) -> SwinV2:
    """The small model with a record."""
    model = randomized(SwinV2(SMALL), seed).eval()
    model.record = Record(SMALL, Preprocess.official(64), tuple("abcdefg"), provenance={"recipe": "none"})
    return model


def write_small(path: Path, seed: int = 0) -> Path:
    model = small_model(seed)
    artifact.write(path, model.record, model.state_dict())
    return path


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
