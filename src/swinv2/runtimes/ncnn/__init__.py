"""ncnn: the model writes its own network, layer by layer, in fp32 or with weights in fp16, and ncnn's package runs it.

Two files, named as ncnn's own converter names them: model.param and model.ncnn.bin (a plain model.bin is OpenVINO's).
ncnn has no batch: a session runs one image after the other. The record stands beside them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from swinv2.runtimes.base import Node, Options
from swinv2.runtimes.ncnn.layers import ranks, read
from swinv2.runtimes.ncnn.session import open, unsupported

if TYPE_CHECKING:
    import numpy as np

    from swinv2.model import SwinV2

__all__ = ["export", "nodes", "open", "unsupported"]


def export(
    model: SwinV2, path: Path, options: Options, calibration: np.ndarray | None = None
) -> dict[str, Any]:
    """Write the network; fp16 is the precision of the weights, and of the computation where a processor has it."""
    from swinv2.fold import fold
    from swinv2.runtimes.ncnn.network import INPUT, OUTPUT, network

    network(fold(model), half=options.precision == "fp16").write(path)
    return {
        "input": INPUT,
        "output": OUTPUT,
        "oldest_runtime": "ncnn 1.0.20260114",
    }  # the first that has SDPA


def nodes(path: Path) -> list[Node]:
    """The layers, and how many axes their results have."""
    layers = read(path)
    return [Node(layer.kind, rank) for layer, rank in zip(layers, ranks(layers), strict=True)]
