"""The engine against timm, ONNX Runtime, OpenVINO and LiteRT: the same weights in one process, in interleaved rounds.

    python benchmarks/engine.py [--model swinv2_tiny_window8_256] [--batches 1 8] [--threads 1 2] [--rounds 25]

The runtimes get the files that `swinv2 export` writes, timm its own model in eager mode (bfloat16 by autocast).
Nothing is timed before its logits were compared with exact ones. Only int8 of a peer may be further off: it is timed
all the same, since it works as much, and docs/tables/engine.py marks it. In every round each contender has a turn, in
a rotating order: a pause in which the threads of the one before go to sleep, an answer after that pause, then answers
in a row. Both are reported; the goals are for answers in a row. Beside the times stands the arithmetic ceiling, which
ceiling.cpp measures in registers with as many threads, and for one image the time and the share of the ceiling of
every stage of the engine. Where the clock falls as soon as operands come from the first cache, no product reaches
that: "ceiling_of_cache_gflops" is what is left then. Both are those of vectors: where the engine multiplies by tiles
(AMX) it may go beyond, and --instructions avx512_bf16 shows how near its vectors come. Results go to
benchmarks/results/engine-cpu.json; docs/generate.py makes the tables.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from inference import RESULTS, in_timm, lively, write_results

from swinv2 import artifact, probe
from swinv2.artifact import Record
from swinv2.config import VARIANTS, SwinV2Config
from swinv2.counts import macs
from swinv2.model import SwinV2, create_model
from swinv2.preprocess import Preprocess
from swinv2.runtimes import RUNTIMES, Options
from swinv2.runtimes.engine import EngineSession

LIBRARIES = ("torch", "timm", "onnxruntime", "openvino", "ai-edge-litert")
TOLERANCES = {"fp32": 1e-4, "bf16": 4e-2, "int8": 1e-1}  # of the largest logit, with random weights
PAUSE = 0.06  # seconds; ONNX Runtime's threads spin for 30 ms after their work
IN_A_ROW = 4  # answers of a turn after the first, at batch 1; at larger batches 1
CALIBRATION = 16
# What the engine is compared with, by precision, and by how much it shall be faster than the best of them.
PEERS = {
    "fp32": ("onnx", "openvino", "litert"),
    "bf16": ("openvino",),
    "int8": ("onnx", "openvino", "litert"),
}
GOALS = {"fp32": 1.15, "bf16": 1.2, "int8": 1.5}
CEILING_GOALS = {"fp32": 0.8, "bf16": 0.75, "int8": 0.65}

Run = Callable[[], Any]


def write_all(name: str, folder: Path, precisions: list[str], peers: list[str]) -> tuple[SwinV2, Path, dict]:
    """A model with random weights that all matter, its artifact, and (peer, precision) -> file."""
    model = lively(create_model(name)).eval()
    model.record = Record(model.config, Preprocess.official(model.config.image_size))
    source = folder / "model.safetensors"
    artifact.write(source, model.record, model.state_dict())
    pixels = probe.images(model.record, CALIBRATION)
    files = {}
    for precision in precisions:
        for peer in PEERS[precision]:
            if peer not in peers:
                continue
            row = RUNTIMES[peer]
            path = folder / f"{peer}.{precision}{row.suffixes[0]}"
            options = Options(precision, activations=row.activations[0])
            written = row.load()
            print(f"writing {path.name}", flush=True)
            written.export(model, path, options, pixels if precision == "int8" else None)
            files[peer, precision] = path
    return model, source, files


def in_runtime(peer: str, path: Path, precision: str, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """A file in its runtime, without our session around it where that is little code."""
    if peer == "onnx":
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads, settings.log_severity_level = threads, 3
        session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        (name,) = (value.name for value in session.get_inputs())
        return lambda images: session.run(None, {name: images})[0]
    if peer == "openvino":
        import openvino

        core = openvino.Core()
        hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False,
                 "INFERENCE_PRECISION_HINT": "f32" if precision == "fp32" else "bf16"}  # fmt: skip
        request = core.compile_model(core.read_model(str(path)), "CPU", hints).create_infer_request()
        return lambda images: request.infer([images])[0].copy()
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=threads)
    interpreter.allocate_tensors()
    into, out = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run(images: np.ndarray) -> np.ndarray:  # the file takes one image
        answers = []
        for image in images:
            interpreter.set_tensor(into, image[None])
            interpreter.invoke()
            answers.append(interpreter.get_tensor(out))
        return np.concatenate(answers)

    return run


def contenders(
    model: SwinV2, engine: EngineSession, files: dict, precision: str, threads: int, images: np.ndarray
) -> dict[str, Run]:
    """Label -> one answer for these images."""
    runs: dict[str, Run] = {"engine": lambda: engine.run(images)}
    for (peer, has), path in files.items():
        if has == precision:
            run = in_runtime(peer, path, precision, threads)
            runs[peer] = lambda run=run: run(images)
    if precision != "int8":
        theirs, x = in_timm(model), torch.from_numpy(images)

        def eager() -> np.ndarray:
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                return theirs(x).float().numpy()

        runs["timm eager"] = eager
    return runs


def take_turns(
    runs: dict[str, Run], rounds: int, in_a_row: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Milliseconds of every contender in every round: after a pause, and the median of the answers that follow."""
    labels = list(runs)
    first: dict[str, list[float]] = {label: [] for label in labels}
    steady: dict[str, list[float]] = {label: [] for label in labels}
    for round_ in range(rounds + 1):
        start = round_ % len(labels)
        for label in labels[start:] + labels[:start]:
            time.sleep(PAUSE)
            times = []
            for _ in range(1 + in_a_row):
                begin = time.perf_counter()
                runs[label]()
                times.append((time.perf_counter() - begin) * 1000)
            if round_ >= 1:  # one round to warm up
                first[label].append(times[0])
                steady[label].append(statistics.median(times[1:]))
    return first, steady


