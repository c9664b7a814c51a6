"""The engine in a browser against ONNX Runtime Web: one page of Chromium, one thread each, in interleaved rounds.

    python benchmarks/web.py [--model swinv2_tiny_window8_256 ...] [--rounds 15]

Needs `make cross-web browser` and npm, which fetches the peer. Both compute by WebAssembly with vectors of 128 bits;
the peer gets the files of our ONNX export. Nothing is timed before its logits were compared with exact ones; the peer's
may stray in int8. Beside the times stands what such vectors can do at most in that browser, products and sums in
registers, by web_ceiling.cpp. Results go to benchmarks/results/web-cpu.json; docs/generate.py makes the table.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engine import TOLERANCES, write_all
from inference import RESULTS, write_results
from playwright.sync_api import Browser, Page, sync_playwright

from swinv2.config import VARIANTS
from swinv2.counts import macs

ROOT = Path(__file__).parents[1]
SITE = ROOT / "build" / "wasm" / "web"
PEER = "onnxruntime-web"
CEILING_ROUNDS = 20_000_000
CEILING_FLOP = 2 * 4 * 12  # of a round
PAGE = """
<!doctype html><title>speed</title><script type="module">
import { open } from "/swinv2.js";
import * as ort from "/peer/ort.wasm.bundle.min.mjs";
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = "/peer/";

const bytes = async (name) => new Uint8Array(await (await fetch(name)).arrayBuffer());
const runs = {};
window.load = async (precision, shape) => {
  const images = new Float32Array((await bytes("/images.bin")).buffer);
  for (const name of Object.keys(runs)) delete runs[name];
  const opened = {};
  let begun = performance.now();
  const model = await open("/model.safetensors", { precision });
  opened.engine = performance.now() - begun;
  runs.engine = async () => model.run(images, shape);
  begun = performance.now();
  const file = await bytes(`/onnx.${precision}.onnx`);
  const session = await ort.InferenceSession.create(file, { executionProviders: ["wasm"] });
  opened.onnx = performance.now() - begun;
  const [input] = session.inputNames, [output] = session.outputNames;
  runs.onnx = async () => (await session.run({ [input]: new ort.Tensor("float32", images, shape) }))[output].data;
  return opened;
};
window.answer = async (name) => Array.from(await runs[name]());
window.time = async (name) => {
  const begun = performance.now();
  await runs[name]();
  return performance.now() - begun;
};
window.ceiling = async (rounds) => {
  const { instance } = await WebAssembly.instantiate(await bytes("/ceiling.wasm"));
  instance.exports.multiply(rounds / 10); // compiled and warm
  const begun = performance.now();
  instance.exports.multiply(rounds);
  return performance.now() - begun;
};
window.ready = true;
</script>
"""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=folder)
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def prepare(folder: Path) -> str:
    """Puts the engine, the peer and the ceiling into a folder; returns the version of the peer."""
    if not (SITE / "swinv2.wasm").exists():
        raise SystemExit("there is no build/wasm/web; run make cross-web")
    shutil.copytree(SITE, folder, dirs_exist_ok=True)
    (folder / "speed.html").write_text(PAGE)
    subprocess.run(["npm", "pack", "--silent", PEER], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    (archive,) = folder.glob(f"{PEER}-*.tgz")
    subprocess.run(["tar", "xzf", archive.name], cwd=folder, check=True)
    (folder / "package" / "dist").rename(folder / "peer")
    subprocess.run(
        ["em++", "-O3", "-msimd128", "-sSTANDALONE_WASM", "--no-entry", "-sEXPORTED_FUNCTIONS=_multiply",
         Path(__file__).with_name("web_ceiling.cpp"), "-o", folder / "ceiling.wasm"], check=True,
    )  # fmt: skip
    return json.loads((folder / "package" / "package.json").read_text())["version"]


def measure(page: Page, folder: Path, model: Any, precision: str, rounds: int) -> dict[str, Any]:
    height, width = model.config.image_size
    images = np.random.default_rng(0).standard_normal((1, 3, height, width)).astype(np.float32)
    (folder / "images.bin").write_bytes(images.tobytes())
    with torch.inference_mode():
        exact = model(torch.from_numpy(images)).numpy().ravel()
    opened = page.evaluate("([precision, shape]) => load(precision, shape)", [precision, images.shape])
    errors = {}
    for name in opened:
        errors[name] = float(
            np.abs(np.asarray(page.evaluate("(name) => answer(name)", name)) - exact).max()
            / np.abs(exact).max()
        )
    if errors["engine"] > TOLERANCES[precision] or (
        precision == "fp32" and errors["onnx"] > TOLERANCES["fp32"]
    ):
        raise SystemExit(f"not timed, the logits differ: {errors}")
    times: dict[str, list[float]] = {name: [] for name in opened}
    top = 0.0
    for round_ in range(rounds + 1):
        for name in list(opened)[:: -1 if round_ % 2 else 1]:
            took = page.evaluate("(name) => time(name)", name)
            if round_:  # one to warm up
                times[name].append(took)
        top = max(
            top,
            CEILING_FLOP
            * CEILING_ROUNDS
            / 1e6
            / page.evaluate("(rounds) => ceiling(rounds)", CEILING_ROUNDS),
        )
    medians = {name: statistics.median(t) for name, t in times.items()}
    ratios = [theirs / ours for theirs, ours in zip(times["onnx"], times["engine"], strict=True)]
    gflop = 2e-9 * macs(model.config, height, width)
    row = {
        "model": model.config.architecture, "precision": precision, "batch": 1, "threads": 1, "rounds": rounds,
        "median_ms": {name: round(t, 1) for name, t in medians.items()},
        "opened_ms": {name: round(t) for name, t in opened.items()},
        "speedup": round(medians["onnx"] / medians["engine"], 3),
        "speedup_quartiles": [round(q, 3) for q in statistics.quantiles(ratios, n=4)],
        "error": {name: float(f"{e:.2e}") for name, e in errors.items()},
        "ceiling_gflops": round(top, 1), "ceiling_share": round(gflop / (medians["engine"] / 1000) / top, 3),
    }  # fmt: skip
    print(json.dumps(row), flush=True)
    return row


def started(playwright: Any) -> Browser:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    return playwright.chromium.launch(
        executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", nargs="+", default=["swinv2_pico", "swinv2_tiny_window8_256"], choices=sorted(VARIANTS)
    )
    parser.add_argument("--precisions", nargs="+", default=["fp32", "int8"], choices=["fp32", "int8"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path, default=RESULTS / "web-cpu.json")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="swinv2-") as place:
        folder = Path(place)
        peer = prepare(folder)
        with served(folder) as address, sync_playwright() as playwright:
            browser = started(playwright)
            for name in args.model:
                model, _, _ = write_all(name, folder, args.precisions, ["onnx"])
                for precision in args.precisions:
                    page = browser.new_page()
                    page.on("pageerror", lambda error: print(error, file=sys.stderr))
                    page.goto(f"{address}/speed.html")
                    page.wait_for_function("window.ready")
                    rows.append(measure(page, folder, model, precision, args.rounds))
                    page.close()
            versions = {"Chromium": browser.version, PEER: peer}
            browser.close()
    write_results(args.output, rows, ("torch", "onnxruntime"))
    result = json.loads(args.output.read_text())
    args.output.write_text(json.dumps(result | {"versions": versions}, indent=1) + "\n")


if __name__ == "__main__":
    main()
