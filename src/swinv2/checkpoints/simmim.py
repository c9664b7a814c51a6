"""SimMIM pre-training (microsoft/SimMIM and microsoft/Swin-Transformer): an encoder without a head.

The mask token and the decoder belong to the pre-training and are left out, as the official fine-tuning does.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from swinv2.checkpoints import microsoft
from swinv2.checkpoints.dialect import Dialect, State, square_windows
from swinv2.config import SwinV2Config

PREFIX = "encoder."


def detect(state: Mapping[str, Tensor]) -> bool:
    return PREFIX + microsoft.QKV in state


def to_official(state: Mapping[str, Tensor]) -> State:
    return microsoft.to_official({name.removeprefix(PREFIX): tensor for name, tensor in state.items()})


def from_official(state: Mapping[str, Tensor], config: SwinV2Config) -> State:
    body = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
    return {PREFIX + name: tensor for name, tensor in microsoft.from_official(body, config).items()}


SIMMIM = Dialect(
    "simmim", "SimMIM pre-training", ".pth", detect, to_official, from_official, square_windows,
    ignored=((r"encoder\.mask_token", "the mask token"), (r"decoder\..*", "the decoder of the pre-training")),
    container="model",
)  # fmt: skip
