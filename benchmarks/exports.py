"""Our exports against timm's own export of the same weights, in the same runtime and process, in one interleaved run.

    python benchmarks/exports.py [--model swinv2_tiny_window8_256] [--batches 1 8] [--rounds 25]

timm's model is exported as its users do it, by torch.onnx with a dynamic batch, and OpenVINO reads that file. Ours are
the files that `swinv2 export` writes. Every runtime gets the same settings for both, and nothing is timed before its
logits were compared. In every round each contender runs once, in a rotating order and after a pause in which the
threads of the one before go to sleep; medians are reported, and the quartiles of the ratios within rounds. Beside
them stand our sessions, as a Predictor uses them, and the folded network in torch. Results go to
benchmarks/results/exports-cpu.json, with machine, versions and commit; docs/generate.py makes the tables of them.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import torch
from inference import RESULTS, in_timm, lively, write_results

import swinv2
from swinv2.artifact import Record
from swinv2.config import VARIANTS
from swinv2.model import SwinV2, create_model
from swinv2.preprocess import Preprocess
from swinv2.runtimes import open_session
from swinv2.runtimes.torch import TorchSession

LIBRARIES = ("torch", "timm", "onnx", "onnxscript", "onnxruntime", "openvino")
TOLERANCES = {"fp32": 1e-4, "bf16": 8e-2}  # of the largest logit
PAUSE = 0.06  # seconds; ONNX Runtime's threads spin for 30 ms after their work, and take a processor from the next
GOALS = {"onnx": 1.15, "openvino": 1.1}

Run = Callable[[np.ndarray], np.ndarray]


def write_exports(name: str, folder: Path) -> tuple[SwinV2, dict[str, Path]]:
    """A model with weights that all matter, and the files made of it: by us, and by timm's users."""
    model = lively(create_model(name)).eval()
    model.record = Record(model.config, Preprocess.official(model.config.image_size))
    files = {one.format: one.path for one in swinv2.export(model, ["onnx", "openvino"], output=folder)}
    files["timm"] = folder / "timm.onnx"
    example = torch.randn(2, 3, *model.config.image_size)
    torch.onnx.export(
        in_timm(model), (example,), files["timm"], dynamo=True, external_data=False, verbose=False,
        input_names=["images"], output_names=["logits"], dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
    )  # fmt: skip
    return model, files


def contenders(model: SwinV2, files: dict[str, Path], precision: str, threads: int) -> dict[str, Run]:
    """Label -> one answer. "X timm" and "X swinv2" are the two files in the same runtime with the same settings."""
    options = {"device": "cpu", "precision": precision, "threads": threads}
    runs: dict[str, Run] = {
        "openvino timm": in_openvino(files["timm"], precision, threads),
        "openvino swinv2": in_openvino(files["openvino"], precision, threads),
        "openvino swinv2 session": open_session(files["openvino"], "openvino", **options).run,  # type: ignore[arg-type]
        "torch swinv2 folded": TorchSession(model, device="cpu", precision=precision).run,
    }
    if precision == "fp32":  # ONNX Runtime has no kernels for bfloat16 on a CPU
        runs |= {
            "onnx timm": in_onnx_runtime(files["timm"], threads),
            "onnx swinv2": in_onnx_runtime(files["onnx"], threads),
            "onnx swinv2 session": open_session(files["onnx"], "onnx", **options).run,  # type: ignore[arg-type]
        }
    return runs


def in_onnx_runtime(path: Path, threads: int) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (name,) = (value.name for value in session.get_inputs())
    return lambda images: session.run(None, {name: images})[0]


def in_openvino(path: Path, precision: str, threads: int) -> Run:
    core = openvino.Core()
    hint = {"fp32": "f32", "bf16": "bf16"}[precision]
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads,
                "ENABLE_CPU_PINNING": False}  # fmt: skip
    request = core.compile_model(core.read_model(str(path)), "CPU", settings).create_infer_request()
    return lambda images: request.infer([images])[0].copy()


def check(runs: dict[str, Run], images: np.ndarray, exact: np.ndarray, precision: str) -> dict[str, float]:
    """The largest error of every contender, of the largest logit; refuses to go on where one is not the network."""
    errors = {
        label: float(np.abs(run(images) - exact).max() / np.abs(exact).max()) for label, run in runs.items()
    }
    if wrong := {label: e for label, e in errors.items() if not e <= TOLERANCES[precision]}:
        raise SystemExit(f"not timed, the logits differ: {wrong}")
    return errors


def interleaved(runs: dict[str, Run], images: np.ndarray, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every contender, one run each a round, starting with another each time."""
    labels = list(runs)
    times: dict[str, list[float]] = {label: [] for label in labels}
    for round_ in range(rounds + 2):
        start = round_ % len(labels)
        for label in labels[start:] + labels[:start]:
            time.sleep(PAUSE)
            begin = time.perf_counter()
            runs[label](images)
            elapsed = (time.perf_counter() - begin) * 1000
            if round_ >= 2:  # two rounds to warm up
                times[label].append(elapsed)
    return times


def measure(
    model: SwinV2, files: dict[str, Path], batch: int, precision: str, threads: int, rounds: int
) -> dict:
    """One row of the results."""
    images = np.random.default_rng(0).standard_normal((batch, 3, *model.config.image_size)).astype(np.float32)
    with torch.inference_mode():
        exact = model(torch.from_numpy(images)).numpy()
    runs = contenders(model, files, precision, threads)
    errors = check(runs, images, exact, precision)
    times = interleaved(runs, images, rounds)
    medians = {label: statistics.median(t) for label, t in times.items()}
    quartiles = {label: [round(q, 2) for q in statistics.quantiles(t, n=4)] for label, t in times.items()}
    row = {
        "model": model.config.architecture, "batch": batch, "precision": precision, "rounds": rounds,
        "median_ms": {label: round(t, 2) for label, t in sorted(medians.items(), key=lambda item: item[1])},
        "quartiles_ms": quartiles,
        "error": {label: float(f"{e:.2e}") for label, e in errors.items()},
    }  # fmt: skip
    for runtime, goal in GOALS.items():
        if f"{runtime} timm" in times:
            pairs = [a / b for a, b in zip(times[f"{runtime} timm"], times[f"{runtime} swinv2"], strict=True)]
            row[f"{runtime}_speedup"] = round(medians[f"{runtime} timm"] / medians[f"{runtime} swinv2"], 3)
            row[f"{runtime}_speedup_quartiles"] = [round(q, 3) for q in statistics.quantiles(pairs, n=4)]
            row[f"{runtime}_goal"] = goal
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", nargs="+", default=["swinv2_tiny_window8_256"], choices=sorted(VARIANTS))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--output", type=Path, default=RESULTS / "exports-cpu.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for name in args.model:
        with tempfile.TemporaryDirectory(prefix="swinv2-") as folder:
            model, files = write_exports(name, Path(folder))
            for batch in args.batches:
                for precision in args.precisions:
                    rounds = max(7, args.rounds // batch if batch > 1 else args.rounds)
                    rows.append(measure(model, files, batch, precision, args.threads, rounds))
                    print(json.dumps(rows[-1], indent=1), flush=True)
                    gc.collect()
    write_results(args.output, rows, LIBRARIES)


if __name__ == "__main__":
    main()
