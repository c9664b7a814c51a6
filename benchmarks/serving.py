"""`swinv2 serve` beside the bare runtime and beside LitServe: the same weights, runtime, threads and requests.

    pip install litserve
    python benchmarks/serving.py [--model swinv2_tiny_window8_256] [--precisions fp32 int8] [--workers 1 2] [--rounds 3]

Three contenders compute with the engine on all cores: the bare runtime in this process (batches of 8 in a row, the next
pictures being decoded meanwhile), `swinv2 serve` over REST and gRPC, and LitServe. Both servers share the cores among 1
worker and among 2. The clients (load.py) run in this process, on the cores that the server computes on. Every round
gives each contender, kind of input and number of clients a turn; nothing is timed before its answers were compared with
the runtime's. Beside them stands what the transport costs: the processor time of clients and of a server that takes the
same requests and throws them away; no server on these cores can give more than what that leaves of the bare runtime.
Medians of the rounds go to benchmarks/results/serving-cpu.json; docs/generate.py makes the tables of docs/serve.md.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from inference import RESULTS, lively, write_results
from load import GrpcClient, HttpClient, Load, at_rate, saturate
from PIL import Image
from tritonclient.grpc import service_pb2

from swinv2 import artifact
from swinv2.artifact import Record
from swinv2.model import create_model
from swinv2.preprocess import Preprocess
from swinv2.runtimes.engine import EngineSession

LIBRARIES = ("uvicorn", "fastapi", "grpcio", "litserve", "numpy", "pillow")
BATCH = 8
PICTURES = 16
INPUTS = ("pixels", "jpeg")
NAME = "model"
TOLERANCE = 1e-5  # of the largest logit: batches of another size may round otherwise
LITSERVE = """
import sys
from typing import Annotated
import litserve, numpy as np
from fastapi import Body
from swinv2.runtimes import open_session

class Api(litserve.LitAPI):
    def setup(self, device):
        self.session = open_session(sys.argv[1], "engine", precision=sys.argv[2], threads=int(sys.argv[3]))
        self.preprocess = self.session.record.preprocess

    def decode_request(self, request: Annotated[bytes, Body()]):  # the body as it is, the least work
        if request[:2] == b"\\xff\\xd8":
            return self.preprocess.load(request)
        return np.frombuffer(request, np.float32).reshape(3, *self.preprocess.size)

    def batch(self, inputs):
        return np.stack(inputs)

    def predict(self, batch):
        return self.session.run(batch)

    def unbatch(self, output):
        return list(output)

    def encode_response(self, output):
        return {"logits": output.tolist()}
"""

TRANSPORT = """
import asyncio, uvloop
memory = memoryview(bytearray(1 << 20))

class Sink(asyncio.BufferedProtocol):
    left = 0

    def connection_made(self, transport):
        self.transport = transport

    def get_buffer(self, sizehint):
        return memory

    def buffer_updated(self, nbytes):
        if not self.left:
            head = bytes(memory[:4096])
            length = head.lower().split(b"content-length: ")[1].split(b"\\r\\n")[0]
            self.left = head.index(b"\\r\\n\\r\\n") + 4 + int(length)
        self.left -= nbytes
        if not self.left:
            self.transport.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: 0\\r\\n\\r\\n")

async def main():
    server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

