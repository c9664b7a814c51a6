"""Figures in documents are the ones that the code computes."""

from __future__ import annotations

import subprocess
import sys
from math import prod
from pathlib import Path

import pytest

from swinv2.config import VARIANTS
from swinv2.counts import parameter_shapes, parameters

ROOT = Path(__file__).parent.parent

# Printed by paddle.flops for PaddleClas' model
PADDLE_COUNTS = {"swinv2_tiny_window8_256": 21_868_552}
# PaddleClas' document, in millions, one decimal
PADDLE_DOCUMENT = {
    "swinv2_tiny_window16_256": 21.9,
    "swinv2_small_window8_256": 37.9,
    "swinv2_base_window8_256": 67.0,
    "swinv2_base_window12to24_192to384": 67.0,
    "swinv2_large_window12to24_192to384": 149.6,
}


def never_seen(name: str) -> int:
    """What PaddleClas' counter misses: qkv weights, q and v biases, logit scales."""
    shapes = parameter_shapes(VARIANTS[name]).items()
    return sum(prod(s) for n, s in shapes if n.endswith(("qkv.weight", "q_bias", "v_bias", "logit_scale")))


def test_generated_tables_are_up_to_date():
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "generate.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}run `make docs`"


def test_the_table_of_the_nine_models_has_what_was_measured_and_leaves_the_rest_empty(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    from tables.nine import nine

    name = "swinv2_base_window8_256"
    rows = [
        {"model": name, "precision": "bf16", "batch": batch, "ours": "graph", "images_per_second": 100.0 * batch,
         "median_ms": {"timm": 9.0, "eager": 5.0, "graph": float(batch)}}
        for batch in (1, 4, 128)
    ]  # fmt: skip
    head, _, *lines = nine(rows, ("fp32", "bf16"), "{:.1f}", "{:,.0f}").splitlines()
    assert len(head.split("|")) == 1 + 9 + 1
    assert len(lines) == 9
    (line,) = (line for line in lines if name + "`" in line)
    assert line == f"| `{name}` |  |  |  |  | 1.0 | 4.0 |  | 12,800 |"
    assert all(set(line.split("`")[2]) == {" ", "|"} for line in lines if name + "`" not in line)


@pytest.mark.parametrize("name", PADDLE_COUNTS)
def test_the_undercount_is_exactly_the_qkv_projection(name):
    assert parameters(VARIANTS[name]) - PADDLE_COUNTS[name] == never_seen(name)


@pytest.mark.parametrize("name", PADDLE_DOCUMENT)
def test_the_documented_undercounts_have_the_same_reason(name):
    assert (parameters(VARIANTS[name]) - never_seen(name)) / 1e6 == pytest.approx(
        PADDLE_DOCUMENT[name], abs=0.06
    )
