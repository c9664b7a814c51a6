"""The table that PaddleClas announced for its nine models: the engine on a CPU, beside timm in eager mode.

    python benchmarks/nine.py [--models swinv2_tiny_window8_256 ...] [--threads 2]

Each model has random weights of which all matter, in both; nothing is timed before its logits were compared with those
of the network in float32. In every round each contender has a turn, beginning with another one each time. In bfloat16
timm runs both ways people use it, cast and under autocast. Results go to benchmarks/results/nine-cpu.json after every
model, and take the place of what the same commit found before of that model; docs/generate.py makes the table of
docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import statistics
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engine import TOLERANCES
from inference import RESULTS, autocast, commit, in_timm, interleaved, lively, machine, write_results

from swinv2 import artifact
from swinv2.artifact import Record
from swinv2.model import create_model
from swinv2.preprocess import Preprocess
from swinv2.runtimes.engine import EngineSession

NINE = (
    "swinv2_tiny_window8_256", "swinv2_tiny_window16_256", "swinv2_small_window8_256", "swinv2_small_window16_256",
    "swinv2_base_window8_256", "swinv2_base_window16_256", "swinv2_base_window12to24_192to384",
    "swinv2_large_window12to16_192to256", "swinv2_large_window12to24_192to384",
)  # fmt: skip
BATCHES = (1, 4, 8)
LIBRARIES = ("torch", "timm", "swinv2")
PAUSE = 0.06  # seconds between turns, in which threads of the one before go to sleep


@torch.inference_mode()
def measure(name: str, rounds: int, threads: int, folder: Path) -> list[dict[str, Any]]:
    """The rows of one model."""
    model = lively(create_model(name)).eval()
    model.record = Record(model.config, Preprocess.official(model.config.image_size))
    file = folder / f"{name}.safetensors"
    artifact.write(file, model.record, model.state_dict())
    theirs = in_timm(model)
    half = copy.deepcopy(theirs).bfloat16()
    rows = []
    images = np.random.default_rng(0).standard_normal((max(BATCHES), 3, *model.config.image_size))
    images = images.astype(np.float32)
    exact = model(torch.from_numpy(images)).numpy()
    for precision in ("fp32", "bf16", "int8"):
        with closing(EngineSession(file, precision=precision, threads=threads)) as engine:
            for batch in BATCHES:
                given = images[:batch]
                x = torch.from_numpy(given)
                runs = {"engine": lambda given=given, engine=engine: engine.run(given)}
                if precision == "fp32":
                    runs["timm"] = lambda x=x: theirs(x).numpy()
                elif precision == "bf16":
                    cast = x.bfloat16()
                    runs["timm (cast)"] = lambda x=cast: half(x).float().numpy()
                    runs["timm (autocast)"] = lambda x=x: autocast(theirs, x).float().numpy()
                rows.append(row(name, precision, batch, runs, exact[:batch], rounds if batch == 1 else 3))
                rows[-1] |= {"instructions": engine.instructions, "threads": threads}
                print(json.dumps(rows[-1]), flush=True)
    file.unlink()
    return rows


def row(name: str, precision: str, batch: int, runs: dict, exact: np.ndarray, rounds: int) -> dict[str, Any]:
    errors = {label: float(np.abs(run() - exact).max() / np.abs(exact).max()) for label, run in runs.items()}
    if wrong := {label: error for label, error in errors.items() if not error <= TOLERANCES[precision]}:
        raise SystemExit(f"{name}, {precision}: not timed, the logits differ: {wrong}")
    times = interleaved(runs, rounds, PAUSE)
    medians = {label: statistics.median(t) for label, t in times.items()}
    others = [ms for label, ms in medians.items() if label != "engine"]
    found = {
        "model": name, "precision": precision, "batch": batch, "rounds": rounds, "ours": "engine",
        "median_ms": {label: round(ms, 2) for label, ms in medians.items()},
        "range_ms": {label: [round(min(t), 2), round(max(t), 2)] for label, t in times.items()},
        "error": {label: float(f"{error:.2e}") for label, error in errors.items()},
        "images_per_second": round(1000 * batch / medians["engine"], 2),
    }  # fmt: skip
    return found | ({"speedup": round(min(others) / medians["engine"], 2)} if others else {})


def before(path: Path) -> list[dict[str, Any]]:
    """Rows that this commit has found already on this machine."""
    here = {"commit": commit(), "machine": machine()}
    result = json.loads(path.read_text()) if path.exists() else {}
    is_same = all(result.get(key) == value for key, value in here.items()) and "changes" not in commit()
    return result["rows"] if is_same else []


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(NINE), choices=NINE)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7, help="for one image; three for more")
    parser.add_argument("--output", type=Path, default=RESULTS / "nine-cpu.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = before(args.output)
    with tempfile.TemporaryDirectory(prefix="swinv2-") as folder:
        for name in args.models:
            rows = [row for row in rows if row["model"] != name]
            rows += measure(name, args.rounds, args.threads, Path(folder))
            rows.sort(key=lambda row: NINE.index(row["model"]))
            write_results(args.output, rows, LIBRARIES)
            gc.collect()


if __name__ == "__main__":
    main()
