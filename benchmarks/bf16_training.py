"""What bfloat16 does to training: runs in float32, with a residual stream in float32, and in bfloat16 throughout.

    python benchmarks/bf16_training.py digits [--seeds 3] [--recipe scratch_small] [--image-size 32]

On a CPU, where autocast leaves the stream in bfloat16, and norms in it too: "bf16" is given the stream that it has on a
GPU, and "bf16_all" rounds once more for every branch than our kernel does. Accuracy is that of the last epoch. Results
go to benchmarks/results/bf16-training.json; docs/generate.py makes the table of docs/gpu.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from contextlib import nullcontext
from datetime import date
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from inference import RESULTS, commit, machine

import swinv2
from swinv2.train import start

PRECISIONS = ("fp32", "bf16", "bf16_all")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="swinv2_pico")
    parser.add_argument("--recipe", default="scratch_small")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS / "bf16-training.json")
    args = parser.parse_args()
    result = {
        "date": date.today().isoformat(),
        "machine": machine(),
        "runs": others(args.output, args.data.name),
    }
    at = commit()
    for seed in range(args.seeds):
        for precision in PRECISIONS:
            row = {
                "data": args.data.name,
                "model": args.model,
                "precision": precision,
                "seed": seed,
                "commit": at,
            }
            result["runs"].append(row | trained(args, precision, seed))
            print(json.dumps(result["runs"][-1]), flush=True)
            args.output.write_text(json.dumps(result, indent=1) + "\n")


def others(output: Path, data: str) -> list[dict[str, Any]]:
    """Runs of other data, which are kept."""
    runs = json.loads(output.read_text())["runs"] if output.exists() else []
    return [run for run in runs if run["data"] != data]


def trained(args: argparse.Namespace, precision: str, seed: int) -> dict[str, float]:
    """Figures of the last epoch."""
    given = {"epochs": args.epochs} if args.epochs else {}
    with tempfile.TemporaryDirectory() as folder, as_on_a_gpu() if precision == "bf16" else nullcontext():
        run = swinv2.train(
            args.data, model=args.model, recipe=args.recipe, image_size=args.image_size, pretrained=False,
            precision=precision, seed=seed, output=folder, overwrite=True, device="cpu", **given,
        )  # fmt: skip
        lines = [json.loads(line) for line in (run.output / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if line["kind"] == "epoch"][-1]
    return {"epochs": run.epochs} | {key: round(last[key], 4) for key in ("train_loss", "loss", "top1")}


def as_on_a_gpu() -> Any:
    """The residual stream is float32 under autocast."""
    settle = start.settle

    def settled(network: swinv2.SwinV2, *given: Any) -> Any:
        found = settle(network, *given)
        network.residual = torch.float32
        return found

    return mock.patch("swinv2.train.classify.settle", settled)


if __name__ == "__main__":
    main()
