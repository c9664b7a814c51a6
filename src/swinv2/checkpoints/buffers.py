"""The derived buffers that the official code keeps in its state dict: functions of the architecture alone.

They are dropped on reading, after they have said what they know (geometry.py), and written again for
libraries whose strict loading wants them; a file with them says its window, image size and trained windows by
itself.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from swinv2.checkpoints.dialect import State
from swinv2.config import Stage, SwinV2Config
from swinv2.model import Offsets

PATTERN = re.compile(r".*\.(relative_coords_table|relative_position_index|attn_mask)")


def derive(config: SwinV2Config) -> State:
    """Under official names, in official shapes; for square windows."""
    state: State = {}
    for stage in config.stages(*config.image_size):
        offsets, side = (
            Offsets.compute(stage.window, stage.span, torch.device("cpu")),
            2 * stage.window[0] - 1,
        )
        for block in range(stage.depth):
            name = f"layers.{stage.index}.blocks.{block}"
            state[f"{name}.attn.relative_coords_table"] = offsets.table.view(1, side, side, 2)
            state[f"{name}.attn.relative_position_index"] = offsets.rows
            if any(stage.shift_of(block)):
                state[f"{name}.attn_mask"] = _mask(stage)
    return state


def _mask(stage: Stage) -> Tensor:
    """[windows, N, N]: -100 between the regions that a cyclic shift brings together, else 0."""
    (H, W), (M, _), (shift, _) = stage.grid, stage.window, stage.shift
    rows, cols = ((torch.arange(n) >= n - M).int() + (torch.arange(n) >= n - shift).int() for n in (H, W))
    region = 3 * rows[:, None] + cols
    region = region.view(H // M, M, W // M, M).transpose(1, 2).reshape(-1, M * M)  # windows N
    return torch.where(region[:, :, None] == region[:, None, :], 0.0, -100.0)
