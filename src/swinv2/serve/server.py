"""The life of a server: listen, load, answer, drain.

Health is answered from the first moment, requests as soon as the models are warm. SIGTERM or Ctrl-C: the server says
that it is not ready, takes no new connections, answers what it has begun, and ends with 0; the second signal ends it
at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import uvicorn

from swinv2.serve import http, rest
from swinv2.serve.guard import Guard
from swinv2.serve.service import Service
from swinv2.verbs import UsageError


@dataclass(frozen=True)
class Place:
    """Where a server listens. Ports: 0 for a free one, None for none. certificate, key: files in PEM, for TLS."""

    host: str = "127.0.0.1"
    http_port: int | None = 8000
    grpc_port: int | None = 8001
    certificate: str = ""
    key: str = ""

    @property
    def scheme(self) -> str:
        return "https" if self.certificate else "http"


@dataclass(frozen=True)
class Address:
    """Where a server answers, once it does."""

    http: str
    grpc: str


async def run(service: Service, place: Place, *, look: float, ready: Callable[[Address], Any]) -> None:
    """Serve until a signal. look: seconds between two looks into folders of models. ready: called once all is loaded.

    Raises:
        UsageError: a port that is taken, a certificate that cannot be read.
        ValueError, ImportError, OSError, child.Died: a model that cannot be served.
    """
    stop = asyncio.Event()
    with _listening(place) as sock, _signals(service, stop):
        server = _Uvicorn(_config(service, place))
        serving = asyncio.create_task(server.serve([sock] if sock else None))
        try:
            address = Address(_url(place, sock), "")
            loading = asyncio.create_task(service.repository.load_all())
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait({loading, stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
            if loading.done():
                loading.result()
                async with service.repository.watched(look):
                    ready(address)
                    await asyncio.wait({stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
            loading.cancel()
        finally:
            service.is_stopping = True
            server.should_exit = True
            await asyncio.gather(serving, return_exceptions=True)
            await service.close()


class _Uvicorn(uvicorn.Server):
    """uvicorn without its signal handlers: gRPC and the models have to hear of a signal too."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _config(service: Service, place: Place) -> uvicorn.Config:
    app = Guard(
        rest.application(service), limits=service.limits, allowed=service.access, metrics=service.metrics
    )
    return uvicorn.Config(
        app, http=http.protocol(service.limits), ws="none", lifespan="off", log_config=None, access_log=False,
        server_header=False, date_header=True, ssl_certfile=place.certificate or None, ssl_keyfile=place.key or None,
        timeout_keep_alive=75, backlog=1024,
    )  # fmt: skip


@contextlib.contextmanager
def _listening(place: Place) -> Iterator[socket.socket | None]:
    """The socket for HTTP, bound before anything is loaded: a port that is taken is told at once."""
    if place.http_port is None:
        yield None
        return
    family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    sock = socket.socket(family)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((place.host, place.http_port))
    except (OSError, OverflowError) as error:
        sock.close()
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"cannot listen on {place.host} port {place.http_port}: {why.lower()}; choose another --http-port"
        ) from None
    with sock:
        yield sock


@contextlib.contextmanager
def _signals(service: Service, stop: asyncio.Event) -> Iterator[None]:
    """The first signal drains, the second one ends the process."""

    def first(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)
        service.is_stopping = True
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, first, number)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _url(place: Place, sock: socket.socket | None) -> str:
    if sock is None:
        return ""
    host, port = sock.getsockname()[:2]
    return f"{place.scheme}://{f'[{host}]' if ':' in host else host}:{port}"
