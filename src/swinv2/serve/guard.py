"""Between the socket and the routes: what strangers send is measured, unpacked, timed and logged here.

An ASGI application around another one. It gives every request an id, refuses what has no token, what is too large
(also after gzip) and what arrives too slowly, and writes one line of JSON for each answer.
"""

from __future__ import annotations

import asyncio
import json
import time
import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

from swinv2.serve import logs
from swinv2.serve.budget import Budget
from swinv2.serve.errors import Kind, Refused
from swinv2.serve.identity import check_token, request_id
from swinv2.serve.metrics import Metrics
from swinv2.serve.settings import Access, Limits

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# What a probe or a visitor may see without a token; nothing of it tells about models or computes.
OPEN = ("/", "/docs", "/v2", "/v2/health/live", "/v2/health/ready")
CODINGS = {b"gzip": 31, b"deflate": 15}  # content coding -> window bits of zlib
LINGER_SECONDS = 5  # how long the rest of a body that was refused is still taken, and thrown away


class Guard:
    """Wraps the application that answers."""

    def __init__(self, app: Any, *, limits: Limits, allowed: Access, metrics: Metrics, budget: Budget):
        self._app, self._limits, self._allowed = app, limits, allowed
        self._metrics, self._budget = metrics, budget
        self._begun = 0  # requests for work that are not yet answered
        self._idle = asyncio.Event()
        self.is_draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(self, scope, receive, send)
        if scope["method"] == "GET":
            await exchange.run()
            return
        self._begun += 1
        try:
            await exchange.run()
        finally:
            self._begun -= 1
            if not self._begun:
                self._idle.set()

    async def drain(self) -> None:
        """Wait for what has begun. Meanwhile questions about the server are answered, and all else is refused."""
        self.is_draining = True
        while self._begun:
            self._idle.clear()
            await self._idle.wait()


class _Exchange:
    """One request and its answer."""

    def __init__(self, guard: Guard, scope: Scope, receive: Receive, send: Send):
        self._guard, self._scope, self._receive, self._send = guard, scope, receive, send
        self._headers = dict(scope["headers"])
        self._started = time.monotonic()
        self._held = 0
        self._status = 0
        self._is_read = False  # whether the body has ended, or the client is gone
        self._id = request_id(self._headers.get(b"x-request-id", b"").decode("latin1"))

    async def run(self) -> None:
        about = self._scope.setdefault("state", {})
        about["request_id"], about["log"] = self._id, {}
        try:
            try:
                self._check_token()
                self._check_running()
                body = await self._body()
                self._started = time.monotonic()
                await self._guard._app(self._scope, _Replay(body, self._receive), self._answer)
            except Refused as why:
                if not self._status:
                    await self._refuse(why)
        except ConnectionResetError:
            self._status = self._status or 499  # the client is gone: nobody to answer
        finally:
            self._guard._budget.release(self._held)
            self._log(about["log"])

    def _check_token(self) -> None:
        path = self._scope["path"]
        if path not in OPEN and not path.startswith("/page/"):
            given = self._headers.get(b"authorization", b"").decode("latin1")
            check_token(given, self._guard._allowed.token)

    def _check_running(self) -> None:
        if self._guard.is_draining and self._scope["method"] != "GET":
            raise Refused(Kind.UNAVAILABLE, "the server is stopping; ask another one", retry_after=1)

    async def _body(self) -> bytes:
        """The whole body, unpacked.

        Raises:
            Refused: too large, too slow, or packed in a way that is not known.
            ConnectionResetError: the client went away.
        """
        limits = self._guard._limits
        declared = self._headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > limits.body_bytes:
            raise _too_large(limits)
        coding = self._headers.get(b"content-encoding", b"identity").lower()
        if coding != b"identity" and coding not in CODINGS:
            names = ", ".join(name.decode() for name in CODINGS)
            raise Refused(
                Kind.UNKNOWN_CODING, f"the body is packed as {coding[:40].decode('latin1')}; send {names}"
            )
        unpack = zlib.decompressobj(CODINGS[coding]) if coding in CODINGS else None
        parts: list[bytes] = []
        size = received = 0
        try:
            async with asyncio.timeout(limits.body_seconds):
                while True:
                    message = await self._receive()
                    self._is_read = not message.get("more_body")
                    if message["type"] == "http.disconnect":
                        raise ConnectionResetError
                    part = message.get("body", b"")
                    received += len(part)
                    if received > limits.body_bytes:
                        raise _too_large(limits)
                    if unpack is not None and part:
                        if unpack.eof:
                            raise _goes_on(coding)
                        part = unpack.decompress(part, limits.body_bytes - size + 1)
                    if part:
                        size += len(part)
                        if size > limits.body_bytes:
                            raise _too_large(limits)
                        self._guard._budget.hold(len(part))
                        self._held += len(part)
                        parts.append(part)
                    if self._is_read:
                        break
        except TimeoutError:
            raise Refused(
                Kind.SLOW, f"the body has not arrived within {limits.body_seconds:g} s; send it faster"
            ) from None
        except zlib.error:
            raise Refused(Kind.INVALID, f"the body is not {coding.decode()}, as its header says") from None
        if unpack is not None and received and not unpack.eof:
            raise Refused(Kind.INVALID, f"the body ends inside its {coding.decode()} stream")
        if unpack is not None and unpack.unused_data:
            raise _goes_on(coding)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _answer(self, message: Message) -> None:
        """Pass an answer on, with the id of the request."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self._id.encode())]
        await self._send(message)

    async def _refuse(self, why: Refused) -> None:
        body = json.dumps({"error": why.sentence}).encode()
        fields = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if why.retry_after is not None:
            fields.append((b"retry-after", str(why.retry_after).encode()))
        if why.kind is Kind.UNAUTHORIZED:
            fields.append((b"www-authenticate", b"Bearer"))
        fields.append((b"connection", b"close"))  # what is left of the body is not read
        await self._answer({"type": "http.response.start", "status": why.kind.http, "headers": fields})
        await self._answer({"type": "http.response.body", "body": body, "more_body": True})
        await self._throw_away()
        await self._answer({"type": "http.response.body"})

    async def _throw_away(self) -> None:
        """Take what a client still sends: a connection closed before would take the refusal with it."""
        if (
            self._is_read or b"expect" in self._headers
        ):  # who asked before sending a body does not send it now
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while not self._is_read:
                    message = await self._receive()
                    self._is_read = not message.get("more_body")

    def _log(self, more: dict[str, Any]) -> None:
        seconds = time.monotonic() - self._started
        self._guard._metrics.answered("http", str(self._status), seconds)
        client = self._scope.get("client")
        logs.answered(
            self._id, client[0] if client else "", self._scope["method"], self._scope["path"], self._status,
            seconds, more,
        )  # fmt: skip


class _Replay:
    """Hands a body over that was read already; afterwards it waits, as the server does, for the client to leave."""

    def __init__(self, body: bytes, receive: Receive):
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        return await self._receive()


def _goes_on(coding: bytes) -> Refused:
    return Refused(Kind.INVALID, f"the body goes on after its {coding.decode()} stream; send one stream")


def _too_large(limits: Limits) -> Refused:
    return Refused(
        Kind.TOO_LARGE,
        f"the body is larger than {limits.body_bytes >> 20} MiB, also when it was packed; send less",
    )
