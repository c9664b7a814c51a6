"""How long a server takes from the start of its process until it is ready, and until it has answered.

    python -m venv /tmp/serving && /tmp/serving/bin/pip install ".[serve,onnx,openvino]"
    python benchmarks/serve_start.py --python /tmp/serving/bin/python [--model swinv2_tiny_window8_256] [--runs 7]

`swinv2 serve` with the artifact on the engine and with exports, without torch (goal: ready in under 2 s). Ready is what
/v2/health/ready says: the model is loaded, warmed up and checked. The environment is one with nothing else, as servers
have; packages beside it are imported too. Whole processes in turns, the first of each not counted. Medians go to
benchmarks/results/serve-start.json; docs/generate.py makes the table of docs/serve.md.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from inference import RESULTS, write_results
from serving import NAME, free_port, pictures, write_model

FORMATS = ("engine", "onnx", "openvino")
LIBRARIES = ("uvicorn", "fastapi", "grpcio", "onnxruntime", "openvino", "numpy")
PATIENCE = 60  # seconds


def export(source: Path, runtime: str, folder: Path) -> Path:
    if runtime == "engine":
        return source
    suffix = {"onnx": "onnx", "openvino": "xml"}[runtime]
    path = folder / f"{NAME}.{suffix}"
    command = [sys.executable, "-m", "swinv2", "export", str(source), "--to", runtime, "--output", str(path)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return path


def start(python: str, model: Path, picture: bytes) -> tuple[float, float]:
    """Seconds until the server is ready, and until it has said what the picture shows."""
    port = free_port()
    command = [python, "-m", "swinv2", "serve", f"{NAME}:{model}", "--http-port", str(port), "--no-grpc",
               "--quiet"]  # fmt: skip
    begin = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            address = f"http://127.0.0.1:{port}"
            while not is_ready(address):
                if process.poll() is not None or time.perf_counter() - begin > PATIENCE:
                    raise SystemExit(f"{' '.join(command)} is not ready")
                time.sleep(0.005)
            ready = time.perf_counter() - begin
            urllib.request.urlopen(urllib.request.Request(f"{address}/predict", picture)).read()
            return ready, time.perf_counter() - begin
        finally:
            process.terminate()


def is_ready(address: str) -> bool:
    with contextlib.suppress(OSError):  # nobody listens yet, or 503
        return bool(urllib.request.urlopen(f"{address}/v2/health/ready", timeout=1).status == 200)
    return False


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="swinv2_tiny_window8_256")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--python", default=sys.executable, help="of the environment that serves")
    parser.add_argument("--output", type=Path, default=RESULTS / "serve-start.json")
    args = parser.parse_args()
    picture, times = pictures()[0], {name: [] for name in FORMATS}
    with tempfile.TemporaryDirectory() as folder:
        source = write_model(args.model, Path(folder))
        models = {name: export(source, name, Path(folder)) for name in FORMATS}
        for run in range(args.runs + 1):
            for name, model in models.items():
                taken = start(args.python, model, picture)
                print(name, *(f"{seconds:.2f}" for seconds in taken), flush=True)
                if run:
                    times[name].append(taken)
    rows = [
        {"model": args.model, "runtime": name, "runs": args.runs,
         "ready_s": round(statistics.median(ready for ready, _ in taken), 3),
         "slowest_ready_s": round(max(ready for ready, _ in taken), 3),
         "answered_s": round(statistics.median(answered for _, answered in taken), 3)}
        for name, taken in times.items()
    ]  # fmt: skip
    write_results(args.output, rows, LIBRARIES)


if __name__ == "__main__":
    main()