def stages_of(session: EngineSession, images: np.ndarray, rounds: int = 21) -> dict[str, float]:
    """Milliseconds until the end of every part of the network, from the moments at which the engine names them."""
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        moments = {"": time.perf_counter()}
        session.watch(images, lambda name, _, at=moments: at.update({name: time.perf_counter()}))
        names = list(moments)
        for before, name in pairwise(names):
            part = name.split(".")[0] if ".block" in name else name
            part = f"{part} merging" if name.startswith("stage") and ".block" not in name else part
            found.setdefault(part, []).append(1000 * (moments[name] - moments[before]))
    count = {part: len(times) // rounds for part, times in found.items()}
    return {part: count[part] * statistics.median(times) for part, times in found.items()}


def operations(config: SwinV2Config) -> dict[str, float]:
    """GFLOP of every part, by the names of stages_of; products only."""
    height, width = config.image_size
    stages = config.stages(height, width)
    found = {
        "embed": stages[0].grid[0]
        * stages[0].grid[1]
        * config.embed_dim
        * config.in_chans
        * config.patch_size**2
    }
    for stage in stages:
        tokens, dim = stage.grid[0] * stage.grid[1], stage.dim
        seen = stage.window[0] * stage.window[1]
        block = tokens * dim * (3 * dim + dim + 2 * config.mlp_ratio * dim) + 2 * tokens * seen * dim
        found[f"stage{stage.index + 1}"] = stage.depth * block
        if stage.index + 1 < len(stages):
            found[f"stage{stage.index + 1} merging"] = tokens / 4 * 4 * dim * 2 * dim
    return {part: 2e-9 * count for part, count in found.items()}


def build_ceiling(folder: Path) -> Path:
    """The program of ceiling.cpp."""
    program, source = folder / "ceiling", Path(__file__).with_name("ceiling.cpp")
    subprocess.run(["g++", "-O2", "-march=native", "-pthread", source, "-o", program], check=True)
    return program


def ceiling(program: Path, precision: str, threads: int, *, of_cache: bool = False) -> float:
    """GFLOP/s of the processor in registers, or with operands from its first cache (0 without AVX-512)."""
    command = [program, precision, str(threads), *(["cache"] if of_cache else [])]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def measure(model, source, files, program, batch, precision, threads, rounds, instructions) -> dict[str, Any]:
    """One row of the results."""
    engine = EngineSession(source, precision=precision, threads=threads, instructions=instructions)
    images = np.random.default_rng(0).standard_normal((batch, 3, *model.config.image_size)).astype(np.float32)
    torch.set_num_threads(threads)
    with torch.inference_mode():
        exact = model(torch.from_numpy(images)).numpy()
    runs = contenders(model, engine, files, precision, threads, images)
    errors = {label: float(np.abs(run() - exact).max() / np.abs(exact).max()) for label, run in runs.items()}
    # How a peer makes int8 of random weights is its own affair: its products take as long, its error is in the results.
    judged = {"engine"} if precision == "int8" else set(errors)
    if wrong := {
        label: e for label, e in errors.items() if label in judged and not e <= TOLERANCES[precision]
    }:
        raise SystemExit(f"not timed, the logits differ: {wrong}")
    first, times = take_turns(runs, rounds, IN_A_ROW if batch == 1 else 1)
    medians = {label: statistics.median(t) for label, t in times.items()}
    best = min((label for label in medians if label != "engine"), key=medians.__getitem__)
    pairs = [a / b for a, b in zip(times[best], times["engine"], strict=True)]
    top = ceiling(program, precision, threads)
    gflop = 2e-9 * batch * macs(model.config, *model.config.image_size)
    row = {
        "model": model.config.architecture, "precision": precision, "batch": batch, "threads": threads,
        "rounds": rounds, "instructions": engine.instructions,
        "median_ms": {label: round(t, 2) for label, t in sorted(medians.items(), key=lambda item: item[1])},
        "quartiles_ms": {label: [round(q, 2) for q in statistics.quantiles(t, n=4)] for label, t in times.items()},
        "after_pause_ms": {label: round(statistics.median(t), 2) for label, t in first.items()},
        "error": {label: float(f"{e:.2e}") for label, e in errors.items()},
        "best_peer": best, "speedup": round(medians[best] / medians["engine"], 3),
        "speedup_quartiles": [round(q, 3) for q in statistics.quantiles(pairs, n=4)], "goal": GOALS[precision],
        "ceiling_gflops": round(top), "ceiling_share": round(gflop / (medians["engine"] / 1000) / top, 3),
        "ceiling_goal": CEILING_GOALS[precision],
        "ceiling_of_cache_gflops": round(ceiling(program, precision, threads, of_cache=True)),
    }  # fmt: skip
    if batch == 1:
        parts, work = stages_of(engine, images), operations(model.config)
        row["stages"] = {
            part: {"ms": round(ms, 3)}
            | ({"ceiling_share": round(work[part] / (ms / 1000) / top, 3)} if part in work else {})
            for part, ms in parts.items()
        }
    engine.close()
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", nargs="+", default=["swinv2_tiny_window8_256"], choices=sorted(VARIANTS))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--precisions", nargs="+", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--peers", nargs="+", default=["onnx", "openvino", "litert"])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--instructions", help="of the engine; the best of the processor by default")
    parser.add_argument("--output", type=Path, default=RESULTS / "engine-cpu.json")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="swinv2-") as folder:
        program = build_ceiling(Path(folder))
        for name in args.model:
            place = Path(folder, name)
            place.mkdir()
            model, file, files = write_all(name, place, args.precisions, args.peers)
            for threads in args.threads:
                for batch in args.batches:
                    for precision in args.precisions:
                        rounds = max(min(5, args.rounds), args.rounds // batch)
                        row = measure(
                            model, file, files, program, batch, precision, threads, rounds, args.instructions
                        )
                        rows.append(row)
                        print(json.dumps(row), flush=True)
                        torch.set_num_threads(max(args.threads))  # those of the machine, in the results
                        write_results(args.output, rows, LIBRARIES)
                        gc.collect()


if __name__ == "__main__":
    main()
