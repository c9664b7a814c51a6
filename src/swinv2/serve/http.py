"""uvicorn's HTTP parser with two limits that it lacks: how large headers may be, and how long they may take."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from swinv2.serve.settings import Limits

REFUSAL = (
    "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\n"
    "content-length: {length}\r\n\r\n{body}"
)


def protocol(limits: Limits) -> type[HttpToolsProtocol]:
    """The class that uvicorn makes one of per connection."""

    class Limited(HttpToolsProtocol):
        _reading_header = False  # a request has begun and its headers are not complete
        _header_bytes = 0
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._start_timer()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._reading_header:
                self._header_bytes += len(data)
                if self._header_bytes > limits.header_bytes:
                    self._refuse(
                        "431 Request Header Fields Too Large", f"more than {limits.header_bytes >> 10} KiB"
                    )

        def on_message_begin(self) -> None:
            self._reading_header, self._header_bytes = True, 0
            if self._timer is None:  # a further request of a kept connection
                self._start_timer()
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._reading_header = False
            self._stop_timer()
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > limits.header_bytes:  # they came in one piece with the body
                self._refuse(
                    "431 Request Header Fields Too Large", f"more than {limits.header_bytes >> 10} KiB"
                )
            else:
                super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            if not self.transport.is_closing():  # what follows headers that were refused is not looked at
                super().on_body(body)

        def on_message_complete(self) -> None:
            if not self.transport.is_closing():
                super().on_message_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(exc)

        def _start_timer(self) -> None:
            self._timer = self.loop.call_later(limits.header_seconds, self._too_slow)

        def _stop_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _too_slow(self) -> None:
            self._timer = None
            if self._reading_header:
                self._refuse("408 Request Timeout", f"not complete after {limits.header_seconds:g} s")
            else:
                self.transport.close()  # nothing was ever asked

        def _refuse(self, status: str, what: str) -> None:
            if not self.transport.is_closing():
                body = f'{{"error": "the headers of the request are {what}; send fewer, and at once"}}'
                self.transport.write(REFUSAL.format(status=status, length=len(body), body=body).encode())
                self.transport.close()

    return Limited
