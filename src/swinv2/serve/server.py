"""The life of a server: listen, load, answer, drain.

Health is answered from the first moment, requests as soon as the models are warm. SIGTERM or Ctrl-C: the server says
that it is not ready, refuses new requests, answers what it has begun, and ends with 0; the second signal ends it at
once.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from swinv2.serve.service import Service
from swinv2.serve.settings import BACKLOG, Place
from swinv2.verbs import UsageError


@dataclass(frozen=True)
class Address:
    """Where a server answers, once it does. http: https://host:port; grpc: host:port; either may be empty."""

    http: str
    grpc: str


async def run(service: Service, place: Place, *, look: float, ready: Callable[[Address], Any]) -> None:
    """Serve until a signal. look: seconds between two looks into folders of models. ready: called once all is loaded.

    Raises:
        UsageError: a port that is taken, a certificate that cannot be read.
        ValueError, ImportError, OSError, child.Died: a model that cannot be served.
    """
    stop = asyncio.Event()
    _check_certificate(place)
    with _listening(place) as sock, _signals(service, stop):
        grpc_host = _grpc_host(place)
        loading = asyncio.create_task(service.repository.load_all())
        try:
            # Workers open the models while this process imports what speaks the protocols, which takes as long.
            protocols = await asyncio.to_thread(_import, place)
            calls, grpc_address = await _grpc(service, place, grpc_host)
            guard, http = protocols.server(service, place)
            serving = asyncio.create_task(http.serve([sock] if sock else None))
            try:
                address = Address(_url(place, sock), grpc_address)
                stopping = asyncio.create_task(stop.wait())
                await asyncio.wait({loading, stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
                if loading.done():
                    loading.result()
                    async with service.repository.watched(look):
                        _settle()
                        ready(address)
                        await asyncio.wait({stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                service.is_stopping = True
                # Until both have ended, those who ask over HTTP whether the server is ready are told that it is not.
                await asyncio.gather(guard.drain(), _end(calls, service))
                http.should_exit = True
                await asyncio.wait({serving})
        finally:
            loading.cancel()
            await asyncio.wait({loading})
            await service.close()
        serving.result()  # where it ended by itself, why


def _import(place: Place) -> Any:
    """The modules of the protocols that are spoken; that of HTTP is returned."""
    if place.grpc_port is not None:  # who wants no gRPC starts faster
        import_module("swinv2.serve.grpc")
    return import_module("swinv2.serve.asgi")


def _settle() -> None:
    """What was loaded stays: it is not searched for garbage again, and requests, which leave little, more seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


def _grpc_host(place: Place) -> str:
    """Where gRPC will listen. A port that it cannot have is told before anything is loaded."""
    if place.grpc_port is None:
        return ""
    with _bound(place.host, place.grpc_port, "--grpc-port") as sock:
        host: str = sock.getsockname()[0]
        return host


async def _grpc(service: Service, place: Place, host: str) -> tuple[Any, str]:
    """A server for gRPC that has started, and where it answers; None and "" where there shall be none."""
    if place.grpc_port is None:
        return None, ""
    from swinv2.serve import grpc

    server = grpc.server(service)
    try:
        address = grpc.listen(server, host, place.grpc_port, certificate=place.certificate, key=place.key)
    except RuntimeError:  # somebody else was faster, or gRPC does not read this kind of key
        raise UsageError(
            f"gRPC cannot listen on {place.host} port {place.grpc_port}; choose another --grpc-port"
            f"{' or another kind of key' if place.key else ''}"
        ) from None
    await server.start()
    return server, address


async def _end(calls: Any, service: Service) -> None:
    """Take no more calls, and wait for those that have begun."""
    if calls is not None:
        await calls.stop(service.limits.longest_seconds)


@contextlib.contextmanager
def _listening(place: Place) -> Iterator[socket.socket | None]:
    """The socket for HTTP, bound before anything is loaded: a port that is taken is told at once."""
    if place.http_port is None:
        yield None
        return
    with _bound(place.host, place.http_port, "--http-port") as sock:
        yield sock


def _bound(host: str, port: int, option: str) -> socket.socket:
    """A socket that listens.

    Raises:
        UsageError: it cannot, and why.
    """
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)  # only now is a port taken for certain: two may bind it
    except (OSError, OverflowError) as error:
        sock.close()
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"cannot listen on {host} port {port}: {why.lower()}; choose another {option}"
        ) from None
    return sock


def _check_certificate(place: Place) -> None:
    """Raises UsageError where the files for TLS are none, before anything is loaded."""
    if not place.certificate:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(place.certificate, place.key, "")
    except (OSError, ValueError) as error:  # of which ssl.SSLError is one
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"{place.certificate} and {place.key} are no certificate with its key in PEM: {why.lower()}"
        ) from None


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
