"""Inference requests and answers as messages of gRPC (open_inference.proto).

Tensors come raw (raw_input_contents) or typed (contents: fp32_contents, bytes_contents) and go raw.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.message import DecodeError

from swinv2.serve import protobuf
from swinv2.serve.errors import invalid, short
from swinv2.serve.inference import NAME_LENGTH, Answer, Request, Tensor, Wanted, in_seconds
from swinv2.serve.raw import check_type, elements, packed, unpacked

InferRequest = protobuf.message("inference.ModelInferRequest")
InferResponse = protobuf.message("inference.ModelInferResponse")
CONTENTS = {"BYTES": "bytes_contents", "FP32": "fp32_contents"}  # where the elements of a type lie


def read(kind: Any, data: bytes) -> Any:
    """A message of a class, from its bytes.

    Raises:
        Refused: they are none.
    """
    try:
        return kind.FromString(data)
    except DecodeError:
        raise invalid(
            f"{len(data)} bytes are no {kind.DESCRIPTOR.name}; was the message cut off on its way?"
        ) from None


def parse(data: bytes) -> tuple[str, str, Request]:
    """The message of ModelInfer: the model, its version, and what is asked.

    Raises:
        Refused: what is wrong with it.
    """
    message = read(InferRequest, data)
    inputs, raw = message.inputs, message.raw_input_contents
    if raw and len(raw) != len(inputs):
        raise invalid(
            f"there are {len(inputs)} inputs and {len(raw)} raw_input_contents; give one for each, in their order"
        )
    request = Request(
        tuple(_input(entry, raw[i] if raw else None) for i, entry in enumerate(inputs)),
        tuple(_wanted(entry) for entry in message.outputs),
        message.id,
        in_seconds(_integer(message.parameters, "timeout")),
    )
    return message.model_name, message.model_version, request


def respond(answer: Answer, *, model: str, version: str, identity: str) -> bytes:
    """The message that answers ModelInfer."""
    message = InferResponse(model_name=model, model_version=version, id=identity)
    for name, milliseconds in answer.timing.to_dict().items():
        message.parameters[name].double_param = milliseconds
    for tensor in answer.outputs:
        message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        message.raw_output_contents.append(packed(tensor))
    return message.SerializeToString()


def model_metadata(about: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata as service.py has them -> the fields of ModelMetadataResponse."""
    return {"properties" if name == "parameters" else name: value for name, value in about.items()}


def _input(entry: Any, raw: bytes | None) -> Tensor:
    name, datatype = _text(entry.name, "an input"), _text(entry.datatype, "an input")
    shape = tuple(entry.shape)
    if raw is not None:
        if entry.HasField("contents"):
            raise invalid(f"input {name} has contents and raw_input_contents; give one of them")
        return unpacked(name, datatype, shape, raw)
    count = elements(name, shape)
    if datatype != "BYTES":
        check_type(name, datatype)
    contents, field = entry.contents, CONTENTS[datatype]
    if others := [other.name for other, _ in contents.ListFields() if other.name != field]:
        raise invalid(f"input {name} is {datatype} and has {', '.join(others)}; give {field}")
    given = getattr(contents, field)
    if len(given) != count:
        raise invalid(
            f"input {name} of shape {list(shape)} has {len(given)} {field}; it must have {count}, "
            "or raw_input_contents"
        )
    if datatype == "BYTES":
        return Tensor(name, datatype, shape, list(given))
    # The field alone, written again, ends in its numbers as they lie in memory: no object is made of each.
    contents.DiscardUnknownFields()
    data = contents.SerializeToString()
    return unpacked(name, datatype, shape, memoryview(data)[len(data) - 4 * count :])


def _wanted(entry: Any) -> Wanted:
    return Wanted(_text(entry.name, "an output"), _integer(entry.parameters, "classification"))


def _text(given: str, what: str) -> str:
    if len(given) > NAME_LENGTH:
        raise invalid(f"{what} has a name or type of {len(given)} characters; {NAME_LENGTH} are taken")
    return given


def _integer(parameters: Any, key: str) -> int:
    """A parameter of a request; 0 where there is none."""
    if key not in parameters:  # asking for it would make it
        return 0
    kind = parameters[key].WhichOneof("parameter_choice")
    if kind not in ("int64_param", "uint64_param"):
        given = getattr(parameters[key], kind) if kind else None
        raise invalid(f"{key} is {short(given)}; it must be an integer (int64_param)")
    return int(getattr(parameters[key], kind))
