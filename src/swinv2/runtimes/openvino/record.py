"""The record inside an IR: the value of "swinv2" in the runtime info of the .xml file.

There C++ finds it too, as model->get_rt_info<std::string>("swinv2"). Reading and writing it needs no OpenVINO, and
takes the file as bytes, since parsing half a megabyte of XML would take longer than opening the model does.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

from swinv2.artifact import ArtifactError, Record
from swinv2.runtimes.base import Node
from swinv2.runtimes.beside import from_json, to_json

WEIGHTS = ".bin"
SILENT = {"Const", "Parameter", "Result"}  # layers that compute nothing
# As OpenVINO writes it, and so do we. Neither quote nor < occurs in a value of XML.
OURS = re.compile(rb"""[ \t]*<swinv2 value=("[^"<]*"|'[^'<]*') ?/>\r?\n?""")
END = re.compile(rb"[ \t]*</rt_info>\s*</net>\s*$")
PLACE = re.compile(rb'offset="(\d+)" size="(\d+)"')  # of a constant in the weights


def read_record(path: Path) -> Record:
    """The record in the file.

    Raises:
        FileNotFoundError: there is no such file.
        ArtifactError: it is no IR, was cut off, or has no record of ours.
    """
    found = OURS.search(_read(path))
    if found is None:
        return from_json(None, str(path))
    try:
        text = ElementTree.fromstring(found[0].strip()).get("value")
    except ElementTree.ParseError:
        text = ""  # no JSON, says from_json
    return from_json(text, str(path))


def write_record(path: Path, record: Record) -> None:
    """Put the record into the file, in the place of an older one."""
    graph = graph_of(path)
    end = END.search(graph)
    assert end is not None, "read by graph_of"
    line = f"\t\t<swinv2 value={quoteattr(to_json(record))} />\n".encode()
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(graph[: end.start()] + line + graph[end.start() :])
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def graph_of(path: Path) -> bytes:
    """The file without the record."""
    return OURS.sub(b"", _read(path))


def digest(path: Path) -> str:
    """SHA-256 over the graph without the record, and over the weights."""
    found = hashlib.sha256(graph_of(path))
    with open(weights_of(path), "rb") as stream:
        while chunk := stream.read(1 << 22):
            found.update(chunk)
    return found.hexdigest()


def weights_of(path: Path) -> Path:
    """The file beside the graph; raises ArtifactError where it is not there, or shorter than the graph says."""
    weights = path.with_suffix(WEIGHTS)
    if not weights.exists():
        raise ArtifactError(
            f"{path} has no {weights.name} beside it, which holds its weights; copy both files"
        )
    end = max((int(place[1]) + int(place[2]) for place in PLACE.finditer(_read(path))), default=0)
    if end > (size := weights.stat().st_size):
        raise ArtifactError(
            f"{weights} was cut off: it has {size:,} bytes of {end:,}; copy it again, or export again"
        )
    return weights


def nodes(path: Path) -> list[Node]:
    """The operators, each with the largest rank of its results."""
    found = []
    for layer in ElementTree.fromstring(_read(path)).iterfind("layers/layer"):
        if (kind := layer.get("type", "")) not in SILENT:
            ranks = (len(port.findall("dim")) for port in layer.iterfind("output/port"))
            found.append(Node(kind, max(ranks, default=0)))
    return found


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise ArtifactError(f"{path} is a folder; give the .xml file inside it")
    content = path.read_bytes()  # FileNotFoundError names the file by itself
    if b"<net " not in content[:1000] or END.search(content, max(0, len(content) - 1000)) is None:
        raise ArtifactError(f"{path} is no OpenVINO model, or was cut off; copy it again, or export again")
    return content
