"""gRPC as others speak it: Triton's client and plain stubs against a real server.

Every answer is compared with that of the session itself, one picture at a time.
"""

from __future__ import annotations

import asyncio
import json
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from serving import NAMES, answering, picture, pixels, serving, softmax, write_model, write_zoo
from tritonclient.grpc import service_pb2 as proto
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import InferenceServerException

from swinv2.runtimes import open_session

CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # a batch may round its sums in another order
INFER = "/inference.GRPCInferenceService/ModelInfer"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
Code = grpc.StatusCode


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("grpc") / "animals.safetensors")


@pytest.fixture(scope="module")
def server(file):
    """One model, as most people serve one."""
    with serving(file, "--threads", "1") as running:
        yield running


@pytest.fixture(scope="module")
def zoo(file, tmp_path_factory):
    """A folder of models that clients may load and unload, and a server that tells its services."""
    root = write_zoo(tmp_path_factory.mktemp("zoo"))
    with serving(
        root, "--control", "--reflection", "--look", "0", "--worker-threads", "--threads", "1"
    ) as running:
        running.root = root
        yield running


@pytest.fixture(scope="module")
def logits(file):
    with answering(file) as logits:
        yield logits


@pytest.fixture
def client(server):
    with triton.InferenceServerClient(server.grpc) as client:
        yield client


@pytest.fixture
def stub(server):
    with grpc.insecure_channel(server.grpc) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def tensor(name, values):
    """An input of Triton's client."""
    made = triton.InferInput(name, list(values.shape), "FP32" if name == "pixels" else "BYTES")
    made.set_data_from_numpy(values)
    return [made]


def asked(kind, *seeds):
    """Pictures as they are, or prepared pixels."""
    if kind == "pixels":
        return tensor("pixels", pixels(*seeds))
    return tensor("image", np.array([picture(seed) for seed in seeds], np.object_))


def large(side=1024):
    """Pixels that take a while: the engine takes all sizes."""
    return tensor("pixels", np.random.default_rng(0).normal(size=(1, 3, side, side)).astype(np.float32))


def message(*seeds, **fields):
    """A request for prepared pixels, whose parts a test may change."""
    values = pixels(*(seeds or (0,)))
    made = proto.ModelInferRequest(model_name="animals", raw_input_contents=[values.tobytes()], **fields)
    made.inputs.add(name="pixels", datatype="FP32", shape=values.shape)
    return made


def rows(answer):
    """Answer -> name of an output -> values."""
    return {
        out.name: np.frombuffer(raw, "<f4").reshape(out.shape)
        for out, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)
    }


def code(error):
    """The code of Triton's client, which says StatusCode.NOT_FOUND."""
    return Code[error.value.status().removeprefix("StatusCode.")]


def waiting(server):
    """Images that wait or are computed."""
    text = urllib.request.urlopen(f"{server.http}/metrics", timeout=20).read().decode()
    (line,) = (line for line in text.splitlines() if line.startswith("swinv2_waiting_images{"))
    return float(line.rpartition(" ")[2])


def line_of(server, identity):
    """The line of a request in the log, which is written once the client has its answer."""
    until(lambda: identity in server.log.read_text())
    return next(line for line in server.lines() if line.get("request") == identity)


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it has not come to pass"
        time.sleep(0.01)


@contextmanager
def neighbour(server, logits):
    """Somebody who asks all the time, and whose every answer must be right."""
    want, stop, answers = logits(9), threading.Event(), []

    def ask():
        with triton.InferenceServerClient(server.grpc) as client:
            while not stop.is_set():
                answers.append(client.infer("animals", asked("image", 9)).as_numpy("logits"))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        until(lambda: answers)
        yield
        count = len(answers)
        until(lambda: len(answers) > count)
    finally:
        stop.set()
        thread.join()
    for found in answers:
        np.testing.assert_allclose(found, want, **CLOSE)


# -- metadata and health --------------------------------------------------------------------------------


