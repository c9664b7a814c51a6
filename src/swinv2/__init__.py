"""Swin Transformer V2, from a folder of pictures to a model that answers anywhere.

Public names are resolved when first used, so that importing swinv2 costs nothing and needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    # name            module
    "SwinV2Config":   "swinv2.config",
    "Preprocess":     "swinv2.preprocess",
    "Record":         "swinv2.artifact",
    "ArtifactError":  "swinv2.artifact",
    "Predictor":      "swinv2.predict",
    "SwinV2":         "swinv2.model",
    "create_model":   "swinv2.model",
    "load":           "swinv2.checkpoints",
    "save":           "swinv2.checkpoints",
    "fold":           "swinv2.fold",
    "edge":           "swinv2.edge",
    "train":          "swinv2.train",
    "pretrain":       "swinv2.pretrain",
    "evaluate":       "swinv2.evaluate",
    "explain":        "swinv2.explain",
    "export":         "swinv2.export",
    "verify":         "swinv2.verify",
    "quantize":       "swinv2.quantize",
    "benchmark":      "swinv2.benchmark",
}  # fmt: skip

__all__ = [*_PUBLIC, "__version__"]

if TYPE_CHECKING:
    from swinv2.artifact import ArtifactError, Record
    from swinv2.benchmark import benchmark
    from swinv2.checkpoints import load, save
    from swinv2.config import SwinV2Config
    from swinv2.edge import edge
    from swinv2.evaluate import evaluate
    from swinv2.explain import explain
    from swinv2.export import export
    from swinv2.fold import fold
    from swinv2.model import SwinV2, create_model
    from swinv2.predict import Predictor
    from swinv2.preprocess import Preprocess
    from swinv2.pretrain import pretrain
    from swinv2.quantize import quantize
    from swinv2.train import train
    from swinv2.verify import verify


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'swinv2' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
