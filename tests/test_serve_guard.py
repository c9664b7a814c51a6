"""What a server does with strangers: those without a token, those who send too much, too slowly or half of it.

Limits are tried on the Guard alone, and those of connections on a real server whose patience is short. The rest of
the file is the life of a server: how it starts, what it logs, how it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import gzip
import http.client
import io
import ipaddress
import itertools
import json
import logging
import os
import signal
import socket
import ssl
import struct
import time
import types
import zlib

import pytest
import requests
from serving import picture, serving, write_model
from test_layers import HEAVY

from swinv2 import cli
from swinv2.serve.budget import Budget
from swinv2.serve.errors import Kind, Refused
from swinv2.serve.guard import OPEN, Guard
from swinv2.serve.metrics import Metrics
from swinv2.serve.settings import Access, Limits

KIB, MIB = 1 << 10, 1 << 20
CLASSES = tuple(f"animal {i}" for i in range(4000))
SHORT = {
    "header_seconds": 1, "body_seconds": 1.5, "answer_seconds": 1, "header_bytes": 16 * KIB, "body_bytes": MIB,
    "bodies_bytes": 3 * MIB,
}  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("guard") / "animals.safetensors", classes=CLASSES)


@pytest.fixture(scope="module")
def server(file):
    """A server of little patience."""
    with serving(file, "--no-grpc", "--worker-threads", limits=SHORT) as running:
        yield running


# -- the guard alone ------------------------------------------------------------------------------------


async def echo(scope, receive, send):
    """Answers with the length of the body."""
    message = await receive()
    assert not message["more_body"]
    answer = str(len(message["body"])).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": answer})


class Answered:
    """What came back from a guard."""

    def __init__(self, messages):
        self.status = messages[0]["status"]
        self.headers = {name.decode(): value.decode() for name, value in messages[0]["headers"]}
        self.body = b"".join(message.get("body", b"") for message in messages[1:])

    @property
    def error(self):
        told = json.loads(self.body)
        assert list(told) == ["error"]
        return told["error"]


def guarded(app=echo, *, token="", **limits):
    chosen = Limits(**limits)
    return Guard(
        app, limits=chosen, allowed=Access(token), metrics=Metrics(), budget=Budget(chosen.bodies_bytes)
    )


async def ask(guard, *parts, method="POST", path="/predict", ends=True, **headers):
    """Send the parts of a body to a guard; a float among them is a pause. ends=False: the client stops there."""
    fields = [(name.replace("_", "-").encode(), str(value).encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": fields, "client": ("1.2.3.4", 5)}
    waiting, messages = list(parts), []

    async def receive():
        while waiting and isinstance(waiting[0], float):
            await asyncio.sleep(waiting.pop(0))
        if not waiting and parts and not ends:
            await asyncio.sleep(60)
        body = waiting.pop(0) if waiting else b""
        if body is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": body, "more_body": bool(waiting) or not ends}

    async def send(message):
        messages.append(message)

    await guard(scope, receive, send)
    return Answered(messages) if messages else None


def tried(guard, *parts, **options):
    return asyncio.run(asyncio.wait_for(ask(guard, *parts, **options), 20))


@pytest.mark.parametrize(
    "given",
    [
        "",
        "Bearer",
        "Bearer wrong",
        "Bearer secre",
        "Bearer secret2",
        "Basic secret",
        "secret",
        "Bearer s\xe9cret",
    ],
)
def test_a_request_without_the_token_is_401_and_says_what_is_wanted(given):
    answer = tried(guarded(token="secret"), b"body", **({"authorization": given} if given else {}))
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.error == "this server wants a token: send Authorization: Bearer <token>"


@pytest.mark.parametrize("given", ["Bearer secret", "bearer secret", "Bearer  secret "])
def test_the_token_opens(given):
    assert tried(guarded(token="secret"), b"body", authorization=given).status == 200


def test_without_a_token_only_what_tells_nothing_of_models_is_open():
    guard = guarded(token="secret")
    for path in (*OPEN, "/page/page.js"):
        assert tried(guard, method="GET", path=path).status == 200
    for path in (
        "/models",
        "/metrics",
        "/openapi.json",
        "/v2/models/a",
        "/v2/",
        "/page",
        "//",
        "/docs/",
        "/V2",
    ):
        assert tried(guard, method="GET", path=path).status == 401


@pytest.mark.parametrize("parts", [[b"x" * 100], [b"x" * 60, b"x" * 40], [b""], [b"", b"x" * 100, b""]])
def test_a_body_up_to_the_limit_arrives_whole(parts):
    answer = tried(guarded(body_bytes=100), *parts)
    assert answer.status == 200
    assert int(answer.body) == sum(map(len, parts))


@pytest.mark.parametrize(
    ("parts", "headers"),
    [
        ([b""], {"content_length": 101}),  # refused before a byte of it is read
        ([b"x" * 101], {}),
        ([b"x" * 60, b"x" * 41], {}),
        ([b"x" * 60, b"x" * 41], {"content_length": 60}),
        ([gzip.compress(b"x" * 101)], {"content_encoding": "gzip"}),
        ([zlib.compress(b"x" * 101)], {"content_encoding": "deflate"}),
    ],
)
def test_a_body_above_the_limit_is_413_with_and_without_a_length_and_after_unpacking(parts, headers):
    answer = tried(guarded(body_bytes=100), *parts, **headers)
    assert answer.status == 413
    assert answer.error.startswith("the body is larger than ")


def test_a_bomb_is_unpacked_no_further_than_the_limit():
    """10 GiB in 10 MiB would not fit; what is unpacked stays near the limit."""
    import tracemalloc

    squeeze = zlib.compressobj(9, wbits=31)
    bomb = b"".join(squeeze.compress(bytes(MIB)) for _ in range(512)) + squeeze.flush()
    guard = guarded(body_bytes=4 * MIB)
    tracemalloc.start()
    try:
        answer = tried(guard, *(bomb[i : i + KIB] for i in range(0, len(bomb), KIB)), content_encoding="gzip")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert answer.status == 413
    assert most < 16 * MIB


@pytest.mark.parametrize("coding", ["gzip", "deflate", "GZIP"])
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_packed_bodies_are_unpacked_however_they_are_cut(coding, size):
    data = (gzip if coding.lower() == "gzip" else zlib).compress(os.urandom(3000) + b"x" * 3000)
    parts = [data[i : i + size] for i in range(0, len(data), size)]
    answer = tried(guarded(), *parts, content_encoding=coding)
    assert (answer.status, int(answer.body)) == (200, 6000)


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ([gzip.compress(b"x" * 1000)[:-9]], "the body ends inside its gzip stream"),
        ([gzip.compress(b"x" * 1000)[:5]], "the body ends inside its gzip stream"),
        ([b"no gzip"], "the body is not gzip, as its header says"),
        (
            [gzip.compress(b"x")[:-8] + b"\0" * 8],
            "the body is not gzip, as its header says",
        ),  # a wrong checksum
        ([gzip.compress(b"x") + b"more"], "the body goes on after its gzip stream; send one stream"),
        (
            [gzip.compress(b"x"), gzip.compress(b"y")],
            "the body goes on after its gzip stream; send one stream",
        ),
    ],
)
def test_a_packed_body_that_is_damaged_is_400(parts, sentence):
    answer = tried(guarded(), *parts, content_encoding="gzip")
    assert answer.status == 400
    assert answer.error.startswith(sentence)


@pytest.mark.parametrize("coding", ["br", "gzip, gzip", "x" * 1000, ""])
def test_an_unknown_coding_is_415_and_the_known_ones_are_named(coding):
    answer = tried(guarded(), b"x", content_encoding=coding)
    assert answer.status == 415
    assert answer.error.endswith("; send gzip, deflate")
    assert len(answer.error) < 200


def test_a_slow_body_is_408_also_where_it_drips():
    for parts in ([b"x", 5.0, b"x"], [b"x", *([0.03, b"x"] * 100)]):
        started = time.monotonic()
        answer = tried(guarded(body_seconds=0.2), *parts)
        assert answer.status == 408
        assert answer.error == "the body has not arrived within 0.2 s; send it faster"
        assert time.monotonic() - started < 10


def test_bodies_that_are_held_at_one_time_have_a_limit_together():
    gate = asyncio.Event()

    async def slow(scope, receive, send):
        await gate.wait()
        await echo(scope, receive, send)

    async def main():
        guard = guarded(slow, bodies_bytes=250)
        first = [asyncio.create_task(ask(guard, b"x" * 100)) for _ in range(2)]
        await asyncio.sleep(0.05)
        third = await ask(guard, b"x" * 60, b"x" * 40)
        small = asyncio.create_task(ask(guard, b"x" * 50))  # what fits is taken, also after a refusal
        await asyncio.sleep(0.05)
        gate.set()
        assert [answer.status for answer in [*await asyncio.gather(*first), await small]] == [200] * 3
        again = await ask(guard, b"x" * 250)  # everything was given back
        return third, again

    third, again = asyncio.run(main())
    assert third.status == 503
    assert third.headers["retry-after"] == "1"
    assert third.error == "the server holds as many requests as it may; try again later"
    assert again.status == 200


def test_a_client_that_goes_away_before_its_body_ends_is_no_error():
    reached = []

    async def app(scope, receive, send):
        reached.append(scope)

    guard = guarded(app)
    assert tried(guard, b"half", None) is None
    assert reached == []
    assert b'requests_total{protocol="http",status="499"} 1.0' in guard._metrics.page()


def test_the_rest_of_a_body_that_was_refused_is_taken_and_thrown_away():
    """A connection that is closed before takes the refusal with it."""
    left = []
    parts = [b"x" * 200, *[b"x"] * 50]

    async def main():
        guard = guarded(body_bytes=100)
        waiting = list(parts)

        async def receive():
            body = waiting.pop(0)
            left.append(len(waiting))
            return {"type": "http.request", "body": body, "more_body": bool(waiting)}

        async def send(message):
            if message.get("body"):
                left.append("said")

        await guard({"type": "http", "method": "POST", "path": "/", "headers": []}, receive, send)

    asyncio.run(main())
    assert left[:2] == [50, "said"]  # first the refusal, then the rest
    assert left[-1] == 0


def test_a_client_that_asked_before_sending_is_not_asked_to_send():
    answer = tried(guarded(body_bytes=10), b"x", ends=False, content_length=11, expect="100-continue")
    assert answer.status == 413


@pytest.mark.parametrize("given", ["abc-1.2:3_X", "x" * 128])
def test_an_id_that_a_client_gives_comes_back(given):
    assert tried(guarded(), b"", x_request_id=given).headers["x-request-id"] == given
    assert tried(guarded(token="t"), b"", x_request_id=given).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", 'a"b', "a\nb", "caf\xe9"])
def test_an_id_that_could_harm_a_log_is_replaced(given):
    one, two = (tried(guarded(), b"", x_request_id=given).headers["x-request-id"] for _ in range(2))
    assert one != two
    assert given not in (one, two)
    assert one.isalnum()


def test_while_a_server_drains_only_questions_are_answered_and_what_has_begun_is_finished():
    async def main():
        guard = guarded()
        begun = asyncio.create_task(ask(guard, b"x", 0.3, b"y"))
        await asyncio.sleep(0.1)
        draining = asyncio.create_task(guard.drain())
        await asyncio.sleep(0)
        late, ready = await ask(guard, b"x"), await ask(guard, method="GET", path="/v2/health/ready")
        assert not draining.done()
        finished = await begun
        await draining
        return late, ready, finished

    late, ready, finished = asyncio.run(asyncio.wait_for(main(), 20))
    assert late.status == 503
    assert late.error == "the server is stopping; ask another one"
    assert ready.status == 200
    assert (finished.status, finished.body) == (200, b"2")


def test_a_refusal_of_the_application_is_passed_on_once():
    async def app(scope, receive, send):
        raise Refused(Kind.BUSY, "no", retry_after=7)

    answer = tried(guarded(app), b"")
    assert (answer.status, answer.headers["retry-after"], answer.error) == (503, "7", "no")


# -- connections ------------------------------------------------------------------------------------------


def connected(server, *, receive_buffer=None):
    """A socket that a test speaks HTTP on by itself."""
    host, port = server.http.removeprefix("http://").split(":")
    sock = socket.socket()
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(60)
    sock.connect((host, int(port)))
    return sock


def answer_of(sock, method="GET"):
    answer = http.client.HTTPResponse(sock, method=method)
    answer.begin()
    return answer, answer.read()


def statuses_of(sock):
    """Of the answers on a connection, one after the other, until it is closed."""

    class Kept(io.BufferedReader):
        def close(self):
            """The next answer is in it."""

    file = Kept(socket.SocketIO(sock, "r"))
    same = types.SimpleNamespace(makefile=lambda *_: file)
    with contextlib.suppress(ConnectionResetError, http.client.HTTPException):
        while True:
            yield answer_of(same)[0].status


def ended(sock):
    """Whether the server has closed the connection."""
    with contextlib.suppress(ConnectionResetError):
        return sock.recv(1) == b""
    return True


def refused(sock, status, sentence):
    answer, body = answer_of(sock)
    assert (answer.status, answer.headers["content-type"]) == (status, "application/json")
    assert sentence in json.loads(body)["error"]
    assert ended(sock)


def head(*lines, method="POST", path="/predict"):
    return "\r\n".join([f"{method} {path} HTTP/1.1", "host: here", *lines, "", ""]).encode()


@pytest.mark.parametrize(
    "sent",
    [
        head("x: " + "y" * 17 * KIB, method="GET"),
        head(*(f"x{i}: {'y' * 100}" for i in range(200)), method="GET"),
        head(method="GET", path="/" + "y" * 17 * KIB),
        head("x: " + "y" * 17 * KIB, "content-length: 3") + b"abc",
        head("x: " + "y" * 17 * KIB, method="GET")[:-20],  # and nothing more
        b"GET /" + b"y" * 17 * KIB,
    ],
)
def test_headers_and_addresses_beyond_the_limit_are_431(server, sent):
    with connected(server) as sock:
        sock.sendall(sent)
        refused(sock, 431, "the address and the headers have more than 16 KiB; send fewer")


def test_headers_below_the_limit_are_read(server):
    with connected(server) as sock:
        sock.sendall(head("x: " + "y" * 15 * KIB, method="GET", path="/v2"))
        assert answer_of(sock)[0].status == 200


def test_large_bodies_that_follow_each_other_without_waiting_are_no_large_headers(server):
    """What comes with the end of a body is not counted as headers of the next request, however much it is."""
    one = head(f"content-length: {100 * KIB}") + b"x" * 100 * KIB
    with connected(server) as sock:
        sock.sendall(one * 3 + head(method="GET", path="/v2"))
        assert list(itertools.islice(statuses_of(sock), 4)) == [400, 400, 400, 200]


@pytest.mark.parametrize(
    "sent", [b"GE", b"GET /v2 HTTP/1.1\r\nhost: x\r\n", b"GET /v2 HTTP/1.1\r\nx: " + b"y" * 100]
)
def test_headers_that_do_not_arrive_are_408(server, sent):
    with connected(server) as sock:
        sock.sendall(sent)
        refused(sock, 408, "the headers have not arrived within 1 s; send them at once")


def test_headers_that_drip_are_408_on_a_kept_connection_too(server):
    with connected(server) as sock:
        sock.sendall(head(method="GET", path="/v2"))
        assert answer_of(sock)[0].status == 200
        started = time.monotonic()
        with contextlib.suppress(OSError):
            for byte in b"GET /v2 HTTP/1.1\r\nhost: x\r\n" * 10:
                sock.sendall(bytes([byte]))
                time.sleep(0.05)
                if time.monotonic() - started > 3:
                    break
        refused(sock, 408, "the headers have not arrived")


def test_a_connection_on_which_nothing_is_asked_is_closed(server):
    with connected(server) as sock:
        assert ended(sock)


def test_a_body_that_does_not_arrive_is_408(server):
    with connected(server) as sock:
        sock.sendall(head("content-length: 100") + b"x" * 50)
        answer, body = answer_of(sock)
        assert answer.status == 408
        assert json.loads(body)["error"] == "the body has not arrived within 1.5 s; send it faster"


@pytest.mark.parametrize("patient", [True, False])
def test_a_client_that_does_not_take_its_answer_is_left(server, patient):
    """10 MB of JSON are more than a system keeps for a connection: the rest waits for a second, and no longer."""
    small = picture(size=(9, 9))
    images = (struct.pack("<I", len(small)) + small) * 64
    described = json.dumps({"inputs": [{
        "name": "image", "datatype": "BYTES", "shape": [64], "parameters": {"binary_data_size": len(images)},
    }]}).encode()  # fmt: skip
    with connected(server, receive_buffer=None if patient else 4096) as sock:
        sock.sendall(head(
            f"content-length: {len(described) + len(images)}",
            f"inference-header-content-length: {len(described)}", path="/v2/models/animals/infer",
        ) + described + images)  # fmt: skip
        answer = http.client.HTTPResponse(sock)
        answer.begin()
        assert answer.status == 200
        if patient:
            assert len(json.load(answer)["outputs"][0]["data"]) == 64 * len(CLASSES)
        else:
            time.sleep(2.5)
            with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
                answer.read()


def test_requests_may_follow_each_other_without_waiting_but_not_without_end(server):
    one = head(method="GET", path="/v2")
    with connected(server) as sock:
        sock.sendall(one * 30)
        assert list(itertools.islice(statuses_of(sock), 30)) == [200] * 30
    with connected(server) as sock:
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            sock.sendall(one * 100_000)
        assert len(list(statuses_of(sock))) < 100
    assert requests.get(f"{server.http}/v2", timeout=20).status_code == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01",  # TLS, spoken to a server without
        b"hello\r\n\r\n",
        b"GET /v2 HTTP/9.9\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n",
        head("content-length: -1"),
        head("content-length: 1", "content-length: 2"),
        head("content-length: 10", "transfer-encoding: chunked"),
        head("transfer-encoding: chunked") + b"zz\r\n",
        head("no colon here"),
        b"CONNECT example.com:443 HTTP/1.1\r\nhost: x\r\n\r\n",
    ],
)
def test_what_is_not_http_is_400_and_a_sentence(server, sent):
    with connected(server) as sock:
        sock.sendall(sent)
        answer, body = answer_of(sock)
        assert answer.status == 400
        assert list(json.loads(body)) == ["error"]


def test_who_sends_too_much_reads_why_and_the_next_connection_answers(server):
    for body in (bytes(8 * MIB), iter([bytes(MIB)] * 8)):  # with a length, and in chunks
        answer = requests.post(f"{server.http}/predict", data=body, timeout=20)
        assert answer.status_code == 413
        assert answer.json()["error"].startswith("the body is larger than 1 MiB")
    assert requests.post(f"{server.http}/predict", data=picture(), timeout=20).status_code == 200


def test_a_connection_is_kept_after_errors_of_the_application(server):
    with requests.Session() as session:
        ports = set()
        for data, status in ((b"no picture", 400), (picture(), 200), (b"", 400), (picture(), 200)):
            answer = session.post(f"{server.http}/predict", data=data, timeout=20, stream=True)
            ports.add(answer.raw.connection.sock.getsockname() if answer.raw.connection else None)
            assert answer.status_code == status
            answer.close() if answer.content is None else None
        assert len(ports) == 1


def test_a_client_that_disconnects_takes_its_images_out_of_the_queue(file):
    with serving(file, "--no-grpc", "--max-batch-size", "1") as running:
        shape, count = (3, 256, 256), 60  # of 16 times the usual size, to take a while

        def figures():
            lines = requests.get(f"{running.http}/metrics", timeout=20).text.splitlines()
            return {
                line.partition("{")[0]: float(line.rpartition(" ")[2]) for line in lines if line[0] != "#"
            }

        described = json.dumps({"inputs": [{
            "name": "pixels", "datatype": "FP32", "shape": [count, *shape],
            "parameters": {"binary_data_size": 4 * count * 3 * 256 * 256},
        }]}).encode()  # fmt: skip
        with connected(running) as sock:
            size = len(described) + 4 * count * 3 * 256 * 256
            sock.sendall(head(
                f"content-length: {size}", f"inference-header-content-length: {len(described)}",
                path="/v2/models/animals/infer",
            ) + described)  # fmt: skip
            sock.sendall(bytes(size - len(described)))
            until(lambda: figures()["swinv2_images_total"] >= 2)
            assert figures()["swinv2_waiting_images"] == count
        until(lambda: figures()["swinv2_waiting_images"] == 0)
        assert figures()["swinv2_images_total"] < count
        until(lambda: any(line.get("status") == 499 for line in running.lines()))


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_client_that_breaks_off_disturbs_nobody(server):
    for _ in range(20):
        with connected(server) as sock:
            sock.sendall(head("content-length: 1000") + b"x" * 500)
            sock.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )  # a reset, no farewell
    assert requests.post(f"{server.http}/predict", data=picture(), timeout=20).status_code == 200
    assert "traceback" not in server.log.read_text()


# -- the log ----------------------------------------------------------------------------------------------


def test_each_request_is_one_line_of_json(server):
    before = len(server.lines())
    requests.post(f"{server.http}/predict", data=picture(), headers={"x-request-id": "one"}, timeout=20)
    requests.post(f"{server.http}/predict", data=b"x", headers={"x-request-id": "two"}, timeout=20)
    requests.get(f"{server.http}/no%0a%c2%9b%e2%80%a8path", headers={"x-request-id": "three"}, timeout=20)
    until(lambda: len(server.lines()) >= before + 3)
    one, two, three = server.lines()[before:]
    assert three["path"] == "/no\n\x9b\u2028path"
    assert server.log.read_text().isascii()
    assert datetime.datetime.fromisoformat(one["time"]).tzinfo is datetime.UTC
    assert (one["level"], one["message"], one["client"], one["method"]) == (
        "info",
        "request",
        "127.0.0.1",
        "POST",
    )
    assert [(line["request"], line["status"]) for line in (one, two, three)] == [
        ("one", 200), ("two", 400), ("three", 404),
    ]  # fmt: skip
    assert (one["path"], one["model"], one["version"], one["images"]) == ("/predict", "animals", "1", 1)
    assert one["ms"] >= one["compute_ms"] > 0
    assert {"decode_ms", "queue_ms"} <= set(one)


def test_no_request_is_logged_where_nobody_wants_it(file):
    with serving(file, "--no-grpc", "--quiet", "--worker-threads") as running:
        requests.post(f"{running.http}/predict", data=picture(), timeout=20)
        assert not [line for line in running.lines() if line["message"] == "request"]


# -- TLS and tokens, on a real server ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Files in PEM for 127.0.0.1: (certificate, key, key behind a password)."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(1))
        .not_valid_after(now + datetime.timedelta(1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    for file, lock in (
        ("key.pem", serialization.NoEncryption()),
        ("locked.pem", serialization.BestAvailableEncryption(b"password")),
    ):
        (folder / file).write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)
        )
    return folder / "cert.pem", folder / "key.pem", folder / "locked.pem"


def test_a_server_with_a_certificate_and_a_token_answers_those_who_have_both(file, certificate, tmp_path):
    (tmp_path / "token").write_text("secret\n")
    arguments = ["--token-file", tmp_path / "token", "--certificate", certificate[0], "--key", certificate[1]]
    with serving(file, "--no-grpc", "--worker-threads", *arguments) as running:
        assert running.http.startswith("https://127.0.0.1:")
        with requests.Session() as session:
            session.trust_env, session.verify = False, str(certificate[0])
            assert session.get(f"{running.http}/v2/health/ready", timeout=20).status_code == 200
            unknown = session.get(f"{running.http}/models", timeout=20)
            assert (unknown.status_code, unknown.headers["www-authenticate"]) == (401, "Bearer")
            session.headers["authorization"] = "Bearer secret"
            answer = session.post(f"{running.http}/predict", data=picture(), timeout=20)
            assert answer.json()["model"] == "animals"
            assert (
                session.post(f"{running.http}/predict", data=bytes(70 * MIB), timeout=60).status_code == 413
            )
        with pytest.raises(requests.exceptions.SSLError):
            requests.get(f"{running.http}/v2", timeout=20)
        host, port = running.http.removeprefix("https://").split(":")
        old = ssl.create_default_context(cafile=certificate[0])
        with (
            socket.create_connection((host, int(port))) as sock,
            old.wrap_socket(sock, server_hostname=host) as tls,
        ):
            assert tls.version() in ("TLSv1.2", "TLSv1.3")
        assert "secret" not in running.log.read_text()


def test_a_server_listens_on_this_machine_alone_unless_it_is_told(server):
    assert server.http.startswith("http://127.0.0.1:")
    others = [row[4][0] for row in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)]
    for address in others:
        if not address.startswith("127."):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((address, int(server.http.rpartition(":")[2])), 5)


# -- beginning and end ------------------------------------------------------------------------------------

WATCH = """
import sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name in {"torch"}:
            raise ImportError(f"{name} shall not be imported", name=name)
        if "." not in name:
            with open(PLACE, "a") as file:
                file.write(name + chr(10))

