"""Clients that cost little: requests that were encoded beforehand, over HTTP/1.1 and gRPC, from one event loop.

They share the cores with the server that they measure, so they encode nothing and parse little.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import grpc

INFER = "/inference.GRPCInferenceService/ModelInfer"
MESSAGE = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]

Ask = Callable[[bytes], Awaitable[bytes]]  # a request -> the body of its answer


class Failed(RuntimeError):
    """A request that was not answered as it should be."""


class HttpClient:
    """One connection that is kept. A request is everything from the request line to the end of the body."""

    def __init__(self, address: str):
        parts = urlsplit(address)
        self._host, self._port = parts.hostname, parts.port

    async def __aenter__(self) -> Ask:
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        return self._ask

    async def __aexit__(self, *error: object) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    async def _ask(self, request: bytes) -> bytes:
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
        body = await self._reader.readexactly(int(fields[b"content-length"]))
        if head.split(b" ", 2)[1] != b"200":
            raise Failed(body.decode(errors="replace")[:500])
        return body


class GrpcClient:
    """One channel with a connection of its own. A request is a message that was serialized."""

    def __init__(self, address: str, method: str = INFER):
        self._address, self._method = address, method

    async def __aenter__(self) -> Ask:
        self._channel = grpc.aio.insecure_channel(
            self._address, [*MESSAGE, ("grpc.use_local_subchannel_pool", 1)]
        )
        await self._channel.channel_ready()
        return self._channel.unary_unary(self._method)  # without serializers: bytes as they are

    async def __aexit__(self, *error: object) -> None:
        await self._channel.close()


@dataclass
class Load:
    """What came of a load: when answers came, and the seconds that each of them took."""

    moments: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)

    def add(self, moment: float, latency: float) -> None:
        self.moments.append(moment)
        self.latencies.append(latency)

    @property
    def per_second(self) -> float:
        """The slope of answers over time: answers come in batches, so that their number in a window says little."""
        moments = sorted(self.moments)
        return statistics.linear_regression(moments, range(len(moments))).slope

    def percentile(self, percent: int) -> float:
        """Seconds."""
        return statistics.quantiles(self.latencies, n=100, method="inclusive")[percent - 1]


async def saturate(
    clients: Sequence[HttpClient | GrpcClient],
    requests: Sequence[bytes],
    seconds: float,
    *,
    skip: float = 0.2,
) -> Load:
    """Every client asks again as soon as it has its answer. skip: the part of the time at first that is not counted."""
    load, begin = Load(), time.perf_counter()
    count_from, end = begin + seconds * skip, begin + seconds

    async def ask_always(client: HttpClient | GrpcClient, first: int) -> None:
        i = first
        async with client as ask:
            while (started := time.perf_counter()) < end:
                await ask(requests[i % len(requests)])
                i += 1
                now = time.perf_counter()
                if now >= count_from:
                    load.add(now, now - started)

    async with asyncio.TaskGroup() as group:
        for number, client in enumerate(clients):
            group.create_task(ask_always(client, number))
    return load


async def at_rate(
    clients: Sequence[HttpClient | GrpcClient], requests: Sequence[bytes], rate: float, seconds: float
) -> Load:
    """Requests at even times, each by the next free client, whether the others were answered or not.

    A latency counts from the time at which the request was due, so that a server that falls behind shows it.
    """
    load = Load()
    due: asyncio.Queue[tuple[float, bytes] | None] = asyncio.Queue()

    async def ask_when_due(client: HttpClient | GrpcClient) -> None:
        async with client as ask:
            while (order := await due.get()) is not None:
                await ask(order[1])
                now = time.perf_counter()
                load.add(now, now - order[0])

    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(ask_when_due(client))
        begin = time.perf_counter()
        for i in range(int(rate * seconds)):
            moment = begin + i / rate
            await asyncio.sleep(max(0.0, moment - time.perf_counter()))
            due.put_nowait((moment, requests[i % len(requests)]))
        for _ in clients:
            due.put_nowait(None)
    return load
