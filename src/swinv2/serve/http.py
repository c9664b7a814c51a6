"""uvicorn's HTTP parser with limits that it lacks: how large headers may be, how long they and an answer may take,
how many requests may come before their answers. What it refuses never reaches the routes: the refusal is written here,
in the form of all others.

And with fewer copies of a body: connections read into memory that they share, and what they read of a body is put
together once.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from swinv2.serve.metrics import Metrics
from swinv2.serve.settings import Limits

READ = 1 << 20  # bytes that a connection reads at a time
GATHERED = 8 << 20  # of a body, before they are handed on: every time wakes the application
ALL_GATHERED = 64 << 20  # of all connections; nobody has counted them yet
WAITING = 32  # requests of one connection that may wait for the answers of earlier ones; few clients send any
REFUSAL = (
    "HTTP/1.1 {status} {phrase}\r\ncontent-type: application/json\r\nconnection: close\r\n"
    "content-length: {length}\r\n\r\n{body}"
)


def protocol(limits: Limits, metrics: Metrics) -> Callable[..., asyncio.BufferedProtocol]:
    """What uvicorn calls for every connection."""
    memory = memoryview(bytearray(READ))
    gathered = 0  # bytes of all connections that wait for the rest of their pieces

    class Limited(HttpToolsProtocol):
        _reading_header = False  # a request has begun and its headers are not complete
        _header_bytes = 0
        _is_header_alone = False  # what has just arrived is of these headers, and of no earlier request
        _header_timer: asyncio.TimerHandle | None = None
        _answer_timer: asyncio.TimerHandle | None = None
        _parts: list[bytes]  # of a body, not yet handed on
        _gathered = 0  # bytes of them

        # -- headers ----------------------------------------------------------------------------------------

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._parts = []
            self._start_header_timer()

        def data_received(self, data: bytes | memoryview) -> None:
            # Where a request follows another one without waiting, nobody says where in these bytes it begins:
            # they are not counted, the next ones are.
            is_idle = self.cycle is None or self.cycle.response_complete
            self._is_header_alone = self._reading_header or is_idle
            super().data_received(data)  # type: ignore[arg-type]  # the parser takes both
            if self._reading_header and self._is_header_alone:
                self._header_bytes += len(data)
                if self._header_bytes > limits.header_bytes:
                    self._refuse_header()

        def on_message_begin(self) -> None:
            self._reading_header, self._header_bytes = True, 0
            if self._header_timer is None:  # a further request of a kept connection
                self._start_header_timer()
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._reading_header = self._is_header_alone = False
            self._stop_header_timer()
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if self.transport.is_closing():  # what follows is not looked at
                return
            if size > limits.header_bytes:  # they came in one piece with the body
                self._refuse_header()
            elif len(self.pipeline) >= WAITING:  # a refusal would come before the answers that are awaited
                self.transport.close()
            else:
                super().on_headers_complete()

        def send_400_response(self, msg: str) -> None:
            self._refuse(HTTPStatus.BAD_REQUEST, "the request is not HTTP that is read here")

        def _start_header_timer(self) -> None:
            self._header_timer = self.loop.call_later(limits.header_seconds, self._header_is_late)

        def _stop_header_timer(self) -> None:
            if self._header_timer is not None:
                self._header_timer.cancel()
                self._header_timer = None

        def _header_is_late(self) -> None:
            self._header_timer = None
            if self._reading_header:
                seconds = f"{limits.header_seconds:g} s"
                self._refuse(
                    HTTPStatus.REQUEST_TIMEOUT,
                    f"the headers have not arrived within {seconds}; send them at once",
                )
            else:
                self.transport.close()  # nothing was ever asked

        def _refuse_header(self) -> None:
            size = f"{limits.header_bytes >> 10} KiB"
            self._refuse(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                f"the address and the headers have more than {size}; send fewer",
            )

        def _refuse(self, status: HTTPStatus, sentence: str) -> None:
            if self.transport.is_closing():
                return
            metrics.refused("http", str(status.value))
            body = json.dumps({"error": sentence})
            answer = REFUSAL.format(status=status.value, phrase=status.phrase, length=len(body), body=body)
            self.transport.write(answer.encode())
            self.transport.close()

        # -- bodies -----------------------------------------------------------------------------------------

        def on_body(self, body: bytes) -> None:
            nonlocal gathered
            if self.transport.is_closing() or self.cycle.response_complete:
                return
            self._parts.append(body)
            self._gathered, gathered = self._gathered + len(body), gathered + len(body)
            if self._gathered > GATHERED or gathered > ALL_GATHERED:
                self._hand_on()
                self.flow.pause_reading()
                self.cycle.message_event.set()

        def on_message_complete(self) -> None:
            if self.transport.is_closing():
                self._forget()
            else:
                self._hand_on()
                super().on_message_complete()

        def _hand_on(self) -> None:
            """The application takes what was gathered, and counts it."""
            if self._parts:
                before = [self.cycle.body] if self.cycle.body else []
                self.cycle.body = b"".join([*before, *self._parts])  # type: ignore[assignment]  # one part: no copy
                self._forget()

        def _forget(self) -> None:
            nonlocal gathered
            self._parts, self._gathered, gathered = [], 0, gathered - self._gathered

        # -- answers ----------------------------------------------------------------------------------------

        def pause_writing(self) -> None:
            """What was written waits for the client to take it."""
            super().pause_writing()
            self._answer_timer = self.loop.call_later(limits.answer_seconds, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._stop_answer_timer()

        def _stop_answer_timer(self) -> None:
            if self._answer_timer is not None:
                self._answer_timer.cancel()
                self._answer_timer = None

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_header_timer()
            self._stop_answer_timer()
            self._forget()
            super().connection_lost(exc)

    class Connection(asyncio.BufferedProtocol):
        """Reads for the parser, into the memory of all: it is read and parsed before another connection reads."""

        def __init__(self, **settings: Any):
            self._parser = Limited(**settings)

        def get_buffer(self, sizehint: int) -> memoryview:
            return memory

        def buffer_updated(self, nbytes: int) -> None:
            self._parser.data_received(memory[:nbytes])

        def connection_made(self, transport: Any) -> None:
            self._parser.connection_made(transport)

        def connection_lost(self, exc: Exception | None) -> None:
            self._parser.connection_lost(exc)

        def eof_received(self) -> None:
            self._parser.eof_received()

        def pause_writing(self) -> None:
            self._parser.pause_writing()

        def resume_writing(self) -> None:
            self._parser.resume_writing()

    return Connection
