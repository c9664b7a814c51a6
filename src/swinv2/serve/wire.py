"""Inference requests and answers as bytes of HTTP: JSON, and the binary tensor extension.

https://github.com/kserve/open-inference-protocol (REST) and Triton's extension_binary_data.md,
extension_classification.md: a JSON header, whose length a header field tells, and after it the tensors that say
`binary_data_size`, one after the other; elements of BYTES are preceded by their length (4 bytes, little-endian).
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic_core import from_json

from swinv2.serve.errors import invalid
from swinv2.serve.inference import OUTPUTS, Answer, Request, Tensor, Wanted

HEADER = "inference-header-content-length"
SIZES = {"FP32": 4}  # bytes of an element, of the types that we take; BYTES have none
NAME_LENGTH = 256  # characters of what a client calls an input or output: a refusal repeats it


@dataclass(frozen=True)
class Form:
    """How the client wants its answer: the outputs that come in binary."""

    binary: frozenset[str] = frozenset()


def parse(body: bytes | memoryview, header_length: str | None) -> tuple[Request, Form]:
    """The body of POST .../infer.

    Args:
        header_length: the value of Inference-Header-Content-Length, where the client sent it.

    Raises:
        Refused: what is wrong with the request.
    """
    view = memoryview(body)
    size = len(view) if header_length is None else _length(header_length, len(view))
    described = parse_json(view[:size])
    tail = view[size:]
    inputs, used = [], 0
    for entry in _objects(described, "inputs"):
        tensor, taken = _input(entry, tail[used:])
        inputs.append(tensor)
        used += taken
    if used != len(tail):
        raise invalid(
            f"{len(tail) - used} bytes follow the last tensor; binary_data_size must say all of them"
        )
    parameters = _mapping(described.get("parameters"), "parameters")
    outputs, binary = [], set()
    for entry in _objects(described, "outputs") if described.get("outputs") is not None else ():
        own = _mapping(entry.get("parameters"), "the parameters of an output")
        want = Wanted(_text(entry, "name", "an output"), _integer(own, "classification", 0))
        outputs.append(want)
        if flag(own, "binary_data", flag(parameters, "binary_data_output", False)):
            binary.add(want.name)
    if not outputs and flag(parameters, "binary_data_output", False):
        binary.update(OUTPUTS)
    identity = described.get("id", "")
    if not isinstance(identity, str):
        raise invalid(f"id is {_short(identity)}; it must be a string")
    return Request(tuple(inputs), tuple(outputs), identity, _seconds(parameters)), Form(frozenset(binary))


def parse_json(body: bytes | memoryview) -> dict[str, Any]:
    """A JSON object of a client.

    Raises:
        Refused: it is no JSON, no object, or nested more deeply than any request (200 levels).
    """
    try:
        found = from_json(bytes(body), allow_inf_nan=False)
    except ValueError as error:
        raise invalid(f"the request is not JSON that is read here: {_short(str(error), 200)}") from None
    if not isinstance(found, dict):
        raise invalid(f"the request is {_short(found)}; it must be a JSON object")
    return found


def parse_options(body: bytes, *known: str) -> None:
    """The body of a call of the repository, whose parameters may be those that are known.

    Raises:
        Refused: a parameter that would change the model; whoever sent it shall not think that it did.
    """
    for key in _mapping(parse_json(body).get("parameters"), "parameters") if body else ():
        if key not in known:
            raise invalid(f"{_short(key)} cannot be given; the model file has all of it")


def respond(
    answer: Answer, form: Form, *, model: str, version: str, identity: str
) -> tuple[bytes, dict[str, str]]:
    """The body of an answer and its header fields."""
    outputs, tail = [], []
    for tensor in answer.outputs:
        entry: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
        }
        if tensor.name in form.binary:
            data = packed(tensor)
            entry["parameters"] = {"binary_data_size": len(data)}
            tail.append(data)
        elif tensor.datatype == "BYTES":
            entry["data"] = [element.decode(errors="replace") for element in tensor.data]
        else:
            entry["data"] = tensor.data.astype(np.float64).ravel().tolist()
        outputs.append(entry)
    described: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": outputs}
    if identity:
        described["id"] = identity
    described["parameters"] = answer.timing.to_dict()
    head = json.dumps(described, ensure_ascii=False, separators=(",", ":")).encode()
    if not tail:
        return head, {"content-type": "application/json"}
    fields = {"content-type": "application/octet-stream", HEADER: str(len(head))}
    return b"".join([head, *tail]), fields


def packed(tensor: Tensor) -> bytes:
    """The raw form of a tensor, in both protocols."""
    if tensor.datatype == "BYTES":
        return b"".join(struct.pack("<I", len(element)) + element for element in tensor.data)
    return np.ascontiguousarray(tensor.data, "<f4").tobytes()


def unpacked(name: str, datatype: str, shape: Sequence[int], data: bytes | memoryview) -> Tensor:
    """A tensor from its raw form.

    Raises:
        Refused: bytes that are not those of the shape.
    """
    count = elements(name, shape)
    if datatype == "BYTES":
        return Tensor(name, datatype, tuple(shape), _split(name, memoryview(data), count))
    if datatype not in SIZES:
        raise invalid(f"input {name} is {datatype}; image is BYTES and pixels is FP32")
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
        raise invalid(f"input {name} has shape {_short(list(shape))}; give at most 8 sizes from 1 on")
    return math.prod(shape)


def _input(entry: Mapping[str, Any], tail: memoryview) -> tuple[Tensor, int]:
    """One input, and how many bytes of the tail it took."""
    name, datatype = _text(entry, "name", "an input"), _text(entry, "datatype", "an input")
    shape = entry.get("shape")
    if not isinstance(shape, list):
        raise invalid(f"input {name} has shape {_short(shape)}; it must be a list of sizes")
    count = elements(name, shape)
    parameters = _mapping(entry.get("parameters"), f"the parameters of input {name}")
    if "binary_data_size" in parameters:
        size = _integer(parameters, "binary_data_size", 0)
        if "data" in entry:
            raise invalid(f"input {name} has data and binary_data_size; give one of them")
        if not 0 <= size <= len(tail):
            raise invalid(f"input {name} says {size} bytes of binary data, and {len(tail)} follow the header")
        return unpacked(name, datatype, shape, tail[:size]), size
    if not isinstance(entry.get("data"), list):
        raise invalid(f"input {name} has no data; give a list, or binary_data_size")
    if datatype == "BYTES":
        return Tensor(name, datatype, tuple(shape), _decoded(name, entry["data"], count)), 0
    if datatype not in SIZES:
        raise invalid(f"input {name} is {datatype}; image is BYTES and pixels is FP32")
    values = _numbers(name, entry["data"])
    if values.size != count:
        raise invalid(f"input {name} of shape {shape} has {values.size} values; it must have {count}")
    return Tensor(name, datatype, tuple(shape), values.reshape(shape)), 0


def _numbers(name: str, data: list[Any]) -> np.ndarray:
    """Numbers in rows, or one after the other -> float32. Those beyond it become infinite."""
    try:
        values = np.asarray(data)
    except ValueError:  # rows of several lengths
        values = np.asarray("")
    if values.dtype.kind not in "iuf":  # numpy would take null, true and "1.5" for numbers
        raise invalid(f"input {name} has data that are not all numbers in even rows")
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _decoded(name: str, data: list[Any], count: int) -> list[bytes]:
    """Base64 strings -> bytes; one level of nesting is allowed, as [[...]] for shape [N, 1]."""
    flat = [item for row in data for item in (row if isinstance(row, list) else [row])]
    if len(flat) != count:
        raise invalid(f"input {name} has {len(flat)} elements, and its shape says {count}")
    try:
        return [base64.b64decode(item, validate=True) for item in flat]
    except (TypeError, ValueError, binascii.Error):
        raise invalid(
            f"input {name} must hold base64 strings; binary tensors take the bytes themselves"
        ) from None


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


def _length(text: str, most: int) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 12 or int(text) > most:
        raise invalid(f"Inference-Header-Content-Length is {_short(text)}; the body has {most} bytes")
    return int(text)


def _seconds(parameters: Mapping[str, Any]) -> float | None:
    """The parameter timeout, in microseconds as Triton has it; 0 means none."""
    timeout = _integer(parameters, "timeout", 0)
    if timeout < 0:
        raise invalid(f"timeout is {timeout}; give microseconds")
    return timeout / 1e6 or None


def _objects(described: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    found = described.get(key)
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise invalid(f"{key} is {_short(found)}; it must be a list of objects")
    return found


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise invalid(f"{what} is {_short(value)}; it must be an object")
    return value or {}


def _text(entry: Mapping[str, Any], key: str, what: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or len(value) > NAME_LENGTH:
        raise invalid(
            f"the {key} of {what} is {_short(value)}; it must be a string of at most {NAME_LENGTH} characters"
        )
    return value


def _integer(entry: Mapping[str, Any], key: str, default: int) -> int:
    value = entry.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >> 63:
        raise invalid(f"{key} is {_short(value)}; it must be an integer of 64 bits")
    return value


def flag(entry: Mapping[str, Any], key: str, default: bool) -> bool:
    """A yes or no of a client.

    Raises:
        Refused: it is something else.
    """
    value = entry.get(key, default)
    if not isinstance(value, bool):
        raise invalid(f"{key} is {_short(value)}; it must be true or false")
    return value


def _short(value: Any, most: int = 60) -> str:
    """What was given, for a sentence."""
    text = "missing" if value is None else value if isinstance(value, str) else json.dumps(value, default=str)
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[:most]}..."
