"""PaddleClas: the official names, every Linear weight transposed ([in, out])."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from swinv2.checkpoints import microsoft
from swinv2.checkpoints.dialect import Dialect, State, square_windows
from swinv2.config import SwinV2Config


def detect(state: Mapping[str, Tensor]) -> bool:
    qkv = state.get(microsoft.QKV)
    return qkv is not None and qkv.ndim == 2 and qkv.shape[1] == 3 * qkv.shape[0]


def to_official(state: Mapping[str, Tensor]) -> State:
    return {name: _transposed(name, tensor) for name, tensor in state.items()}


def from_official(state: Mapping[str, Tensor], config: SwinV2Config) -> State:
    return to_official(microsoft.from_official(state, config))  # a transposition is its own way back


def _transposed(name: str, tensor: Tensor) -> Tensor:
    return tensor.T if tensor.ndim == 2 and name.endswith(".weight") else tensor  # each of them is a Linear


PADDLE = Dialect("paddle", "PaddleClas", ".pdparams", detect, to_official, from_official, square_windows)
