"""Our eager and folded model against timm, transformers and torchvision, in one interleaved run.

    python benchmarks/inference.py [--model swinv2_tiny_window8_256] [--batches 1 8] [--rounds 25]

All contenders hold the same weights, and none is timed before its logits were compared. In every round each
runs once, in a rotating order, so that a machine that slows down slows all of them down; medians are reported.
In bfloat16 every library runs both ways people use it, cast and autocast, and the faster one counts. The
ceiling is the fastest large matrix product that the same process measured. Results go to
benchmarks/results/, with machine, versions and commit; docs/generate.py makes the tables of them.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swinv2.checkpoints import DIALECTS
from swinv2.config import VARIANTS
from swinv2.counts import macs
from swinv2.fold import fold
from swinv2.model import SwinV2, create_model

RESULTS = Path(__file__).parent / "results"
OURS = ("swinv2 eager", "swinv2 folded")
LIBRARIES = ("torch", "torchvision", "timm", "transformers", "swinv2")


class Logits(nn.Module):
    """transformers answers with an object; the others with the logits."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).logits


def contenders(name: str) -> dict[str, nn.Module]:
    """Label -> model; all with the weights of one of ours, through the dialects that swinv2 writes."""
    ours = lively(create_model(name)).eval()
    models: dict[str, nn.Module] = {"timm": in_timm(ours), "transformers": in_transformers(ours)}
    if name == "swinv2_tiny_window8_256":  # torchvision has windows of 8 only, and no pretrained window
        models["torchvision"] = in_torchvision(ours)
    return {**models, "swinv2 eager": ours}


def lively(model: SwinV2) -> SwinV2:
    """Fresh blocks are the identity: give the norms and scales values that make every block count."""
    torch.manual_seed(0)
    for key, p in model.named_parameters():
        if "norm" in key and key.endswith("weight"):
            nn.init.normal_(p, 1, 0.2)
        elif key.endswith("logit_scale"):
            nn.init.uniform_(p, 2, 3)
    return model


def dialect(model: SwinV2, name: str) -> dict[str, Tensor]:
    return DIALECTS[name].from_official(model.state_dict(), model.config)


def in_timm(model: SwinV2) -> nn.Module:
    import timm

    theirs = timm.create_model(model.config.architecture).eval()
    theirs.load_state_dict(dialect(model, "timm"), strict=False)  # its buffers are not part of the dialect
    return theirs


def in_transformers(model: SwinV2) -> nn.Module:
    from transformers import Swinv2Config, Swinv2ForImageClassification

    c = model.config
    config = Swinv2Config(
        image_size=c.image_size[0], embed_dim=c.embed_dim, depths=list(c.depths), num_heads=list(c.heads),
        window_size=c.window, pretrained_window_sizes=[w for w, _ in c.pretrained_windows], num_labels=c.num_classes,
    )  # fmt: skip
    theirs = Swinv2ForImageClassification(config).eval()
    theirs.load_state_dict(dialect(model, "transformers"), strict=False)
    return Logits(theirs)


def in_torchvision(model: SwinV2) -> nn.Module:
    import torchvision

    theirs = torchvision.models.swin_v2_t().eval()
    theirs.load_state_dict(dialect(model, "torchvision"), strict=False)
    return theirs


