"""Classification as a task: labels from pictures, one for each or, of a multi-label set, several."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

import swinv2
from swinv2 import artifact, metrics, multilabel, report, world
from swinv2.artifact import Record
from swinv2.data import Split
from swinv2.data.loader import Batch, Transform, Unreadable
from swinv2.model import SwinV2
from swinv2.preprocess import Preprocess
from swinv2.train.compute import Compute
from swinv2.train.feed import refuse_held_out
from swinv2.train.method.augment import Augment, Mix
from swinv2.train.method.distill import Teacher
from swinv2.train.method.loss import Loss
from swinv2.train.recipes.recipe import Recipe
from swinv2.train.start import build, preprocessing, settle
from swinv2.train.task import Measured, Sums

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Measurement = metrics.Measurement | multilabel.Measurement


class Classification:
    """The task of `swinv2 train`. See task.Task.

    Args:
        model: what the weights come from, as the user named it.
    """

    def __init__(
        self, model: str, recipe: Recipe, train: Split, held_out: Split, preprocess: Preprocess | None = None
    ):
        self.model, self.train, self.held_out = model, train, held_out
        self.network: SwinV2 = build(model, recipe, train.classes)
        self.recipe = settle(self.network, recipe, train)
        self.preprocess = preprocess or preprocessing(self.network, recipe)
        self.criterion = Loss.of(self.recipe, train)
        self.mix = Mix(self.recipe, len(train.classes))
        self.is_multi_label = train.is_multi_label
        self.teacher = Teacher.of(
            self.recipe, train.classes, self.preprocess, is_multi_label=self.is_multi_label
        )
        self.figures: tuple[str, ...] = () if self.is_multi_label else ("top1",)
        self.best: Measurement | None = None
        self.best_epoch = 0

    def augment(self) -> Transform:
        return Augment(self.recipe, self.preprocess)

    def loss(self, model: nn.Module, batch: Batch, step: int) -> tuple[Tensor, Sums]:
        images, targets = self.mix(batch.images, batch.labels, step)
        logits = model(images)
        loss = self.criterion(logits, targets)
        if self.teacher is not None:
            loss = self.teacher.loss(loss, logits, images)
        if self.is_multi_label or self.mix.is_on:  # a mixed picture has no one label
            return loss, {}
        return loss, {"top1": 100 * (logits.argmax(1) == batch.labels).sum()}

    @torch.no_grad()  # and not inference mode: shares of a divided model are learnt with again afterwards
    def measure(self, network: nn.Module, batches: Iterable[Batch], on: Compute) -> Measured:
        kind = multilabel.Tally if self.is_multi_label else metrics.Tally
        tally: Any = kind(self.train.classes)
        unreadable: list[Unreadable] = []
        for batch in batches:
            unreadable += batch.unreadable
            count = len(batch.indices)
            # All processes call the network equally often, also one that has no picture left.
            images = (
                batch.images if count else torch.zeros(1, self.preprocess.channels, *self.preprocess.size)
            )
            with on.autocast():
                logits = network(on.send(images))
            if count:
                tally.add(logits.float().cpu().numpy(), batch.labels.numpy(), batch.indices.numpy())
        refuse_held_out([u for found in world.gather(unreadable) for u in found], self.held_out)
        tally.gather(world.gather)
        measured = tally.measurement()
        row, score = figures(measured)
        return Measured(row, score, measured)

    def save(self, weights: dict[str, Tensor], path: Path, measured: Measured, epoch: int) -> None:
        artifact.write(path, self.record(measured.detail, epoch), weights)

    def after_epoch(self, output: Path, measured: Measured, epoch: int, *, is_best: bool) -> None:
        if is_best:
            self.best, self.best_epoch = measured.detail, epoch

    def after_run(self, output: Path) -> None:
        if self.best is None:
            return
        report.results_csv(output / "predictions.csv", self.best.answers(self.held_out.names))
        if isinstance(self.best, metrics.Measurement):
            title = f"{self.network.config.architecture} on {self.train.name}/{self.held_out.split}"
            figure = report.confusion(self.best, f"{title}, epoch {self.best_epoch}")
            report.save(figure, output / "confusion.png")

    def summary(self) -> dict[str, Any]:
        train, held_out = self.train, self.held_out
        found: dict[str, Any] = {
            "classes": list(train.classes),
            "train_images": len(train),
            "train_counts": list(train.counts),
            "held_out_images": len(held_out),
            "held_out_split": held_out.split,
            "held_out_counts": list(held_out.counts),
        }
        if self.best is not None:
            found |= {"held_out": self.best.to_dict(), "per_class": self.best.per_class()}
        return found

    def preview(self, batch: Batch) -> Figure:
        images, targets = self.mix(batch.images, batch.labels, 0)
        return report.mosaic(images, report.target_names(targets, self.train.classes), self.preprocess)

    def state(self) -> dict[str, Any]:
        if self.best is None:
            return {}
        fields = {name: value for name, value in asdict(self.best).items() if name != "classes"}
        return {"best_epoch": self.best_epoch} | {
            name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in fields.items()
        }

    def load_state(self, state: dict[str, Any]) -> None:
        if not state:
            return
        kind = multilabel.Measurement if self.is_multi_label else metrics.Measurement
        fields = {name: value.numpy() for name, value in state.items() if isinstance(value, Tensor)}
        self.best, self.best_epoch = kind(classes=self.train.classes, **fields), state["best_epoch"]

    def record(self, measured: Measurement, epoch: int) -> Record:
        """What goes into the model file: the contract of prediction, and where the weights come from."""
        source = self.network.record
        data = f"{self.held_out.name}/{self.held_out.split}"
        classes: tuple[str, ...] = self.train.classes
        synsets: tuple[str, ...] = ()
        if (
            source and source.synsets == classes
        ):  # an ImageNet folder: names are synsets, the model's are words
            classes, synsets = source.classes, source.synsets
        return Record(
            config=self.network.config,
            preprocess=self.preprocess,
            classes=classes,
            synsets=synsets,
            license=source.license if source and self.recipe.pretrained else "",
            accuracy=accuracy(measured, data),
            provenance={
                "source": self.model if self.recipe.pretrained else "random weights",
                "trained_with": f"swinv2 {swinv2.__version__}, torch {torch.__version__}",
                "epoch": epoch,
                "recipe": json.loads(json.dumps(self.recipe.to_dict())),
                "data": {
                    "name": self.train.name,
                    "train": len(self.train),
                    "held_out": len(self.held_out),
                    "held_out_fingerprint": self.held_out.fingerprint,
                    "is_divided": self.held_out.is_divided,
                },
                **thresholds(measured),
            },
        )


def figures(measured: Measurement) -> tuple[dict[str, float], tuple[float, ...]]:
    """The figures of an epoch, and what makes it the best one.

    Of equal accuracies the one with the lower loss: on a few hundred pictures they are often equal.
    """
    if isinstance(measured, multilabel.Measurement):
        row = {
            "loss": measured.loss,
            "map": measured.mean_ap,
            "f1_micro": measured.f1("micro"),
            "f1_macro": measured.f1("macro"),
            "exact": measured.exact,
        }
        return row, (measured.mean_ap, -measured.loss)
    row = {"loss": measured.loss, "top1": measured.top1, f"top{measured.k}": measured.top5}
    return row, (measured.top1, -measured.loss)


def accuracy(measured: Measurement, data: str) -> dict[str, float]:
    """As a model file states it, by name of the figure."""
    if isinstance(measured, multilabel.Measurement):
        return {f"{data} mAP": measured.mean_ap, f"{data} F1": measured.f1("micro")}
    return {f"{data} top-1": measured.top1, f"{data} top-{measured.k}": measured.top5}


def thresholds(measured: Measurement) -> dict[str, list[float]]:
    """Of a model whose pictures have several classes: from which score on a class is said to be there."""
    if isinstance(measured, multilabel.Measurement):
        return {"thresholds": [round(float(value), 6) for value in measured.best_thresholds()]}
    return {}
