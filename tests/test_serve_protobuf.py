"""The messages of gRPC: what lies in the package is what the .proto files say, and what Triton's clients speak."""

from __future__ import annotations

import subprocess
import sys
from importlib import resources

import pytest
import tritonclient.grpc.service_pb2 as triton
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2

from swinv2.serve import protobuf

FOLDER = resources.files("swinv2.serve")
OURS = descriptor_pb2.FileDescriptorSet.FromString(FOLDER.joinpath("services.binpb").read_bytes())
INFERENCE = OURS.file[0]
# Of the specification, and not of Triton.
ONLY_OURS = {("ModelMetadataResponse", "properties")}


def fields(message):
    """name -> number, type, label, type of messages."""
    return {f.name: (f.number, f.type, f.label, f.type_name) for f in message.field}


def described(descriptor):
    found = descriptor_pb2.DescriptorProto()
    descriptor.CopyToProto(found)
    return found


def test_the_compiled_files_are_those_of_the_sources(tmp_path):
    """Where this fails, the command that it runs writes services.binpb anew."""
    command = [
        "-m", "grpc_tools.protoc", f"-I{FOLDER}", f"--descriptor_set_out={tmp_path}/services.binpb",
        "open_inference.proto", "health.proto",
    ]  # fmt: skip
    subprocess.run([sys.executable, *command], check=True)
    assert descriptor_pb2.FileDescriptorSet.FromString((tmp_path / "services.binpb").read_bytes()) == OURS


@pytest.mark.parametrize("message", INFERENCE.message_type, ids=lambda message: message.name)
def test_names_and_numbers_are_those_of_triton(message):
    other = described(triton.DESCRIPTOR.message_types_by_name[message.name])
    for ours, theirs in [(message, other), *zip(message.nested_type, other.nested_type, strict=False)]:
        if ours.name == "PropertiesEntry":
            continue
        shared = {name: f for name, f in fields(ours).items() if (ours.name, name) not in ONLY_OURS}
        assert shared == fields(theirs), ours.name


def test_calls_are_those_of_triton():
    service = triton.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    for name, rpc in protobuf.calls(protobuf.INFERENCE).items():
        other = service.methods_by_name[name]
        assert rpc.asked.DESCRIPTOR.full_name == other.input_type.full_name
        assert rpc.answered.DESCRIPTOR.full_name == other.output_type.full_name
        assert (other.client_streaming, other.server_streaming) == (False, False)


def test_health_is_that_of_grpc():
    file = OURS.file[1]
    assert file.package == health_pb2.DESCRIPTOR.package
    for message in file.message_type:
        other = described(health_pb2.DESCRIPTOR.message_types_by_name[message.name])
        assert fields(message) == fields(other)
        assert message.enum_type == other.enum_type


def test_messages_of_ours_and_of_triton_live_in_one_process_and_read_each_other():
    ours = protobuf.message("inference.ModelInferRequest")
    assert ours is not triton.ModelInferRequest
    sent = triton.ModelInferRequest(model_name="zoo", raw_input_contents=[b"\0\1"])
    sent.parameters["timeout"].int64_param = 5
    sent.inputs.add(name="pixels", datatype="FP32", shape=[1, -3])
    read = ours.FromString(sent.SerializeToString())
    assert triton.ModelInferRequest.FromString(read.SerializeToString()) == sent