uvloop.run(main())
"""


@dataclass
class Contender:
    """One way to ask. requests: per input the encoded ones, in the order of the pictures."""

    name: str
    workers: int
    client: type[HttpClient] | type[GrpcClient]
    address: str
    requests: dict[str, list[bytes]]
    logits: object  # bytes of an answer -> float32 [classes]
    process: int = 0  # of a server that is stopped while others are measured: LitServe's idle workers poll

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        if not self.process:
            yield
            return
        os.killpg(self.process, signal.SIGCONT)
        try:
            yield
        finally:
            os.killpg(self.process, signal.SIGSTOP)


def pictures() -> list[bytes]:
    """JPEG files as cameras and phones send them after scaling: 500 x 375 pixels with detail, about 60 kB."""
    rng, files = np.random.default_rng(0), []
    for _ in range(PICTURES):
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8))
        fine = rng.integers(-12, 13, (375, 500, 3))
        pixels = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), np.int64) + fine
        file = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def write_model(name: str, folder: Path) -> Path:
    model = lively(create_model(name)).eval()
    record = Record(model.config, Preprocess.official(model.config.image_size))
    artifact.write(folder / f"{NAME}.safetensors", record, model.state_dict())
    return folder / f"{NAME}.safetensors"


# -- the servers ----------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@contextlib.contextmanager
def swinv2_serving(source: Path, precision: str, workers: int) -> Iterator[dict[str, str]]:
    """The server; yields its addresses."""
    command = [sys.executable, "-m", "swinv2", "serve", f"{NAME}:{source}", "--precision", precision, "--json",
               "--http-port", "0", "--grpc-port", "0", "--max-batch-size", str(BATCH),
               "--workers", str(workers)]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        said = ""
        for line in process.stdout or ():
            said += line
            if line == "}\n":
                break
        try:
            yield json.loads(said)
        finally:
            process.terminate()


@contextlib.contextmanager
def litserve_serving(source: Path, precision: str, workers: int) -> Iterator[tuple[str, int]]:
    """LitServe with the same model; yields its address and its group of processes, stopped."""
    port, threads = free_port(), max(1, len(os.sched_getaffinity(0)) // workers)
    script = source.with_name("lit.py")
    script.write_text(
        LITSERVE
        + f"\nif __name__ == '__main__':\n    litserve.LitServer(Api(max_batch_size={BATCH}, batch_timeout=0.002), "
        f"accelerator='cpu', workers_per_device={workers}, timeout=60).run(host='127.0.0.1', port={port}, "
        "generate_client_file=False, log_level='error')\n"
    )
    command = [sys.executable, str(script), str(source), precision, str(threads)]
    nothing = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=nothing, stderr=nothing, start_new_session=True) as process:
        try:
            wait_for(f"http://127.0.0.1:{port}/health", process)
            os.killpg(process.pid, signal.SIGSTOP)
            yield f"http://127.0.0.1:{port}", process.pid
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # its workers outlive it otherwise


def transport_ms(requests: list[bytes], clients: int, seconds: float) -> float:
    """Milliseconds of processor time that a request takes to arrive: of its client, the kernel and who reads it."""
    with subprocess.Popen([sys.executable, "-c", TRANSPORT], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            address = f"http://127.0.0.1:{int(process.stdout.readline())}"
            before = time.process_time() + processor_seconds(process.pid)
            load = asyncio.run(
                saturate([HttpClient(address) for _ in range(clients)], requests, seconds, skip=0)
            )
            taken = time.process_time() + processor_seconds(process.pid) - before
        finally:
            process.kill()
    return 1000 * taken / len(load.moments)


def processor_seconds(pid: int) -> float:
    """That a process has taken until now."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_for(address: str, process: subprocess.Popen) -> None:
    for _ in range(600):
        with contextlib.suppress(OSError):
            if urllib.request.urlopen(address, timeout=1).status == 200:
                return
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise SystemExit(f"{address} does not answer; is litserve installed?")


# -- requests, encoded by the clients of Triton ------------------------------------------------------------------


def triton_input(module, tensor: np.ndarray | bytes):  # type: ignore[no-untyped-def]
    if isinstance(tensor, bytes):
        asked = module.InferInput("image", [1], "BYTES")
        asked.set_data_from_numpy(np.array([tensor], dtype=object))
        return asked
    asked = module.InferInput("pixels", [1, *tensor.shape], "FP32")
    asked.set_data_from_numpy(tensor[None])
    return asked


def http_request(path: str, body: bytes, fields: dict[str, str]) -> bytes:
    fields = {"Host": "127.0.0.1", "Content-Length": str(len(body)), **fields}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body


