"""The verb `swinv2 serve`: models behind REST and gRPC, with a page to try them on. Needs no torch."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from swinv2 import console
from swinv2.extras import require_later
from swinv2.verbs import Exit, UsageError

if TYPE_CHECKING:
    from swinv2.serve.server import Address


def command(
    models: list[str],
    *,
    host: str = "127.0.0.1",
    http_port: int = 8000,
    grpc_port: int = 8001,
    no_grpc: bool = False,
    runtime: str = "auto",
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16", "fp16", "fp8", "int8"] = "auto",
    workers: int = 1,
    threads: int | None = None,
    worker_threads: bool = False,
    max_batch_size: int = 8,
    max_queue_delay_ms: float = 2.0,
    max_queue: int = 256,
    timeout: float = 60.0,
    look: float = 5.0,
    control: bool = False,
    reflection: bool = False,
    token_file: str | None = None,
    certificate: str | None = None,
    key: str | None = None,
    quiet: bool = False,
    json: bool = False,
) -> int:
    """Answer questions about pictures over HTTP and gRPC.

    The protocol is that of KServe and Triton (Open Inference Protocol), so that their clients work; /predict takes
    a picture and answers in JSON, and the address itself opens a page in a browser. Every request is one line of
    JSON on stderr. SIGTERM finishes the requests that have begun and ends with 0; a second signal ends at once.

    Args:
        models: model files, exported or not, published names, name:file, or folders <name>/<version>/<file>.
        host: address to listen on; 0.0.0.0 for all of this machine.
        http_port: for REST and the page; 0 takes a free one.
        grpc_port: for gRPC; 0 takes a free one.
        no_grpc: do not listen for gRPC.
        runtime: what computes; auto takes the best that is installed and opens the model.
        device: cpu, cuda, cuda:1, ...; several with commas, each has workers of its own.
        precision: of the computation; auto takes that of the file, fp32 where it does not say.
        workers: processes per model and device; the cores are shared among them.
        threads: of the computation, of each worker.
        worker_threads: compute in threads of the server instead of processes, which use less memory and protect less.
        max_batch_size: images that a worker computes at once.
        max_queue_delay_ms: milliseconds that an image waits for others while other workers compute.
        max_queue: images that wait or are computed; more are refused with 503.
        timeout: seconds after which a request is given up with 504; clients may ask for less.
        look: seconds between two looks into folders for new versions; 0 for never.
        control: let clients load and unload models.
        reflection: let gRPC tell its services.
        token_file: file with a token that every request must bear (Authorization: Bearer ...).
        certificate: file with a certificate in PEM, for TLS.
        key: file with its private key.
        quiet: no line for each request.
        json: print one JSON object with the addresses once the models answer.

    Examples:
        swinv2 serve runs/flowers/best.safetensors
        swinv2 serve flowers:best.onnx dogs:other.onnx --host 0.0.0.0 --workers 2
        swinv2 serve models/ --control --token-file token.txt
    """
    require_later("fastapi", extra="serve")
    from swinv2.serve import logs, server
    from swinv2.serve.service import Service
    from swinv2.serve.settings import Access, Batching, Compute, Limits, Place

    if workers < 1:
        raise UsageError(f"workers is {workers}; give at least 1")
    if timeout <= 0:
        raise UsageError(f"timeout is {timeout}; give seconds above 0")
    if bool(certificate) != bool(key):
        raise UsageError("TLS needs both --certificate and --key")
    logs.configure(each_request=not quiet)
    service = Service(
        models,
        compute=Compute(
            runtime, precision, tuple(name.strip() for name in device.split(",") for _ in range(workers)), threads,
            processes=not worker_threads,
        ),
        batching=Batching(max_batch_size, max_queue_delay_ms, max_queue),
        limits=Limits(request_seconds=timeout),
        access=Access(_token(token_file), control=control, reflection=reflection),
    )  # fmt: skip
    place = Place(host, http_port, None if no_grpc else grpc_port, certificate or "", key or "")

    def ready(address: Address) -> None:
        if json:
            console.emit_json(
                {"http": address.http, "grpc": address.grpc, "models": service.repository.index()}
            )
            return
        out = console.stdout()
        names = ", ".join(service.repository.names)
        out.print(
            f"{names} at {address.http} (page, REST){f' and {address.grpc} (gRPC)' if address.grpc else ''}"
        )

    with asyncio.Runner(loop_factory=_fast_loop()) as runner:
        runner.run(server.run(service, place, look=look, ready=ready))
    return Exit.DONE


def _token(file: str | None) -> str:
    if file is None:
        return ""
    token = Path(file).read_text(encoding="ascii", errors="replace").strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError(f"{file} should hold one token of ASCII characters without spaces")
    return token


def _fast_loop():  # type: ignore[no-untyped-def]
    """uvloop where it is installed: it reads large bodies in fewer steps."""
    if os.environ.get("SWINV2_LOOP") == "asyncio":
        return None
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
