"""The official names (microsoft/Swin-Transformer), which are ours as well."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from swinv2.checkpoints import buffers
from swinv2.checkpoints.dialect import Dialect, State, square_windows
from swinv2.config import SwinV2Config

QKV = "layers.0.blocks.0.attn.qkv.weight"


def detect(state: Mapping[str, Tensor]) -> bool:
    qkv = state.get(QKV)
    return qkv is not None and qkv.ndim == 2 and qkv.shape[0] == 3 * qkv.shape[1] and not is_timm(state)


def is_timm(state: Mapping[str, Tensor]) -> bool:
    """timm merges patches at the start of a stage (so the first has nothing to merge) and calls the head head.fc."""
    later = any(name.startswith("layers.1.downsample.") for name in state)
    return "head.fc.weight" in state or (later and "layers.0.downsample.reduction.weight" not in state)


def to_official(state: Mapping[str, Tensor]) -> State:
    # rpe_mlp: what the continuous position bias was called before the official release (SimMIM).
    return {name.replace(".rpe_mlp.", ".cpb_mlp."): tensor for name, tensor in state.items()}


def from_official(state: Mapping[str, Tensor], config: SwinV2Config) -> State:
    return dict(state) | buffers.derive(config)


MICROSOFT = Dialect(
    "microsoft", "the official repository", ".pth", detect, to_official, from_official, square_windows,
    container="model",
)  # fmt: skip
