"""Parameters and multiply-adds: the official table, and torch's own counter."""

from __future__ import annotations

import pytest
import torch
from conftest import SMALL
from torch.utils.flop_counter import FlopCounterMode

from swinv2.config import VARIANTS
from swinv2.counts import macs, parameters
from swinv2.model import SwinV2

# microsoft/Swin-Transformer: parameters of the released files, and its flops() (without the position bias MLP)
OFFICIAL = {
    "swinv2_tiny_window8_256":            (28_347_154, 5.926),
    "swinv2_tiny_window16_256":           (28_347_154, 6.605),
    "swinv2_small_window8_256":           (49_728_418, 11.515),
    "swinv2_small_window16_256":          (49_728_418, 12.647),
    "swinv2_base_window8_256":            (87_918_816, 20.286),
    "swinv2_base_window16_256":           (87_918_816, 21.796),
    "swinv2_base_window12to16_192to256":  (87_918_816, 21.796),
    "swinv2_base_window12to24_192to384":  (87_918_816, 54.748),
    "swinv2_large_window12to16_192to256": (196_739_932, 47.491),
    "swinv2_large_window12to24_192to384": (196_739_932, 115.417),
    "swinv2_base_window12_192":           (109_280_841, 11.782),
    "swinv2_large_window12_192":          (228_772_549, 25.997),
}  # fmt: skip


@pytest.mark.parametrize("name", OFFICIAL)
def test_counts_equal_the_official_table(name):
    params, gmacs = OFFICIAL[name]
    assert parameters(VARIANTS[name]) == params
    assert macs(VARIANTS[name], position_bias=False) / 1e9 == pytest.approx(gmacs, abs=0.0011)
    assert macs(VARIANTS[name]) / 1e9 == pytest.approx(gmacs, rel=0.015)


@pytest.mark.parametrize("size", [(64, 64), (96, 160), (50, 70)])
def test_counts_equal_what_torch_counts(size):
    """torch counts products only; ours has the norms too (one multiply-add an element)."""
    model = SwinV2(SMALL).eval()
    model.backend = "matmul"
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.randn(1, 3, *size))
    norms = 0
    for stage in SMALL.stages(*size):
        tokens = stage.grid[0] * stage.grid[1]
        norms += tokens * stage.dim * (2 * stage.depth + (stage.index == 0) + (stage.index == 3))
        if stage.index < 3:
            norms += -(-stage.grid[0] // 2) * -(-stage.grid[1] // 2) * 2 * stage.dim
    assert macs(SMALL, *size) - norms == counter.get_total_flops() // 2
