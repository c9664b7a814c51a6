"""OpenVINO: an IR (model.xml and model.bin) that any batch goes through, on Intel's devices and other CPUs.

The graph is that of graph.py, in patterns that its compiler has kernels for. The record is in the .xml file. A
session opens .onnx files that export wrote as well.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swinv2.runtimes.base import Options
from swinv2.runtimes.openvino.record import digest, nodes, read_record, write_record
from swinv2.runtimes.openvino.session import open, unsupported

if TYPE_CHECKING:
    import numpy as np

    from swinv2.model import SwinV2

__all__ = ["cannot_export", "digest", "export", "nodes", "open", "read_record", "unsupported", "write_record"]


def export(
    model: SwinV2, path: Path, options: Options, calibration: np.ndarray | None = None
) -> dict[str, Any]:
    """Write the model; returns what the record says about it."""
    from swinv2.runtimes.openvino.writing import write

    return write(model, path, options, calibration)


def cannot_export(options: Options) -> str | None:
    """Why these options are impossible; None where they are not."""
    import importlib.util

    if options.precision == "int8" and importlib.util.find_spec("nncf") is None:
        return 'int8 of openvino needs nncf -- pip install "swinv2[openvino]"'
    if options.precision == "int8" and options.dynamic_size:
        return "int8 of openvino is written for one image size; leave --dynamic-size out"
    from swinv2.runtimes.onnx import cannot_export as no_graph

    return no_graph(replace(options, precision="fp32"))
