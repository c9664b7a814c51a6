"""ONNX: the model writes its own graph, node by node, and ONNX Runtime runs it.

The static graph is of the folded network and takes any batch at one image size; the record is in the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from swinv2.runtimes.base import Node, Options
from swinv2.runtimes.onnx.record import digest, read_record, write_record
from swinv2.runtimes.onnx.session import open, unsupported

if TYPE_CHECKING:
    import numpy as np

    from swinv2.model import SwinV2

__all__ = ["cannot_export", "digest", "export", "nodes", "open", "read_record", "unsupported", "write_record"]

OLDEST = 17  # the opset that brought LayerNormalization


def export(
    model: SwinV2, path: Path, options: Options, calibration: np.ndarray | None = None
) -> dict[str, Any]:
    """Write the model; returns what the record says about it."""
    from swinv2.runtimes.onnx.writing import write

    return write(model, path, options, calibration)


def cannot_export(options: Options) -> str | None:
    """Why these options are impossible; None where they are not."""
    from onnx.defs import onnx_opset_version

    if options.opset is not None and not OLDEST <= options.opset <= onnx_opset_version():
        return f"opset is {options.opset}; give one from {OLDEST} to {onnx_opset_version()}, the newest of this onnx"
    return None


def nodes(path: Path) -> list[Node]:
    """The operators, each with the largest rank of its results."""
    from swinv2.runtimes.onnx.writing import walk

    return walk(path)
