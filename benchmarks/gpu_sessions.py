"""What a user waits for: the torch runtime from images in memory to logits in memory, with and without CUDA graphs."""

from __future__ import annotations

import gc
import statistics
import time
from typing import Any

import numpy as np
import torch
from inference import lively

from swinv2.artifact import Record
from swinv2.model import create_model
from swinv2.preprocess import Preprocess
from swinv2.runtimes.torch import TorchSession, unsupported

SECONDS = 0.1  # of a sample


def sessions(
    name: str, precisions: list[str], batches: list[int], device: torch.device, rounds: int
) -> list[dict[str, Any]]:
    """One row for every precision and batch: milliseconds by the clock, and what the recordings of all batches hold."""
    model = lively(create_model(name)).eval()
    size, classes = model.config.image_size, model.config.num_classes
    model.record = Record(model.config, Preprocess.official(size[0]), tuple(map(str, range(classes))))
    rows = []
    for precision in precisions:
        if why := unsupported(device.type, precision):
            rows.append({"model": name, "precision": precision, "failed": why})
            continue
        ways = {"launched": False} | ({"graphs": True} if device.type == "cuda" else {})
        open_ = {
            label: TorchSession(model, device=device.type, precision=precision, graphs=graphs)
            for label, graphs in ways.items()
        }
        before = held(device)
        for batch in batches:
            images = np.random.default_rng(0).standard_normal((batch, 3, *size)).astype(np.float32)
            answers = {label: [session.run(images) for _ in range(3)][-1] for label, session in open_.items()}
            exact = answers["launched"]
            times: dict[str, list[float]] = {label: [] for label in open_}
            for _ in range(rounds):
                for label, session in open_.items():
                    times[label].append(sample(session, images))
            rows.append({
                "model": name, "precision": precision, "batch": batch,
                "median_ms": {k: float(f"{statistics.median(t):.4g}") for k, t in times.items()},
                "off": {k: float(f"{abs(a - exact).max() / abs(exact).max():.1e}") for k, a in answers.items()},
                "recordings_mb": held(device) - before,
            })  # fmt: skip
    return rows


def sample(session: TorchSession, images: np.ndarray) -> float:
    """Milliseconds of an answer, of as many as there is time for."""
    begin, count = time.perf_counter(), 0
    while not count or time.perf_counter() - begin < SECONDS:
        session.run(images)
        count += 1
    return (time.perf_counter() - begin) * 1000 / count


def held(device: torch.device) -> float:
    if device.type != "cuda":
        return 0.0
    gc.collect()
    torch.cuda.empty_cache()
    return round(torch.cuda.memory_reserved() / 2**20, 1)
