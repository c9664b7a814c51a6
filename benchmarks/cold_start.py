"""How long a person waits: whole commands, from the start of Python to the last line.

    make demo && python benchmarks/cold_start.py

`swinv2 --help` (goal: under 0.3 s, without torch) and `swinv2 predict` of one picture with the demo's model
(goal: under 3 s, torch included). Medians of whole processes, one warm-up.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from inference import commit, machine

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "runs" / "demo"


def seconds(command: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "cold-start.json")
    args = parser.parse_args()
    program = str(Path(sys.executable).parent / "swinv2")
    picture, model = DEMO / "digits" / "samples" / "digit-3.png", DEMO / "digits-pico" / "best.safetensors"
    if not model.exists():
        raise SystemExit(f"there is no {model.relative_to(ROOT)}; run `make demo` first")
    commands = {
        "swinv2 --help": [program, "--help"],
        "swinv2 predict": [program, "predict", str(picture), "--model", str(model)],
    }
    rows = []
    for name, command in commands.items():
        times = [seconds(command) for _ in range(args.runs + 1)][1:]
        rows.append({"command": name, "median_s": round(median(times), 3), "slowest_s": round(max(times), 3)})
        print(rows[-1])
    args.output.write_text(
        json.dumps({"commit": commit(), "machine": machine(), "rows": rows}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