def test_metadata_and_readiness_are_those_of_the_protocol(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("animals")
    assert client.is_model_ready("animals", "1")
    about = client.get_server_metadata()
    assert about.name == "swinv2"
    assert set(about.extensions) == {"binary_tensor_data", "classification"}  # control is off
    model = client.get_model_metadata("animals")
    assert model == client.get_model_metadata("animals", "1")
    assert (model.name, list(model.versions)) == ("animals", ["1"])
    assert [(one.name, one.datatype, list(one.shape)) for one in model.inputs] == [
        ("image", "BYTES", [-1]), ("pixels", "FP32", [-1, 3, -1, -1]),
    ]  # fmt: skip
    assert [(one.name, one.datatype, list(one.shape)) for one in model.outputs] == [
        ("logits", "FP32", [-1, 7]), ("scores", "FP32", [-1, 7]),
    ]  # fmt: skip


def test_metadata_is_that_of_rest(client, server):
    def told(path):
        return json.loads(urllib.request.urlopen(server.http + path, timeout=20).read())

    assert client.get_server_metadata(as_json=True) == told("/v2")
    found, model = client.get_model_metadata("animals", as_json=True), told("/v2/models/animals")
    for one in found["inputs"] + found["outputs"]:
        one["shape"] = [int(n) for n in one["shape"]]  # JSON of protobuf writes int64 as strings
    del model["parameters"]  # properties in gRPC, which Triton's client does not know
    assert found == model


def test_the_client_for_asyncio_reads_the_same(server, client):
    async def main():
        async with triton_aio.InferenceServerClient(server.grpc) as other:
            assert await other.is_server_live()
            assert await other.is_server_ready()
            assert await other.is_model_ready("animals")
            assert await other.get_server_metadata() == client.get_server_metadata()
            assert await other.get_model_metadata("animals") == client.get_model_metadata("animals")

    asyncio.run(main())


@pytest.mark.parametrize("name", ["", "inference.GRPCInferenceService", "animals"])
def test_health_is_told_of_the_server_and_of_each_model(server, name):
    with grpc.insecure_channel(server.grpc) as channel:
        found = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name))
    assert found.status == SERVING


def test_health_of_what_is_not_there_is_not_found(server):
    with grpc.insecure_channel(server.grpc) as channel, pytest.raises(grpc.RpcError) as why:
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="cow"))
    assert (why.value.code(), why.value.details()) == (
        Code.NOT_FOUND,
        "there is no model 'cow'; there are animals",
    )


def test_health_that_is_watched_follows_a_model(zoo):
    with (
        grpc.insecure_channel(zoo.grpc) as channel,
        triton.InferenceServerClient(zoo.grpc) as client,
    ):
        watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="cats"))
        assert next(watched).status == SERVING
        client.unload_model("cats")
        assert next(watched).status == NOT_SERVING
        assert not client.is_model_ready("cats")
        assert client.is_server_ready()  # nobody wants that model
        client.load_model("cats")
        assert next(watched).status == SERVING
        watched.cancel()


# -- infer ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["sync", "asyncio"])
@pytest.mark.parametrize("kind", ["image", "pixels"])
def test_an_answer_is_that_of_the_session(server, client, logits, kind, how):
    seeds = [3, 1, 2]
    options = {
        "inputs": asked(kind, *seeds),
        "outputs": [triton.InferRequestedOutput(name) for name in ("scores", "logits")],
        "request_id": f"{kind} 17",
    }

    async def ask():
        async with triton_aio.InferenceServerClient(server.grpc) as other:
            return await other.infer("animals", **options)

    found = client.infer("animals", **options) if how == "sync" else asyncio.run(ask())
    np.testing.assert_allclose(found.as_numpy("logits"), logits(*seeds), **CLOSE)
    np.testing.assert_allclose(found.as_numpy("scores"), softmax(logits(*seeds)), **CLOSE)
    about = found.get_response()
    assert (about.id, about.model_name, about.model_version) == (f"{kind} 17", "animals", "1")
    assert [out.name for out in about.outputs] == ["scores", "logits"]  # in the order asked for
    assert set(about.parameters) == {"decode_ms", "queue_ms", "compute_ms"}
    assert about.parameters["compute_ms"].double_param > 0


