"""A Core ML program computed with numpy, operation by operation, as Apple's documentation of the operations has them.

Core ML itself is on Apple's systems only. This shows that the program which was written is the network: its weights,
its constants and its wiring; not how fast or how exactly a device computes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

WEIGHTS = Path("Data/com.apple.CoreML/weights/weight.bin")


def run(package: Path, images: np.ndarray) -> np.ndarray:
    """The program's answer to one batch of images of its size."""
    from coremltools.libmilstoragepython import _BlobStorageReader
    from coremltools.proto import Model_pb2

    spec = Model_pb2.Model.FromString((package / "Data/com.apple.CoreML/model.mlmodel").read_bytes())
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    weights = _BlobStorageReader(str(package / WEIGHTS))
    known: dict[str, Any] = {spec.description.input[0].name: images}
    for operation in block.operations:
        (output,) = operation.outputs
        if operation.type == "const":
            known[output.name] = constant(operation.attributes["val"], weights)
            continue
        given = {
            key: [known[one.name] if one.name else constant(one.value, weights) for one in value.arguments]
            for key, value in operation.inputs.items()
        }
        single = {key: values if key == "values" else values[0] for key, values in given.items()}
        found = OPERATIONS[operation.type](**single)
        sizes = [size.constant.size for size in output.type.tensorType.dimensions]
        assert list(found.shape) == sizes, (operation.type, output.name, found.shape, sizes)
        known[output.name] = found
    return known[block.outputs[0]]


def constant(value: Any, weights: Any) -> Any:
    """An immediate value, or one out of the file of weights."""
    kind = value.type.tensorType
    sizes = [size.constant.size for size in kind.dimensions]
    types = {11: np.float32, 10: np.float16}  # of the message MILSpec.DataType
    if value.WhichOneof("value") == "blobFileValue":
        offset = value.blobFileValue.offset
        if kind.dataType == 10:
            bits = np.asarray(weights.read_fp16_data(offset))
            return bits.view(np.float16).reshape(sizes)
        return np.asarray(weights.read_float_data(offset), types[kind.dataType]).reshape(sizes)
    tensor = value.immediateValue.tensor
    which = tensor.WhichOneof("value")
    if which == "strings":
        return tensor.strings.values[0]
    if which == "bytes":  # how small types travel
        return np.frombuffer(tensor.bytes.values, types[kind.dataType]).reshape(sizes)
    values = np.array(getattr(tensor, which).values).reshape(sizes)
    return values.astype(types[kind.dataType]) if which == "floats" else values  # Python has doubles only


def conv(x, weight, bias, strides, pad_type, pad, dilations, groups):
    """Filters that lie beside each other, as patches do."""
    assert pad_type in ("valid", "custom")
    assert not np.any(pad)
    assert groups == np.all(dilations == 1) == 1
    B, C, H, W = x.shape
    filters, _, p, q = weight.shape
    assert list(strides) == [p, q]
    patches = x.reshape(B, C, H // p, p, W // q, q).transpose(0, 2, 4, 1, 3, 5).reshape(B, H // p, W // q, -1)
    return (patches @ weight.reshape(filters, -1).T + bias).transpose(0, 3, 1, 2)


def layer_norm(x, axes, gamma, beta, epsilon):
    axes = tuple(int(axis) for axis in axes)
    wide = x.astype(np.float64)
    mean, variance = wide.mean(axes, keepdims=True), wide.var(axes, keepdims=True)
    return (((wide - mean) / np.sqrt(variance + float(epsilon))) * gamma + beta).astype(x.dtype)


def softmax(x, axis):
    powers = np.exp(x - x.max(int(axis), keepdims=True))
    return powers / powers.sum(int(axis), keepdims=True)


def matmul(x, y, transpose_x, transpose_y):
    return (x.swapaxes(-1, -2) if transpose_x else x) @ (y.swapaxes(-1, -2) if transpose_y else y)


def slice_by_index(x, begin, end, begin_mask=None, end_mask=None, stride=None, squeeze_mask=None):
    none = [False] * x.ndim
    first, last = none if begin_mask is None else begin_mask, none if end_mask is None else end_mask
    assert stride is None or np.all(stride == 1)
    assert squeeze_mask is None or not np.any(squeeze_mask)
    return x[
        tuple(
            slice(None if a else int(b), None if c else int(e))
            for a, b, c, e in zip(first, begin, last, end, strict=True)
        )
    ]


def gelu(x, mode):
    assert mode == "EXACT"
    return (0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))).astype(x.dtype)


def pad(x, pad, mode="constant", constant_val=0.0):
    assert mode == "constant"
    sides = np.asarray(pad).reshape(-1, 2)
    return np.pad(
        x,
        [(0, 0)] * (x.ndim - len(sides)) + [tuple(side) for side in sides],
        constant_values=float(constant_val),
    )


def reduced(reduce: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    return lambda x, axes, keep_dims: reduce(x, axis=tuple(int(a) for a in axes), keepdims=bool(keep_dims))


OPERATIONS: dict[str, Callable[..., np.ndarray]] = {
    "add": lambda x, y: x + y,
    "cast": lambda x, dtype: x.astype({"fp16": np.float16, "fp32": np.float32}[dtype]),
    "concat": lambda values, axis, interleave: np.concatenate(values, int(axis)),
    "conv": conv,
    "gelu": gelu,
    "layer_norm": layer_norm,
    "linear": lambda x, weight, bias=0: x @ weight.T + bias,
    "matmul": matmul,
    "maximum": lambda x, y: np.maximum(x, y),
    "mul": lambda x, y: x * y,
    "pad": pad,
    "reduce_mean": reduced(np.mean),
    "reduce_sum": reduced(np.sum),
    "reshape": lambda x, shape: x.reshape(shape.astype(int)),
    "rsqrt": lambda x, epsilon: 1 / np.sqrt(x + epsilon),
    "slice_by_index": slice_by_index,
    "softmax": softmax,
    "square": lambda x: x * x,
    "transpose": lambda x, perm: x.transpose([int(p) for p in perm]),
}