def rest_request(tensor: np.ndarray | bytes) -> bytes:
    outputs = [triton_http.InferRequestedOutput("logits")]
    body, length = triton_http.InferenceServerClient.generate_request_body(
        [triton_input(triton_http, tensor)], outputs=outputs
    )
    fields = {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(length or len(body)),
    }
    return http_request(f"/v2/models/{NAME}/infer", body, fields)


def rest_logits(body: bytes) -> np.ndarray:
    _, rest = json.JSONDecoder().raw_decode(body.decode("latin1"))
    return np.frombuffer(body[rest:], np.float32)


def grpc_request(tensor: np.ndarray | bytes) -> bytes:
    message = service_pb2.ModelInferRequest(model_name=NAME)
    asked = triton_input(triton_grpc, tensor)
    message.inputs.append(asked._get_tensor())
    message.raw_input_contents.append(asked._get_content())
    message.outputs.append(triton_grpc.InferRequestedOutput("logits")._get_tensor())
    return message.SerializeToString()


def grpc_logits(body: bytes) -> np.ndarray:
    return np.frombuffer(service_pb2.ModelInferResponse.FromString(body).raw_output_contents[0], np.float32)


def lit_request(tensor: np.ndarray | bytes) -> bytes:
    body = tensor if isinstance(tensor, bytes) else tensor.tobytes()
    return http_request("/predict", body, {"Content-Type": "application/octet-stream"})


def lit_logits(body: bytes) -> np.ndarray:
    return np.array(json.loads(body)["logits"], np.float32)


# -- measuring ----------------------------------------------------------------------------------------------


class Bare:
    """The runtime without a server: batches in a row; for pictures, a pool decodes the next batch meanwhile."""

    def __init__(self, session: EngineSession, tensors: list[np.ndarray], files: list[bytes]):
        self._session, self._files = session, files
        self._batches = [np.stack(tensors[i : i + BATCH]) for i in range(0, len(tensors), BATCH)]
        self._pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))

    def _decoded(self, number: int):  # type: ignore[no-untyped-def]
        start = number * BATCH % len(self._files)
        load = self._session.record.preprocess.load
        return [self._pool.submit(load, file) for file in self._files[start : start + BATCH]]

    def per_second(self, kind: str, seconds: float) -> float:
        coming = self._decoded(0) if kind == "jpeg" else []
        wait(coming)
        begin, images, number = time.perf_counter(), 0, 0
        while time.perf_counter() < begin + seconds:
            if kind == "jpeg":
                batch = np.stack([future.result() for future in coming])
                coming = self._decoded(number + 1)
            else:
                batch = self._batches[number % len(self._batches)]
            self._session.run(batch)
            images, number = images + len(batch), number + 1
        return images / (time.perf_counter() - begin)


def compare(contender: Contender, expected: np.ndarray) -> None:
    """Every answer is that of the runtime, or there is nothing to measure."""

    async def ask() -> None:
        async with contender.client(contender.address) as ask:
            for kind in INPUTS:
                for number, request in enumerate(contender.requests[kind]):
                    logits = contender.logits(await ask(request))
                    error = np.abs(logits - expected[number]).max() / np.abs(expected[number]).max()
                    assert error <= TOLERANCE, f"{contender.name}, {kind} {number}: {error}"

    with contender.awake():
        asyncio.run(ask())


def run(contender: Contender, kind: str, clients: int, seconds: float, rate: float = 0) -> Load:
    made = [contender.client(contender.address) for _ in range(clients)]
    requests = contender.requests[kind]
    with contender.awake():
        if rate:
            return asyncio.run(at_rate(made, requests, rate, seconds))
        return asyncio.run(saturate(made, requests, seconds))


def contenders_of(
    places: dict[str, str], lit: tuple[str, int], workers: int, asked: dict[str, list]
) -> list[Contender]:
    ways = (
        ("REST", HttpClient, places["http"], rest_request, rest_logits, 0),
        ("gRPC", GrpcClient, places["grpc"], grpc_request, grpc_logits, 0),
        ("LitServe", HttpClient, lit[0], lit_request, lit_logits, lit[1]),
    )
    return [
        Contender(
            name,
            workers,
            client,
            address,
            {k: [encode(t) for t in asked[k]] for k in INPUTS},
            logits,
            process,
        )
        for name, client, address, encode, logits, process in ways
        if address
    ]


