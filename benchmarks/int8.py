"""What int8 costs and gains in every runtime: answers on real pictures, and speed beside the same file in float32.

    python benchmarks/int8.py digits=runs/demo/digits-pico/best.safetensors,runs/demo/digits [NAME=MODEL,DATA ...]
        [--formats onnx openvino executorch litert] [--batches 1 8] [--rounds 25] [--max-drop 2]

Each model is written in float32 and in int8, with static and with dynamic activations where a format has both, by
swinv2.export and swinv2.quantize: those judge the int8 file in its runtime, on pictures that it was not calibrated
on. Then all sessions of a model take turns in one process. Results go to benchmarks/results/int8-cpu.json;
docs/generate.py makes the table of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from inference import commit, interleaved, machine

from swinv2 import probe
from swinv2.export import export
from swinv2.quantize import LostTooMuch, Quantized, quantize
from swinv2.runtimes import RUNTIMES, open_session

PAUSE = 0.06  # seconds between runs: threads of ONNX Runtime spin for 30 ms
RESULTS = Path(__file__).parent / "results"
PACKAGES = {
    "onnx": "onnxruntime",
    "openvino": "openvino",
    "executorch": "executorch",
    "litert": "ai-edge-litert",
}


@dataclass(frozen=True)
class File:
    """One file to time, and what quantize says about it where it is int8."""

    format: str
    kind: str  # float32, static, dynamic
    path: Path
    found: Quantized | None = None


def written(
    model: Path, data: Path, formats: list[str], folder: Path, max_drop: float
) -> tuple[list[File], list[dict]]:
    """All files of a model, and rows for those that could not be written."""
    files, refused = [], []
    for name in formats:
        suffix = RUNTIMES[name].suffixes[0]
        (one,) = export(model, name, output=folder / f"{name}{suffix}", say=say)
        files.append(File(name, "float32", one.path))
        for kind in RUNTIMES[name].activations:
            try:
                (found,) = quantize(
                    model,
                    data,
                    name,
                    output=folder / f"{name}-{kind}{suffix}",
                    activations=kind,
                    max_drop=max_drop,
                    say=say,
                )
            except LostTooMuch as error:
                refused.append({"format": name, "activations": kind, "refused": str(error)})
                continue
            files.append(File(name, kind, found.exported.path, found))
    return files, refused


def timed(files: list[File], batch: int, rounds: int, threads: int) -> dict[Path, dict[str, float]]:
    """Median and quartiles in milliseconds, all files in turn."""
    sessions = {file.path: open_session(file.path, file.format, threads=threads) for file in files}
    images = probe.images(next(iter(sessions.values())).record, batch)
    times = interleaved({str(p): lambda s=s: s.run(images) for p, s in sessions.items()}, rounds, PAUSE)
    for session in sessions.values():
        session.close()
    return {
        path: dict(
            zip(("low_ms", "median_ms", "high_ms"), statistics.quantiles(times[str(path)], n=4), strict=True)
        )
        for path in sessions
    }


def row(file: File, floats: File, speed: dict[int, dict[Path, dict[str, float]]]) -> dict[str, Any]:
    """One row of the results."""
    assert file.found is not None
    judged = file.found.judgement
    return {
        "format": file.format, "activations": file.kind, "bytes": file.found.exported.size,
        "float_bytes": sum(f.stat().st_size for f in RUNTIMES[file.format].files(floats.path)),
        "kept_float": list(file.found.kept_float), "layers": file.found.layers, **judged.to_dict(),
        "speed": [
            {"batch": batch, "int8": rounded(found[file.path]), "float32": rounded(found[floats.path]),
             "ratio": round(found[floats.path]["median_ms"] / found[file.path]["median_ms"], 3)}
            for batch, found in speed.items()
        ],
    }  # fmt: skip


def rounded(times: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in times.items()}


def measure(name: str, model: Path, data: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Everything about one model."""
    with tempfile.TemporaryDirectory() as folder:
        files, refused = written(model, data, args.formats, Path(folder), args.max_drop)
        say(f"timing {len(files)} files")
        speed = {batch: timed(files, batch, args.rounds, args.threads) for batch in args.batches}
        say("timed")
        floats = {file.format: file for file in files if file.found is None}
        rows = [row(file, floats[file.format], speed) for file in files if file.found is not None]
        pictures = next(file.found.facts["pictures"] for file in files if file.found is not None)
        record = open_session(floats[args.formats[0]].path, args.formats[0]).record
    return {
        "name": name, "architecture": record.config.architecture, "image_size": list(record.preprocess.size),
        "judged_on": pictures["judged_on"], "max_drop": args.max_drop, "rows": rows + refused,
    }  # fmt: skip


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL,DATA")
    parser.add_argument("--formats", nargs="+", default=list(PACKAGES), choices=list(PACKAGES))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-drop", type=float, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS / "int8-cpu.json")
    args = parser.parse_args()
    found = []
    for text in args.models:
        name, _, places = text.partition("=")
        model, _, data = places.partition(",")
        found.append(measure(name, Path(model), Path(data), args))
        print(json.dumps(found[-1], indent=1), flush=True)
    result = {
        "date": date.today().isoformat(), "commit": commit(), "machine": machine() | {"threads": args.threads},
        "versions": {PACKAGES[name]: version(PACKAGES[name]) for name in args.formats}, "models": found,
    }  # fmt: skip
    args.output.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
