"""What a server outlives: requests that are broken in every way, more of them than it can answer, workers that are
killed, models that change, clients that vanish. All of it happens to real processes, over both protocols at once."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import shutil
import signal
import socket
import struct
import time
import warnings
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import grpc
import mutations
import numpy as np
import pytest
import tritonclient.grpc.aio as triton_grpc
import tritonclient.http.aio as triton_http
from mutations import INFER, Mutations, Sent
from serving import picture, serving, write_model
from tritonclient.grpc import service_pb2 as proto

from swinv2.images import ImageError
from swinv2.runtimes import open_session

CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # a batch may round its sums in another order
SECONDS = 30  # in which everything is answered, on a machine that others use too
PICTURES = [picture(seed) for seed in range(6)]
CHANNEL = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
Code = grpc.StatusCode


# -- one server and its right answers ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two models with other weights."""
    folder = tmp_path_factory.mktemp("faults")
    return [write_model(folder / f"{seed}.safetensors", seed=seed) for seed in range(2)]


@pytest.fixture(scope="module")
def right(files):
    """Picture -> its logits [classes], alone and without a server; None where it is none. For each of the models."""
    sessions, known = [open_session(file, threads=1) for file in files], {}

    def logits(data: bytes, model: int = 0) -> np.ndarray | None:
        key = data, model
        if key not in known:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's, of broken pictures; in tests they would be errors
                try:
                    tensor = sessions[model].record.preprocess.load(data)
                except ImageError:
                    known[key] = None
                else:
                    known[key] = sessions[model].run(tensor[None])[0]
        return known[key]

    yield logits
    for session in sessions:
        session.close()


def gauge(page: str, name: str) -> float:
    """A figure of /metrics, over all models."""
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", page, re.MULTILINE))


async def figures(server) -> str:
    reply = await exchange(server.http, b"GET /metrics HTTP/1.1\r\nhost: here\r\n\r\n")
    return reply.body.decode()


async def until(condition, seconds=SECONDS):
    """Wait for a condition, which may be asynchronous."""
    async with asyncio.timeout(seconds):
        while not (await found if asyncio.iscoroutine(found := condition()) else found):
            await asyncio.sleep(0.02)


def complaints(server) -> list[dict]:
    """Lines of its log that somebody would have to look at."""
    return [
        line
        for line in server.lines()
        if "traceback" in line
        or (line["level"] != "info" and line["message"] != "Invalid HTTP request received.")
    ]


# -- clients ----------------------------------------------------------------------------------------------


@dataclass
class Reply:
    """An answer over HTTP; status 0: the connection ended without one."""

    status: int = 0
    fields: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def logits(self) -> np.ndarray:
        (output,) = json.loads(self.body)["outputs"]
        return np.float32(output["data"])


async def exchange(address: str, data: bytes, *, is_whole: bool = True) -> Reply:
    """Write bytes to a new connection and read what comes back. is_whole: false lets our side of it end."""
    parts = urlsplit(address)
    async with asyncio.timeout(SECONDS):
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            writer.write(data)
            if not is_whole:
                writer.write_eof()
            head = await reader.readuntil(b"\r\n\r\n")
            first, *rows = head.decode("latin1").split("\r\n")
            fields = dict(row.lower().split(": ", 1) for row in rows if row)
            body = await reader.readexactly(int(fields["content-length"]))
            return Reply(int(first.split()[1]), fields, body)
        except (asyncio.IncompleteReadError, ConnectionError):
            return Reply()
        finally:
            writer.close()


