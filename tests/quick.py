"""Runs of two epochs on a speck, and what is in their folders, for the tests of resuming and of faults."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from swinv2 import artifact
from swinv2.train import Result, train
from swinv2.train.saving import snapshots
from swinv2.train.saving.snapshots import Snapshots

# Everything that draws random numbers or keeps averages; a checkpoint and a line of figures after every step.
QUICK = {
    "model": "swinv2_speck", "pretrained": False, "augment": "small", "batch_size": 8, "crop_pct": 1.0, "epochs": 2,
    "lr": 0.05, "drop_path": 0.3, "mixup": 0.5, "ema": 0.9, "save_every": "1", "log_every": 1,
}  # fmt: skip


def run(photos: Path, output: Path, **changes) -> Result:
    return train(photos, output=output, **(QUICK | changes))


@contextmanager
def replaced(owner: object, name: str, value: object) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, value)
        yield


def everything(output: Path) -> dict[str, np.ndarray]:
    """All tensors of the last checkpoint: weights, averages, moments, generators."""
    with safe_open(Snapshots(output).all()[-1] / snapshots.TENSORS, framework="np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def figures(output: Path) -> list[dict]:
    """The lines of metrics.jsonl without what depends on the time of day."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "second" not in k and k != "memory_mb"} for line in lines]


def assert_same(output: Path, straight: Path) -> None:
    expected, found = everything(straight), everything(output)
    assert found.keys() == expected.keys()
    assert [name for name in expected if not np.array_equal(expected[name], found[name])] == []
    for name in ("best.safetensors", "last.safetensors"):
        assert weights_hash(output / name) == weights_hash(straight / name)
    assert figures(output) == figures(straight)


def weights_hash(path: Path) -> str:
    return artifact.tensors_sha256(artifact.read(path)[1])
