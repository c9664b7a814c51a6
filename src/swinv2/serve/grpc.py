"""gRPC: the Open Inference Protocol, Triton's repository calls, and the health that load balancers ask for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from swinv2.serve import messages, protobuf
from swinv2.serve.calls import Call
from swinv2.serve.errors import Kind, Refused
from swinv2.serve.repository import check_options
from swinv2.serve.service import Service
from swinv2.serve.settings import Limits

Answer = Callable[[Call], Awaitable[bytes | None]]

LARGE = 1 << 20  # bytes of a message that the event loop does not parse itself
# What a probe may ask without a token; nothing of it tells about models or computes.
OPEN = ("ServerLive", "ServerReady", "ServerMetadata")
LOOK = 0.5  # seconds between two looks at the health that somebody watches
WATCHERS = 64  # clients that watch it at one time: each keeps a call open


def server(service: Service) -> grpc.aio.Server:
    """A server with all calls, which listens nowhere yet."""
    limits = service.limits
    # The handlers refuse what is too much with a sentence and let probes pass; twice as many are refused by gRPC.
    made = grpc.aio.server(options=_options(limits), maximum_concurrent_rpcs=2 * limits.calls)
    made.add_generic_rpc_handlers((_Handlers(service),))
    if service.access.reflection:
        from grpc_reflection.v1alpha import reflection

        names = (protobuf.INFERENCE, protobuf.HEALTH, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, made, pool=protobuf.POOL)
    return made


def listen(server: grpc.aio.Server, host: str, port: int, *, certificate: str = "", key: str = "") -> str:
    """Let a server listen, by TLS where files with a certificate and its key are given; returns host:port.

    Raises:
        RuntimeError: it cannot.
    """
    where = f"[{host}]" if ":" in host else host
    if certificate:
        pair = Path(key).read_bytes(), Path(certificate).read_bytes()
        port = server.add_secure_port(f"{where}:{port}", grpc.ssl_server_credentials([pair]))
    else:
        port = server.add_insecure_port(f"{where}:{port}")
    return f"{where}:{port}"


def _options(limits: Limits) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", limits.body_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", limits.header_bytes),
        ("grpc.absolute_max_metadata_size", limits.header_bytes),  # between the two it would refuse by chance
        # gRPC unpacks a whole message before it measures it, so that 64 KiB could become 64 MiB, and 64 MiB all memory.
        ("grpc.compression_enabled_algorithms_bitset", 1),  # none
        ("grpc.so_reuseport", 0),  # a port that is taken is an error
        ("grpc.server_handshake_timeout_ms", int(1000 * limits.header_seconds)),
        ("grpc.keepalive_time_ms", 60_000),  # clients that vanished without a word are found
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),  # clients may do the same
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.max_connection_idle_ms", 600_000),
        # Clients are asked to connect anew from time to time, and those that do not take their answers are cut off.
        ("grpc.max_connection_age_ms", 1_800_000),
        ("grpc.max_connection_age_grace_ms", int(1000 * limits.longest_seconds)),
    ]


class _Handlers(grpc.GenericRpcHandler):
    """Finds who answers a call."""

    def __init__(self, service: Service):
        self._service = service
        self._answers: dict[str, Any] = {}
        self._calls = 0
        for name, answer in (_inference(service) | _repository(service)).items():
            self._add(f"/{protobuf.INFERENCE}/{name}", answer, is_open=name in OPEN)
        check, watch = _health(service)
        self._add(f"/{protobuf.HEALTH}/Check", check, is_open=True)
        self._add(f"/{protobuf.HEALTH}/Watch", watch, is_open=True, streams=True)

    def service(self, handler_call_details: Any) -> Any:
        path = handler_call_details.method
        if path not in self._answers and path.startswith(f"/{protobuf.INFERENCE}/"):
            return self._handler(path, _unknown(path))
        return self._answers.get(path)

    def _add(self, path: str, answer: Answer, *, is_open: bool, streams: bool = False) -> None:
        async def checked(call: Call) -> bytes | None:
            if is_open:
                return await answer(call)
            call.check_token()
            with self._counted():
                return await answer(call)

        self._answers[path] = self._handler(path, checked, streams=streams)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        if self._calls >= self._service.limits.calls:
            raise Refused(
                Kind.BUSY, f"{self._calls} calls are being answered; try again later", retry_after=1
            )
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1

    def _handler(self, path: str, answer: Answer, *, streams: bool = False) -> Any:
        async def handle(_: Any, context: Any) -> bytes | None:
            return await Call(self._service, path, context).answer(answer)

        if streams:
            return grpc.stream_stream_rpc_method_handler(handle)
        return grpc.stream_unary_rpc_method_handler(handle)


def _inference(service: Service) -> dict[str, Answer]:
    rpc = protobuf.calls(protobuf.INFERENCE)

    async def live(call: Call) -> bytes:
        await call.message(rpc["ServerLive"].asked)
        return _write(rpc["ServerLive"], live=True)

    async def ready(call: Call) -> bytes:
        await call.message(rpc["ServerReady"].asked)
        return _write(rpc["ServerReady"], ready=service.is_ready)

    async def metadata(call: Call) -> bytes:
        await call.message(rpc["ServerMetadata"].asked)
        return _write(rpc["ServerMetadata"], **service.metadata())

    async def model_ready(call: Call) -> bytes:
        asked = await call.message(rpc["ModelReady"].asked)
        return _write(rpc["ModelReady"], ready=service.is_model_ready(asked.name, asked.version))

    async def model_metadata(call: Call) -> bytes:
        asked = await call.message(rpc["ModelMetadata"].asked)
        about = service.model_metadata(asked.name, asked.version)
        return _write(rpc["ModelMetadata"], **messages.model_metadata(about))

    async def infer(call: Call) -> bytes:
        data = await call.receive()
        if len(data) > LARGE:
            name, version, request = await service.decoders.call(messages.parse, data)
        else:
            name, version, request = messages.parse(data)
        del data  # the tensors have what they need of it
        answer, answered = await service.infer(name, version, request.within(call.seconds))
        call.log.update(model=name, version=answered, images=answer.images, **answer.timing.to_dict())
        return messages.respond(answer, model=name, version=answered, identity=request.id)

    return {
        "ServerLive": live,
        "ServerReady": ready,
        "ServerMetadata": metadata,
        "ModelReady": model_ready,
        "ModelMetadata": model_metadata,
        "ModelInfer": infer,
    }


def _repository(service: Service) -> dict[str, Answer]:
    rpc = protobuf.calls(protobuf.INFERENCE)

    async def index(call: Call) -> bytes:
        service.check_control()
        asked = await call.message(rpc["RepositoryIndex"].asked)
        rows = [row for row in service.repository.index() if row["state"] == "READY" or not asked.ready]
        return _write(rpc["RepositoryIndex"], models=rows)

    async def load(call: Call) -> bytes:
        service.check_control()
        asked = await call.message(rpc["RepositoryModelLoad"].asked)
        check_options(asked.parameters)
        await service.repository.load(asked.model_name)
        return _write(rpc["RepositoryModelLoad"])

    async def unload(call: Call) -> bytes:
        service.check_control()
        asked = await call.message(rpc["RepositoryModelUnload"].asked)
        check_options(asked.parameters, "unload_dependents")  # there are none
        await service.repository.unload(asked.model_name)
        return _write(rpc["RepositoryModelUnload"])

    return {"RepositoryIndex": index, "RepositoryModelLoad": load, "RepositoryModelUnload": unload}


def _health(service: Service) -> tuple[Answer, Answer]:
    """Check and Watch of grpc.health.v1: of the server (also by the name of its service), and of every model."""
    rpc = protobuf.calls(protobuf.HEALTH)["Check"]
    watchers = 0

    def status(name: str) -> str:
        try:
            is_ready = service.is_ready if name in ("", protobuf.INFERENCE) else service.is_model_ready(name)
        except Refused:
            return "SERVICE_UNKNOWN"
        return "SERVING" if is_ready else "NOT_SERVING"

    async def asked(call: Call) -> str:
        name: str = (await call.message(rpc.asked)).service
        if name not in ("", protobuf.INFERENCE):
            call.check_token()  # this tells about models
        return name

    async def check(call: Call) -> bytes:
        name = await asked(call)
        found = status(name)
        if found == "SERVICE_UNKNOWN":
            service.is_model_ready(name)  # says what there is
        return _write(rpc, status=found)

    async def watch(call: Call) -> None:
        nonlocal watchers
        name = await asked(call)
        if watchers >= WATCHERS:
            raise Refused(
                Kind.BUSY, f"{watchers} clients watch the health of this server; ask again", retry_after=10
            )
        watchers += 1
        try:
            said = ""
            while True:
                if said != (said := status(name)):
                    await call.send(rpc.answered(status=said))
                if service.is_stopping:
                    return
                await asyncio.sleep(LOOK)
        finally:
            watchers -= 1

    return check, watch


def _unknown(path: str) -> Answer:
    async def refuse(call: Call) -> None:
        there = ", ".join(protobuf.calls(protobuf.INFERENCE))
        raise Refused(Kind.UNSUPPORTED, f"{path.rpartition('/')[2]} is not offered here; there are {there}")

    return refuse


def _write(rpc: protobuf.Rpc, **fields: Any) -> bytes:
    data: bytes = rpc.answered(**fields).SerializeToString()
    return data