async def over_sockets(address: str, data: bytes) -> None:
    """Write bytes, look a moment at what comes back, and end our side; the other side has to end too."""
    host, _, port = address.rpartition(":")
    async with asyncio.timeout(SECONDS):
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(data)
            try:
                async with asyncio.timeout(0.2):
                    while await reader.read(1 << 16):
                        pass
            except TimeoutError:
                writer.write_eof()
                while await reader.read(1 << 16):
                    pass
        except ConnectionError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def clients(server):
    """Triton's clients: a function each that asks for the logits of a picture."""
    channel = triton_grpc.InferenceServerClient(server.grpc, channel_args=CHANNEL)
    http = triton_http.InferenceServerClient(server.http.removeprefix("http://"), conn_timeout=SECONDS)

    async def ask(module, client, data, name="animals"):
        asked = module.InferInput("image", [1], "BYTES")
        asked.set_data_from_numpy(np.array([data], np.object_))
        answer = await client.infer(name, [asked], outputs=[module.InferRequestedOutput("logits")])
        return answer.as_numpy("logits")[0]

    async with channel, http:
        yield {
            "http": lambda data, *name: ask(triton_http, http, data, *name),
            "grpc": lambda data, *name: ask(triton_grpc, channel, data, *name),
        }


@asynccontextmanager
async def neighbours(server, right, *, each=1, names=("http", "grpc")):
    """Clients of both protocols that ask all the time; every answer has to come, and to be right."""
    answered, is_over = dict.fromkeys(names, 0), False

    async def ask_always(name, ask, first):
        i = first
        while not is_over:
            data = PICTURES[i % len(PICTURES)]
            np.testing.assert_allclose(await asyncio.wait_for(ask(data), SECONDS), right(data), **CLOSE)
            answered[name] += 1
            i += 1

    async with clients(server) as asks, asyncio.TaskGroup() as group:
        for number in range(each):
            for name in names:
                group.create_task(ask_always(name, asks[name], number))
        try:
            yield answered
        finally:
            is_over = True


# -- requests that are broken -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "seed"), [(600, 1), pytest.param(10_000, 2, marks=pytest.mark.slow)], ids=["600", "10000"]
)
def test_broken_requests_are_refused_in_a_sentence_and_disturb_nobody(files, right, count, seed):
    with serving(f"animals:{files[0]}", "--threads", "1") as server:
        before, found = (
            server.children(),
            asyncio.run(_send_broken_ones(server, right, count, seed)),
        )
        assert not found, "\n".join(found[:20])
        assert server.process.poll() is None
        assert server.children() == before  # nobody died and was replaced
        assert not complaints(server)
    assert server.process.returncode == 0


async def _send_broken_ones(server, right, count, seed) -> list[str]:
    """What was not as it has to be."""
    sources = Mutations(PICTURES, seed)
    http, calls, frames = sources.over_http(), sources.over_grpc(), sources.to_the_port_of_grpc()
    todo = iter([next((http, http, calls, http, frames)[i % 5]) for i in range(count)])
    wrong: list[str] = []
    async with grpc.aio.insecure_channel(server.grpc, CHANNEL) as channel:

        async def send():
            for sent in todo:
                try:
                    why = await _send(server, channel, sent, right)
                except TimeoutError:
                    why = f"was not answered within {SECONDS} s"
                if why:
                    wrong.append(f"{sent.kind} {why}: {sent.data[:300]!r}")

        async with neighbours(server, right) as answered:
            await asyncio.gather(*(send() for _ in range(8)))
    assert min(answered.values()) > count / 100, answered
    return wrong


async def _send(server, channel, sent: Sent, right) -> str:
    """Why what came back is wrong."""
    expected = right(sent.picture) if sent.picture is not None else None
    if sent.call:
        return await _call(channel, sent, expected)
    if sent.kind in mutations.FRAMES:
        await over_sockets(server.grpc, sent.data)
        return ""
    reply = await exchange(server.http, sent.data, is_whole=sent.is_whole)
    if not sent.is_whole and not reply.status:
        return ""
    if expected is not None:
        if reply.status != 200:
            return f"got {reply.status} {reply.body[:200]!r} instead of an answer"
        return "" if np.allclose(reply.logits, expected, **CLOSE) else f"got {reply.logits}, not {expected}"
    if not 400 <= reply.status < 500:
        return f"got {reply.status} {reply.body[:200]!r}"
    try:
        told = json.loads(reply.body)
    except ValueError:
        return f"got {reply.status} and no JSON: {reply.body[:200]!r}"
    is_sentence = list(told) == ["error"] and is_good(told["error"])
    return "" if is_sentence else f"got {reply.status} and no sentence: {reply.body[:200]!r}"


