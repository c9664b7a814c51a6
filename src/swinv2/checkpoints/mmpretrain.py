"""mmpretrain and mmcls (OpenMMLab): backbone. and head.fc., patch merging at the start of the next stage.

Its patch merging unfolds, so that the four neighbours of a channel lie side by side, and row by row; officially
the channels of a neighbour do, column by column. Windows are a setting per stage there, and are in the buffers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from swinv2.checkpoints import buffers
from swinv2.checkpoints.dialect import Dialect, State, square_windows
from swinv2.checkpoints.naming import Names
from swinv2.config import SwinV2Config

PREFIX = "backbone."  # of all but the head; a file of the backbone alone may lack it
STAGES = 4
_BLOCK, _THEIRS = "layers.{i}.blocks.{b}", "stages.{i}.blocks.{b}"
NAMES = Names(
    # official                         mmpretrain
    ("patch_embed.proj",               "patch_embed.projection"),
    ("layers.{i}.downsample",          "stages.{i+1}.downsample"),
    (f"{_BLOCK}.attn",                 f"{_THEIRS}.attn.w_msa"),
    (f"{_BLOCK}.mlp.fc1",              f"{_THEIRS}.ffn.layers.0.0"),
    (f"{_BLOCK}.mlp.fc2",              f"{_THEIRS}.ffn.layers.1"),
    (_BLOCK,                           _THEIRS),
    ("norm",                           f"norm{STAGES - 1}"),
    ("head",                           "head.fc"),
)  # fmt: skip


def detect(state: Mapping[str, Tensor]) -> bool:
    first = f"{NAMES.from_official('layers.0.blocks.0.attn')}.logit_scale"
    return first in state or PREFIX + first in state


def to_official(state: Mapping[str, Tensor]) -> State:
    official: State = {}
    for name, tensor in state.items():
        name = name.removeprefix(PREFIX)
        name = NAMES.to_official(name) or name
        official[name] = _by_neighbour(tensor) if name.endswith(".downsample.reduction.weight") else tensor
    return official


def from_official(state: Mapping[str, Tensor], config: SwinV2Config) -> State:
    theirs: State = {}
    for official, tensor in (dict(state) | buffers.derive(config)).items():
        if official.endswith(".attn_mask"):
            continue
        name = NAMES.from_official(official) or official
        if name.endswith(".downsample.reduction.weight"):
            tensor = _by_channel(tensor)
        theirs[name if official.startswith("head.") else PREFIX + name] = tensor
    return theirs


def _by_neighbour(weight: Tensor) -> Tensor:
    """[out, 4 C]: inputs by channel, row, column -> by column, row, channel, as officially."""
    out, ins = weight.shape
    return weight.reshape(out, ins // 4, 2, 2).permute(0, 3, 2, 1).reshape(out, ins)


def _by_channel(weight: Tensor) -> Tensor:
    """The way back."""
    out, ins = weight.shape
    return weight.reshape(out, 2, 2, ins // 4).permute(0, 3, 2, 1).reshape(out, ins)


def unsupported(config: SwinV2Config) -> str | None:
    if len(config.depths) != STAGES:
        return f"its models are read and written with {STAGES} stages, and this has {len(config.depths)}"
    period, others = config.extra_norm_period, (*config.depths[:2], *config.depths[3:])
    if period and max(others) >= period:
        return f"it has an extra norm after every {period} blocks of any stage, and this of stage 3 alone"
    return square_windows(config)


MMPRETRAIN = Dialect(
    "mmpretrain", "mmpretrain and mmcls (OpenMMLab)", ".pth",
    detect, to_official, from_official, unsupported,
    ignored=(
        (r"ema_.*", "the second set of weights that mmcv keeps for averaging"),
        (rf"(?:{re.escape(PREFIX)})?norm[0-{STAGES - 2}]\..*", "the norms of earlier feature maps"),
    ),
    container="state_dict",
)  # fmt: skip