def run_precision(source: Path, precision: str, args: argparse.Namespace) -> list[dict]:
    """All rows of one precision."""
    session = EngineSession(source, precision=precision, threads=len(os.sched_getaffinity(0)))
    load = session.record.preprocess.load
    files = pictures()
    tensors = [load(file) for file in files]
    expected = np.concatenate([session.run(tensor[None]) for tensor in tensors])
    asked = dict(zip(INPUTS, (tensors, files), strict=True))
    with contextlib.ExitStack() as stack:
        contenders = []
        for workers in args.workers:
            places = stack.enter_context(swinv2_serving(source, precision, workers))
            lit = "", 0
            if not args.without_litserve:
                lit = stack.enter_context(litserve_serving(source, precision, workers))
            contenders += contenders_of(places, lit, workers, asked)
        for contender in contenders:
            compare(contender, expected)
        rows = measure(Bare(session, tensors, files), contenders, args)
    return [{"model": args.model, "precision": precision, "batch": BATCH, **row} for row in rows]


def measure(bare: Bare, contenders: list[Contender], args: argparse.Namespace) -> list[dict]:
    """Per input the bare runtime; per contender its speed by number of clients, and its latencies at half load.

    Machines are faster and slower by the minute: each turn is compared with the bare runtime just before and after it.
    """
    alone: dict[str, list[float]] = {kind: [] for kind in INPUTS}
    full: dict[tuple, list[float]] = {}
    half: dict[tuple, list[Load]] = {}
    for number in range(args.rounds):
        for kind in INPUTS:
            print(f"round {number + 1}, {kind}", flush=True)
            before = bare.per_second(kind, 1)
            for contender in contenders:
                key = kind, contender.name, contender.workers
                for clients in args.clients:
                    load = run(contender, kind, clients, args.seconds)
                    after = bare.per_second(kind, 1)
                    full.setdefault((*key, clients), []).append(2 * load.per_second / (before + after))
                    print(f"  {key[1:]} {clients}: {full[*key, clients][-1]:.2f} of {after:.1f}", flush=True)
                    alone[kind].append(after)
                    before = after
                rate = statistics.median(alone[kind]) / 2
                half.setdefault(key, []).append(run(contender, kind, max(args.clients), args.seconds, rate))
    rows: list[dict] = []
    for kind in INPUTS:
        speed = statistics.median(alone[kind])
        rows.append({"input": kind, "contender": "bare runtime", "per_second": speed})
        arriving = transport_ms(contenders[0].requests[kind], max(args.clients), args.seconds)
        computing = 1000 * len(os.sched_getaffinity(0)) / speed
        rows.append({
            "input": kind, "contender": "transport", "processor_ms": arriving,
            "of_bare_at_most": computing / (computing + arriving),
        })  # fmt: skip
        for contender in contenders:
            key = kind, contender.name, contender.workers
            shares = {str(clients): statistics.median(full[*key, clients]) for clients in args.clients}
            percentiles = {
                f"p{percent}_ms": 1000 * statistics.median(load.percentile(percent) for load in half[key])
                for percent in (50, 99)
            }
            rows.append({
                "input": kind, "contender": contender.name, "workers": contender.workers, "of_bare": shares,
                "half_load": {"per_second": speed / 2, **percentiles},
            })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="swinv2_tiny_window8_256")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "int8"], choices=["fp32", "bf16", "int8"])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="of both servers")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, default=5, help="of one turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without-litserve", action="store_true")
    parser.add_argument("--output", type=Path, default=RESULTS / "serving-cpu.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = write_model(args.model, Path(folder))
        rows = [row for precision in args.precisions for row in run_precision(source, precision, args)]
    versions = [library for library in LIBRARIES if library != "litserve" or not args.without_litserve]
    write_results(args.output, rows, versions)


if __name__ == "__main__":
    main()