def test_an_answer_is_that_of_rest_to_the_last_bit(server, client):
    values = pixels(5)
    body = {
        "inputs": [{"name": "pixels", "datatype": "FP32", "shape": values.shape, "data": values.tolist()}]
    }
    request = urllib.request.Request(
        f"{server.http}/v2/models/animals/infer",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    told = json.loads(urllib.request.urlopen(request, timeout=20).read())
    found = client.infer("animals", tensor("pixels", values))
    for out in told["outputs"]:
        assert (found.as_numpy(out["name"]).ravel() == np.float32(out["data"])).all()


@pytest.mark.parametrize("count", [1, 3, 100])
def test_classes_come_named_and_best_first(client, logits, count):
    outputs = [triton.InferRequestedOutput("logits", class_count=count)]
    found = client.infer("animals", asked("image", 0, 1), outputs=outputs).as_numpy("logits")
    assert found.shape == (2, min(count, 7))
    for row, values in zip(found, logits(0, 1), strict=True):
        for text, index in zip(row, np.argsort(-values)[:count], strict=True):
            score, number, label = text.decode().split(":")
            assert (int(number), label) == (index, NAMES[index])
            assert float(score) == pytest.approx(values[index], abs=1e-4)


def test_contents_may_be_typed(stub, logits):
    numbers = message(1, 2)
    del numbers.raw_input_contents[:]
    numbers.inputs[0].contents.fp32_contents.extend(pixels(1, 2).ravel().tolist())
    pictures = proto.ModelInferRequest(model_name="animals")
    entry = pictures.inputs.add(name="image", datatype="BYTES", shape=[2, 1])
    entry.contents.bytes_contents.extend([picture(1), picture(2)])
    for request in (numbers, pictures):
        np.testing.assert_allclose(rows(stub.ModelInfer(request))["logits"], logits(1, 2), **CLOSE)


def test_fields_that_we_do_not_know_change_nothing(server, logits):
    """Those of a newer protocol, also among the typed numbers, whose bytes are read as they lie."""
    request = message(1)
    del request.raw_input_contents[:]
    contents = proto.InferTensorContents(fp32_contents=pixels(1).ravel().tolist())
    unknown = b"\xc2\x3e\x04newer"[:7]  # field 1000: 4 bytes
    request.inputs[0].contents.MergeFromString(unknown + contents.SerializeToString() + unknown)
    data = request.SerializeToString() + unknown
    assert data.count(unknown) == 3
    with grpc.insecure_channel(server.grpc) as channel:
        answer = proto.ModelInferResponse.FromString(channel.unary_unary(INFER)(data))
    np.testing.assert_allclose(rows(answer)["logits"], logits(1), **CLOSE)


def test_images_of_other_sizes_are_those_that_the_session_takes(client, file):
    images = np.random.default_rng(0).normal(size=(3, 3, 50, 83)).astype(np.float32)
    found = client.infer("animals", tensor("pixels", images)).as_numpy("logits")
    with open_session(file, threads=1) as session:
        np.testing.assert_allclose(found, np.concatenate([session.run(one[None]) for one in images]), **CLOSE)


def test_a_message_of_many_megabytes_is_answered(client, file):
    (made,) = large(1536)
    values = np.frombuffer(made._get_content(), np.float32).reshape(1, 3, 1536, 1536)
    found = client.infer("animals", [made]).as_numpy("logits")
    with open_session(file, threads=1) as session:
        np.testing.assert_allclose(found, session.run(values), **CLOSE)


def test_requests_that_share_batches_never_share_answers(server, logits):
    """Two dozen calls at once, each with pictures of its own."""

    async def main():
        async with triton_aio.InferenceServerClient(server.grpc) as client:
            calls = [client.infer("animals", asked("image", seed, seed + 1)) for seed in range(48)]
            return [one.as_numpy("logits") for one in await asyncio.gather(*calls)]

    every = logits(*range(49))
    for seed, found in enumerate(asyncio.run(main())):
        np.testing.assert_allclose(found, every[seed : seed + 2], **CLOSE)


# -- what cannot be meant -------------------------------------------------------------------------------


def change(path, value):
    """A change of a request: model_name=..., inputs.0.shape=..."""

    def apply(request):
        *parents, last = path.split(".")
        target = request
        for part in parents:
            target = target[int(part)] if part.isdigit() else getattr(target, part)
        if last.isdigit():
            target[int(last)] = value
        elif isinstance(value, list):
            del getattr(target, last)[:]
            getattr(target, last).extend(value)
        else:
            setattr(target, last, value)

    return apply


def parameter(where, name, **kind):
    def apply(request):
        holder = request if where == "request" else request.outputs.add(name="logits")
        made = holder.parameters[name]
        for field, value in kind.items():
            setattr(made, field, value)

    return apply


def both(request):
    request.inputs[0].contents.fp32_contents.append(1)


def typed(datatype, field, values):
    def apply(request):
        del request.raw_input_contents[:]
        request.inputs[0].datatype = datatype
        request.inputs[0].name = "image" if datatype == "BYTES" else "pixels"
        getattr(request.inputs[0].contents, field).extend(values)

    return apply


@pytest.mark.parametrize(
    ("apply", "status", "sentence"),
    [
        (change("model_name", "cow"), Code.NOT_FOUND, "there is no model 'cow'; there are animals"),
        (change("model_version", "2"), Code.NOT_FOUND, "no version '2' that answers; version 1 does"),
        (change("model_name", "x" * 5000), Code.NOT_FOUND, "there is no model 'xxx"),
        (change("inputs", []), Code.INVALID_ARGUMENT, "there are 0 inputs and 1 raw_input_contents"),
        (change("raw_input_contents", []), Code.INVALID_ARGUMENT, "has 0 fp32_contents; it must have 12288"),
        (change("raw_input_contents", [b"", b""]), Code.INVALID_ARGUMENT, "1 inputs and 2 raw_input_contents"),
        (change("raw_input_contents.0", bytes(7)), Code.INVALID_ARGUMENT, "has 7 bytes; it must have 49152"),
        (change("inputs.0.shape", [1, 3, 64]), Code.INVALID_ARGUMENT, "has 49152 bytes; it must have 768"),
        (change("inputs.0.shape", [1, 3, 4096]), Code.INVALID_ARGUMENT, "it must be [images, channels, height"),
        (change("inputs.0.shape", [1, 1, 64, 192]), Code.INVALID_ARGUMENT, "animals takes [images, 3, height"),
        (change("inputs.0.shape", [1, -3, -64, 64]), Code.INVALID_ARGUMENT, "give at most 8 sizes from 1 on"),
        (change("inputs.0.shape", [0, 2**62, 4]), Code.INVALID_ARGUMENT, "give at most 8 sizes from 1 on"),
        (change("inputs.0.shape", [1] * 9), Code.INVALID_ARGUMENT, "give at most 8 sizes from 1 on"),
        (change("inputs.0.datatype", "FP64"), Code.INVALID_ARGUMENT, "input pixels is FP64; image is BYTES"),
        (change("inputs.0.datatype", "BYTES"), Code.INVALID_ARGUMENT, "input pixels has an element of"),
        (change("inputs.0.name", "images"), Code.INVALID_ARGUMENT, "the inputs are images; give one: image"),
        (change("inputs.0.name", "x" * 5000), Code.INVALID_ARGUMENT, "a name or type of 5000 characters"),
        (both, Code.INVALID_ARGUMENT, "has contents and raw_input_contents; give one of them"),
        (typed("FP32", "fp64_contents", [1.0]), Code.INVALID_ARGUMENT, "has fp64_contents; give fp32_contents"),
        (typed("FP32", "fp32_contents", [1.0]), Code.INVALID_ARGUMENT, "has 1 fp32_contents; it must have 12288"),
        (typed("BYTES", "bytes_contents", [b"a"]), Code.INVALID_ARGUMENT, "has 1 bytes_contents; it must have"),
        (typed("INT8", "int_contents", [1]), Code.INVALID_ARGUMENT, "input pixels is INT8; image is BYTES"),
        (parameter("output", "classification", string_param="5"), Code.INVALID_ARGUMENT, "must be an integer"),
        (parameter("output", "classification", int64_param=-1), Code.INVALID_ARGUMENT, "classification is -1"),
        (parameter("request", "timeout", int64_param=-5), Code.INVALID_ARGUMENT, "timeout is -5; give micro"),
        (parameter("request", "timeout"), Code.INVALID_ARGUMENT, "timeout is missing; it must be an integer"),
        (lambda request: request.outputs.add(name="cow"), Code.INVALID_ARGUMENT, "output 'cow' is none of"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_in_a_sentence(stub, apply, status, sentence):
    request = message()
    apply(request)
    with pytest.raises(grpc.RpcError) as why:
        stub.ModelInfer(request)
    assert why.value.code() is status, why.value.details()
    assert sentence in why.value.details()
    assert len(why.value.details()) < 500


def test_a_picture_that_is_none_fails_alone(server, client, logits):
    with neighbour(server, logits), pytest.raises(InferenceServerException) as why:
        client.infer("animals", tensor("image", np.array([picture(), b"no picture"], np.object_)))
    assert code(why) is Code.INVALID_ARGUMENT
    assert why.value.message() == "image 1 is not an image of a kind that is read"


def test_mutated_messages_are_refused_and_disturb_nobody(server, logits):
    """Bytes changed, cut off, put in: an answer or a refusal, never a crash, and a neighbour's answers stay right."""
    random, seen = np.random.default_rng(7), set()
    pictures = proto.ModelInferRequest(model_name="animals", id="x")
    pictures.inputs.add(name="image", datatype="BYTES", shape=[1])
    pictures.raw_input_contents.append(len(picture()).to_bytes(4, "little") + picture())
    typed_ = proto.ModelInferRequest(model_name="animals")
    typed_.inputs.add(name="image", datatype="BYTES", shape=[1]).contents.bytes_contents.append(picture())
    whole = [one.SerializeToString() for one in (pictures, typed_, message())]
    with neighbour(server, logits), grpc.insecure_channel(server.grpc) as channel:
        infer = channel.unary_unary(INFER)
        for round_ in range(400):
            data = bytearray(whole[round_ % 3])
            front = min(len(data), 120)  # where names, types and shapes lie
            for place in random.integers(0, front, random.integers(1, 5)):
                data[place] = random.integers(0, 256)
            if round_ % 4 == 0:
                del data[random.integers(0, len(data)) :]
            if round_ % 5 == 0:
                data[front:front] = random.bytes(int(random.integers(1, 40)))
            try:
                infer(bytes(data), timeout=20)
                seen.add(Code.OK)
            except grpc.RpcError as why:
                seen.add(why.code())
                assert why.details()
    assert {Code.INVALID_ARGUMENT, Code.NOT_FOUND} <= seen <= {Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.OK}


def test_a_message_that_is_too_large_is_refused(server, client, logits):
    values = np.zeros((1, 3, 2400, 2400), np.float32)  # 66 MiB
    with neighbour(server, logits), pytest.raises(InferenceServerException) as why:
        client.infer("animals", tensor("pixels", values))
    assert code(why) is Code.RESOURCE_EXHAUSTED
    assert "larger than max" in why.value.message()
    assert not [line for line in server.lines() if line["level"] != "info"]


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_messages_are_refused_since_grpc_would_unpack_them_without_a_limit(client, algorithm):
    with pytest.raises(InferenceServerException) as why:
        client.infer("animals", asked("pixels", 0), compression_algorithm=algorithm)
    assert code(why) is Code.UNIMPLEMENTED
    assert f"Compression algorithm '{algorithm}' is disabled" in why.value.message()


def test_headers_that_are_too_large_are_refused(client):
    with pytest.raises(InferenceServerException) as why:
        client.is_server_live(headers={"x-long": "x" * 100_000})
    assert code(why) is Code.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("call", ["get_model_config", "get_inference_statistics", "get_trace_settings"])
def test_what_only_triton_offers_is_unimplemented_in_a_sentence(client, call):
    with pytest.raises(InferenceServerException) as why:
        getattr(client, call)("animals")
    assert code(why) is Code.UNIMPLEMENTED
    assert "is not offered here; there are ServerLive, ServerReady, ModelReady" in why.value.message()


def test_a_stream_of_triton_is_unimplemented(client):
    told = queue.Queue()
    client.start_stream(callback=lambda result, error: told.put(error))
    error = told.get(timeout=20)
    client.stop_stream()
    assert "ModelStreamInfer is not offered here" in error.message()


# -- time -------------------------------------------------------------------------------------------------


def test_the_deadline_of_a_client_ends_its_request(server, client):
    def ended():  # one or the other: the client, whose clock began earlier, may hang up first
        return [x for x in server.lines() if x.get("status") in ("DEADLINE_EXCEEDED", "CANCELLED")]

    assert client.is_server_live()  # so that the deadline does not pass while it connects
    before, inputs = len(ended()), asked("pixels", 0)
    with server.held(), pytest.raises(InferenceServerException) as why:
        client.infer("animals", inputs, client_timeout=0.4)
    assert code(why) is Code.DEADLINE_EXCEEDED
    until(lambda: len(ended()) > before)
    assert ended()[-1]["client"] == "127.0.0.1"
    until(lambda: waiting(server) == 0)


def test_the_parameter_timeout_is_answered_by_the_server(server, client):
    with server.held(), pytest.raises(InferenceServerException) as why:
        client.infer("animals", asked("pixels", 0), timeout=50_000)  # microseconds
    assert code(why) is Code.DEADLINE_EXCEEDED
    assert why.value.message() == "there is no answer after 0.05 s; allow more time or try again later"


def test_a_cancelled_call_leaves_the_queue(file, logits):
    """Behind a long one wait four; three are cancelled, and are never computed."""
    with (
        serving(file, "--threads", "1", "--max-batch-size", "1") as server,
        triton.InferenceServerClient(server.grpc) as client,
    ):
        told = queue.Queue()

        def ask(inputs):
            return client.async_infer("animals", inputs, lambda result, error: told.put((result, error)))

        with server.held():
            ask(large())
            until(lambda: waiting(server) == 1)
            calls = [ask(asked("pixels", seed)) for seed in range(4)]
            until(lambda: waiting(server) == 5)
            for call in calls[1:]:
                call.cancel()
            until(lambda: waiting(server) == 2)
        found = [told.get(timeout=20) for _ in range(5)]
        answers = [result.as_numpy("logits") for result, error in found if error is None]
        assert [error.status() for _, error in found if error] == ["StatusCode.CANCELLED"] * 3
        np.testing.assert_allclose(answers[1], logits(0), **CLOSE)
        text = urllib.request.urlopen(f"{server.http}/metrics", timeout=20).read().decode()
        assert 'swinv2_images_total{model="animals",version="1"} 2.0' in text
        assert 'swinv2_requests_total{protocol="grpc",status="CANCELLED"} 3.0' in text


def test_a_full_queue_says_when_to_try_again(file, logits):
    options = ("--threads", "1", "--max-batch-size", "1", "--max-queue", "2")
    with serving(file, *options) as server, grpc.insecure_channel(server.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        calls = [stub.ModelInfer.future(message(seed)) for seed in range(40)]
        refused = 0
        for seed, call in enumerate(calls):
            if call.exception() is None:
                np.testing.assert_allclose(rows(call.result())["logits"], logits(seed), **CLOSE)
                continue
            refused += 1
            assert call.code() is Code.RESOURCE_EXHAUSTED
            assert call.details() == "2 images are waiting and 2 may; try again later"
            fields = dict(call.trailing_metadata())
            assert fields["retry-after"] == "1"
            assert fields["grpc-retry-pushback-ms"] == "1000"
        assert 0 < refused < 40


def test_what_has_begun_is_answered_after_sigterm_and_the_rest_is_refused(file, logits):
    with serving(file, "--threads", "1") as server, grpc.insecure_channel(server.grpc) as channel:
        stub, health = service_pb2_grpc.GRPCInferenceServiceStub(channel), health_pb2_grpc.HealthStub(channel)
        watched = health.Watch(health_pb2.HealthCheckRequest())
        assert next(watched).status == SERVING
        with server.held():
            call = stub.ModelInfer.future(message())
            until(lambda: waiting(server) == 1)
            server.process.send_signal(signal.SIGTERM)
            assert [one.status for one in watched] == [NOT_SERVING]
            with pytest.raises(grpc.RpcError) as why:
                stub.ModelInfer(message(), timeout=20)
            assert why.value.code() is Code.UNAVAILABLE
        np.testing.assert_allclose(rows(call.result(20))["logits"], logits(0), **CLOSE)
        assert server.process.wait(20) == 0
        assert not [line for line in server.lines() if line["level"] != "info"]


# -- who may ask what -----------------------------------------------------------------------------------


def test_a_call_has_an_id_and_a_line_in_the_log(server):
    with grpc.insecure_channel(server.grpc) as channel:
        infer = channel.unary_unary(INFER)
        _, call = infer.with_call(message().SerializeToString(), metadata=[("x-request-id", "mine-1")])
        assert dict(call.trailing_metadata())["x-request-id"] == "mine-1"
        with pytest.raises(grpc.RpcError) as why:
            infer(b"\xff", metadata=[("x-request-id", "not one")])
        given = dict(why.value.trailing_metadata())["x-request-id"]
        assert len(given) == 32
    right, wrong = line_of(server, "mine-1"), line_of(server, given)
    assert right | {"time": "", "ms": 0, "decode_ms": 0, "queue_ms": 0, "compute_ms": 0} == {
        "time": "", "level": "info", "message": "request", "request": "mine-1", "client": "127.0.0.1", "method": "gRPC",
        "path": INFER, "status": "OK", "ms": 0, "model": "animals", "version": "1", "images": 1, "decode_ms": 0,
        "queue_ms": 0, "compute_ms": 0,
    }  # fmt: skip
    assert wrong["status"] == "INVALID_ARGUMENT"


def test_without_its_token_a_server_tells_only_that_it_lives(file, tmp_path, logits):
    (tmp_path / "token").write_text("s3cret\n")
    with serving(file, "--token-file", tmp_path / "token") as server:
        with triton.InferenceServerClient(server.grpc) as client:
            assert client.is_server_live()
            assert client.is_server_ready()
            assert client.get_server_metadata().name == "swinv2"
            for headers in ({}, {"authorization": "Bearer other"}, {"authorization": "Basic s3cret"}):
                for ask in (
                    lambda h: client.infer("animals", asked("pixels", 0), headers=h),
                    lambda h: client.is_model_ready("animals", headers=h),
                    lambda h: client.get_model_metadata("animals", headers=h),
                    lambda h: client.get_model_repository_index(headers=h),
                ):
                    with pytest.raises(InferenceServerException) as why:
                        ask(headers)
                    assert code(why) is Code.UNAUTHENTICATED
                    assert why.value.message().endswith("send Authorization: Bearer <token>")
            right = {"authorization": "Bearer s3cret"}
            found = client.infer("animals", asked("pixels", 0), headers=right)
            np.testing.assert_allclose(found.as_numpy("logits"), logits(0), **CLOSE)
        with grpc.insecure_channel(server.grpc) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            assert health.Check(health_pb2.HealthCheckRequest()).status == SERVING
            with pytest.raises(grpc.RpcError) as error:
                health.Check(health_pb2.HealthCheckRequest(service="animals"))
            assert error.value.code() is Code.UNAUTHENTICATED


def test_models_are_not_loaded_by_clients_unless_they_may(client):
    for ask in (
        client.get_model_repository_index,
        lambda: client.load_model("animals"),
        lambda: client.unload_model("animals"),
    ):
        with pytest.raises(InferenceServerException) as why:
            ask()
        assert code(why) is Code.PERMISSION_DENIED
        assert "start the server with --control" in why.value.message()


def test_models_are_listed_unloaded_and_loaded_by_name(zoo):
    with triton.InferenceServerClient(zoo.grpc) as client:
        assert "model_repository" in client.get_server_metadata().extensions

        def states():
            return {row.name: (row.version, row.state) for row in client.get_model_repository_index().models}

        assert states() == {"birds": ("3", "READY"), "cats": ("1", "READY")}
        client.unload_model("birds", unload_dependents=True)
        assert states()["birds"] == ("", "UNAVAILABLE")
        with pytest.raises(InferenceServerException) as why:
            client.infer("birds", asked("pixels", 0))
        assert code(why) is Code.UNAVAILABLE
        shutil.copytree(zoo.root / "birds" / "3", zoo.root / "birds" / "4")
        client.load_model("birds")
        assert states()["birds"] == ("4", "READY")
        assert client.infer("birds", asked("pixels", 0)).get_response().model_version == "4"
        with pytest.raises(InferenceServerException) as why:
            client.load_model("../birds")
        assert code(why) is Code.NOT_FOUND
        with pytest.raises(InferenceServerException) as why:
            client.load_model("birds", config="{}")
        assert code(why) is Code.INVALID_ARGUMENT
        assert why.value.message() == "config cannot be given; the model file has all of it"


def test_reflection_tells_services_and_messages_where_it_is_asked_for(zoo, server):
    with grpc.insecure_channel(zoo.grpc) as channel:
        told = ProtoReflectionDescriptorDatabase(channel)
        assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= set(told.get_services())
        file = told.FindFileContainingSymbol("inference.ModelInferRequest")
        assert file.name == "open_inference.proto"
        assert {method.name for method in file.service[0].method} >= {"ModelInfer", "RepositoryIndex"}
    with grpc.insecure_channel(server.grpc) as channel, pytest.raises(grpc.RpcError) as why:
        ProtoReflectionDescriptorDatabase(channel).get_services()
    assert why.value.code() is Code.UNIMPLEMENTED


def certificate(folder):
    """A certificate for this machine, signed by itself."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
         "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    return folder / "cert.pem", folder / "key.pem"


def test_tls_protects_grpc_with_the_files_of_https(file, tmp_path, logits):
    cert, key = certificate(tmp_path)
    with serving(file, "--certificate", cert, "--key", key) as server:
        with triton.InferenceServerClient(server.grpc, ssl=True, root_certificates=str(cert)) as client:
            found = client.infer("animals", asked("image", 0))
            np.testing.assert_allclose(found.as_numpy("logits"), logits(0), **CLOSE)
        with (
            triton.InferenceServerClient(server.grpc) as client,
            pytest.raises(InferenceServerException) as why,
        ):
            client.infer("animals", asked("image", 0), client_timeout=5)
        assert code(why) in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED)
        assert not [line for line in server.lines() if line["level"] != "info"]


# -- where it listens -----------------------------------------------------------------------------------


def command(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "swinv2", "serve", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stderr


def test_a_port_that_is_taken_is_told_before_anything_is_loaded(file):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        returned, said = command(file, "--http-port", 0, "--grpc-port", port)
    assert returned == 2
    assert (
        f"cannot listen on 127.0.0.1 port {port}: address already in use; choose another --grpc-port" in said
    )
    assert "answers" not in said


def test_both_protocols_do_not_share_a_port(file):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    returned, said = command(file, "--http-port", port, "--grpc-port", port)
    assert returned == 2
    assert "choose another --grpc-port" in said


def test_files_that_are_no_certificate_are_told_before_anything_is_loaded(file, tmp_path):
    (tmp_path / "a.pem").write_text("no certificate")
    returned, said = command(file, "--certificate", tmp_path / "a.pem", "--key", tmp_path / "a.pem")
    assert returned == 2
    assert "are no certificate with its key in PEM" in said
    returned, said = command(file, "--certificate", tmp_path / "b.pem", "--key", tmp_path / "a.pem")
    assert "no such file" in said


def test_a_server_without_grpc_does_not_import_it(file):
    with serving(file, "--no-grpc") as running:
        assert running.grpc == ""
    code = (
        "import sys, swinv2.serve.server; assert 'grpc' not in sys.modules; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
