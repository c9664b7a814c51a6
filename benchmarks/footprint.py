"""What the engine needs beside its time: size, memory, the wait for the first answer, what its precisions cost, and how
near its products alone come to the ceiling.

    python benchmarks/footprint.py --build build/engine [NAME=MODEL,DATA ...] [--rounds 9]

Every figure comes from processes of swinv2-cli and of Python that start, answer and end, as the operating system
accounts for them. MODEL is an artifact and DATA a folder with val/ or validation/: the share of its pictures for which
bfloat16 and int8 name the class of float32, and their accuracies. Results go to benchmarks/results/footprint.json;
docs/generate.py makes the table of docs/engine.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from engine import build_ceiling, ceiling
from inference import RESULTS, lively, write_results

from swinv2 import artifact
from swinv2.artifact import Record
from swinv2.model import create_model
from swinv2.preprocess import Preprocess
from swinv2.runtimes.engine import EngineSession

PRECISIONS = ("fp32", "bf16", "int8")
# Linux counts the memory of who starts a process as memory of that process: a small one has to start it.
LAUNCHER = """
import os, sys, time
begin = time.perf_counter()
quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
_, status, usage = os.wait4(os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=quiet), 0)
print(time.perf_counter() - begin, usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""
LARGE = """
import sys, numpy as np
from swinv2.runtimes.engine import EngineSession
EngineSession(sys.argv[1]).run(np.zeros((1, 3, 4096, 4096), np.float32))
"""


def run(command: list[str | Path]) -> tuple[float, int]:
    """Seconds and largest memory in bytes of a process that has to end well."""
    launcher = [sys.executable, "-S", "-c", LAUNCHER, *map(os.fspath, command)]
    done = subprocess.run(launcher, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command} failed: {done.stderr}")
    seconds, kilobytes = done.stdout.split()
    return float(seconds), 1024 * int(kilobytes)


def stripped(library: Path, folder: Path) -> int:
    """Bytes of the library without symbols."""
    copy = folder / library.name
    shutil.copy(library.resolve(), copy)
    subprocess.run(["strip", "--strip-unneeded", copy], check=True)
    return copy.stat().st_size


def start(build: Path, model: Path, picture: Path, precision: str, rounds: int) -> dict[str, Any]:
    """A process of swinv2-cli that opens a model and classifies one picture."""
    command = [build / "swinv2-cli", "classify", model, picture, "--precision", precision]
    runs = [run(command) for _ in range(rounds + 1)][1:]  # the first reads the file from the disk
    with EngineSession(model, precision=precision) as session:
        weights = session.weight_bytes
    return {"precision": precision, "seconds": round(statistics.median(s for s, _ in runs), 3),
            "memory_bytes": max(m for _, m in runs), "weight_bytes": weights}  # fmt: skip


def products(build: Path, folder: Path) -> list[dict[str, Any]]:
    """The matrix products alone on one thread, and their share of the ceiling in registers."""
    output = subprocess.run([build / "bench_products"], capture_output=True, text=True, check=True).stdout
    rows = [json.loads(line) for line in output.splitlines()]
    program = build_ceiling(folder)
    tops = {precision: ceiling(program, precision, 1) for precision in {row["precision"] for row in rows}}
    return [row | {"ceiling_share": round(row["gops"] / tops[row["precision"]], 3)} for row in rows]


def answers(name: str, model: Path, data: Path) -> list[dict[str, Any]]:
    """Agreement with float32 and accuracy of every precision, on the held-out pictures."""
    record = artifact.read_record(model)
    held_out = next(folder for part in ("val", "validation") if (folder := data / part).is_dir())
    pictures = [p for p in sorted(held_out.rglob("*")) if p.suffix.lower() in (".jpg", ".jpeg", ".png")]
    labels = np.array([record.classes.index(p.parent.name) for p in pictures])
    images = np.stack([record.preprocess.load(p) for p in pictures])
    logits = {}
    for precision in PRECISIONS:
        with EngineSession(model, precision=precision) as session:
            logits[precision] = session.run(images)
    exact, rows = logits["fp32"], []
    for precision, found in logits.items():
        same, right = found.argmax(1) == exact.argmax(1), found.argmax(1) == labels
        error = np.abs(found - exact).max() / np.abs(exact).max()
        rows.append({"name": name, "precision": precision, "pictures": len(pictures), "same_class": int(same.sum()),
                     "correct": int(right.sum()), "error": float(f"{error:.2e}")})  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", metavar="NAME=MODEL,DATA")
    parser.add_argument("--build", type=Path, required=True, help="folder of `make engine`")
    parser.add_argument("--model", default="swinv2_tiny_window8_256")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", type=Path, default=RESULTS / "footprint.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="swinv2-") as folder:
        model = lively(create_model(args.model))
        path, picture = Path(folder, "model.safetensors"), Path(folder, "picture.ppm")
        record = Record(model.config, Preprocess.official(model.config.image_size))
        artifact.write(path, record, model.state_dict())
        picture.write_bytes(b"P6 500 375 255\n" + bytes(500 * 375 * 3))
        row = {
            "model": args.model,
            "library_bytes": stripped(args.build / "libswinv2.so", Path(folder)),
            "starts": [start(args.build, path, picture, p, args.rounds) for p in PRECISIONS],
            "large_memory_bytes": run([sys.executable, "-c", LARGE, path])[1],
            "products": products(args.build, Path(folder)),
            "answers": [],
        }
    for text in args.models:
        name, _, places = text.partition("=")
        artifact_path, _, data = places.partition(",")
        row["answers"] += answers(name, Path(artifact_path), Path(data))
    write_results(args.output, [row], ("numpy", "swinv2"))


if __name__ == "__main__":
    main()
