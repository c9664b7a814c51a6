"""All that changes during a run, and the way of it into a checkpoint and back.

A run that goes on from a checkpoint takes the same steps as one that never stopped: on a CPU bit for bit.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from swinv2 import world
from swinv2.train.method.ema import Ema
from swinv2.train.parallel import Parallel, fill, gathered, load_optimizer_state, optimizer_state
from swinv2.train.saving.snapshots import pack, unpack
from swinv2.train.task import Task

COUNTERS = ("step", "epoch", "offset", "skipped", "seconds", "rows", "best_epoch", "best_score")


@dataclass
class Running:
    """Figures of the epoch so far, over all processes.

    Args:
        sums: of the task's figures over the pictures; empty where they have none.
        seconds: of its steps; data, transfer and compute are its parts.
    """

    steps: int = 0
    images: int = 0
    skipped: int = 0
    loss_sum: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    lr: float = 0.0
    seconds: float = 0.0
    data_seconds: float = 0.0
    transfer_seconds: float = 0.0
    compute_seconds: float = 0.0
    memory_mb: float = 0.0

    @property
    def loss(self) -> float:
        return self.loss_sum / max(self.images, 1)

    def mean(self, figure: str) -> float | None:
        """A figure of the task; None where batches have no such figure."""
        return self.sums[figure] / max(self.images, 1) if figure in self.sums else None

    @property
    def top1(self) -> float | None:
        """Percent; None where pictures are mixed and have no one label."""
        return self.mean("top1")

    @property
    def images_per_second(self) -> float:
        return self.images / max(self.seconds, 1e-9)


@dataclass
class State:
    """What a run has come to.

    Args:
        step: steps done, skipped ones too, which is also the number of the next one; epoch: likewise.
        offset: steps done in the epoch that is not finished.
        skipped: steps whose loss or gradient was no number.
        seconds: that the run has taken, in all its pieces.
        rows: of the finished epochs, as in results.csv.
        best_epoch: counted from 1; 0 before the first.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: Ema | None = None
    step: int = 0
    epoch: int = 0
    offset: int = 0
    skipped: int = 0
    seconds: float = 0.0
    running: Running = field(default_factory=Running)
    rows: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_score: list[float] = field(default_factory=list)


def capture(state: State, parallel: Parallel, task: Task) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Facts and tensors of a checkpoint. All processes must call it; only the first gets the tensors."""
    tensors = pack("model", parallel.weights())
    tensors |= pack("optimizer", optimizer_state(state.network, state.optimizer))
    if state.ema:
        tensors |= pack("ema", gathered(state.ema.state_dict()))
    facts: dict[str, Any] = {name: getattr(state, name) for name in COUNTERS}
    facts |= {"running": asdict(state.running), "scaler": state.scaler.state_dict(), "random": [], "task": {}}
    for name, value in task.state().items():
        (tensors if isinstance(value, Tensor) else facts["task"])[
            f"task/{name}" if isinstance(value, Tensor) else name
        ] = value
    for rank, (plain, generators) in enumerate(world.gather(_random_states())):
        facts["random"].append(plain)
        tensors |= pack(f"random/{rank}", generators)
    return facts, tensors


def restore(
    state: State, parallel: Parallel, task: Task, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Put a checkpoint back; every process reads the same one and takes its share."""
    fill(state.network.state_dict(), unpack("model", tensors))
    load_optimizer_state(state.network, state.optimizer, unpack("optimizer", tensors))
    if state.ema:
        fill(state.ema.state_dict(), unpack("ema", tensors))
    for name in COUNTERS:
        setattr(state, name, facts[name])
    state.running = Running(**facts["running"])
    state.scaler.load_state_dict(facts["scaler"])
    task.load_state({**facts["task"], **unpack("task", tensors)})
    mine = min(world.current().rank, len(facts["random"]) - 1)  # of fewer processes than now, the last one's
    _set_random_states(facts["random"][mine], unpack(f"random/{mine}", tensors))


def _random_states() -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Where every random number generator of this process stands: as plain lists, and as tensors."""
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        tensors["cuda"] = torch.cuda.get_rng_state()
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {"python": random.getstate(), "numpy": [kind, keys.tolist(), *rest]}, tensors  # type: ignore[union-attr]


def _set_random_states(plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    version, keys, gauss = plain["python"]
    random.setstate((version, tuple(keys), gauss))
    kind, numbers, *rest = plain["numpy"]
    np.random.set_state((kind, np.array(numbers, np.uint32), *rest))
    torch.set_rng_state(tensors["cpu"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])
