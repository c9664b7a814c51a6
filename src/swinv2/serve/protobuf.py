"""The messages and calls of gRPC, made from services.binpb: open_inference.proto and health.proto, compiled.

Generated modules refuse a protobuf of another major version than that of their compiler, and register their names for
the whole process, where tritonclient has the same ones. Classes that are made here do neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FileDescriptorSet

INFERENCE, HEALTH = "inference.GRPCInferenceService", "grpc.health.v1.Health"


@dataclass(frozen=True)
class Rpc:
    """A call: the classes of what is asked and answered."""

    asked: Any
    answered: Any


def _pool() -> descriptor_pool.DescriptorPool:
    data = resources.files("swinv2.serve").joinpath("services.binpb").read_bytes()
    pool = descriptor_pool.DescriptorPool()
    for file in FileDescriptorSet.FromString(data).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


POOL = _pool()


def message(name: str) -> Any:
    """The class of a message, by its full name."""
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(name))


def calls(service: str) -> dict[str, Rpc]:
    """The calls of a service, by their names."""
    methods = POOL.FindServiceByName(service).methods
    return {method.name: Rpc(_class(method.input_type), _class(method.output_type)) for method in methods}


def _class(descriptor: Any) -> Any:
    return message_factory.GetMessageClass(descriptor)
