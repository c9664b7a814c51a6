"""The guard of gRPC: bounds that a real server has too, made small, in one process with their clients."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from serving import picture, write_model
from tritonclient.grpc import service_pb2 as proto
from tritonclient.grpc import service_pb2_grpc

from swinv2.serve import grpc as protocol
from swinv2.serve.budget import Budget
from swinv2.serve.errors import Kind, Refused
from swinv2.serve.service import Service
from swinv2.serve.settings import Access, Batching, Compute, Limits

INFER = "/inference.GRPCInferenceService/ModelInfer"
Code = grpc.StatusCode


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("calls") / "animals.safetensors")


@asynccontextmanager
async def serving(file, *, token="", **limits):
    """A service and a channel to it."""
    service = Service(
        [str(file)], compute=Compute(processes=False, threads=1), batching=Batching(4), limits=Limits(**limits),
        access=Access(token),
    )  # fmt: skip
    server = protocol.server(service)
    address = protocol.listen(server, "127.0.0.1", 0)
    await server.start()
    await service.repository.load_all()
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            yield service, channel
    finally:
        service.is_stopping = True
        await server.stop(5)
        await service.close()


def request(side=64):
    made = proto.ModelInferRequest(model_name="animals")
    values = np.random.default_rng(0).normal(size=(1, 3, side, side)).astype(np.float32)
    made.inputs.add(name="pixels", datatype="FP32", shape=values.shape)
    made.raw_input_contents.append(values.tobytes())
    return made


async def refused(call):
    """The code and the sentence of a call that is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as why:
        await call
    return why.value.code(), why.value.details()


async def until(condition, seconds=20):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def test_a_message_that_comes_too_slowly_is_given_up(file):
    async def main():
        async with serving(file, body_seconds=0.2) as (_, channel):
            begun = channel.stream_unary(INFER)()  # its message never comes
            assert await refused(begun) == (
                Code.CANCELLED,
                "the message has not arrived within 0.2 s; send it faster",
            )

    asyncio.run(main())


def test_a_call_without_a_message_is_refused(file):
    async def main():
        async with serving(file) as (_, channel):
            call = channel.stream_unary(INFER)()
            await call.done_writing()
            assert await refused(call) == (Code.INVALID_ARGUMENT, "the call has no message; send one")

    asyncio.run(main())


def test_without_a_token_a_call_is_refused_before_its_message_is_read(file):
    async def main():
        async with serving(file, token="s3cret") as (_, channel):
            status, sentence = await refused(channel.stream_unary(INFER)())  # it sends nothing
            assert status is Code.UNAUTHENTICATED
            assert sentence.startswith("this server wants a token")

    asyncio.run(main())


def test_messages_of_all_calls_together_have_a_bound_which_is_given_back(file):
    large, small = request(512), request()  # 3 MiB, 48 KiB

    async def main():
        async with serving(file, bodies_bytes=(4 << 20)) as (service, channel):
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            first = stub.ModelInfer(large)
            await until(lambda: service.budget.held > 3 << 20)
            assert await refused(stub.ModelInfer(large)) == (
                Code.RESOURCE_EXHAUSTED,
                "the server holds as many requests as it may; try again later",
            )
            await stub.ModelInfer(small)  # there is room for it
            await first
            await stub.ModelInfer(large)
            with suppress(grpc.aio.AioRpcError):
                await stub.ModelInfer(proto.ModelInferRequest(model_name="cow"))
            assert service.budget.held == 0

    asyncio.run(main())


def test_calls_at_one_time_have_a_bound_that_does_not_hold_for_probes(file):
    async def main():
        async with serving(file, calls=2) as (service, channel):
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            idle = [channel.stream_unary(INFER)() for _ in range(2)]
            await asyncio.sleep(0.2)
            assert await refused(stub.ModelInfer(request())) == (
                Code.RESOURCE_EXHAUSTED,
                "2 calls are being answered; try again later",
            )
            assert (await stub.ServerReady(proto.ServerReadyRequest())).ready
            for call in idle:
                call.cancel()
            await until(lambda: b'status="CANCELLED"} 2.0' in service.metrics.page())
            await stub.ModelInfer(request())

    asyncio.run(main())


