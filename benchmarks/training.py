"""A training step of ours against timm's model in the same loop, interleaved; and the memory that each takes.

    python benchmarks/training.py [--model swinv2_tiny_window8_256] [--image-size 128] [--batch 16] [--rounds 15]

Both start from the same weights and take the same steps: forward, cross entropy, backward, gradient norm, AdamW.
Before anything is timed the gradients are compared. In every round each takes one step, in alternating order;
medians are reported. Peak memory is that of a process of its own for each model, which takes three steps.
Results go to benchmarks/results/, with machine, versions and commit.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch
import torch.nn.functional as F
from inference import RESULTS, commit, dialect, lively, machine
from torch import Tensor, nn

from swinv2.checkpoints import DIALECTS
from swinv2.model import create_model

CLASSES = 10
LIBRARIES = ("torch", "timm", "swinv2")


def build(label: str, name: str, size: int, drop_path: float) -> nn.Module:
    """The model of "swinv2" or "timm", with the same weights."""
    import timm

    torch.manual_seed(0)
    ours = lively(create_model(name, num_classes=CLASSES, image_size=size, drop_path=drop_path))
    if label == "swinv2":
        return ours.train()
    theirs = timm.create_model(name, num_classes=CLASSES, img_size=size, drop_path_rate=drop_path)
    theirs.load_state_dict(dialect(ours, "timm"), strict=False)  # its buffers are not part of the dialect
    return theirs.train()


def stepper(model: nn.Module, images: Tensor, labels: Tensor, precision: str) -> Callable[[], float]:
    """One step of the loop that people write, on the same batch every time; returns the loss."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5, weight_decay=0.05, fused=True)

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = model(images)
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        return loss.item()

    return step


def check(ours: nn.Module, theirs: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Largest relative difference of a gradient; refuses to go on where the two compute something else."""
    for model in (ours, theirs):
        F.cross_entropy(model(images), labels).backward()
    gradients = DIALECTS["timm"].from_official({k: p.grad for k, p in ours.named_parameters()}, ours.config)
    worst = max(
        ((p.grad - gradients[k]).norm() / gradients[k].norm().clamp_min(1e-6)).item()
        for k, p in theirs.named_parameters()
    )
    if not worst <= 1e-3:
        raise SystemExit(f"not timed, a gradient differs by {worst:.1e}")
    return worst


def measure(name: str, size: int, batch: int, precision: str, rounds: int, drop_path: float) -> dict:
    """One row of the results."""
    torch.manual_seed(0)
    images, labels = torch.randn(batch, 3, size, size), torch.randint(CLASSES, (batch,))
    models = {label: build(label, name, size, drop_path) for label in ("swinv2", "timm")}
    difference = check(*(build(label, name, size, 0.0) for label in models), images[:2], labels[:2])
    steps = {label: stepper(model, images, labels, precision) for label, model in models.items()}
    times: dict[str, list[float]] = {label: [] for label in steps}
    for round_ in range(rounds + 2):
        for label in sorted(steps, reverse=round_ % 2 == 1):
            begin = time.perf_counter()
            steps[label]()
            if round_ >= 2:  # two rounds to warm up
                times[label].append((time.perf_counter() - begin) * 1000)
    medians = {label: statistics.median(t) for label, t in times.items()}
    peaks = {label: peak_of(label, name, size, batch, precision, drop_path) for label in steps}
    return {
        "model": name, "image_size": size, "batch": batch, "precision": precision, "rounds": rounds,
        "median_ms": {label: round(t, 1) for label, t in medians.items()},
        "quartiles_ms": {k: [round(q, 1) for q in statistics.quantiles(t, n=4)] for k, t in times.items()},
        "images_per_second": {label: round(1000 * batch / t, 1) for label, t in medians.items()},
        "peak_mb": {label: round(peak) for label, peak in peaks.items()},
        "gradient_difference": float(f"{difference:.1e}"),
        "speedup": round(medians["timm"] / medians["swinv2"], 3),
        "memory": round(peaks["swinv2"] / peaks["timm"], 3),
    }  # fmt: skip


def peak_of(label: str, name: str, size: int, batch: int, precision: str, drop_path: float) -> float:
    """MB that a process of its own holds at most, beyond what it held before the first step."""
    argv = [sys.executable, __file__, "--peak", label, "--model", name, "--image-size", str(size),
            "--batch", str(batch), "--precisions", precision, "--drop-path", str(drop_path)]  # fmt: skip
    return float(subprocess.run(argv, check=True, capture_output=True, text=True).stdout.split()[-1])


def peak_here(label: str, name: str, size: int, batch: int, precision: str, drop_path: float) -> float:
    model = copy.deepcopy(build(label, name, size, drop_path))  # the source of the weights is freed
    images, labels = torch.randn(batch, 3, size, size), torch.randint(CLASSES, (batch,))
    before = in_memory()
    step = stepper(model, images, labels, precision)
    for _ in range(3):
        step()
    return in_memory("VmHWM") - before


def in_memory(what: str = "VmRSS") -> float:
    """MB in memory now, or at most so far (VmHWM). getrusage would count what the parent process held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(what))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="swinv2_tiny_window8_256")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--drop-path", type=float, default=0.2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--peak", choices=["swinv2", "timm"], help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=RESULTS / "training-cpu.json")
    args = parser.parse_args()
    if args.peak:
        print(
            peak_here(args.peak, args.model, args.image_size, args.batch, args.precisions[0], args.drop_path)
        )
        return
    rows = []
    for precision in args.precisions:
        rows.append(measure(args.model, args.image_size, args.batch, precision, args.rounds, args.drop_path))
        print(json.dumps(rows[-1], indent=1), flush=True)
    result = {"date": date.today().isoformat(), "commit": commit(), "machine": machine(),
              "versions": {library: version(library) for library in LIBRARIES}, "rows": rows}  # fmt: skip
    args.output.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
