"""One training run from a data folder to its files: what is prepared, what is said, what is kept."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

import swinv2
from swinv2 import checkpoints, report
from swinv2.artifact import Record
from swinv2.data.folder import DataError, ImageFolder, read_training
from swinv2.data.loader import (
    AsPredicted,
    Order,
    Pictures,
    Unreadable,
    decode_all,
    default_workers,
    fits_in_memory,
    loader,
)
from swinv2.metrics import Measurement
from swinv2.train.augment import Augment, Mix
from swinv2.train.compute import Compute, measure
from swinv2.train.loop import Diverged, Running, State, train_epoch
from swinv2.train.optim import Schedule, adamw, groups
from swinv2.train.progress import Progress, duration, groups_table, say
from swinv2.train.recipe import Recipe
from swinv2.train.start import build, preprocessing

FILES = (
    "best.safetensors", "last.safetensors", "recipe.yaml", "summary.json",
    "metrics.jsonl", "results.csv", "curves.png", "confusion.png",
)  # fmt: skip
CHECKED = 10_000  # pictures up to which a set that does not fit into memory is read once before the run


@dataclass(frozen=True)
class Settings:
    """What a run is asked for, beside its recipe."""

    data: Path
    model: str
    output: Path
    device: str = "auto"
    workers: int | None = None
    skip_unreadable: bool = False


class Run:
    """A prepared run; fit() does it."""

    def __init__(self, settings: Settings, recipe: Recipe):
        self.settings, self.recipe = settings, recipe
        self.train, self.held_out = read_training(settings.data)
        self.on = Compute.of(settings.device, recipe.precision)
        torch.manual_seed(recipe.seed)
        self.network = build(settings.model, recipe, self.train.classes)
        self.preprocess = preprocessing(self.network, recipe)
        self.listed: set[Unreadable] = set()
        self._say_data()
        self._load_pictures()
        self.network.to(self.on.device)
        self.groups = groups(self.network, recipe.weight_decay)
        self.state = State(self.network, adamw(self.groups, recipe))
        self.schedule = Schedule.of(recipe, len(self.order), self.order.batch_size)
        self.rows: list[dict[str, Any]] = []
        self.best: Measurement | None = None
        self.began = time.perf_counter()

    @property
    def title(self) -> str:
        return f"{self.network.config.architecture} on {self.train.name}"

    def fit(self) -> None:
        """All epochs, then the report.

        Raises:
            Diverged: loss or gradient not finite; what was saved before stays.
            KeyboardInterrupt: Ctrl-C, with a sentence; the epochs that are done are saved and reported.
        """
        self.settings.output.mkdir(parents=True, exist_ok=True)
        report.write_text(self.settings.output / "recipe.yaml", self.recipe.to_yaml())
        self._say_plan()
        mix = Mix(self.recipe, len(self.train.classes))
        try:
            with Progress(self.recipe.epochs, len(self.order)) as progress:
                while self.state.epoch < self.recipe.epochs:
                    progress.start_epoch(self.state.epoch + 1)
                    self.order.epoch = self.state.epoch
                    step = partial(self._after_step, progress)
                    done = train_epoch(
                        self.state, self.train_batches, self.recipe, self.schedule, mix, self.on, step
                    )
                    is_best = self._end_epoch(done)
                    progress.end_epoch(self.rows[-1], is_best=is_best)
        except Diverged:
            self._report("diverged")
            raise
        except KeyboardInterrupt:
            self._report("interrupted")
            raise KeyboardInterrupt(self._interrupted()) from None
        self._report("done")

    # ------------------------------------------------------------------ before

    def _load_pictures(self) -> None:
        channels = self.preprocess.channels
        in_memory = fits_in_memory(self.train) and fits_in_memory(self.held_out)
        decoded: list[Any] = [None, None]
        if in_memory or len(self.train) + len(self.held_out) <= CHECKED:
            for i, folder in enumerate((self.train, self.held_out)):
                images = decode_all(folder, channels, keep=in_memory)
                self._refuse_unreadable([image for image in images if isinstance(image, Unreadable)], folder)
                readable = [k for k, image in enumerate(images) if not isinstance(image, Unreadable)]
                decoded[i] = [images[k] for k in readable] if in_memory else None
                if folder is self.train:
                    self.train = folder.select(readable)
        batch = self.recipe.batch_size
        height, width = self.preprocess.size
        workers = self.settings.workers
        if workers is None:
            # Of small pictures in memory, a worker would spend more on handing them over than on making them.
            workers = 0 if in_memory else default_workers(batch * channels * height * width * 4)
        self.order = Order(len(self.train), batch, self.recipe.seed)
        augment, as_predicted = Augment(self.recipe, self.preprocess), AsPredicted(self.preprocess)
        learnt = Pictures(self.train, channels, augment, decoded[0])
        measured = Pictures(self.held_out, channels, as_predicted, decoded[1])
        pin = self.on.device.type == "cuda"
        self.train_batches = loader(learnt, self.order, workers=workers, pin=pin)
        self.held_out_batches = loader(measured, Order(len(self.held_out), batch), workers=workers, pin=pin)

    def _refuse_unreadable(self, found: Sequence[Unreadable], folder: ImageFolder) -> None:
        """List what is not listed yet; stop where it may not be left out."""
        new = [unreadable for unreadable in found if unreadable not in self.listed]
        for unreadable in new:
            say(f"unreadable: {unreadable.reason}")
        self.listed.update(new)
        is_train = folder.split == self.train.split
        if new and not (is_train and self.settings.skip_unreadable):
            cure = ", or give --skip-unreadable" if is_train else "; held-out pictures are never skipped"
            raise DataError(
                f"{len(new)} of {len(folder):,} pictures in {folder.name}/{folder.split} cannot be read, "
                f"the first is {new[0].path}; repair or remove them{cure}"
            )

    def _say_data(self) -> None:
        train, held_out = self.train, self.held_out
        say(
            f"{train.name}: {len(train):,} pictures to learn from ({train.split}), "
            f"{len(held_out):,} held out ({held_out.split}), {len(train.classes)} classes"
        )
        if held_out.is_divided:
            say(
                f"{train.name} has no val/: a fifth of each class is held out, chosen by the hash of the "
                f"file names, the same files every time"
            )
        if empty := [train.classes[c] for c, n in enumerate(held_out.counts) if not n]:
            say(f"no held-out pictures of {', '.join(empty[:5])}: these classes are not measured")

    def _say_plan(self) -> None:
        """Everything about the run that follows from recipe and data, before the first step."""
        recipe, schedule, batch = self.recipe, self.schedule, self.order.batch_size
        weights = f"weights of {self.settings.model}" if recipe.pretrained else "random weights"
        count = sum(group.count for group in self.groups)
        height, width = self.preprocess.size
        say(
            f"{self.network.config.architecture}, {weights}, {count:,} parameters, image {height} x {width}, "
            f"on {self.on}"
        )
        say(
            f"recipe {recipe.name}: {recipe.epochs} epochs of {len(self.order):,} steps = "
            f"{schedule.steps:,} steps, batch {batch}"
        )
        say(
            f"learning rate {recipe.lr:g} per {recipe.reference_batch} pictures x batch {batch} = "
            f"{schedule.lr:.4g}; from {schedule.warmup_lr:.3g} in {schedule.warmup_steps:,} steps, "
            f"then cosine to {schedule.min_lr:.3g}"
        )
        say(groups_table(self.groups))

    # ------------------------------------------------------------------ during

    def _after_step(self, progress: Progress, running: Running) -> None:
        self._refuse_unreadable(running.unreadable, self.train)
        progress.step(running)

    def _end_epoch(self, done: Running) -> bool:
        self.network.eval()
        measured = measure(self.network, self.held_out_batches, self.train.classes, self.on)
        # Of equal accuracies the one with the lower loss: on a few hundred pictures they are often equal.
        is_best = self.best is None or (measured.top1, -measured.loss) > (self.best.top1, -self.best.loss)
        if is_best:
            self.state.best, self.state.best_epoch, self.best = measured.top1, self.state.epoch, measured
        row = {
            "epoch": self.state.epoch,
            "step": self.state.step,
            "lr": done.lr,
            "train_loss": done.loss,
            "train_top1": done.top1,
            "loss": measured.loss,
            "top1": measured.top1,
            f"top{measured.k}": measured.top5,
            "images_per_second": done.images_per_second,
            "seconds": time.perf_counter() - self.began,
        }
        self.rows.append(row)
        record = self.record(measured)
        for name in ("last.safetensors", "best.safetensors")[: 1 + is_best]:
            checkpoints.save(self.network, self.settings.output / name, record)
        with open(self.settings.output / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        report.results_csv(self.settings.output / "results.csv", self.rows)
        return is_best

    def record(self, measured: Measurement) -> Record:
        """What goes into the model file: the contract of prediction, and where the weights come from."""
        source = self.network.record
        data = f"{self.held_out.name}/{self.held_out.split}"
        classes: tuple[str, ...] = self.train.classes
        synsets: tuple[str, ...] = ()
        if (
            source and source.synsets == classes
        ):  # an ImageNet folder: its names are synsets, the model's are words
            classes, synsets = source.classes, source.synsets
        return Record(
            config=self.network.config,
            preprocess=self.preprocess,
            classes=classes,
            synsets=synsets,
            license=source.license if source and self.recipe.pretrained else "",
            accuracy={f"{data} top-1": measured.top1, f"{data} top-{measured.k}": measured.top5},
            provenance={
                "source": self.settings.model if self.recipe.pretrained else "random weights",
                "trained_with": f"swinv2 {swinv2.__version__}, torch {torch.__version__}",
                "epoch": self.state.epoch,
                "recipe": self.recipe.to_dict(),
                "data": {
                    "name": self.train.name,
                    "train": len(self.train),
                    "held_out": len(self.held_out),
                    "held_out_fingerprint": self.held_out.fingerprint,
                    "is_divided": self.held_out.is_divided,
                },
            },
        )

    # ------------------------------------------------------------------ after

    def _report(self, status: str) -> None:
        output = self.settings.output
        if self.best is None:
            return
        report.save(report.curves(self.rows, self.title), output / "curves.png")
        where = f"{self.title}/{self.held_out.split}, epoch {self.state.best_epoch}"
        report.save(report.confusion(self.best, where), output / "confusion.png")
        report.write_text(output / "summary.json", json.dumps(self.summary(status), indent=2) + "\n")
        most = 100 * max(self.held_out.counts) / len(self.held_out)
        if status == "done" and self.state.best <= most:
            say(
                f"the model is no better than always answering the most frequent class ({most:.2f} %); look "
                f"at the loss in curves.png: if it does not fall, try a lower --lr or more --epochs"
            )

    def summary(self, status: str) -> dict[str, Any]:
        """The run in figures; plain JSON types."""
        assert self.best is not None
        return {
            "status": status,
            "model": self.network.config.architecture,
            "data": str(self.settings.data),
            "classes": list(self.train.classes),
            "train_images": len(self.train),
            "held_out": self.best.to_dict(),
            "best_epoch": self.state.best_epoch,
            "epochs": self.state.epoch,
            "steps": self.state.step,
            "seconds": time.perf_counter() - self.began,
            "parameters": sum(group.count for group in self.groups),
            "recipe": self.recipe.to_dict(),
            "device": str(self.on),
            "versions": {
                "swinv2": swinv2.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            "files": [
                name for name in FILES if (self.settings.output / name).exists() or name == "summary.json"
            ],
        }

    def _interrupted(self) -> str:
        if not self.rows:
            return "stopped by Ctrl-C before the first epoch was done; nothing is saved"
        last, taken = self.settings.output / "last.safetensors", duration(time.perf_counter() - self.began)
        return (
            f"stopped by Ctrl-C in epoch {self.state.epoch + 1} of {self.recipe.epochs} after {taken}; "
            f"{last} holds epoch {self.rows[-1]['epoch']}"
        )
