"""How bodies come from the socket to the application: whole and unmixed, and what waits for its rest has a bound."""

from __future__ import annotations

import asyncio
import os

import pytest
import uvicorn

from swinv2.serve import http
from swinv2.serve.metrics import Metrics
from swinv2.serve.settings import Limits

KIB, MIB = 1 << 10, 1 << 20


class Application:
    """Takes bodies and keeps the pieces in which they came, by path. Answers with nothing."""

    def __init__(self):
        self.pieces: dict[str, list[bytes]] = {}

    async def __call__(self, scope, receive, send):
        pieces = self.pieces[scope["path"]] = []
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            pieces.append(message["body"])
            if not message["more_body"]:
                break
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})


class Client:
    """A connection that sends what it is told, when it is told."""

    def __init__(self, port):
        self._port = port

    async def __aenter__(self):
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *error):
        self._writer.close()

    async def send(self, data):
        self._writer.write(data)
        await self._writer.drain()
        await asyncio.sleep(0.02)

    async def begin(self, path, size):
        await self.send(f"POST {path} HTTP/1.1\r\nhost: here\r\ncontent-length: {size}\r\n\r\n".encode())

    async def answer(self):
        head = await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), 10)
        assert head.startswith(b"HTTP/1.1 204")


def with_server(check):
    """Run check(application, client) beside a server; client() makes a connection."""

    async def run():
        application = Application()
        config = uvicorn.Config(
            application, port=0, lifespan="off", log_config=None, http=http.protocol(Limits(), Metrics())
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        try:
            await asyncio.wait_for(check(application, lambda: Client(port)), 30)
        finally:
            server.should_exit = True
            await serving

    asyncio.run(run())


def test_a_body_that_comes_in_pieces_is_handed_on_in_one():
    body = os.urandom(900 * KIB)

    async def check(application, client):
        async with client() as one:
            await one.begin("/a", len(body))
            for start in range(0, len(body), 300 * KIB):
                await one.send(body[start : start + 300 * KIB])
            await one.answer()
        assert application.pieces["/a"] == [body]

    with_server(check)


@pytest.mark.parametrize("size", [0, 1, http.GATHERED, http.GATHERED + 1, 3 * http.GATHERED])
def test_a_body_of_any_size_arrives_whole(size):
    body = os.urandom(size)

    async def check(application, client):
        async with client() as one:
            await one.begin("/a", len(body))
            await one.send(body)
            await one.answer()
        pieces = application.pieces["/a"]
        assert b"".join(pieces) == body
        assert len(pieces) == 1 or size > http.GATHERED

    with_server(check)


def test_bodies_of_several_connections_and_of_one_do_not_mix():
    bodies = {f"/{i}": os.urandom(40 * KIB) for i in range(12)}

    async def check(application, client):
        async with client() as one, client() as two, client() as three:
            for i in range(0, 12, 3):
                turn = list(zip((one, two, three), (f"/{i + k}" for k in range(3)), strict=True))
                for connection, path in turn:
                    await connection.begin(path, len(bodies[path]))
                for start in range(0, 40 * KIB, 10 * KIB):
                    for connection, path in turn:
                        await connection.send(bodies[path][start : start + 10 * KIB])
                for connection, _ in turn:
                    await connection.answer()
        assert {path: b"".join(pieces) for path, pieces in application.pieces.items()} == bodies

    with_server(check)


def test_what_waits_for_its_rest_has_a_bound_over_all_connections(monkeypatch):
    monkeypatch.setattr(http, "ALL_GATHERED", 100 * KIB)

    async def check(application, client):
        async with client() as one, client() as two:
            await one.begin("/one", MIB)
            await one.send(bytes(60 * KIB))
            assert application.pieces["/one"] == []
            await two.begin("/two", MIB)
            await two.send(bytes(60 * KIB))  # together too much: the one that went over it is counted
            assert [len(piece) for piece in application.pieces["/two"]] == [60 * KIB]
            assert application.pieces["/one"] == []

    with_server(check)


def test_what_clients_leave_behind_takes_no_room_from_others(monkeypatch):
    monkeypatch.setattr(http, "ALL_GATHERED", 100 * KIB)

    async def check(application, client):
        for _ in range(5):
            async with client() as gone:
                await gone.begin("/gone", MIB)
                await gone.send(bytes(60 * KIB))
        await asyncio.sleep(0.1)
        async with client() as one:
            await one.begin("/one", 90 * KIB)
            await one.send(bytes(80 * KIB))
            await one.send(bytes(10 * KIB))
            await one.answer()
        assert [len(piece) for piece in application.pieces["/one"]] == [90 * KIB]

    with_server(check)