def is_good(sentence: str) -> bool:
    """A sentence for people: one line, not endless, nothing of Python in it."""
    return bool(sentence.strip()) and "\n" not in sentence and len(sentence) < 2000 and not re.search(
        r"Traceback|\.py\b|Error\(|<[a-z]+ object|0x[0-9a-f]{8}", sentence
    )  # fmt: skip


async def _call(channel, sent: Sent, expected) -> str:
    allowed = {Code.INVALID_ARGUMENT, Code.NOT_FOUND}
    if sent.kind == "larger_than_it_may_be":
        allowed = {Code.RESOURCE_EXHAUSTED} if len(sent.data) > 64 << 20 else allowed
    elif sent.kind == "other_call":
        allowed = {Code.UNIMPLEMENTED}
    try:
        data = await channel.unary_unary(sent.call)(sent.data, timeout=SECONDS)
    except grpc.aio.AioRpcError as why:
        if expected is not None or why.code() not in allowed:
            return f"got {why.code()} {why.details()[:200]!r}"
        is_grpcs = sent.kind in ("larger_than_it_may_be", "other_call")
        return "" if is_grpcs or is_good(why.details()) else f"got no sentence: {why.details()[:200]!r}"
    if expected is None:
        return "was answered"
    logits = np.frombuffer(proto.ModelInferResponse.FromString(data).raw_output_contents[0], np.float32)
    return "" if np.allclose(logits, expected, **CLOSE) else f"got {logits}, not {expected}"


def test_broken_requests_are_the_same_for_the_same_number():
    first, again, other = (Mutations(PICTURES, seed).over_http() for seed in (1, 1, 2))
    rows = [[next(source) for _ in range(100)] for source in (first, again, other)]
    assert rows[0] == rows[1] != rows[2]
    assert {sent.kind for sent in rows[0]} == set(mutations.HTTP)


# -- more than it can answer ------------------------------------------------------------------------------


def test_at_ten_times_its_capacity_a_server_answers_rightly_or_says_when_to_try_again(tmp_path):
    """Requests come at even times, whether others were answered or not, over a connection or as a call of their own."""
    file = write_model(tmp_path / "slow.safetensors", side=256)
    data = picture()
    with open_session(file, threads=1) as session:
        right = session.run(session.record.preprocess.load(data)[None])[0]
    options = ("--threads", "1", "--max-queue", "8", "--max-batch-size", "4", "--quiet")
    with serving(f"animals:{file}", *options) as server:
        asyncio.run(_overload(server, data, right))
        assert not complaints(server)


async def _overload(server, data, right):
    whole, (call, path) = mutations.asked(data), mutations.call(mutations.message(data))
    async with grpc.aio.insecure_channel(server.grpc, CHANNEL) as channel:

        async def over_http() -> bool:
            """Whether it was answered; otherwise it was refused as it should be."""
            reply = await exchange(server.http, whole)
            if reply.status == 200:
                np.testing.assert_allclose(reply.logits, right, **CLOSE)
                return True
            assert reply.status == 503, reply
            assert 1 <= int(reply.fields["retry-after"]) <= 60
            assert is_good(json.loads(reply.body)["error"])
            return False

        async def over_grpc() -> bool:
            try:
                answer = proto.ModelInferResponse.FromString(
                    await channel.unary_unary(path)(call, timeout=SECONDS)
                )
            except grpc.aio.AioRpcError as why:
                assert why.code() is Code.RESOURCE_EXHAUSTED, why
                fields = dict(why.trailing_metadata())
                assert 1 <= int(fields["retry-after"]) <= 60
                assert int(fields["grpc-retry-pushback-ms"]) == 1000 * int(fields["retry-after"])
                return False
            np.testing.assert_allclose(
                np.frombuffer(answer.raw_output_contents[0], np.float32), right, **CLOSE
            )
            return True

        async def capacity(seconds: float) -> float:
            """Answers per second where as many ask as a batch has room for."""
            end, answered = time.monotonic() + seconds, 0

            async def ask_always(ask):
                nonlocal answered
                while time.monotonic() < end:
                    answered += await ask()

            await asyncio.gather(*(ask_always(ask) for ask in (over_http, over_grpc) * 2))
            return answered / seconds

        await capacity(0.5)
        rate, seconds = 10 * await capacity(1.5), 3
        start, asked = time.monotonic(), []
        for i in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, start + i / rate - time.monotonic()))
            asked.append(asyncio.create_task((over_http, over_grpc)[i % 2]()))
        answers = await asyncio.gather(*asked)
        assert await over_http()  # at once well again
        assert await over_grpc()
        assert gauge(await figures(server), "swinv2_waiting_images") == 0
        for protocol in (answers[0::2], answers[1::2]):
            assert protocol.count(True) > 3, (rate, answers.count(True), len(answers))
            assert protocol.count(False) > len(protocol) / 3, (rate, answers.count(True), len(answers))


