"""MNN's converter, kept from everything but its work.

The command mnnconvert installs a package with the first pip it finds and sends usage data; that is in MNN.tools, which
is never imported here. What it calls is a module of C++, and that is called in a process of its own which finds no
programs, may start none, opens no connection, and has no network at all where the system lets it go without one.
"""

from __future__ import annotations

import ctypes
import hashlib
import sys
import uuid
from pathlib import Path
from typing import Any

from swinv2 import child

ENVIRONMENT = {
    "PATH": "",
    "PIP_NO_INDEX": "1",
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
}
REFUSED = (
    "subprocess.",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "socket.connect",
    "socket.getaddrinfo",
    "urllib.",
)
NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000  # of unshare(2)


def convert(source: Path, target: Path, *, half: bool) -> None:
    """An ONNX file -> an .mnn file, whose bytes depend on nothing else.

    Raises:
        child.Died: the converter crashed, or tried what it may not do.
        ValueError: it could not convert the file.
    """
    child.call(
        "swinv2.runtimes.mnn.converting:work",
        {"source": str(source), "target": str(target), "half": half},
        doing=f"MNN's converter, writing {target.name},",
        environment=ENVIRONMENT,
    )


def work(source: str, target: str, half: bool) -> None:
    """In the new process."""
    leave_network()
    sys.modules["MNN.tools"] = None  # type: ignore[assignment]  # to import it is an error from here on
    sys.addaudithook(refuse)
    import _mnncengine
    import _tools

    arguments = [
        "mnnconvert",
        "-f",
        "ONNX",
        "--modelFile",
        source,
        "--MNNModel",
        target,
        "--bizCode",
        "swinv2",
    ]
    if _tools.mnnconvert([*arguments, *(["--fp16"] if half else [])]) is False or not Path(target).exists():
        raise ValueError("MNN's converter could not read the graph; please report it")
    name_after_content(Path(target), _mnncengine.get_model_uuid(target))


def refuse(event: str, arguments: Any) -> None:
    """An audit hook: no other program, no connection."""
    if event.startswith(REFUSED):
        raise PermissionError(f"MNN's converter may not do this: {event}")


def leave_network() -> None:
    """On Linux, a network of its own with nothing in it; some containers do not allow that."""
    if sys.platform == "linux":
        ctypes.CDLL(None).unshare(NEW_USER | NEW_NETWORK)


def name_after_content(path: Path, name: str) -> None:
    """The converter gives each file a random name; here it follows from the rest of the file."""
    content = path.read_bytes()
    assert content.count(name.encode()) == 1, name
    blank = content.replace(name.encode(), bytes(len(name)))
    new = str(uuid.uuid5(uuid.NAMESPACE_URL, hashlib.sha256(blank).hexdigest()))
    path.write_bytes(content.replace(name.encode(), new.encode()))
