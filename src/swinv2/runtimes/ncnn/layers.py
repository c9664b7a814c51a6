"""The two files of an ncnn network, written layer by layer: .param, a text that names layers, and .bin, their weights.

Values ("blobs") have at most four axes by construction, and no batch. They are written here as in numpy, the
outermost axis first; ncnn's own words for the axes are w, h, d, c from the innermost on.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from swinv2.artifact import ArtifactError

WEIGHTS = ".ncnn.bin"  # in the place of .param
MAGIC = 7767517
HALF = 0x01306B47  # before weights in float16; 0 stands before float32

Value = int | float | Sequence[int]

SHAPE = {"w": 0, "h": 1, "d": 11, "c": 2}
# Layers as they are used here, and the numbers that ncnn has for their parameters (operators.md in its repository).
PARAMETERS: dict[str, dict[str, int]] = {
    "BinaryOp":     {"operation": 0},
    "Concat":       {"axis": 0},
    "Convolution":  {"outputs": 0, "kernel": 1, "stride": 3, "has_bias": 5, "weights_in_all": 6},
    "Crop":         {"w": 3, "h": 4, "c": 5},
    "GELU":         {},
    "Gemm":         {"transposed_b": 3, "constant_b": 5, "constant_c": 6, "n": 8, "k": 9, "kind_of_c": 10},
    "InnerProduct": {"outputs": 0, "has_bias": 1, "weights_in_all": 2},
    "Input":        SHAPE,
    "LayerNorm":    {"size": 0, "eps": 1},
    "MemoryData":   {**SHAPE, "raw": 21},
    "Padding":      {"bottom": 1, "right": 3, "behind": 8},
    "Permute":      {"order": 0},
    "Reduction":    {"operation": 0, "all_axes": 1, "axes": 3, "axes_from_0": 5},
    "Reshape":      SHAPE,
    "RMSNorm":      {"size": 0, "eps": 1, "affine": 2},
    "Scale":        {"size": 0},
    "SDPA":         {"has_bias": 5, "scale": 6},
    "Slice":        {"sizes": 0, "axis": 1},
    "Tile":         {"axis": 0, "times": 1},
}  # fmt: skip


@dataclass
class Layer:
    """One line of the .param file."""

    kind: str
    name: str
    inputs: list[str]
    outputs: list[str]
    parameters: dict[int, Value] = field(default_factory=dict)

    def __str__(self) -> str:
        words = [
            self.kind,
            self.name,
            str(len(self.inputs)),
            str(len(self.outputs)),
            *self.inputs,
            *self.outputs,
        ]
        return " ".join([*words, *(_parameter(key, value) for key, value in self.parameters.items())])


class Network:
    """Layers in the order in which they run.

    Args:
        half: store matrices, filters and tables in float16; vectors stay in float32.
    """

    def __init__(self, *, half: bool):
        self.layers: list[Layer] = []
        self._weights: list[bytes] = []
        self._half = half

    def add(
        self, kind: str, name: str, *inputs: str, weights: Sequence[bytes] = (), **parameters: Value
    ) -> str:
        """A layer; its result is called after it."""
        return self.add_several(kind, name, *inputs, names=[name], weights=weights, **parameters)[0]

    def add_several(
        self,
        kind: str,
        name: str,
        *inputs: str,
        names: list[str],
        weights: Sequence[bytes] = (),
        **parameters: Value,
    ) -> list[str]:
        """A layer with several results."""
        numbered = {PARAMETERS[kind][key]: value for key, value in parameters.items()}
        self.layers.append(Layer(kind, name, list(inputs), names, numbered))
        self._weights += weights
        return names

    def tagged(self, values: np.ndarray) -> bytes:
        """Weights behind a word that says how they are stored."""
        if self._half and values.ndim > 1:
            stored = values.astype("<f2").tobytes()
            return struct.pack("<I", HALF) + stored + bytes(-len(stored) % 4)
        return struct.pack("<I", 0) + plain(values)

    def write(self, path: Path) -> None:
        """path and, beside it, the weights."""
        layers = one_reader_each(self.layers)
        blobs = sum(len(layer.outputs) for layer in layers)
        lines = [str(MAGIC), f"{len(layers)} {blobs}", *map(str, layers)]
        path.write_text("\n".join(lines) + "\n", encoding="ascii", newline="\n")
        with path.with_suffix(WEIGHTS).open("wb") as file:
            file.writelines(self._weights)


def plain(values: np.ndarray) -> bytes:
    """Weights whose layer knows that they are float32."""
    return values.astype("<f4").tobytes()


def sized(*shape: int) -> dict[str, Any]:
    """A shape, the outermost axis first, as the parameters of a layer."""
    axes = {1: "w", 2: "hw", 3: "chw", 4: "cdhw"}[len(shape)]
    return dict(zip(axes, shape, strict=True))


def one_reader_each(layers: list[Layer]) -> list[Layer]:
    """ncnn gives a value to one layer: what several read goes through a Split."""
    readers = Counter(blob for layer in layers for blob in layer.inputs)
    copies = {blob: [f"{blob}/{i}" for i in range(count)] for blob, count in readers.items() if count > 1}
    waiting = {blob: iter(names) for blob, names in copies.items()}
    found = []
    for layer in layers:
        inputs = [next(waiting[blob]) if blob in copies else blob for blob in layer.inputs]
        found.append(Layer(layer.kind, layer.name, inputs, layer.outputs, layer.parameters))
        for blob in layer.outputs:
            if blob in copies:
                found.append(Layer("Split", f"{blob}/split", [blob], copies[blob]))
    return found


def read(path: Path) -> list[Layer]:
    """The layers of a .param file; raises FileNotFoundError, ArtifactError."""
    try:
        return _read(path.read_text(encoding="ascii"))
    except UnicodeDecodeError:
        why = "it is no text"
    except (ValueError, IndexError) as error:
        why = str(error)
    raise ArtifactError(
        f"{path} is no .param file of ncnn, or was cut off ({why}); copy it again, or export again"
    )


def _read(text: str) -> list[Layer]:
    lines = text.splitlines()
    if len(lines) < 2 or lines[0].strip() != str(MAGIC):
        raise ValueError("it does not begin as one")
    count = int(lines[1].split()[0])
    found = []
    for line in lines[2:]:
        kind, name, inputs, outputs, *rest = line.split()
        ends = int(inputs) + int(outputs)
        pairs = (word.partition("=") for word in rest[ends:])
        parameters: dict[int, Any] = {int(key): value for key, _, value in pairs}
        found.append(Layer(kind, name, rest[: int(inputs)], rest[int(inputs) : ends], parameters))
    if len(found) != count or not text.endswith("\n"):
        raise ValueError(f"it has {len(found)} of {count} layers")
    return found


def ranks(layers: Sequence[Layer]) -> list[int]:
    """How many axes the results of each layer have: given by layers that say a shape, else those of what is read."""
    known: dict[str, int] = {}
    found = []
    for layer in layers:
        given = sum(key in layer.parameters for key in SHAPE.values())
        if layer.kind in ("Reshape", "MemoryData", "Input"):
            rank = given
        elif layer.kind in FIXED:
            rank = FIXED[layer.kind]
        else:
            rank = max(known[blob] for blob in layer.inputs)
        known.update(dict.fromkeys(layer.outputs, rank))
        found.append(rank)
    return found


FIXED = {
    "Convolution": 3,
    "Gemm": 2,
    "Reduction": 1,
    "InnerProduct": 1,
}  # layers that change the rank, as used here


def _parameter(key: int, value: Value) -> str:
    if isinstance(value, float):
        return f"{key}={value:.9e}"
    if isinstance(value, int):
        return f"{key}={value}"
    return f"{-23300 - key}={len(value)},{','.join(map(str, value))}"