# -- workers that are killed, versions that change --------------------------------------------------------


def test_workers_that_are_killed_lose_no_request_of_either_protocol(files, right):
    async def main(server):
        async with neighbours(server, right, each=3) as answered:
            for round_ in range(4):
                before = sum(answered.values())
                await until(lambda before=before: sum(answered.values()) > before + 30)
                os.kill(sorted(server.workers())[round_ % 2], signal.SIGKILL)
                await until(lambda round_=round_: is_restored(server, round_ + 1))
        assert gauge(await figures(server), "swinv2_waiting_images") == 0

    async def is_restored(server, deaths):
        page = await figures(server)
        return gauge(page, "swinv2_worker_deaths_total") == deaths and gauge(page, "swinv2_workers") == 2

    with serving(
        f"animals:{files[0]}", "--workers", "2", "--threads", "1", "--max-batch-size", "2"
    ) as server:
        asyncio.run(main(server))


def test_versions_that_follow_each_other_lose_no_request_of_either_protocol(files, right, tmp_path):
    """Two models take turns, and every answer is that of one of them; none is of an older version than the last one."""
    seen: list[tuple[str, int]] = []

    async def ask_always(name, ask, is_over):
        last = 1
        while not is_over():
            logits = await asyncio.wait_for(ask(PICTURES[0], "zoo"), SECONDS)
            matches = [model for model in (0, 1) if np.allclose(logits, right(PICTURES[0], model), **CLOSE)]
            assert len(matches) == 1
            seen.append((name, matches[0]))
            last = matches[0]
        return last

    async def main(server):
        is_over = False
        async with clients(server) as asks, asyncio.TaskGroup() as group:
            asking = [
                group.create_task(ask_always(name, asks[name], lambda: is_over)) for name in [*asks] * 3
            ]
            try:
                for version in (2, 3, 4):
                    count = len(seen)
                    await until(lambda count=count: len(seen) > count + 20)
                    put(version)
                    await until(
                        lambda version=version: {model for _, model in seen[-12:]} == {(version + 1) % 2}
                    )
            finally:
                is_over = True
        assert {task.result() for task in asking} == {1}

    def put(version):
        folder = tmp_path / "zoo" / str(version)
        folder.mkdir(parents=True)
        shutil.copy(files[(version + 1) % 2], folder / "model.safetensors")

    put(1)
    with serving(tmp_path, "--threads", "1", "--look", "0.1") as server:
        asyncio.run(main(server))
        assert not complaints(server)
    assert set(seen) == {(name, model) for name in ("http", "grpc") for model in (0, 1)}


# -- clients that vanish ----------------------------------------------------------------------------------

# Where Python looks for it when it starts: a signal makes the server say how many tasks its event loop has.
COUNTING = """
import asyncio, json, signal, sys
def say(number, frame):
    print(json.dumps({"level": "info", "tasks": len(asyncio.all_tasks())}), file=sys.stderr, flush=True)
signal.signal(signal.SIGUSR1, say)
"""