def test_those_who_watch_the_health_have_a_bound(file, monkeypatch):
    monkeypatch.setattr(protocol, "WATCHERS", 1)

    async def main():
        async with serving(file) as (_, channel):
            stub = health_pb2_grpc.HealthStub(channel)
            first = stub.Watch(health_pb2.HealthCheckRequest())
            assert (await first.read()).status == health_pb2.HealthCheckResponse.SERVING
            with pytest.raises(grpc.aio.AioRpcError) as why:
                await stub.Watch(health_pb2.HealthCheckRequest()).read()
            assert why.value.code() is Code.RESOURCE_EXHAUSTED
            assert dict(why.value.trailing_metadata())["retry-after"] == "10"
            first.cancel()

    asyncio.run(main())


def test_a_defect_is_told_without_its_inside(file, monkeypatch, caplog):
    async def main():
        async with serving(file) as (service, channel):
            monkeypatch.setattr(service, "metadata", lambda: 1 / 0)
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            return await refused(stub.ServerMetadata(proto.ServerMetadataRequest()))

    assert asyncio.run(main()) == (Code.INTERNAL, "the server has a defect; its log says more")
    assert "ZeroDivisionError" in caplog.text


def test_a_server_that_loads_is_alive_and_not_ready(file):
    async def main():
        async with serving(file) as (service, channel):
            stub, health = (
                service_pb2_grpc.GRPCInferenceServiceStub(channel),
                health_pb2_grpc.HealthStub(channel),
            )
            await service.repository.unload("animals")
            service.repository._models["animals"].is_wanted = True  # as before it was loaded
            assert (await stub.ServerLive(proto.ServerLiveRequest())).live
            assert not (await stub.ServerReady(proto.ServerReadyRequest())).ready
            assert not (await stub.ModelReady(proto.ModelReadyRequest(name="animals"))).ready
            found = await health.Check(health_pb2.HealthCheckRequest())
            assert found.status == health_pb2.HealthCheckResponse.NOT_SERVING
            status, sentence = await refused(stub.ModelInfer(request()))
            assert status is Code.UNAVAILABLE
            assert sentence == "model animals does not answer: it is not loaded"

    asyncio.run(main())


def test_clients_that_vanish_leave_nothing_behind(file):
    """Connections that end while messages come, wait and are computed."""

    async def main():
        async with serving(file) as (service, channel):
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            calls = [stub.ModelInfer(request(256)) for _ in range(20)]
            await until(lambda: service.budget.held)
            await channel.close()
            await asyncio.gather(*calls, return_exceptions=True)
            with service.repository.use("animals") as used:
                await until(lambda: used.batcher.waiting == 0)
            await until(lambda: service.budget.held == 0)

    asyncio.run(main())


def test_a_budget_counts_and_refuses():
    budget = Budget(10)
    budget.hold(7)
    with pytest.raises(Refused, match="as many requests as it may") as why:
        budget.hold(4)
    assert (why.value.kind, why.value.retry_after) == (Kind.BUSY, 1)
    budget.hold(3)
    budget.release(7)
    assert budget.held == 3


def test_pictures_that_are_broken_do_not_hold_memory(file):
    async def main():
        async with serving(file) as (service, channel):
            made = proto.ModelInferRequest(model_name="animals")
            made.inputs.add(name="image", datatype="BYTES", shape=[1]).contents.bytes_contents.append(
                picture()[:50]
            )
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            assert (await refused(stub.ModelInfer(made)))[0] is Code.INVALID_ARGUMENT
            assert service.budget.held == 0

    asyncio.run(main())
