"""The record inside an .onnx file, read and written without touching the rest of it.

An ONNX file is a protocol buffer: numbered fields one after the other, and the entries of a repeated field may stand
anywhere. The record is an entry of metadata_props. Walking over the fields of the top level needs no package and
reads no weights, however large they are; so `swinv2 verify` works where there is no onnx.
"""

# A field: a varint, number * 8 + kind; then by kind 0 a varint, 1 eight bytes, 2 a length and bytes, 5 four bytes.

from __future__ import annotations

import hashlib
import mmap
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from swinv2.artifact import ArtifactError, Record
from swinv2.runtimes.beside import from_json, to_json

KEY = "swinv2"
GRAPH, METADATA_PROPS = 7, 14  # of ModelProto; an entry of the second is key = 1, value = 2


class Field(NamedTuple):
    """[start, end) with its tag, [body, end) without."""

    number: int
    start: int
    body: int
    end: int


def read_record(path: Path) -> Record:
    """The record in the file.

    Raises:
        FileNotFoundError: there is no such file.
        ArtifactError: it is no ONNX file, was cut off, or has no record of ours.
    """
    with _bytes_of(path) as file:
        found = [text for field in fields(file, path) if (text := _ours(file, field, path)) is not None]
    return from_json(found[-1] if found else None, str(path))


def write_record(path: Path, record: Record) -> None:
    """Put the record at the end of the file, in the place of an older one."""
    part = path.with_name(f".{path.name}.part")
    try:
        with _bytes_of(path) as file, open(part, "wb") as out:
            for piece in _without_record(file, path):
                out.write(piece)
            entry = _field(1, KEY.encode()) + _field(2, to_json(record).encode())
            out.write(_field(METADATA_PROPS, entry))
        shutil.copymode(path, part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def digest(path: Path) -> str:
    """SHA-256 of the file without the record, and of the weights beside it where there are some."""
    found = hashlib.sha256()
    with _bytes_of(path) as file:
        for piece in _without_record(file, path):
            found.update(piece)
    if (weights := weights_of(path)).exists():
        with open(weights, "rb") as stream:
            while chunk := stream.read(1 << 22):
                found.update(chunk)
    return found.hexdigest()


def weights_of(path: Path) -> Path:
    """The file that holds the weights where one file cannot: model.onnx -> model.onnx.data, as others name it."""
    return path.with_name(f"{path.name}.data")


def fields(file: bytes | mmap.mmap, path: Path) -> Iterator[Field]:
    """The fields of the top level; raises ArtifactError where they do not end where the file ends."""
    at, size, has_graph = 0, len(file), False
    while at < size:
        start = at
        tag, at = _varint(file, at, path)
        number, kind = tag >> 3, tag & 7
        body = at
        if kind == 0:
            _, at = _varint(file, at, path)
        elif kind == 2:
            length, body = _varint(file, at, path)
            at = body + length
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise _foreign(path)
        if at > size or number == 0:
            raise _foreign(path)
        has_graph |= number == GRAPH
        yield Field(number, start, body, at)
    if not has_graph:
        raise _foreign(path)


def _ours(file: bytes | mmap.mmap, field: Field, path: Path) -> str | None:
    """The text of the record, where this field is it."""
    if field.number != METADATA_PROPS:
        return None
    entry, at, parts = bytes(file[field.body : field.end]), 0, {}
    while at < len(entry):
        tag, at = _varint(entry, at, path)
        length, at = _varint(entry, at, path)
        parts[tag >> 3] = entry[at : at + length]
        at += length
    return parts.get(2, b"").decode("utf-8", "replace") if parts.get(1) == KEY.encode() else None


def _without_record(file: mmap.mmap, path: Path) -> Iterator[memoryview]:
    with memoryview(file) as view:
        for field in fields(file, path):
            if _ours(file, field, path) is None:
                with view[field.start : field.end] as piece:
                    yield piece


def _varint(file: bytes | mmap.mmap, at: int, path: Path) -> tuple[int, int]:
    """A number of seven bits a byte, lowest first, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(file):
            raise _foreign(path)
        byte = file[at]
        value, at = value | (byte & 127) << shift, at + 1
        if byte < 128:
            return value, at
    raise _foreign(path)


def _field(number: int, body: bytes) -> bytes:
    """A field of bytes."""
    written = bytearray()
    for value in (number * 8 + 2, len(body)):
        while value > 127:
            written.append(value & 127 | 128)
            value >>= 7
        written.append(value)
    return bytes(written) + body


@contextmanager
def _bytes_of(path: Path) -> Iterator[mmap.mmap]:
    if path.is_dir():
        raise ArtifactError(f"{path} is a folder; give the .onnx file inside it")
    with open(path, "rb") as file:  # FileNotFoundError names the file by itself
        if os.fstat(file.fileno()).st_size == 0:
            raise _foreign(path)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            yield mapped


def _foreign(path: Path) -> ArtifactError:
    return ArtifactError(f"{path} is no ONNX file, or was cut off; copy it again, or export again")