def test_clients_that_vanish_leave_nothing_behind(files, right, tmp_path):
    """While they send, wait, or read, with and without a word; neighbours are answered all the time."""
    (tmp_path / "sitecustomize.py").write_text(COUNTING)
    options = ("--threads", "1", "--max-batch-size", "4")
    with serving(f"animals:{files[0]}", *options, environment={"PYTHONPATH": str(tmp_path)}) as server:
        asyncio.run(_vanish(server, right))
        assert not complaints(server)


async def _vanish(server, right):
    rng, pid = random.Random(3), server.process.pid
    whole, (call, _) = mutations.asked(PICTURES[0]), mutations.call(mutations.message(PICTURES[0]))
    # An answer that does not fit into the buffers of a connection: it repeats the id of its request.
    long = mutations.http(mutations.text(mutations.described(PICTURES[0]) | {"id": "i" * (8 << 20)}))
    grpc_begin = mutations.begun(mutations.frame(mutations.HEADERS, 4, 1, mutations.fields()))
    grpc_whole = grpc_begin + mutations.messages(call)

    async def held() -> dict[str, int]:
        """What a server could forget to give back."""
        count = len(server.log.read_text())
        os.kill(pid, signal.SIGUSR1)
        await until(lambda: '"tasks"' in server.log.read_text()[count:])
        tasks = next(line["tasks"] for line in reversed(server.lines()) if "tasks" in line)
        files = len(os.listdir(f"/proc/{pid}/fd"))
        return {"tasks": tasks, "files": files, "threads": len(os.listdir(f"/proc/{pid}/task"))}

    async def break_off(address, data, *, after=0.0, read=0):
        """Send, wait or read, and be gone."""
        host, _, port = address.removeprefix("http://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
        if rng.random() < 0.5:  # at once, and the other side reads an error; otherwise in good order
            writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
        writer.write(data)
        async with asyncio.timeout(SECONDS):
            await writer.drain()
            if read:
                await reader.read(read)
        await asyncio.sleep(after)
        writer.transport.abort() if rng.random() < 0.5 else writer.close()

    async def cancel(after):
        async with grpc.aio.insecure_channel(server.grpc, CHANNEL) as channel:
            asked = channel.unary_unary(INFER)(call)
            await asyncio.sleep(after)
            if rng.random() < 0.5:  # otherwise the channel is closed over it
                asked.cancel()

    def one():
        """A client with a fate."""
        return rng.choice((
            lambda: break_off(server.http, whole[: rng.randrange(1, 150)]),  # in its headers
            lambda: break_off(server.http, whole[: rng.randrange(200, len(whole))], after=rng.random() / 50),
            lambda: break_off(server.http, whole, after=rng.choice((0, 0.002, 0.01))),  # while it waits
            lambda: break_off(server.http, whole, read=5),
            lambda: break_off(server.http, long, read=1000),  # in the middle of its answer
            lambda: break_off(server.grpc, grpc_whole[: rng.randrange(1, len(grpc_whole))], after=rng.random() / 50),
            lambda: break_off(server.grpc, grpc_whole, after=rng.choice((0, 0.002, 0.01))),
            lambda: cancel(rng.choice((0, 0.002, 0.01))),
        ))()  # fmt: skip

    async def vanish(count):
        limit = asyncio.Semaphore(16)

        async def vanish_one():
            async with limit:
                with suppress(ConnectionError):
                    await one()

        async with neighbours(server, right) as answered:
            await asyncio.gather(*(vanish_one() for _ in range(count)))
        assert min(answered.values()) > 1  # they share this process with those that vanish

    async def idle():
        return gauge(await figures(server), "swinv2_waiting_images") == 0

    await vanish(40)  # threads and buffers that are made once are made now
    await until(idle)
    await asyncio.sleep(1)
    before = await held()
    await vanish(400)
    await until(idle)

    async def is_as_before():
        now = await held()
        # Pools of threads (gRPC's, Python's) grow by one or two when a machine is busy; a client each would be 400.
        spare = {"tasks": 0, "files": 0, "threads": 4}
        return all(now[name] <= before[name] + spare[name] for name in before)

    try:
        await until(is_as_before)
    except TimeoutError:
        raise AssertionError(f"before {before}, afterwards {await held()}") from None
