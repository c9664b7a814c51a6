"""Requests that went wrong on their way or were made to do harm: each from a number, the same every time.

Every one is built from a good request and one mistake, so that it is known what has to happen: a refusal, the end of
the connection, or, where the mistake happens to mean something, an answer, which is known too.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from PIL import Image
from tritonclient.grpc import service_pb2 as proto

NAME = "animals"  # of the model that is asked
SIDE = 64  # of its input
MIB = 1 << 20
PATH = f"/v2/models/{NAME}/infer"
INFER = "/inference.GRPCInferenceService/ModelInfer"


@dataclass(frozen=True)
class Sent:
    """What is sent.

    Args:
        kind: the mistake.
        data: HTTP, or bytes for the port of gRPC: all that is written; a call of gRPC: its message.
        call: path of a call of gRPC.
        is_whole: a request is complete, so that it has to be answered; otherwise nothing follows and the connection
            has to end, with or without an answer.
        picture: the picture that the request shows after all, if that is one.
    """

    kind: str
    data: bytes
    call: str = ""
    is_whole: bool = True
    picture: bytes | None = None


class Mutations:
    """An endless row of them. pictures: good ones, encoded."""

    def __init__(self, pictures: list[bytes], seed: int):
        self._random, self._pictures = random.Random(seed), pictures

    def over_http(self) -> Iterator[Sent]:
        """Every kind in turn."""
        yield from self._all(HTTP)

    def over_grpc(self) -> Iterator[Sent]:
        """Messages of calls."""
        yield from self._all(GRPC)

    def to_the_port_of_grpc(self) -> Iterator[Sent]:
        """Bytes that are no calls."""
        yield from self._all(FRAMES)

    def _all(self, kinds: dict[str, Kind]) -> Iterator[Sent]:
        while True:
            for name, make in kinds.items():
                made = make(self._random, self._random.choice(self._pictures))
                yield Sent(name, *made) if isinstance(made, tuple) else Sent(name, made)


Kind = Callable[[random.Random, bytes], Any]  # -> the bytes, or the fields of Sent after kind
HTTP: dict[str, Kind] = {}
GRPC: dict[str, Kind] = {}
FRAMES: dict[str, Kind] = {}


def kind(table: dict[str, Kind]) -> Callable[[Kind], Kind]:
    """Enter a function under its name."""

    def enter(make: Kind) -> Kind:
        table[make.__name__] = make
        return make

    return enter


# -- good requests ----------------------------------------------------------------------------------------


def http(
    body: bytes, *lines: str | bytes, path: str = PATH, method: str = "POST", length: object = None
) -> bytes:
    """A request with a body; lines: further header lines."""
    head = [
        f"{method} {path} HTTP/1.1",
        "host: here",
        f"content-length: {len(body) if length is None else length}",
    ]
    rows = [line.encode() if isinstance(line, str) else line for line in (*head, *lines)]
    return b"\r\n".join([*rows, b"", b""]) + body


def described(picture: bytes, **entry: Any) -> dict[str, Any]:
    """An inference request as JSON, whose input has other entries."""
    data = [base64.b64encode(picture).decode()]
    return {
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": data} | entry],
        "outputs": [{"name": "logits"}],
    }


def text(request: Any) -> bytes:
    return json.dumps(request).encode()


def asked(picture: bytes, **entry: Any) -> bytes:
    return http(text(described(picture, **entry)))


def element(data: bytes) -> bytes:
    """An element of BYTES as it lies in a binary tensor."""
    return struct.pack("<I", len(data)) + data


def binary(tail: bytes, size: Any, header: object = None, **entry: Any) -> bytes:
    """A request with the binary extension. size: what it says that its tensor has; header: that its header has."""
    tensor = {
        "name": "image",
        "datatype": "BYTES",
        "shape": [1],
        "parameters": {"binary_data_size": size},
    } | entry
    head = text({"inputs": [tensor], "outputs": [{"name": "logits"}]})
    return http(head + tail, f"inference-header-content-length: {len(head) if header is None else header}")


def message(picture: bytes, **entry: Any) -> proto.ModelInferRequest:
    """The message of a call, whose input has other fields."""
    made = proto.ModelInferRequest(model_name=NAME)
    made.inputs.add(**{"name": "image", "datatype": "BYTES", "shape": [1]} | entry)
    made.outputs.add(name="logits")
    made.raw_input_contents.append(element(picture))
    return made


def call(made: proto.ModelInferRequest) -> tuple[bytes, str]:
    return made.SerializeToString(), INFER


# -- values that are none ---------------------------------------------------------------------------------

# Shapes of one image that are not [1] or [1, 1].
SHAPES = (
    [],
    [0],
    [-1],
    [2],
    [1, 2],
    [1, 1, 1],
    [-(2**63)],
    [2**31],
    [2**63],
    [2**70],
    [1] * 9,
    [3, 2**30, 2**30],
)
NO_SHAPES = (None, 1, "1", {}, [None], ["1"], [1.5], [True], [[1]], [{}])
DATATYPES = ("FP32", "INT8", "UINT8", "FP16", "BOOL", "bytes", "", "B" * 300, "BYTES\0")
NO_TEXTS = (None, 1, [], {}, ["BYTES"], True)
NO_INTEGERS = ("1", 1.5, None, [], {}, True, 2**63, -(2**70))
NAMES = ("", "pixel", "IMAGE", "logits", "i" * 257, "image\0", "\ud7ff")


def nested(depth: int, way: str) -> bytes:
    opens, closes = {"list": ("[", "]"), "object": ('{"a":', "}"), "open": ("[", "")}[way]
    return (opens * depth + ("1" if way != "open" else "") + closes * depth).encode()


def cut(rng: random.Random, data: bytes) -> bytes:
    """Its beginning."""
    return data[: rng.randrange(len(data))]


def packed(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)  # the time of now would be another one each time


@cache
def bomb(size: int, byte: bytes = b" ") -> bytes:
    """A gzip file of a few kilobytes that unpacks to so many bytes."""
    return packed(byte * size)


# -- HTTP: what it says -----------------------------------------------------------------------------------


@kind(HTTP)
def nothing_wrong(rng, picture):
    how = rng.randrange(4)
    if how == 0:
        return asked(picture), "", True, picture
    if how == 1:
        return binary(element(picture), len(picture) + 4), "", True, picture
    if how == 2:
        return http(packed(text(described(picture))), "content-encoding: gzip"), "", True, picture
    return chunked(rng, text(described(picture))), "", True, picture


@kind(HTTP)
def json_cut_off(rng, picture):
    return http(cut(rng, text(described(picture))))


@kind(HTTP)
def json_with_a_wrong_mark(rng, picture):
    data = bytearray(text(described(b"")))
    places = [i for i, byte in enumerate(data) if byte in b'{}[]:"']
    data[rng.choice(places)] = rng.choice(b"\0;=<\xff\x7f")
    return http(bytes(data))


@kind(HTTP)
def json_of_another_kind(rng, picture):
    return http(
        rng.choice(
            (b"null", b"1", b'"x"', b"[]", b"{}", b"", b"\xef\xbb\xbf{}", b"NaN", b"{'a': 1}", picture)
        )
    )


@kind(HTTP)
def nested_json(rng, picture):
    data = nested(rng.choice((250, 1000, 20_000, 400_000)), rng.choice(("list", "object", "open")))
    whole = text(described(picture, data="HERE"))
    return http(rng.choice((data, whole.replace(b'"HERE"', data))))


@kind(HTTP)
def shape(rng, picture):
    return asked(picture, shape=rng.choice(SHAPES + NO_SHAPES))


@kind(HTTP)
def datatype(rng, picture):
    return asked(picture, datatype=rng.choice(DATATYPES + NO_TEXTS))


@kind(HTTP)
def name_of_an_input(rng, picture):
    return asked(picture, name=rng.choice(NAMES + NO_TEXTS))


@kind(HTTP)
def data_of_an_input(rng, picture):
    return asked(picture, data=rng.choice((
        [], ["!"], [1], [None], [[["x"]]], "x", None, {}, ["", ""], ["===="], ["\u00e9"],
        [base64.b64encode(b"x" * 99).decode()],
    )))  # fmt: skip


@kind(HTTP)
def numbers_of_pixels(rng, picture):
    count = 3 * SIDE * SIDE
    rows = rng.choice((
        [], [0.0] * (count - 1), ["0"] * count, [None] * count, [True] * count, [[0.0], [0.0, 1.0]], [10**400] * count,
        [1e39] * count, [{}], "0",
    ))  # fmt: skip
    return asked(picture, name="pixels", datatype="FP32", shape=[1, 3, SIDE, SIDE], data=rows)


@kind(HTTP)
def pixels_of_another_shape(rng, picture):
    shape = rng.choice(
        ([1, 1, 2, 2], [4], [2, 2], [1, 4, 1, 1], [4, 1, 1, 1], [1, 2, 2, 1], [1, 3, 1, 1, 1], [1, 3, 0, 9])
    )
    count = 1
    for size in shape:
        count *= size
    return asked(picture, name="pixels", datatype="FP32", shape=shape, data=[0.5] * count)


@kind(HTTP)
def inputs(rng, picture):
    request = described(picture)
    one = request["inputs"][0]
    request["inputs"] = rng.choice(
        ([], [one, one], [one] * 999, one, None, [None], ["image"], [[one]], [{}], 1)
    )
    return http(text(request))


@kind(HTTP)
def missing(rng, picture):
    request = described(picture)
    where = rng.choice((request, *[request["inputs"][0]] * 4))
    del where["inputs" if where is request else rng.choice(list(where))]
    return http(text(request))


@kind(HTTP)
def outputs(rng, picture):
    rows = rng.choice((
        [{"name": "x"}], [{}], [1], 1, {}, [{"name": "logits"}] * 2, [{"name": ["logits"]}],
        [{"name": "logits", "parameters": 1}], [{"name": "scores", "parameters": {"classification": -1}}],
        [{"name": "logits", "parameters": {"classification": rng.choice(NO_INTEGERS)}}],
        [{"name": "logits", "parameters": {"binary_data": rng.choice((1, "true", None, []))}}],
    ))  # fmt: skip
    return http(text(described(picture) | {"outputs": rows}))


@kind(HTTP)
def parameters(rng, picture):
    more = rng.choice((
        {"parameters": rng.choice((1, "x", [], [1], True))}, {"id": rng.choice((1, None, [], {}))},
        {"parameters": {"timeout": rng.choice((*NO_INTEGERS, -1))}},
        {"parameters": {"binary_data_output": rng.choice((1, "yes", None))}},
    ))  # fmt: skip
    return http(text(described(picture) | more))


@kind(HTTP)
def address(rng, picture):
    path = rng.choice((
        "/v2/models/cow/infer", f"/v2/models/{NAME}/versions/9/infer", f"/v2/models/{NAME}/versions/%00/infer",
        "/v2/models/..%2f..%2fetc/infer", f"/v2/models/{'n' * 9000}/infer", "/v2/models//infer", "/v2/models/%ff/infer",
        f"/v2/models/{NAME}/versions/-1/infer", f"/{NAME}", "/%", "//", "/page/..%2frest", "/page/../../etc/passwd",
        "/predict?model=cow", "/predict?top_k=0", "/predict?top_k=x", "/predict?top_k=1e9",
        "/predict?top_k=" + "9" * 4000,
        "/v2/repository/index", f"/v2/repository/models/{NAME}/unload", "/v2/repository/models/..%2f/load",
        "/explain?class_id=-1", "/explain?class_id=7", "/explain?class_id=x", "*", "http://elsewhere/v2/models",
    ))  # fmt: skip
    return http(
        text(described(picture)) if "predict" not in path and "explain" not in path else picture, path=path
    )


@kind(HTTP)
def method(rng, picture):
    return http(
        text(described(picture)),
        method=rng.choice(("PUT", "DELETE", "PATCH", "GET", "OPTIONS", "TRACE", "PROPFIND")),
    )


@kind(HTTP)
def type_of_the_body(rng, picture):
    kinds = (
        "text/plain",
        "image/png",
        "application/xml",
        "x",
        "application/json5",
        "multipart/form-data",
        "a" * 9000,
    )
    return http(text(described(picture)), f"content-type: {rng.choice(kinds)}")


# -- HTTP: binary tensors ---------------------------------------------------------------------------------


@kind(HTTP)
def binary_data_size(rng, picture):
    tail = element(picture)
    wrong = (len(tail) - 1, len(tail) + 1, 0, -1, -len(tail), 2**31, 2**62, *NO_INTEGERS)
    return binary(tail, rng.choice(wrong))


@kind(HTTP)
def length_of_the_header(rng, picture):
    tail = element(picture)
    return binary(
        tail,
        len(tail),
        rng.choice((0, 1, 20, 99, -1, 10**9, 10**30, "x", "1e2", "", "+5", "0x10", "9" * 5000)),
    )


@kind(HTTP)
def length_of_an_element(rng, picture):
    wrong = rng.choice((0, 1, len(picture) - 1, len(picture) + 1, 2**31, 2**32 - 1))
    tail = rng.choice((struct.pack("<I", wrong) + picture, element(picture)[: rng.randrange(1, 4)], picture))
    return binary(tail, len(tail))


@kind(HTTP)
def elements_of_another_number(rng, picture):
    tail = rng.choice((element(picture) * 2, element(b"") * 3, element(picture) + element(b""), b""))
    return binary(tail, len(tail), shape=rng.choice(([1], [1, 1])))


@kind(HTTP)
def binary_pixels(rng, picture):
    whole = 4 * 3 * SIDE * SIDE
    tail = rng.randbytes(rng.choice((0, 1, whole - 4, whole - 1, whole + 4)))
    return binary(tail, len(tail), name="pixels", datatype="FP32", shape=[1, 3, SIDE, SIDE])


@kind(HTTP)
def pixels_that_are_not_finite(rng, picture):
    value = struct.pack("<f", rng.choice((float("nan"), float("inf"), float("-inf"))))
    tail = bytearray(4 * 3 * SIDE * SIDE)
    place = 4 * rng.randrange(3 * SIDE * SIDE)
    tail[place : place + 4] = value
    return binary(bytes(tail), len(tail), name="pixels", datatype="FP32", shape=[1, 3, SIDE, SIDE])


# -- HTTP: packed -----------------------------------------------------------------------------------------


@kind(HTTP)
def gzip_bomb(rng, picture):
    if rng.random() < 0.7:  # others cost less time, and more of them are useful
        return packed_and_broken(rng, picture)
    size, byte = rng.choice(((100 * MIB, b" "), (100 * MIB, b"\0"), (40 * MIB, b"[")))
    data = bomb(size, byte)
    return http(data, "content-encoding: gzip")


@kind(HTTP)
def packed_and_broken(rng, picture):
    data = bytearray(packed(text(described(picture))))
    how = rng.randrange(4)
    if how == 0:
        del data[rng.randrange(1, len(data)) :]
    elif how == 1:
        data[rng.randrange(10, len(data) - 4)] ^= 1 << rng.randrange(
            8
        )  # the sum of the content no longer fits
    elif how == 2:
        data[rng.randrange(3)] ^= 0xFF
    else:
        data = bytearray(text(described(picture)))
    return http(bytes(data), f"content-encoding: {rng.choice(('gzip', 'GZIP'))}")


@kind(HTTP)
def coding_that_is_not_known(rng, picture):
    coding = rng.choice(("br", "zstd", "gzip, gzip", "x", "", "gzip\x80", "identity, br", "g" * 5000))
    return http(packed(text(described(picture))), f"content-encoding: {coding}".encode("latin1"))


# -- HTTP: pictures and forms -----------------------------------------------------------------------------


def of_kind(picture: bytes, form: str) -> bytes:
    data = io.BytesIO()
    Image.open(io.BytesIO(picture)).save(data, form)
    return data.getvalue()


def broken(rng: random.Random, picture: bytes) -> bytes:
    """A picture of some kind that is cut off, or has other bytes in it: mostly none any more."""
    data = bytearray(of_kind(picture, rng.choice(("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"))))
    if rng.random() < 0.4:
        return cut(rng, bytes(data))
    for _ in range(rng.randrange(1, 6)):
        data[rng.randrange(min(len(data), rng.choice((40, 10**6))))] = rng.randrange(256)
    return bytes(data)


def png(width: int, height: int, rows: bytes, more: bytes = b"") -> bytes:
    """A PNG file that says to be of a size. more: chunks."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + more + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@cache
