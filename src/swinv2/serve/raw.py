"""Tensors as bytes, which are the same in both protocols: little-endian numbers in row-major order; elements of BYTES
are preceded by their length (4 bytes, little-endian)."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import numpy as np

from swinv2.serve.errors import invalid, short
from swinv2.serve.inference import Tensor

SIZES = {"FP32": 4}  # bytes of an element, of the types that we take; BYTES have none


def packed(tensor: Tensor) -> bytes:
    """The bytes of a tensor."""
    if tensor.datatype == "BYTES":
        return b"".join(struct.pack("<I", len(element)) + element for element in tensor.data)
    return np.ascontiguousarray(tensor.data, "<f4").tobytes()


def unpacked(name: str, datatype: str, shape: Sequence[int], data: bytes | memoryview) -> Tensor:
    """A tensor from its bytes; numbers are not copied.

    Raises:
        Refused: bytes that are not those of the shape.
    """
    count = elements(name, shape)
    if datatype == "BYTES":
        return Tensor(name, datatype, tuple(shape), _split(name, memoryview(data), count))
    check_type(name, datatype)
    if len(data) != count * SIZES[datatype]:
        raise invalid(
            f"input {name} of shape {list(shape)} has {len(data)} bytes; it must have {count * SIZES[datatype]}"
        )
    return Tensor(name, datatype, tuple(shape), np.frombuffer(data, "<f4").reshape(shape))


def elements(name: str, shape: Sequence[int]) -> int:
    """How many elements a shape has.

    Raises:
        Refused: sizes that are no numbers from 1 on, or too large, or too many.
    """
    are_sizes = all(isinstance(n, int) and not isinstance(n, bool) and 0 < n < 1 << 31 for n in shape)
    if not are_sizes or len(shape) > 8:
        raise invalid(f"input {name} has shape {short(list(shape))}; give at most 8 sizes from 1 on")
    return math.prod(shape)


def check_type(name: str, datatype: str) -> None:
    """Raises Refused where an input is of a type of numbers that no model takes."""
    if datatype not in SIZES:
        raise invalid(f"input {name} is {short(datatype)}; image is BYTES and pixels is FP32")


def _split(name: str, data: memoryview, count: int) -> list[bytes]:
    """Elements with their lengths before them -> the elements."""
    found, place = [], 0
    while place < len(data):
        if place + 4 > len(data):
            raise invalid(f"input {name} ends inside the length of an element")
        (size,) = struct.unpack_from("<I", data, place)
        place += 4
        if place + size > len(data):
            raise invalid(f"input {name} has an element of {size} bytes, and {len(data) - place} are left")
        found.append(bytes(data[place : place + size]))
        place += size
    if len(found) != count:
        raise invalid(f"input {name} has {len(found)} elements, and its shape says {count}")
    return found
