"""transformers (Swinv2ForImageClassification, Swinv2Model): q, k and v apart, names of its own, config.json beside."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from swinv2.checkpoints.dialect import Dialect, State, no_extra_norm, square_windows
from swinv2.checkpoints.naming import Names
from swinv2.config import SwinV2Config

PREFIX = "swinv2."  # of the backbone in a model with a head; Swinv2Model alone has none
_BLOCK, _THEIRS = "layers.{i}.blocks.{b}", "encoder.layers.{i}.blocks.{b}"
NAMES = Names(
    # official                         transformers
    ("patch_embed.proj",               "embeddings.patch_embeddings.projection"),
    ("patch_embed.norm",               "embeddings.norm"),
    (f"{_BLOCK}.attn.cpb_mlp",         f"{_THEIRS}.attention.self.continuous_position_bias_mlp"),
    (f"{_BLOCK}.attn.proj",            f"{_THEIRS}.attention.output.dense"),
    (f"{_BLOCK}.attn",                 f"{_THEIRS}.attention.self"),
    (f"{_BLOCK}.norm1",                f"{_THEIRS}.layernorm_before"),
    (f"{_BLOCK}.norm2",                f"{_THEIRS}.layernorm_after"),
    (f"{_BLOCK}.mlp.fc1",              f"{_THEIRS}.intermediate.dense"),
    (f"{_BLOCK}.mlp.fc2",              f"{_THEIRS}.output.dense"),
    ("layers.{i}.downsample",          "encoder.layers.{i}.downsample"),
    ("norm",                           "layernorm"),
    ("head",                           "classifier"),
)  # fmt: skip
_BIASES = {"query.bias": "q_bias", "value.bias": "v_bias"}


def detect(state: Mapping[str, Tensor]) -> bool:
    return any(".attention.self.continuous_position_bias_mlp." in name for name in state)


def to_official(state: Mapping[str, Tensor]) -> State:
    official: State = {}
    for name, tensor in state.items():
        name = NAMES.to_official(name.removeprefix(PREFIX)) or name
        attention, _, part = name.rpartition(".attn.")
        if part == "query.weight":
            parts = [state.get(_beside(state, name, kind)) for kind in ("query", "key", "value")]
            if all(p is not None for p in parts):  # else: qkv.weight is missing, and said to be
                official[f"{attention}.attn.qkv.weight"] = torch.cat(parts)  # type: ignore[arg-type]
        elif part in _BIASES:
            official[f"{attention}.attn.{_BIASES[part]}"] = tensor
        elif part not in ("key.weight", "value.weight"):
            official[name] = tensor
    return official


def _beside(state: Mapping[str, Tensor], official: str, kind: str) -> str:
    theirs = NAMES.from_official(official.replace("query", kind)) or official
    return theirs if theirs in state else PREFIX + theirs


def from_official(state: Mapping[str, Tensor], config: SwinV2Config) -> State:
    theirs: State = {}
    for name, tensor in state.items():
        attention, _, part = name.rpartition(".attn.")
        if part == "qkv.weight":
            pieces = {
                f"{attention}.attn.{kind}.weight": piece
                for kind, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True)
            }
        elif part in _BIASES.values():
            their_part = next(key for key, value in _BIASES.items() if value == part)
            pieces = {f"{attention}.attn.{their_part}": tensor}
        else:
            pieces = {name: tensor}
        for official, piece in pieces.items():
            their_name = NAMES.from_official(official) or official
            theirs[their_name if official.startswith("head.") else PREFIX + their_name] = piece
    return theirs


def unsupported(config: SwinV2Config) -> str | None:
    return square_windows(config) or no_extra_norm(config)


TRANSFORMERS = Dialect(
    "transformers", "transformers and the microsoft/... repositories of the Hugging Face hub", "",
    detect, to_official, from_official, unsupported,
    ignored=(
        (r"(swinv2\.)?embeddings\.mask_token", "the mask token"),
        (r"decoder\..*", "the decoder of the pre-training"),
    ),
)  # fmt: skip
