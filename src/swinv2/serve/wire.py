"""Inference requests and answers as bytes of HTTP: JSON, and the binary tensor extension.

https://github.com/kserve/open-inference-protocol (REST) and Triton's extension_binary_data.md,
extension_classification.md: a JSON header, whose length a header field tells, and after it the tensors that say
`binary_data_size`, one after the other (raw.py).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic_core import from_json

from swinv2.serve.errors import invalid, short
from swinv2.serve.inference import NAME_LENGTH, OUTPUTS, Answer, Request, Tensor, Wanted, in_seconds
from swinv2.serve.raw import check_type, elements, packed, unpacked
from swinv2.serve.repository import check_options

HEADER = "inference-header-content-length"
LARGE = 1 << 16  # bytes of JSON


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
        raise invalid(f"id is {short(identity)}; it must be a string")
    timeout = in_seconds(_integer(parameters, "timeout", 0))
    return Request(tuple(inputs), tuple(outputs), identity, timeout), Form(frozenset(binary))


def is_large(body: bytes, header_length: str | None) -> bool:
    """Whether parse() would keep the event loop from its clients: JSON takes time, binary tensors do not."""
    return len(body) > LARGE and (header_length is None or _length(header_length, len(body)) > LARGE)


def parse_json(body: bytes | memoryview) -> dict[str, Any]:
    """A JSON object of a client.

    Raises:
        Refused: it is no JSON, no object, or nested more deeply than any request (200 levels).
    """
    try:
        found = from_json(bytes(body), allow_inf_nan=False)
    except ValueError as error:
        raise invalid(f"the request is not JSON that is read here: {short(str(error), 200)}") from None
    if not isinstance(found, dict):
        raise invalid(f"the request is {short(found)}; it must be a JSON object")
    return found


def parse_options(body: bytes, *known: str) -> None:
    """The body of a call of the repository, whose parameters may be those that are known.

    Raises:
        Refused: a parameter that would change the model; whoever sent it shall not think that it did.
    """
    if body:
        check_options(_mapping(parse_json(body).get("parameters"), "parameters"), *known)


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


def _input(entry: Mapping[str, Any], tail: memoryview) -> tuple[Tensor, int]:
    """One input, and how many bytes of the tail it took."""
    name, datatype = _text(entry, "name", "an input"), _text(entry, "datatype", "an input")
    shape = entry.get("shape")
    if not isinstance(shape, list):
        raise invalid(f"input {name} has shape {short(shape)}; it must be a list of sizes")
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
    check_type(name, datatype)
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


def _length(text: str, most: int) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 12 or int(text) > most:
        raise invalid(f"Inference-Header-Content-Length is {short(text)}; the body has {most} bytes")
    return int(text)


def _objects(described: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    found = described.get(key)
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise invalid(f"{key} is {short(found)}; it must be a list of objects")
    return found


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise invalid(f"{what} is {short(value)}; it must be an object")
    return value or {}


def _text(entry: Mapping[str, Any], key: str, what: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or len(value) > NAME_LENGTH:
        raise invalid(
            f"the {key} of {what} is {short(value)}; it must be a string of at most {NAME_LENGTH} characters"
        )
    return value


def _integer(entry: Mapping[str, Any], key: str, default: int) -> int:
    value = entry.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >> 63:
        raise invalid(f"{key} is {short(value)}; it must be an integer of 64 bits")
    return value


def flag(entry: Mapping[str, Any], key: str, default: bool) -> bool:
    """A yes or no of a client.

    Raises:
        Refused: it is something else.
    """
    value = entry.get(key, default)
    if not isinstance(value, bool):
        raise invalid(f"{key} is {short(value)}; it must be true or false")
    return value
