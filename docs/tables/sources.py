"""Where every result of the repository comes from."""

from __future__ import annotations

from tables.form import RESULTS, measured, table

# Results -> what is measured, the script that does, the document that has its tables.
SOURCES = {
    "inference-cpu": ("the network in PyTorch against timm, transformers, torchvision", "inference.py", "../README.md"),
    "training-cpu": ("a step of training against timm", "training.py", "training.md"),
    "attention-cpu": ("ways to compute window attention", "attention.py", "log.md"),
    "cold-start": ("a command until its answer", "cold_start.py", "predict.md"),
    "exports-cpu": ("our exports against timm's in one runtime", "exports.py", "runtimes.md"),
    "formats-cpu": ("all runtimes side by side", "formats.py", "runtimes.md"),
    "int8-cpu": ("int8: accuracy and speed", "int8.py", "quantize.md"),
    "engine-cpu": ("the engine against ONNX Runtime, OpenVINO, LiteRT, timm", "engine.py", "engine.md"),
    "engine-amx": ("the same on a processor with AMX", "engine.py", "engine.md"),
    "engine-amx-base": ("base, window 16", "engine.py", "engine.md"),
    "engine-amx-large": (
        "large, window 24", "engine.py", "engine.md",
    ),
    "engine-amx-large-batch8": (
        "large, window 24, eight images", "engine.py",
        "engine.md",
    ),
    "web-cpu": ("the engine in a browser, beside ONNX Runtime Web", "web.py", "browser.md"),
    "nine-cpu": ("the nine models of PaddleClas", "nine.py", "benchmarks.md"),
    "footprint": ("the engine's size, start, memory, answers", "footprint.py", "engine.md"),
    "footprint-amx": ("the same on a processor with AMX", "footprint.py", "engine.md"),
    "serving-cpu": ("a server under load, beside the bare runtime and LitServe", "serving.py", "serve.md"),
    "serve-start": ("a server until it is ready", "serve_start.py", "serve.md"),
    "serving-memory": ("memory of a server over ten minutes", "soak.py", "serve.md"),
    "float8": ("what float8 does to answers", "float8.py", "gpu.md"),
    "gpu-kept": ("what training keeps of an image", "gpu_kept.py", "gpu.md"),
    "gpu-traffic": ("what a GPU moves and computes for an image", "gpu_traffic.py", "gpu.md"),
    "bf16-training": ("training in bfloat16", "bf16_training.py", "gpu.md"),
    "gpu": ("kernels, inference, training on a GPU", "gpu.py", "benchmarks.md"),
}  # fmt: skip


def results() -> str:
    """Every file of benchmarks/results, with its script, machine and commit."""
    if unknown := {path.stem for path in RESULTS.glob("*.json")} - set(SOURCES):
        raise SystemExit(
            f"docs/tables/sources.py does not say where these results are from: {sorted(unknown)}"
        )
    rows = []
    for name, (what, command, page) in SOURCES.items():
        result = measured(name, {})
        machine = result.get("machine", {})
        parts = (machine.get("cpu") or machine.get("device"), result.get("commit"), result.get("date"))
        there = ", ".join(filter(None, parts)) or "not measured"
        rows.append((f"[{what}]({page})", f"`{command}`", f"`{name}.json`", there))
    return table("what | benchmarks/ | results/ | machine, commit, date", rows)