def runs_of(models: dict[str, nn.Module], precision: str, x: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Label -> one forward pass. In bfloat16 "label (cast)" and "label (autocast)"."""
    ours = models["swinv2 eager"]
    assert isinstance(ours, SwinV2)
    if precision == "fp32":
        models = {**models, "swinv2 folded": fold(ours)}
        return {label: lambda m=m: m(x) for label, m in models.items()}
    runs: dict[str, Callable[[], Tensor]] = {}
    for label, model in models.items():
        cast, half = copy.deepcopy(model).bfloat16(), x.bfloat16()
        runs[f"{label} (cast)"] = lambda m=cast, h=half: m(h)
        runs[f"{label} (autocast)"] = lambda m=model: autocast(m, x)
    folded = fold(ours, dtype=torch.bfloat16)
    runs["swinv2 folded"] = lambda: folded(x)
    return runs


def autocast(model: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return model(x)


def check(runs: dict[str, Callable[[], Tensor]], exact: Tensor, tolerance: float) -> dict[str, float]:
    """Relative error of every contender; refuses to go on where one computes something else."""
    errors = {label: ((run().double() - exact).norm() / exact.norm()).item() for label, run in runs.items()}
    if wrong := {label: e for label, e in errors.items() if not e <= tolerance}:
        raise SystemExit(f"not timed, the logits differ: {wrong}")
    return errors


def interleaved(
    runs: dict[str, Callable[[], Tensor]], rounds: int, pause: float = 0
) -> dict[str, list[float]]:
    """Milliseconds of every run, one of each a round, starting with another each time.

    Args:
        pause: seconds before every run: threads of some runtimes spin for a while after their work, and would take
            a processor from the next.
    """
    labels = list(runs)
    times: dict[str, list[float]] = {label: [] for label in labels}
    for round_ in range(rounds + 2):
        start = round_ % len(labels)
        for label in labels[start:] + labels[:start]:
            time.sleep(pause)
            begin = time.perf_counter()
            runs[label]()
            elapsed = (time.perf_counter() - begin) * 1000
            if round_ >= 2:  # two rounds to warm up
                times[label].append(elapsed)
    return times


def ceiling(precision: str) -> float:
    """GFLOP/s of the fastest large product of this process: a linear layer or a 1x1 convolution."""
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    rows, width = 2048, 1536
    x, w = torch.randn(rows, width, dtype=dtype), torch.randn(width, width, dtype=dtype)
    image, kernel = x.view(1, rows, 1, width).permute(0, 3, 1, 2), w[:, :, None, None]
    best = 0.0
    for _ in range(30):
        for run in (lambda: F.linear(x, w), lambda: F.conv2d(image, kernel)):
            begin = time.perf_counter()
            run()
            best = max(best, 2 * rows * width * width / (time.perf_counter() - begin) / 1e9)
    return best


def machine() -> dict[str, str | int]:
    cpu = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.processor())  # fmt: skip
    return {"cpu": cpu, "threads": torch.get_num_threads(), "isa": torch.backends.cpu.get_cpu_capability(),
            "system": platform.system(), "python": platform.python_version()}  # fmt: skip


def commit() -> str:
    git = ["git", "-C", str(Path(__file__).parent)]
    rev = subprocess.run(
        [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    dirty = subprocess.run(
        [*git, "status", "--porcelain", "--", "../src"], capture_output=True, text=True
    ).stdout
    return f"{rev}{' and changes' if dirty else ''}"


def measure(name: str, batch: int, precision: str, rounds: int) -> dict:
    """One row of the results: medians, ratios to the fastest peer, distance from the ceiling."""
    height, width = VARIANTS[name].image_size
    models = contenders(name)
    x = torch.randn(batch, 3, height, width)
    exact = copy.deepcopy(models["swinv2 eager"]).double()(x.double())
    runs = runs_of(models, precision, x)
    errors = check(runs, exact, 1e-4 if precision == "fp32" else 0.2)
    times = interleaved(runs, rounds)
    medians = {label: statistics.median(t) for label, t in times.items()}
    peers = {label: t for label, t in medians.items() if not label.startswith("swinv2")}
    peer = min(peers, key=peers.__getitem__)
    ours_eager = min(t for label, t in medians.items() if label.startswith("swinv2 eager"))
    folded = medians["swinv2 folded"]
    reached = 2 * macs(VARIANTS[name], position_bias=False) * batch / folded / 1e6  # GFLOP/s
    top = ceiling(precision)
    return {
        "model": name, "batch": batch, "precision": precision, "rounds": rounds,
        "median_ms": {label: round(t, 2) for label, t in sorted(medians.items(), key=lambda item: item[1])},
        "quartiles_ms": {label: [round(q, 2) for q in statistics.quantiles(t, n=4)] for label, t in times.items()},
        "relative_error": {label: float(f"{e:.2e}") for label, e in errors.items()},
        "fastest_peer": peer,
        "folded_speedup": round(peers[peer] / folded, 3),
        "eager_speedup": round(peers[peer] / ours_eager, 3),
        "ceiling_gflops": round(top), "folded_gflops": round(reached), "of_ceiling": round(reached / top, 3),
    }  # fmt: skip


def write_results(path: Path, rows: list[dict], libraries: Iterable[str]) -> None:
    """Rows with what they were measured on: date, commit, machine, versions."""
    result = {"date": date.today().isoformat(), "commit": commit(), "machine": machine(),
              "versions": {library: version(library) for library in libraries}, "rows": rows}  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {path}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", nargs="+", default=["swinv2_tiny_window8_256"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--output", type=Path, default=RESULTS / "inference-cpu.json")
    args = parser.parse_args()
    rows = []
    with torch.inference_mode():
        for name in args.model:
            for batch in args.batches:
                for precision in args.precisions:
                    rows.append(
                        measure(
                            name, batch, precision, max(7, args.rounds // batch if batch > 1 else args.rounds)
                        )
                    )
                    print(json.dumps(rows[-1], indent=1), flush=True)
                    gc.collect()
    write_results(args.output, rows, LIBRARIES)


if __name__ == "__main__":
    main()
