"""torchvision's swin_v2_t, _s and _b: numbered features, one qkv bias whose k part its forward sets to zero.

torchvision neither clamps a window to the grid nor knows a pretrained window, so only architectures whose
window is the same in every stage, and the one they were trained with, mean the same there.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from swinv2.checkpoints import buffers
from swinv2.checkpoints.dialect import Dialect, State, no_extra_norm
from swinv2.checkpoints.naming import Names
from swinv2.config import SwinV2Config

_BLOCK, _THEIRS = "layers.{i}.blocks.{b}", "features.{2i+1}.{b}"
NAMES = Names(
    # official                         torchvision
    ("patch_embed.proj",               "features.0.0"),
    ("patch_embed.norm",               "features.0.2"),
    ("layers.{i}.downsample",          "features.{2i+2}"),
    (f"{_BLOCK}.mlp.fc1",              f"{_THEIRS}.mlp.0"),
    (f"{_BLOCK}.mlp.fc2",              f"{_THEIRS}.mlp.3"),
    (_BLOCK,                           _THEIRS),
)  # fmt: skip


def detect(state: Mapping[str, Tensor]) -> bool:
    return "features.1.0.attn.qkv.weight" in state and "features.1.0.attn.logit_scale" in state


def to_official(state: Mapping[str, Tensor]) -> State:
    official: State = {}
    for name, tensor in state.items():
        name = NAMES.to_official(name) or name
        if name.endswith(".attn.qkv.bias"):
            attention = name.removesuffix(".qkv.bias")
            official[f"{attention}.q_bias"], _, official[f"{attention}.v_bias"] = tensor.chunk(3)
        else:
            official[name] = tensor
    return official


def from_official(state: Mapping[str, Tensor], config: SwinV2Config) -> State:
    theirs: State = {}
    for name, tensor in (dict(state) | buffers.derive(config)).items():
        if name.endswith(".attn.v_bias"):
            continue
        if name.endswith(".attn.q_bias"):
            v_bias = state[name.replace(".q_bias", ".v_bias")]
            name, tensor = name.replace(".q_bias", ".qkv.bias"), torch.cat([tensor, tensor * 0, v_bias])
        if name.endswith(".relative_position_index"):
            tensor = tensor.flatten()
        if not name.endswith(".attn_mask"):
            theirs[NAMES.from_official(name) or name] = tensor
    return theirs


def unsupported(config: SwinV2Config) -> str | None:
    if not config.num_classes:
        return "its models always have a head"
    stages = zip(config.stages(*config.image_size), config.trained_windows, strict=True)
    if any(not stage.window == trained == (config.window, config.window) for stage, trained in stages):
        return (
            f"it uses one window ({config.window}) in every stage and knows no other pretrained window, which "
            f"{config.architecture} at {config.image_size[0]}x{config.image_size[1]} does"
        )
    return no_extra_norm(config)


TORCHVISION = Dialect(
    "torchvision", "torchvision's swin_v2_t, swin_v2_s, swin_v2_b", ".pth",
    detect, to_official, from_official, unsupported,
    remark="the k part of the qkv bias, which torchvision sets to zero",
)  # fmt: skip
