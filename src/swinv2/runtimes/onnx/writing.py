"""From a model to a file: the graph that the options ask for, its precision, and where its weights go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from swinv2.fold import fold
from swinv2.model import SwinV2
from swinv2.runtimes.base import Node, Options
from swinv2.runtimes.onnx.dynamic import dynamic_graph
from swinv2.runtimes.onnx.int8 import quantized
from swinv2.runtimes.onnx.record import weights_of
from swinv2.runtimes.onnx.static import OPSET, graph

ONE_FILE = 1_900_000_000  # bytes; a protocol buffer ends at 2 GB


def write(
    model: SwinV2, path: Path, options: Options, calibration: np.ndarray | None, *, one_file: int = ONE_FILE
) -> dict[str, Any]:
    """Write the model at path; returns what the record says about it.

    Args:
        one_file: from how many bytes of weights they go into a file of their own, beside it.
    """
    opset, half = options.opset or OPSET, options.precision == "fp16"
    if options.dynamic_size:
        made = dynamic_graph(model, opset=opset, half=half)
    else:
        made = graph(fold(model), opset=opset, half=half)
    notes: dict[str, Any] = {"opset": opset, "ir_version": made.ir_version}
    if options.precision == "int8":
        made = quantized(made, options, calibration)
        notes["int8"] = {
            "activations": options.activations,
            "weights": "per channel",
            "float": list(options.keep_float),
        }
    if sum(len(tensor.raw_data) for tensor in made.graph.initializer) > one_file:
        weights = weights_of(path).name
        onnx.save_model(made, path, save_as_external_data=True, location=weights, size_threshold=1 << 16)
        notes["weights"] = weights
    else:
        path.write_bytes(made.SerializeToString(deterministic=True))
    return notes


def walk(path: Path) -> list[Node]:
    """The operators, each with the largest rank of its results."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False), strict_mode=True)
    values = (*model.graph.value_info, *model.graph.output)
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in values}
    return [Node(node.op_type, max(ranks.get(name, 0) for name in node.output)) for node in model.graph.node]
