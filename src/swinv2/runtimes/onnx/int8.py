"""A float graph -> an int8 one: linear layers and the patch embedding, by the quantiser of ONNX Runtime.

Weights have a scale per output channel, activations one per tensor: measured on pictures (static), or anew in every
call (dynamic). Only what goes into a product is rounded; what comes out stays float, which costs no time and halves
the error (docs/log.md).
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from swinv2.extras import require

if TYPE_CHECKING:
    from swinv2.runtimes.base import Options

CALIBRATED_TOGETHER = 4  # images
PRODUCTS = {"static": ["MatMul", "Conv"], "dynamic": ["MatMul"]}  # a convolution of dynamic ranges is slow


def quantized(model: onnx.ModelProto, options: Options, calibration: np.ndarray | None) -> onnx.ModelProto:
    """The model in int8.

    Args:
        options: keep_float and activations.
        calibration: images, float32 [N, C, H, W]; needed for static activations.

    Raises:
        ValueError: no images, or a layer that the network does not have.
        ImportError: onnxruntime is missing.
    """
    require("onnxruntime", extra="onnx")
    from onnxruntime import quantization

    if options.activations not in PRODUCTS:
        raise ValueError(f"activations are {options.activations!r}; give {' or '.join(PRODUCTS)}")
    kept = _kept(model, options.keep_float)
    settings = {
        "op_types_to_quantize": PRODUCTS[options.activations], "per_channel": True,
        "weight_type": quantization.QuantType.QInt8, "nodes_to_exclude": kept,
    }  # fmt: skip
    extra = {"MatMulConstBOnly": True, "OpTypesToExcludeOutputQuantization": PRODUCTS["static"]}
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)  # it recommends a preprocessing that brings nothing here
    try:
        with tempfile.TemporaryDirectory(prefix="swinv2-") as folder:
            path = Path(folder, "int8.onnx")
            if options.activations == "dynamic":
                quantization.quantize_dynamic(model, path, extra_options=extra, **settings)
            elif calibration is None or len(calibration) == 0:
                raise ValueError(
                    "int8 with static activations needs pictures to measure their ranges; give --data, "
                    "or take dynamic activations"
                )
            else:
                reader = _reader(calibration)
                quantization.quantize_static(
                    model, path, reader, quant_format=quantization.QuantFormat.QDQ,
                    activation_type=quantization.QuantType.QUInt8, extra_options=extra, **settings,
                )  # fmt: skip
            return onnx.load(path)
    finally:
        logging.getLogger().setLevel(level)


def _kept(model: onnx.ModelProto, layers: Iterable[str]) -> list[str]:
    """Names of the products of these layers: "stages.0.1.qkv" has three, "stages.0.1.qkv.q/MatMul" and two more."""
    products = [
        node.name for node in model.graph.node if node.op_type in PRODUCTS["static"] and "/" in node.name
    ]
    found = []
    for layer in layers:
        of_layer = [name for name in products if f"{name.partition('/')[0]}.".startswith(f"{layer}.")]
        if not of_layer:
            raise ValueError(
                f"the network has no layer {layer!r} to keep in float; one is {products[1].partition('/')[0]}"
            )
        found += of_layer
    return found


def _reader(images: np.ndarray) -> Any:
    """What the quantiser of ONNX Runtime takes; its class is one of theirs, which is why it is made here."""
    from onnxruntime.quantization import CalibrationDataReader

    class Batches(CalibrationDataReader):
        """Hands out the calibration images, a few at a time."""

        def __init__(self) -> None:
            self.left = iter(range(0, len(images), CALIBRATED_TOGETHER))

        def get_next(self) -> dict[str, np.ndarray] | None:
            first = next(self.left, None)
            return None if first is None else {"images": images[first : first + CALIBRATED_TOGETHER]}

    return Batches()
