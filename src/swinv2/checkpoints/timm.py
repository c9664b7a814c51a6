"""timm (huggingface/pytorch-image-models): patch merging at the start of the next stage, head.fc."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from swinv2.checkpoints import microsoft
from swinv2.checkpoints.dialect import Dialect, State, no_extra_norm
from swinv2.checkpoints.naming import Names
from swinv2.config import SwinV2Config

NAMES = Names(
    # official              timm
    ("layers.{i}.downsample", "layers.{i+1}.downsample"),
    ("head",                  "head.fc"),
)  # fmt: skip


def detect(state: Mapping[str, Tensor]) -> bool:
    return microsoft.QKV in state and microsoft.is_timm(state)


def to_official(state: Mapping[str, Tensor]) -> State:
    return {NAMES.to_official(name) or name: tensor for name, tensor in state.items()}


def from_official(state: Mapping[str, Tensor], config: SwinV2Config) -> State:
    return {NAMES.from_official(name) or name: tensor for name, tensor in state.items()}


TIMM = Dialect(
    "timm", "timm and the timm/... repositories of the Hugging Face hub", ".safetensors",
    detect, to_official, from_official, no_extra_norm,
)  # fmt: skip
