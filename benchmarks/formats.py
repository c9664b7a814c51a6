"""One model in every format and precision that can be written here, then all of them side by side.

    python benchmarks/formats.py [--model swinv2_tiny_window8_256] [--formats onnx openvino] [--rounds 20]

Weights are random and every block counts, so that parity is that of a whole network and speed that of the published
models; the accuracy of int8 is no question that they can answer (docs/quantize.md). What `swinv2 benchmark` measured
goes to benchmarks/results/, with what could not be written and why; docs/generate.py makes the tables of
docs/runtimes.md from it, and the picture of docs/benchmark.md is drawn.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from inference import RESULTS, lively

import swinv2
from swinv2 import artifact, probe
from swinv2.artifact import Record
from swinv2.benchmark.drawing import draw
from swinv2.benchmark.printing import print_benchmark
from swinv2.export import export_one, refer
from swinv2.model import create_model
from swinv2.preprocess import Preprocess
from swinv2.runtimes import RUNTIMES, Options, formats

PICTURE = Path(__file__).parent.parent / "docs" / "pictures" / "benchmark.png"
CALIBRATION = 32  # probe images: ranges that an int8 file can be timed with


def write_model(name: str, path: Path) -> None:
    """An artifact of a published architecture, with random weights."""
    model = lively(create_model(name)).eval()
    artifact.write(
        path, Record(model.config, Preprocess.official(model.config.image_size)), model.state_dict()
    )


def write_all(source: Path, names: list[str]) -> list[dict[str, Any]]:
    """Every format in every precision beside the model; what was written, or why it was not."""
    reference = refer(source, dynamic_size=False)
    pixels = source.with_name("calibration.npy")
    np.save(pixels, probe.images(artifact.read_record(source), CALIBRATION))
    found = []
    for name in names:
        row = RUNTIMES[name]
        for precision in row.exports:
            target = source.with_name(f"{name}.{precision}{row.suffixes[0]}")
            calibration = pixels if precision == "int8" else None
            entry: dict[str, Any] = {"format": name, "precision": precision}
            try:
                options = Options(precision, activations=row.activations[0])
                done = export_one(source, target, row, options, reference, calibration=calibration, say=print)
            except Exception as error:  # one that does not work here is a result as well
                entry["why_not"] = " ".join(str(error).split())
            else:
                error = None if done.worst is None else done.worst.error
                entry |= {"file": target.name, "bytes": done.size, "not_run": done.not_run, "error": error}
                entry["graph"] = done.about.get("graph")
            print(json.dumps(entry), flush=True)
            found.append(entry)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="swinv2_tiny_window8_256")
    parser.add_argument("--formats", nargs="+", default=list(formats()), choices=formats())
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--output", type=Path, default=RESULTS / "formats-cpu.json")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="swinv2-") as folder:
        source = Path(folder, "model.safetensors")
        write_model(args.model, source)
        written = write_all(source, args.formats)
        files = [Path(folder, entry["file"]) for entry in written if "file" in entry and not entry["not_run"]]
        # Paddle's weights are run by torch: they are the model itself once more.
        files = [file for file in files if file.suffix != RUNTIMES["paddle"].suffixes[0]]
        result = swinv2.benchmark(
            source, files, batch_sizes=args.batches, rounds=args.rounds, threads=args.threads,
            tell=lambda what, share: print(f"\r{what} {share:.0%}  ", end="", flush=True),
        )  # fmt: skip
        print()
        print_benchmark(result)
        draw(args.picture, result)
        figures = json.loads(json.dumps(result.to_dict()).replace(f"{folder}/", ""))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(figures | {"exports": written}, indent=1) + "\n")
    print(f"wrote {args.output} and {args.picture}")


if __name__ == "__main__":
    main()
