"""How a server behaves: where it listens, what it may take from strangers, how it gathers batches, who computes."""

from __future__ import annotations

import os
from dataclasses import dataclass

BACKLOG = 1024  # connections that wait to be taken


@dataclass(frozen=True)
class Limits:
    """What a client may ask; everything above is refused with a sentence before it costs much.

    Args:
        body_bytes: of a request, after decompression.
        bodies_bytes: of all requests that are being read or answered at one time.
        header_bytes: of the request line and all headers together.
        images: of one request.
        pixels: of one encoded picture; decoding takes up to 10 bytes for each.
        calls: of gRPC that are received or answered at one time; probes are not counted.
        header_seconds, body_seconds: in which the headers and the body must have arrived.
        answer_seconds: in which a client must have taken an answer.
        request_seconds: from the body to the answer, where the client names no deadline.
    """

    body_bytes: int = 64 << 20
    bodies_bytes: int = 1 << 30
    header_bytes: int = 32 << 10
    images: int = 256
    pixels: int = 64_000_000
    calls: int = 1024
    header_seconds: float = 10
    body_seconds: float = 60
    answer_seconds: float = 60
    request_seconds: float = 60

    @property
    def longest_seconds(self) -> float:
        """That anything takes which a client has begun."""
        return self.body_seconds + self.request_seconds + self.answer_seconds


@dataclass(frozen=True)
class Batching:
    """How images of different requests share a run of the model.

    Args:
        max_batch_size: images of one run.
        max_queue_delay_ms: how long the first image of a batch waits for others while some workers compute and
            others are free; where none computes it does not wait.
        max_queue: images that wait or are computed at most; more are refused (503, RESOURCE_EXHAUSTED).

    Raises:
        ValueError: values that cannot be meant.
    """

    max_batch_size: int = 8
    max_queue_delay_ms: float = 2.0
    max_queue: int = 256

    def __post_init__(self) -> None:
        if self.max_batch_size < 1:
            raise ValueError(f"max_batch_size is {self.max_batch_size}; give at least 1")
        if self.max_queue_delay_ms < 0:
            raise ValueError(f"max_queue_delay_ms is {self.max_queue_delay_ms}; give 0 or more")
        if self.max_queue < self.max_batch_size:
            raise ValueError(
                f"max_queue is {self.max_queue}, less than one batch of {self.max_batch_size}; give more"
            )


@dataclass(frozen=True)
class Compute:
    """Who computes the answers of one model.

    Args:
        runtime, precision: as runtimes.open_session takes them.
        devices: one worker for each; a device may be named twice.
        threads: of each worker on a CPU; None shares the cores among the workers.
        processes: a process per worker, which may die alone; otherwise a thread of the server.
        pin: bind the worker processes to cores of their own.

    Raises:
        ValueError: values that cannot be meant.
    """

    runtime: str = "auto"
    precision: str = "auto"
    devices: tuple[str, ...] = ("auto",)
    threads: int | None = None
    processes: bool = True
    pin: bool = True

    def __post_init__(self) -> None:
        if not self.devices:
            raise ValueError("no device is given; name at least one, or leave the option out")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads is {self.threads}; give at least 1")

    def cores(self, worker: int) -> tuple[int, ...]:
        """The cores on which one worker computes: an equal share, and shared ones where there are too few."""
        every = usable_cores()
        workers = len(self.devices)
        each = self.threads or max(1, len(every) // workers)
        start = worker * each % len(every)
        return tuple((every * 2)[start : start + min(each, len(every))])


@dataclass(frozen=True)
class Access:
    """Who may ask what.

    Args:
        token: that every request must bear, but for health, metadata of the server, and the page; empty for none.
        control: whether clients may load and unload models.
        explain: whether clients may ask where a model looks (needs torch).
        reflection: whether gRPC tells its services to those who ask.
    """

    token: str = ""
    control: bool = False
    explain: bool = True
    reflection: bool = False


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


def usable_cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
