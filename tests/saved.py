"""The files of a run that never was, for tests of what is made from them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from swinv2 import report
from swinv2.metrics import Measurement, Tally
from swinv2.preprocess import Preprocess

LONG = "a very long class name that goes on and on, number {}"


def measured(names: Sequence[str], images: int = 400, margin: float = 2.5) -> Measurement:
    """Answers that are right more often than not; every class has pictures."""
    random = np.random.default_rng(0)
    labels = random.integers(0, len(names), images)
    labels[: len(names)] = np.arange(len(names))
    logits = random.normal(size=(images, len(names)))
    logits[np.arange(images), labels] += margin
    tally = Tally(tuple(names))
    tally.add(1.5 * logits, labels, np.arange(images))
    return tally.measurement()


def epochs(count: int, *, mixed: bool = False, per_epoch: int = 20) -> list[dict]:
    return [
        {
            "epoch": e + 1, "step": per_epoch * (e + 1), "lr": 1e-3 * (count - e) / count,
            "train_loss": 2 / (e + 1), "loss": 1.5 / (e + 1), "images_per_second": 300.0,
            "train_top1": None if mixed else 90 - 50 / (e + 1), "top1": 95 - 60 / (e + 1),
        }
        for e in range(count)
    ]  # fmt: skip


def steps(count: int, every: int = 5) -> list[dict]:
    """Rows of a run of so many steps; 0.03 s of 0.15 s go by waiting."""
    return [
        {
            "epoch": 1 + (n - 1) // 20, "step": n, "loss": 2 / n, "lr": 1e-3 * min(1, n / 30), "grad_norm": 3 + n % 7,
            "images_per_second": 300.0 + n % 11, "data_seconds": 0.03, "transfer_seconds": 0.02,
            "compute_seconds": 0.1, "memory_mb": 812.0,
        }
        for n in range(every, count + 1, every)
    ]  # fmt: skip


def write_run(
    folder: Path, names: Sequence[str], *, images: int = 200, data: Path | None = None
) -> Measurement:
    """A folder as train leaves it, but for the model; returns what predictions.csv says."""
    folder.mkdir(parents=True, exist_ok=True)
    found = measured(names, images)
    files = [f"val/{names[label]}/{i}.png" for i, label in enumerate(found.labels)]
    report.results_csv(folder / "predictions.csv", found.answers(files))
    rows = [{"kind": "step", **row} for row in steps(60)] + [{"kind": "epoch", **row} for row in epochs(3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = {
        "status": "done", "model": "swinv2_speck", "data": str(data or folder / "nowhere"), "classes": list(names),
        "train_images": 5 * images, "train_counts": [5 * int((found.labels == c).sum()) for c in range(len(names))],
        "held_out_counts": [int((found.labels == c).sum()) for c in range(len(names))],
        "held_out": found.to_dict(), "best_epoch": 3, "epochs": 3, "steps": 60, "seconds": 75.2, "device": "cpu",
        "parameters": 2_709_264, "environment": {"cpu": "a processor", "processes": 1}, "versions": {"torch": "2"},
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "recipe.yaml").write_text("name: scratch_small\nlr: 0.008\nbetas: [0.9, 0.999]\n")
    batch = np.random.default_rng(1).normal(size=(12, 3, 16, 16))
    figure = report.mosaic(batch, [names[i % len(names)] for i in range(12)], Preprocess.official(16))
    report.save(figure, folder / "augmented.png")
    return found
