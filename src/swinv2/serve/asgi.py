"""HTTP, as uvicorn serves it: the parser with its limits, the guard, and behind it the routes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import uvicorn

from swinv2.serve import http, rest
from swinv2.serve.guard import Guard
from swinv2.serve.service import Service
from swinv2.serve.settings import BACKLOG, Place


def server(service: Service, place: Place) -> tuple[Guard, uvicorn.Server]:
    """A server that has not begun, and the guard in it, by which it is drained."""
    guard = Guard(
        rest.application(service), limits=service.limits, allowed=service.access, metrics=service.metrics,
        budget=service.budget,
    )  # fmt: skip
    config = uvicorn.Config(
        guard, http=http.protocol(service.limits, service.metrics),  # type: ignore[arg-type]  # it only calls it
        ws="none", lifespan="off", log_config=None, access_log=False, server_header=False, date_header=True,
        ssl_certfile=place.certificate or None, ssl_keyfile=place.key or None, timeout_keep_alive=75, backlog=BACKLOG,
    )  # fmt: skip
    return guard, _Uvicorn(config)


class _Uvicorn(uvicorn.Server):
    """uvicorn without its signal handlers: gRPC and the models have to hear of a signal too."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
