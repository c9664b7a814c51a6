"""uvicorn's HTTP parser with limits that it lacks: how large headers may be, how long they and an answer may take,
how many requests may come before their answers.

What it refuses never reaches the routes: the refusal is written here, in the form of all others.
"""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from swinv2.serve.metrics import Metrics
from swinv2.serve.settings import Limits

WAITING = 32  # requests of one connection that may wait for the answers of earlier ones; few clients send any
REFUSAL = (
    "HTTP/1.1 {status} {phrase}\r\ncontent-type: application/json\r\nconnection: close\r\n"
    "content-length: {length}\r\n\r\n{body}"
)


def protocol(limits: Limits, metrics: Metrics) -> type[HttpToolsProtocol]:
    """The class that uvicorn makes one of per connection."""

    class Limited(HttpToolsProtocol):
        _reading_header = False  # a request has begun and its headers are not complete
        _header_bytes = 0
        _is_header_alone = False  # what has just arrived is of these headers, and of no earlier request
        _header_timer: asyncio.TimerHandle | None = None
        _answer_timer: asyncio.TimerHandle | None = None

        # -- headers ----------------------------------------------------------------------------------------

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._start_header_timer()

        def data_received(self, data: bytes) -> None:
            # Where a request follows another one without waiting, nobody says where in these bytes it begins:
            # they are not counted, the next ones are.
            is_idle = self.cycle is None or self.cycle.response_complete
            self._is_header_alone = self._reading_header or is_idle
            super().data_received(data)
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

        def on_body(self, body: bytes) -> None:
            if not self.transport.is_closing():
                super().on_body(body)

        def on_message_complete(self) -> None:
            if not self.transport.is_closing():
                super().on_message_complete()

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
            super().connection_lost(exc)

    return Limited
