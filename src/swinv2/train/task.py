"""What is learnt from a batch: the part of a run that differs between classification and pre-training.

The loop knows steps, gradients, devices and processes; a task knows pictures and targets. Run prepares and
drives any task; classify.py is one, simmim.py another.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

from swinv2.data.loader import Batch, Transform
from swinv2.preprocess import Preprocess

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from swinv2.data.split import Split
    from swinv2.train.compute import Compute
    from swinv2.train.recipes.recipe import Settled

Sums = dict[str, Tensor]  # figure -> its sum over the pictures of a batch, on the device


@dataclass(frozen=True)
class Measured:
    """What an epoch has come to.

    Args:
        row: its figures, as they go into the epoch's line of metrics.jsonl; the same keys every epoch.
        score: larger is better; compared as tuples, so that a second figure decides between equal first ones.
        detail: whatever else the task knows of the epoch.
    """

    row: dict[str, float]
    score: tuple[float, ...]
    detail: Any = field(default=None, repr=False)


class Task(Protocol):
    """Everything about a run that depends on what is learnt.

    Attributes:
        train: pictures to learn from; Run takes unreadable ones out where that is allowed.
        held_out: pictures to measure on.
        recipe: with nothing left open.
        network: what is trained. Checkpoints hold its state_dict, under its names.
        preprocess: of measuring; its size and channels are also those of training.
        figures: names of the sums that loss() returns, such as ("top1",); rows show their means as train_top1,
            and None where a batch has no such figure.
    """

    train: Split
    held_out: Split
    preprocess: Preprocess
    figures: tuple[str, ...]

    @property
    def recipe(self) -> Settled: ...

    @property
    def network(self) -> nn.Module: ...

    def augment(self) -> Transform:
        """How a picture (Pillow, key) becomes a training tensor [C, H, W], of the size of its epoch; a function
        of (seed, epoch, index) alone."""

    def loss(self, model: nn.Module, batch: Batch, step: int) -> tuple[Tensor, Sums]:
        """The mean loss over the pictures of a batch that lies on the device, and figures summed over them.

        Called inside autocast, once for every micro batch. model is the network as it is to be called
        (wrapped for several processes, compiled); step counts optimizer steps from 0 and is the same in every
        part of one. Random choices may follow from (seed, step, batch.positions, batch.indices) only.
        """

    def measure(self, network: nn.Module, batches: Iterable[Batch], on: Compute) -> Measured:
        """The figures of the held-out pictures, or of whatever tells a better epoch from a worse one.

        batches are this process's share; figures are brought together by swinv2.world, and every process
        returns the same. network is in eval mode and may hold averaged weights.
        """

    def save(self, weights: dict[str, Tensor], path: Path, measured: Measured, epoch: int) -> None:
        """Write a model file, complete or not at all. weights: the state_dict of the network, whole, on the
        CPU; called in the first process only."""

    def after_epoch(self, output: Path, measured: Measured, epoch: int, *, is_best: bool) -> None:
        """In every process: keep what is to be kept of a best epoch. In the first one also: files beside the
        model files, such as a picture of what was reconstructed; one that cannot be drawn ends no run."""

    def after_run(self, output: Path) -> None:
        """Files about the best epoch, such as its confusion matrix. First process only; one that cannot be drawn
        ends no run."""

    def summary(self) -> dict[str, Any]:
        """What summary.json says of data and of the best epoch; plain JSON types."""

    def preview(self, batch: Batch) -> Figure:
        """The first training batch, on the CPU, as the network sees it."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold of the task itself: by name, tensors or plain JSON types."""

    def load_state(self, state: dict[str, Any]) -> None:
        """The other way."""
