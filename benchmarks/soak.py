"""Whether the memory of `swinv2 serve` stays flat under load that lasts.

    python benchmarks/soak.py [--minutes 10] [--model swinv2_tiny_window8_256] [--workers 1]

Clients of both protocols ask without a pause: prepared pixels, pictures of several kinds and sizes, broken pictures,
and some vanish in the middle. Every answer is compared with the runtime's. Meanwhile the memory of the server and of
its workers is read each second (proportional set size: what several processes share is counted once). The first fifth
of the time is for warming up. Results go to benchmarks/results/serving-memory.json; where the memory grew, this fails.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import numpy as np
from inference import RESULTS, write_results
from load import Failed, GrpcClient, HttpClient
from PIL import Image
from serving import NAME, grpc_logits, grpc_request, pictures, rest_logits, rest_request, write_model

from swinv2.runtimes import open_session

LIBRARIES = ("uvicorn", "fastapi", "grpcio", "numpy", "pillow")
MIB = 1 << 20
REFUSED = ("cut off", "not an image", "is empty")  # what a server says of a broken picture
TOLERANCE = 1e-4  # of the largest logit: batches of another size may round otherwise
# How much more the second half may hold than the first, after warming up: an allocator moves by as much.
GROWTH, GROWTH_MIB = 0.02, 4


@dataclass
class Memory:
    """Samples of one process: seconds since the begin, MiB, open files."""

    seconds: list[float] = field(default_factory=list)
    mib: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)

    def take(self, pid: int, seconds: float) -> None:
        rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        self.mib.append(next(int(row.split()[1]) for row in rows if row.startswith("Pss:")) / 1024)
        self.files.append(sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()))
        self.seconds.append(seconds)

    def row(self, process: str, warm: float) -> dict:
        """What came of it. warm: seconds after which growth counts."""
        late = [(s, m) for s, m in zip(self.seconds, self.mib, strict=True) if s >= warm]
        times, mib = zip(*late, strict=True)
        half = len(mib) // 2
        first, second = statistics.median(mib[:half]), statistics.median(mib[half:])
        return {
            "process": process, "samples": len(self.mib),
            "first_mib": round(self.mib[0], 1), "last_mib": round(self.mib[-1], 1),
            "maximum_mib": round(max(self.mib), 1), "warm_mib": round(first, 1), "grown_mib": round(second - first, 2),
            "slope_mib_per_minute": round(60 * statistics.linear_regression(times, mib).slope, 3),
            "files": [self.files[0], max(self.files), self.files[-1]],
            "is_flat": second - first <= max(GROWTH * first, GROWTH_MIB),
        }  # fmt: skip


@contextlib.contextmanager
def serving(source: Path, workers: int) -> Iterator[tuple[dict, subprocess.Popen]]:
    """A server, which has to end well; yields its addresses and its process."""
    command = [sys.executable, "-m", "swinv2", "serve", f"{NAME}:{source}", "--json", "--http-port", "0",
               "--grpc-port", "0", "--workers", str(workers)]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            said = ""
            for line in process.stdout or ():
                said += line
                if line == "}\n":
                    break
            yield json.loads(said), process
            process.send_signal(signal.SIGTERM)
            if code := process.wait(60):
                raise SystemExit(f"the server ended with {code}")
        finally:
            process.kill()


def processes(pid: int) -> dict[str, int]:
    """The server and its workers."""
    found = {"server": pid}
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in file.read_text().split():
            if b"resource_tracker" not in Path(f"/proc/{child}/cmdline").read_bytes():
                found[f"worker {len(found)}"] = int(child)
    return found


def several() -> list[bytes]:
    """Pictures of several kinds, and of sizes from a thumbnail to a photo."""
    found = pictures()[:4]
    for i, (kind, size) in enumerate(
        (("PNG", (640, 480)), ("WEBP", (1024, 768)), ("JPEG", (2000, 1500)), ("GIF", (90, 70)))
    ):
        data = io.BytesIO()
        Image.open(io.BytesIO(found[i])).resize(size).save(data, kind)
        found.append(data.getvalue())
    return found


class Clients:
    """Who asks, until the time is over. counts: what was sent."""

    def __init__(
        self, address: dict, files: list[bytes], right: list[tuple[np.ndarray, np.ndarray]], end: float
    ):
        self._address, self._files, self._right, self._end = address, files, right, end
        self._random = random.Random(0)
        self.counts: Counter[str] = Counter()

    async def run(self) -> None:
        ours, again = (
            (HttpClient(self._address["http"]), GrpcClient(self._address["grpc"])) for _ in range(2)
        )
        encoders = rest_request, grpc_request
        async with asyncio.TaskGroup() as group:
            for client, encode, read in zip(ours, encoders, (rest_logits, grpc_logits), strict=True):
                group.create_task(self._good(client, encode, read))
            for client, encode in zip(again, encoders, strict=True):
                group.create_task(self._broken(client, encode))
                group.create_task(self._vanishing(client, encode))

    def _asked(self) -> Iterator[int]:
        """Numbers of pictures, until the end."""
        while time.monotonic() < self._end:
            yield self._random.randrange(len(self._files))

    async def _good(self, client: HttpClient | GrpcClient, encode: Callable, read: Callable) -> None:
        requests = [
            (encode(file), encode(tensor)) for file, (tensor, _) in zip(self._files, self._right, strict=True)
        ]
        async with client as ask:
            for i in self._asked():
                logits, right = read(await ask(self._random.choice(requests[i]))), self._right[i][1]
                if np.abs(logits - right).max() > TOLERANCE * np.abs(right).max():
                    raise SystemExit(f"{type(client).__name__} got another answer than the runtime")
                self.counts[f"answers to {type(client).__name__}"] += 1

    async def _broken(self, client: HttpClient | GrpcClient, encode: Callable) -> None:
        """Pictures that are cut off; some were good before."""
        async with client as ask:
            for i in self._asked():
                try:
                    await ask(encode(self._files[i][: self._random.randrange(200)]))
                except (Failed, grpc.aio.AioRpcError) as why:
                    if not any(reason in str(why) for reason in REFUSED):
                        raise
                else:
                    raise SystemExit("a broken picture was answered")
                self.counts[f"broken pictures of {type(client).__name__}"] += 1
                await asyncio.sleep(0.02)

    async def _vanishing(self, client: HttpClient | GrpcClient, encode: Callable) -> None:
        """New connections, ended while they send or wait."""
        for i in self._asked():
            data = encode(self._files[i])
            if isinstance(client, HttpClient):
                parts = urlsplit(self._address["http"])
                _, writer = await asyncio.open_connection(parts.hostname, parts.port)
                writer.write(data[: self._random.choice((len(data), self._random.randrange(len(data))))])
                await asyncio.sleep(self._random.random() / 20)
                writer.transport.abort()
            else:
                async with GrpcClient(self._address["grpc"]) as ask:
                    call = asyncio.ensure_future(ask(data))
                    await asyncio.sleep(self._random.random() / 20)
                    call.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await call
            self.counts[f"vanished {type(client).__name__}"] += 1
            await asyncio.sleep(0.05)


async def soak(address: dict, pid: int, clients: Clients, seconds: float) -> dict[str, Memory]:
    """Memory of every process while the clients ask."""
    found, begin = processes(pid), time.monotonic()
    memory = {name: Memory() for name in found}
    running = asyncio.create_task(clients.run())
    while not running.done():
        for name, process in found.items():
            memory[name].take(process, time.monotonic() - begin)
        await asyncio.wait([running], timeout=1)
    await running
    if processes(pid) != found:
        raise SystemExit("a worker died")
    return memory


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--model", default="swinv2_tiny_window8_256")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS / "serving-memory.json")
    args = parser.parse_args()
    seconds, files = 60 * args.minutes, several()
    with tempfile.TemporaryDirectory() as folder:
        source = write_model(args.model, Path(folder))
        with open_session(source) as session:
            tensors = [session.record.preprocess.load(file) for file in files]
            right = [(tensor, session.run(tensor[None])[0]) for tensor in tensors]
        with serving(source, args.workers) as (address, process):
            clients = Clients(address, files, right, time.monotonic() + seconds)
            memory = asyncio.run(soak(address, process.pid, clients, seconds))
    about = {
        "model": args.model,
        "minutes": args.minutes,
        "workers": args.workers,
        "requests": dict(clients.counts),
    }
    rows = [about | samples.row(name, seconds / 5) for name, samples in memory.items()]
    print(json.dumps(rows, indent=1))
    write_results(args.output, rows, LIBRARIES)
    if grown := [row["process"] for row in rows if not row["is_flat"]]:
        raise SystemExit(f"the memory of {', '.join(grown)} grew")


if __name__ == "__main__":
    main()