sys.meta_path.insert(0, Watch())
"""


def test_a_server_starts_without_torch_and_what_it_does_not_need(file, tmp_path, record_property):
    """Importing torch raises, in the server and in its workers, and nothing else that is heavy is imported."""
    names = tmp_path / "names"
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(WATCH.replace("PLACE", repr(str(names))))
    started = time.monotonic()
    with serving(file, "--no-grpc", environment={"PYTHONPATH": str(tmp_path / "site")}) as running:
        seconds = time.monotonic() - started
        record_property("seconds_to_ready", round(seconds, 2))
        print(f"ready after {seconds:.2f} s")
        answer = requests.post(f"{running.http}/predict", data=picture(), timeout=20)
        assert answer.status_code == 200
    imported = set(names.read_text().split())
    assert {"fastapi", "uvicorn", "numpy"} <= imported
    others = {
        "onnx",
        "onnxruntime",
        "openvino",
        "sklearn",
        "scipy",
        "pandas",
        "matplotlib",
        "datasets",
        "grpc",
    }
    assert imported & (HEAVY | others) == set()
    assert seconds < 20


def begun(running, body):
    """A request of which half has arrived."""
    sock = connected(running)
    sock.sendall(head(f"content-length: {len(body)}") + body[: len(body) // 2])
    until(
        lambda: requests.get(f"{running.http}/v2", timeout=20).ok
    )  # the server has looked at its sockets since
    return sock


def test_a_signal_lets_what_has_begun_finish_and_nothing_new_begin(file):
    body = picture()
    with serving(file, "--no-grpc", "--worker-threads") as running, begun(running, body) as sock:
        assert requests.get(f"{running.http}/v2/health/ready", timeout=20).status_code == 200
        running.process.send_signal(signal.SIGTERM)
        until(lambda: requests.get(f"{running.http}/v2/health/ready", timeout=20).status_code == 503)
        assert requests.get(f"{running.http}/v2/health/live", timeout=20).status_code == 200
        assert requests.get(f"{running.http}/v2/models/animals/ready", timeout=20).status_code == 503
        new = requests.post(f"{running.http}/predict", data=body, timeout=20)
        assert (new.status_code, new.headers["retry-after"]) == (503, "1")
        assert new.json() == {"error": "the server is stopping; ask another one"}
        sock.sendall(body[len(body) // 2 :])
        answer, told = answer_of(sock, "POST")
        assert answer.status == 200
        assert json.loads(told)["results"][0]["predictions"]
        assert running.process.wait(20) == 0
        with pytest.raises(requests.ConnectionError):
            requests.get(f"{running.http}/v2", timeout=20)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_a_server_at_once(file, number):
    with serving(file, "--no-grpc") as running, begun(running, picture()):
        running.process.send_signal(number)
        until(lambda: requests.get(f"{running.http}/v2/health/ready", timeout=20).status_code == 503)
        running.process.send_signal(number)
        assert running.process.wait(10) == 128 + number
        assert "Traceback" not in running.log.read_text()


@pytest.fixture
def own_logs(monkeypatch):
    """The command sends its lines to stderr, for good; the other tests of this process have their own."""
    monkeypatch.setenv("GRPC_VERBOSITY", "NONE")
    for name in ("swinv2", "uvicorn", "grpc"):
        logger = logging.getLogger(name)
        for what in ("handlers", "propagate", "level"):
            monkeypatch.setattr(logger, what, getattr(logger, what))


@pytest.fixture(scope="module")
def files(file, certificate, tmp_path_factory):
    """A folder with what a command line can name, right and wrong."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "model.safetensors").write_bytes(file.read_bytes())
    (folder / "cut.safetensors").write_bytes(file.read_bytes()[:-100])
    for name, source in zip(("cert.pem", "key.pem", "locked.pem"), certificate, strict=True):
        (folder / name).write_bytes(source.read_bytes())
    (folder / "empty").write_text("\n")
    (folder / "binary").write_bytes(b"\xff\xfe\x00")
    (folder / "folder").mkdir()
    return folder


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        ("model.safetensors --http-port TAKEN", 2, "cannot listen on 127.0.0.1 port TAKEN: address already in use; "),
        ("model.safetensors --http-port 70000", 2, "cannot listen on 127.0.0.1 port 70000"),
        ("model.safetensors --host 1.2.3.4", 2, "cannot listen on 1.2.3.4 port 8000"),
        ("model.safetensors --host no.such.host.invalid", 2, "cannot listen on no.such.host.invalid port 8000"),
        ("nowhere.safetensors", 3, "there is no file nowhere.safetensors"),
        ("folder", 2, "folder has no models; it should hold <name>/<version>/<one model file>"),
        ("cut.safetensors", 3, "was cut off"),
        ("swinv3_tiny", 2, "swinv3_tiny"),
        ("model.safetensors model.safetensors", 2, "two models are called"),
        ("model.safetensors --certificate cert.pem", 2, "TLS needs both --certificate and --key"),
        ("model.safetensors --key key.pem", 2, "TLS needs both --certificate and --key"),
        ("model.safetensors --certificate cert.pem --key nowhere.pem", 2, "nowhere.pem"),
        ("model.safetensors --certificate nowhere.pem --key key.pem", 2, "nowhere.pem"),
        ("model.safetensors --certificate key.pem --key cert.pem", 2, ".pem"),
        ("model.safetensors --certificate cert.pem --key locked.pem", 2, ".pem"),
        ("model.safetensors --token-file empty", 2, "empty should hold one token of ASCII characters"),
        ("model.safetensors --token-file binary", 2, "binary should hold one token of ASCII characters"),
        ("model.safetensors --token-file nowhere", 3, "nowhere: no such file or directory"),
        ("model.safetensors --workers 0", 2, "workers is 0; give at least 1"),
        ("model.safetensors --timeout 0", 2, "timeout is 0"),
        ("model.safetensors --timeout nan", 2, "--timeout is 'nan'; give a number"),
        ("model.safetensors --max-batch-size 0", 2, "max_batch_size is 0; give at least 1"),
        ("model.safetensors --max-queue 3", 2, "max_queue is 3, less than one batch of 8"),
        ("model.safetensors --threads 0", 2, "threads is 0; give at least 1"),
        ("model.safetensors --device cuda", 2, "cuda"),
        ("model.safetensors --runtime nonsense", 2, "nonsense"),
        ("", 2, "MODELS is missing"),
    ],
)  # fmt: skip
def test_a_command_line_that_cannot_be_meant_is_one_sentence(
    files, arguments, code, sentence, monkeypatch, capsys, own_logs
):
    monkeypatch.chdir(files)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        words = arguments.replace("TAKEN", port).split()
        if "--http-port" not in words and "--host" not in words:
            words += ["--http-port", "0"]
        assert cli.main(["serve", *words, "--no-grpc"]) == code
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert sentence.replace("TAKEN", port) in error