def huge() -> tuple[bytes, ...]:
    """Small files that would be large pictures, of which none may be decoded."""
    rows = zlib.compress(bytes(MIB), 9)
    comment = b"zTXt" + b"a\0\0" + zlib.compress(bytes(99 * MIB), 9)
    comment = struct.pack(">I", len(comment) - 4) + comment + struct.pack(">I", zlib.crc32(comment))
    return (
        png(50_000, 50_000, rows),
        png(2**31 - 1, 2**31 - 1, rows),
        png(1, 2**31 - 1, rows),
        png(0, 0, rows),
        png(1, 1, zlib.compress(bytes(4)), comment),
        b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\xf0\0\0" + bytes(6) + b"," + bytes(4)
        + struct.pack("<HH", 65535, 65535) + b"\0\2\2\x44\1\0;",
        b"BM" + struct.pack("<IIIIiiHHIIiiII", 200, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(146),
        b"BM" + struct.pack("<IIIIiiHHIIiiII", 200, 0, 54, 40, -60_000, -(2**31), 1, 24, 0, 0, 0, 0, 0, 0) + bytes(146),
        b"P6 999999 999999 255\n" + bytes(99),
        b"P6 1 " + b"9" * 5000,
        b"II*\0" + struct.pack("<IHHHIIHHII", 8, 2, 256, 4, 1, 99_999, 257, 4, 1, 99_999) + bytes(4),
    )  # fmt: skip


def shown(rng: random.Random, picture: bytes) -> tuple[bytes, str, bool, bytes]:
    """A request over HTTP with a picture, whatever that is."""
    return rng.choice((asked(picture), binary(element(picture), len(picture) + 4))), "", True, picture


@kind(HTTP)
def broken_picture(rng, picture):
    return shown(rng, broken(rng, picture))


@kind(HTTP)
def huge_picture(rng, picture):
    return shown(rng, rng.choice(huge()))


@kind(HTTP)
def no_picture(rng, picture):
    data = rng.choice(
        (b"", b"\0", b"<svg/>", b"%PDF-1.4", b"x" * 999, rng.randbytes(99), b"\xff\xd8\xff", b"BM", b"GIF89a")
    )
    return http(data, path="/predict") if data and rng.random() < 0.5 else shown(rng, data)


@kind(HTTP)
def form(rng, picture):
    part = b'--b\r\ncontent-disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    body = part + picture + b"\r\n--b--\r\n"
    body, boundary = rng.choice((
        (body, ""), (body, "; boundary=c"), (body, "; boundary="),
        (body.replace(b'name="image"; ', b""), "; boundary=b"), (b"", "; boundary=b"), (b"--b--\r\n", "; boundary=b"),
        (body.replace(b"content-disposition", b"x" * 70_000), "; boundary=b"), (part * 2, "; boundary=b"),
        (part.replace(b"\r\n\r\n", b"\r\n\r\nx\r\n") * 300 + b"--b--\r\n", "; boundary=b"),
        (body.replace(b'; filename="a.png"', b""), "; boundary=b"), (rng.randbytes(200), "; boundary=b"),
        (body.replace(b"\r\n\r\n", b"\r\n: x\r\n\r\n", 1), "; boundary=b"), (body, "; boundary=" + "b" * 5000),
    ))  # fmt: skip
    return http(body, f"content-type: multipart/form-data{boundary}", path="/predict")


# -- HTTP: how it is said ---------------------------------------------------------------------------------


def chunked(rng: random.Random, body: bytes) -> bytes:
    """A good request in chunks."""
    step = rng.choice((1, 7, 1000, len(body)))
    chunks = b"".join(
        b"%x\r\n%b\r\n" % (len(body[i : i + step]), body[i : i + step]) for i in range(0, len(body), step)
    )
    return (
        http(b"", "transfer-encoding: chunked").replace(b"content-length: 0\r\n", b"") + chunks + b"0\r\n\r\n"
    )


@kind(HTTP)
def broken_chunks(rng, picture):
    head = http(b"", "transfer-encoding: chunked").replace(b"content-length: 0\r\n", b"")
    return head + rng.choice((
        b"zz\r\n{}\r\n0\r\n\r\n", b"-2\r\n{}\r\n0\r\n\r\n", b"fffffffffffffffff\r\n{}", b"2\r\n{}}}}}\r\n0\r\n\r\n",
        b"\r\n{}\r\n", b"0x2\r\n{}\r\n0\r\n\r\n", b" 2\r\n{}\r\n0\r\n\r\n", b"2\n{}\n0\n\n", b"g" * 4000,
    ))  # fmt: skip


@kind(HTTP)
def line_of_the_request(rng, picture):
    return rng.choice((
        b"\r\n" * 9 + b"X", b"GET\r\n\r\n", b"GET  HTTP/1.1\r\n\r\n", b"get /v2 HTTP/1.1\r\n\r\n",
        b"GET /v2 HTTP/9.9\r\n\r\n", b"GET /v2 HTTQ/1.1\r\n\r\n", b"GET /v2 HTTP/1.1 x\r\n\r\n",
        b"G\0T /v2 HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\3\1\2\0\1\0\1\xfc\3\3" + bytes(500), b"\0" * 999, b"\xff" * 999,
        b"POST v2 HTTP/1.1\r\n\r\n", b"GET /\x01 HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\nx\n\n", b"HELO here\r\n\r\n",
        b"{}\r\n\r\n",
    ))  # fmt: skip


@kind(HTTP)
def header(rng, picture):
    return http(text(described(picture)), rng.choice((
        b"no colon", b": no name", b"x y: 1", b"x\0: 1", b"x: a\0b", b"x: \r\n y\0", b"\xff: 1", b"x:" + b"y" * 40_000,
        b"\r\n".join(b"x%d: %s" % (i, b"y" * 30) for i in range(1200)), b"x" * 40_000 + b": 1", b"x : 1", b"(x): 1",
    )))  # fmt: skip


@kind(HTTP)
def headers_that_contradict_each_other(rng, picture):
    return http(text(described(picture)), rng.choice((
        "content-length: 5", "transfer-encoding: chunked", "transfer-encoding: gzip", "transfer-encoding: chunked, x",
        "inference-header-content-length: 5\r\ninference-header-content-length: 6", "content-encoding: gzip",
        "content-type: text/plain\r\ncontent-type: application/json",
    )))  # fmt: skip


@kind(HTTP)
def length_of_the_body(rng, picture):
    lengths = (64 * MIB + 1, 2**40, 2**63, 2**64, 10**40, -1, "x", "1.5", "", "0x5", "5, 6", "1 2")
    return http(b"{}", length=rng.choice(lengths))


@kind(HTTP)
def cut_off(rng, picture):
    return cut(rng, rng.choice((asked(picture), chunked(rng, text(described(picture)))))), "", False


@kind(HTTP)
def more_promised_than_sent(rng, picture):
    body = text(described(picture))
    return http(body, length=len(body) + rng.choice((1, 99, MIB))), "", False


# -- gRPC: messages ---------------------------------------------------------------------------------------


@kind(GRPC)
def nothing_wrong_in_grpc(rng, picture):
    return *call(message(picture)), True, picture


@kind(GRPC)
def message_cut_off(rng, picture):
    return cut(
        rng, message(picture).SerializeToString()
    ), INFER  # the tensors come last: something is missing


@kind(GRPC)
def no_message(rng, picture):
    return rng.choice((
        b"\xff" * 11, rng.randbytes(50) + b"\xff" * 11, picture + b"\xff" * 11, b"\x0a\xff\xff\xff\xff\x0f",
        b"\x0b" * 5000, b"\x0a\x01\xff",
    )), INFER  # fmt: skip


@kind(GRPC)
def other_field(rng, picture):
    names = ("pixels", "", "x", "i" * 300)
    return call(message(picture, **rng.choice((
        {"shape": rng.choice([shape for shape in SHAPES if all(-(2**63) <= n < 2**63 for n in shape)])},
        {"datatype": rng.choice(DATATYPES)}, {"name": rng.choice(names)},
    ))))  # fmt: skip


@kind(GRPC)
def tensors_of_another_number(rng, picture):
    made = message(picture)
    how = rng.randrange(5)
    if how == 0:
        del made.raw_input_contents[:]
    elif how == 1:
        made.raw_input_contents.append(rng.choice((b"", element(picture))))
    elif how == 2:
        del made.inputs[:]
    elif how == 3:
        made.inputs.add().CopyFrom(made.inputs[0])
    else:
        for _ in range(999):
            made.raw_input_contents.append(b"")
    return call(made)


@kind(GRPC)
def typed_contents(rng, picture):
    made = message(picture)
    contents = made.inputs[0].contents
    how = rng.randrange(4)
    if how == 0:
        contents.bytes_contents.append(picture)  # and the raw ones
    else:
        del made.raw_input_contents[:]
        if how == 1:
            contents.fp32_contents.extend([1.0] * 4)
        elif how == 2:
            contents.bytes_contents.extend([picture] * rng.choice((2, 300)))
        else:
            contents.bytes_contents.append(picture)
            contents.int_contents.append(1)
    return call(made)


@kind(GRPC)
def length_of_an_element_in_grpc(rng, picture):
    made = message(picture)
    wrong = rng.choice((0, 1, len(picture) - 1, len(picture) + 1, 2**31, 2**32 - 1))
    made.raw_input_contents[0] = rng.choice(
        (struct.pack("<I", wrong) + picture, element(picture)[:3], picture, b"")
    )
    return call(made)


@kind(GRPC)
def parameters_in_grpc(rng, picture):
    made = message(picture)
    where = rng.choice((made.parameters["timeout"], made.outputs[0].parameters["classification"]))
    how = rng.randrange(4)
    if how == 0:
        where.string_param = rng.choice(("", "x", "5"))
    elif how == 1:
        where.bool_param = True
    elif how == 2:
        where.int64_param = rng.choice((-1, -(2**63)))
    else:
        where.double_param = rng.choice((1.5, float("nan"), float("inf")))
    for one in (made, made.outputs[0]):  # asking for the other one has made it
        for key in list(one.parameters):
            if one.parameters[key].WhichOneof("parameter_choice") is None:
                del one.parameters[key]
    return call(made)


@kind(GRPC)
def outputs_in_grpc(rng, picture):
    made = message(picture)
    made.outputs.add(name=rng.choice(("logits", "x", "", "o" * 300)))
    return call(made)


@kind(GRPC)
def unknown_in_grpc(rng, picture):
    made = message(picture)
    if rng.random() < 0.5:
        made.model_name = rng.choice(("", "cow", "../x", f"{NAME}\0", "n" * 9000))
    else:
        made.model_version = rng.choice(("0", "9", "-1", "v" * 9000, "1 "))
    return call(made)


@kind(GRPC)
def other_call(rng, picture):
    service, names = (
        "/inference.GRPCInferenceService/",
        ("ModelConfig", "ModelStreamInfer", "X", "", "ModelInfer/x"),
    )
    path = rng.choice(
        (
            *(service + name for name in names),
            "/x",
            "//",
            "/inference.X/ModelInfer",
            "/grpc.health.v1.Health/X",
        )
    )
    return message(picture).SerializeToString(), path


@kind(GRPC)
def broken_picture_in_grpc(rng, picture):
    data = broken(rng, picture)
    return *call(message(data)), True, data


@kind(GRPC)
def huge_picture_in_grpc(rng, picture):
    data = rng.choice(huge())
    return *call(message(data)), True, data


@kind(GRPC)
def larger_than_it_may_be(rng, picture):
    if rng.random() < 0.9:  # others cost less time
        return other_field(rng, picture)
    return message(bytes(64 * MIB)).SerializeToString(), INFER


# -- gRPC: frames of HTTP/2 (RFC 9113) --------------------------------------------------------------------

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
END_STREAM, END_HEADERS = 1, 4


def frame(number: int, flags: int, stream: int, data: bytes = b"", length: int | None = None) -> bytes:
    """length: what it says that it has."""
    size = len(data) if length is None else length
    return size.to_bytes(3, "big") + bytes((number, flags)) + stream.to_bytes(4, "big") + data


def fields(**more: str) -> bytes:
    """The header of a call: literals without an index (RFC 7541), of less than 127 bytes each."""
    rows = {":method": "POST", ":scheme": "http", ":path": INFER, ":authority": "here", "te": "trailers",
            "content-type": "application/grpc"} | more  # fmt: skip
    return b"".join(
        b"\0" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()
        for name, value in rows.items()
    )


def begun(*frames: bytes) -> bytes:
    return PREFACE + frame(SETTINGS, 0, 0) + b"".join(frames)


def messages(*datas: bytes) -> bytes:
    """Whole messages of a call, and its end, as frames."""
    whole = b"".join(b"\0" + struct.pack(">I", len(data)) + data for data in datas)
    parts = [frame(DATA, 0, 1, whole[i : i + 16_000]) for i in range(0, len(whole), 16_000)]
    return b"".join(parts) + frame(DATA, END_STREAM, 1)


@kind(FRAMES)
def no_http2(rng, picture):
    return rng.choice((
        b"GET / HTTP/1.1\r\nhost: here\r\n\r\n", asked(picture), b"\0" * 99, b"\xff" * 99, rng.randbytes(500),
        PREFACE[:10], b"", PREFACE + b"x" * 99, b"\x16\3\1\2\0\1\0\1\xfc\3\3" + bytes(500),
    )), "", False  # fmt: skip


@kind(FRAMES)
def frames_that_are_none(rng, picture):
    return begun(rng.choice((
        frame(DATA, 0, 1, b"x"), frame(HEADERS, 4, 0, fields()), frame(HEADERS, 4, 2, fields()),
        frame(99, 255, 1, b"x" * 99),
        frame(HEADERS, 4, 1, rng.randbytes(60)), frame(HEADERS, 0, 1, fields()[:30]), frame(SETTINGS, 0, 0, b"x" * 5),
        frame(SETTINGS, 0, 3, bytes(6)), frame(PING, 0, 0, b"short"), frame(RST_STREAM, 0, 9, bytes(4)),
        frame(HEADERS, 4, 1, fields(), length=2**24 - 1), frame(PING, 0, 0, bytes(8)) * 300,
        frame(SETTINGS, 0, 0) * 300,
        frame(HEADERS, 4, 1, fields(**{":path": ""})), frame(HEADERS, 4, 1, fields(**{"content-type": "text/html"})),
    ))), "", False  # fmt: skip


@kind(FRAMES)
def message_in_a_broken_frame(rng, picture):
    data = message(picture).SerializeToString()
    whole = b"\0" + struct.pack(">I", len(data)) + data
    body = rng.choice((
        b"", whole[:3], cut(rng, whole), b"\1" + whole[1:], b"\7" + whole[1:], b"\0\xff\xff\xff\xff" + data,
        whole + b"\0\0",
    ))  # fmt: skip
    return begun(
        frame(HEADERS, END_HEADERS, 1, fields()),
        *(frame(DATA, 0, 1, body[i : i + 16_000]) for i in range(0, len(body), 16_000)),
        frame(DATA, END_STREAM, 1),
    ), "", False  # fmt: skip


@kind(FRAMES)
def calls_that_are_taken_back_at_once(rng, picture):
    """What Rapid Reset did (CVE-2023-44487), in small."""
    return begun(*(
        frame(HEADERS, END_HEADERS, stream, fields()) + frame(RST_STREAM, 0, stream, bytes((0, 0, 0, 8)))
        for stream in range(1, 200, 2)
    )), "", False  # fmt: skip
