"""From a model to an IR: the graph, the precision of its weights, and int8 through NNCF."""

from __future__ import annotations

import logging
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from swinv2.fold import fold
from swinv2.model import SwinV2
from swinv2.runtimes.base import Options
from swinv2.runtimes.openvino.graph import OPSET, graph

LARGE = 1024  # values: constants from here on are held in the precision of the file
# Only linear layers are quantised. Quantised norms, attention and residuals are as fast, and twice as far off.
# Layers that we gave no name: OpenVINO counts them through the life of the process, and so no two files are the same.
NUMBERED = re.compile(rb'(?P<layer><layer id="(?P<id>\d+)" name=")(?P<kind>[A-Za-z0-9]*[A-Za-z])_\d+\b')
LINEAR = re.compile(r"(?P<layer>.*?(?:proj|fc1|fc2|reduction|head|qkv))(?:\.[qkv])?/MatMul")


def write(model: SwinV2, path: Path, options: Options, calibration: np.ndarray | None) -> dict[str, Any]:
    """Write the model at path and its weights beside it; returns what the record says about them."""
    with tempfile.TemporaryDirectory(prefix="swinv2-") as folder:
        source = Path(folder, "model.onnx")
        notes = write_onnx(model, source, options)
        network = ov.Core().read_model(str(source))
        if options.precision == "int8":
            if calibration is None or not len(calibration):
                raise ValueError("int8 of openvino needs pictures to calibrate on; give some with --data")
            network = quantized(network, calibration, options.keep_float)
            notes["calibration_images"] = len(calibration)
        if options.precision == "bf16":
            hold_in_bf16(network)
        ov.save_model(network, str(path), compress_to_fp16=options.precision == "fp16")
        del network  # it lies in the file that goes now
    path.write_bytes(NUMBERED.sub(rb"\g<layer>\g<kind>_\g<id>", path.read_bytes()))
    return notes


def write_onnx(model: SwinV2, path: Path, options: Options) -> dict[str, Any]:
    """The graph that OpenVINO reads."""
    if options.dynamic_size:
        from swinv2.runtimes.onnx import export

        notes = export(model, path, Options(dynamic_size=True, opset=options.opset), None)
        return {"opset": notes["opset"]}
    made = graph(fold(model), opset=options.opset or OPSET)
    path.write_bytes(made.SerializeToString(deterministic=True))
    return {"opset": made.opset_import[0].version}


def hold_in_bf16(network: ov.Model) -> None:
    """Weights as bfloat16 in the file; the compiler turns them into what it computes in, once."""
    for constant in network.get_ops():
        if constant.get_type_name() != "Constant" or constant.get_element_type() != ov.Type.f32:
            continue
        if constant.data.size < LARGE:
            continue
        held = ov.Tensor(ov.Type.bf16, constant.shape)  # which owns its memory
        held.data.view(np.uint16)[...] = to_bf16(constant.data)
        wide = ov.opset13.convert(ov.op.Constant(held), "f32")
        for target in constant.output(0).get_target_inputs():
            target.replace_source_output(wide.output(0))


def to_bf16(values: np.ndarray) -> np.ndarray:
    """Finite float32 values as the bits of bfloat16, uint16, rounded to the nearest and to even between two."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def linear_layers(network: ov.Model) -> dict[str, list[str]]:
    """Layers by their names in the folded network, each with its products by their names here."""
    found: dict[str, list[str]] = {}
    for node in network.get_ordered_ops():
        if match := LINEAR.fullmatch(node.friendly_name):
            found.setdefault(match["layer"], []).append(node.friendly_name)
    return found


def quantized(network: ov.Model, calibration: np.ndarray, keep_float: tuple[str, ...]) -> ov.Model:
    """The network with linear layers in int8: weights per channel, ranges of activations from pictures.

    Raises:
        ValueError: keep_float names a layer that is not there.
    """
    os.environ.setdefault("NNCF_CI", "1")  # otherwise it reports every use to its makers, and asks nobody
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    layers = linear_layers(network)
    if unknown := sorted(set(keep_float) - layers.keys()):
        raise ValueError(
            f"the network has no layer {unknown[0]!r} to keep in float; it has {', '.join(layers)}"
        )
    names = [name for layer, products in layers.items() if layer not in keep_float for name in products]
    nncf.set_log_level(logging.ERROR)
    return nncf.quantize(
        network,
        nncf.Dataset(calibration, lambda image: image[None]),
        preset=nncf.QuantizationPreset.MIXED,  # GELU is not symmetric
        subset_size=len(calibration),
        # By default a range ends at the mean of the pictures' extremes, which clips: 19 times the error (docs/log.md).
        advanced_parameters=AdvancedQuantizationParameters(
            activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
            disable_bias_correction=True,
        ),
        ignored_scope=nncf.IgnoredScope(patterns=[f"(?!(?:{'|'.join(map(re.escape, names))})$).*"]),
    )
