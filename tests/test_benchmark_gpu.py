"""The benchmark for a day with a GPU goes through everything without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from swinv2.config import VARIANTS
from swinv2.counts import macs

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "gpu.py"
pytest.importorskip("triton", reason="there is no Triton for this system")


@pytest.mark.slow
def test_a_dry_run_measures_every_part_and_skips_nothing(tmp_path, monkeypatch):
    output = tmp_path / "gpu.json"
    argv = [
        sys.executable,
        SCRIPT,
        "--dry-run",
        "--parts",
        "kernels",
        "products",
        "inference",
        "sessions",
        "training",
        "tiles",
    ]
    subprocess.run([*argv, "--output", output], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    result = json.loads(output.read_text())
    assert result["skipped"] == []
    (kernel,) = result["kernels"]
    assert set(kernel["forward"]["median_ms"]) == {"eager", "sdpa", "compiled", "flex", "triton"}
    assert {"eager", "sdpa", "compiled", "triton"} <= set(kernel["training"]["median_ms"])
    assert [row["kind"] for row in result["products"]] == [
        "gelu",
        "branch",
        "mlp",
        "merge",
        "embed",
        "diagonals",
    ]
    for row in result["products"]:
        assert row["failed"] == {}
        assert {"eager", "compiled", "triton"} <= set(row["median_ms"])
    for row in result["inference"]:
        assert row["failed"] == {}
        assert {"timm eager", "timm compiled", "transformers eager", "swinv2 folded"} <= set(row["median_ms"])
    one, two, float8 = result["sessions"]
    assert set(one["median_ms"]) == set(two["median_ms"]) == {"launched"}  # graphs are of devices
    assert float8["failed"].startswith("fp8 needs a CUDA device")
    (steps,) = result["training"]
    ours = {"swinv2 eager", "swinv2 compiled", "swinv2 compiled, bf16_all"}  # graphs are of devices
    assert set(steps["median_ms"]) == {"timm eager", "timm compiled", *ours}
    assert all(row["failed"] == {} for row in result["tiles"])
    assert_documents_can_show(result | {"machine": {"device": "some", "cuda": "13"}}, monkeypatch)


def assert_documents_can_show(result: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPT.parent.parent / "docs")
    from tables import gpu

    monkeypatch.setattr(gpu, "gpu_results", lambda: result)
    for part in ("kernels", "products", "training"):
        lines = getattr(gpu, f"gpu_{part}")().splitlines()
        assert len(lines) == 4 + len(result[part])  # where, a blank, the head and its rule


def test_without_a_device_it_says_what_can_be_done():
    env = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, env=env)
    assert done.returncode == 1
    assert "no CUDA device here; --dry-run goes through everything on a CPU" in done.stderr


def test_training_keeps_less_of_an_image_than_timm(tmp_path):
    """At most 0.7 of it is the goal; counted by shapes, for the model in which attention counts least."""
    output = tmp_path / "kept.json"
    argv = [sys.executable, SCRIPT.with_name("gpu_kept.py"), "--models", "swinv2_tiny_window8_256"]
    subprocess.run([*argv, "--output", output], check=True)
    [row] = json.loads(output.read_text())["models"]
    kept = row["mb_per_image"]
    assert 0 < kept["swinv2"] <= 0.7 * kept["timm"]


def test_what_a_gpu_moves_and_computes_is_counted(tmp_path):
    """A network's products are known, a residual stream in bfloat16 moves less, and the goals are below the limit."""
    output = tmp_path / "traffic.json"
    argv = [sys.executable, SCRIPT.with_name("gpu_traffic.py"), "--models", "swinv2_tiny_window8_256"]
    subprocess.run([*argv, "--output", output], check=True)
    inference, mixed, pure = json.loads(output.read_text())["rows"]
    multiplied = 2 * macs(VARIANTS["swinv2_tiny_window8_256"], position_bias=False) / 1e9
    assert inference["gflop_per_image"] == pytest.approx(multiplied, rel=0.01)
    assert mixed["gflop_per_image"] == pytest.approx(3 * multiplied, rel=0.02)
    assert pure["mb_per_image"] < 0.8 * mixed["mb_per_image"]
    for row in (inference, pure):
        assert row["goal"] < row["images_per_second_at_most"]
