"""A function called in another Python process, so that a converter or runtime that crashes takes nothing with it.

    child.call("swinv2.export.convert:write", {"source": "model.safetensors", ...})

Arguments and result are JSON. What the process prints is kept, and its last line is quoted where it dies.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from swinv2.artifact import ArtifactError

# Errors that are sentences for users keep their kind; all others become a Died.
_KINDS = {
    kind.__name__: kind
    for kind in (
        ValueError,
        ArtifactError,
        ImportError,
        FileNotFoundError,
        PermissionError,
        OSError,
        MemoryError,
    )
}


class Died(RuntimeError):
    """A process that ended without a result, in one sentence. said: all that it printed."""

    def __init__(self, text: str, said: str = ""):
        super().__init__(text)
        self.said = said


def call(
    function: str, arguments: dict[str, Any], *, doing: str, environment: dict[str, str] | None = None
) -> Any:
    """Call "package.module:name" with keyword arguments in a new process; returns what it returns.

    Args:
        doing: what it does, for the sentence about its death: "writing model.pte".
        environment: variables in addition to those of this process.

    Raises:
        ValueError, ArtifactError, ImportError, OSError: raised by the function.
        Died: it crashed, was killed, or raised anything else.
    """
    with tempfile.TemporaryDirectory(prefix="swinv2-") as folder:
        request, answer = Path(folder, "request.json"), Path(folder, "answer.json")
        request.write_text(json.dumps({"function": function, "arguments": arguments}))
        command = [sys.executable, "-m", "swinv2.child", str(request), str(answer)]
        path = os.pathsep.join(p for p in sys.path if p)  # ours as we were found, wherever that was
        variables = os.environ | {"PYTHONPATH": path, "TMPDIR": folder} | (environment or {})
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=variables,
            text=True, errors="replace",
        ) as process:  # fmt: skip
            try:
                said, _ = process.communicate()
            except BaseException:  # Ctrl-C: nobody waits for its result any more
                process.kill()
                raise
        if not answer.exists():
            raise died(process.returncode, doing, said)
        found = json.loads(answer.read_text())
    return outcome(found, doing, said)


def outcome(found: dict[str, Any], doing: str, said: str = "") -> Any:
    """What attempt() found in another process: its result, or its error raised here."""
    if error := found.get("error"):
        if error["is_sentence"]:
            raise _again(_KINDS[error["kind"]], error)
        raise Died(f"{doing} failed: {error['kind']}: {error['text']}", said + error["traceback"])
    return found["result"]


def died(code: int, doing: str, said: str) -> Died:
    """A process that ended before it had a result."""
    return Died(f"{doing} ended with {_ending(code)}{_last_line(said)}", said)


def _again(kind: type[Exception], error: dict[str, Any]) -> Exception:
    """The error as it was raised in the other process."""
    if kind is ImportError:
        return ImportError(error["text"], name=error["name"])
    if issubclass(kind, OSError) and error["errno"] is not None:
        return OSError(error["errno"], error["strerror"], error["filename"])
    return kind(error["text"])


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name if -code in {int(s) for s in signal.Signals} else str(-code)
    return f"signal {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


def _last_line(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return f"; its last words: {lines[-1][:300]}" if lines else ""


def main(arguments: Sequence[str]) -> None:
    """What the new process does."""
    request, answer = (Path(name) for name in arguments)
    asked = json.loads(request.read_text())
    part = answer.with_suffix(".part")
    part.write_text(json.dumps(attempt(lambda: find(asked["function"])(**asked["arguments"]))))
    os.replace(part, answer)
    sys.stdout.flush()
    os._exit(0)  # runtimes that crash while they are taken apart have done their work


def find(function: str) -> Callable[..., Any]:
    """The function called "package.module:name"."""
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)


def attempt(work: Callable[[], Any]) -> dict[str, Any]:
    """What came of it, as JSON holds it: {"result": ...}, or {"error": ...} for outcome() to raise again."""
    try:
        return {"result": work()}
    except Exception as error:
        kinds = [kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _KINDS]
        is_sentence = bool(kinds) and not _is_foreign(error)
        filename = getattr(error, "filename", None)
        return {
            "error": {
                "kind": kinds[0] if is_sentence else type(error).__name__,
                "is_sentence": is_sentence,
                "text": " ".join(str(error).split()),
                "name": getattr(error, "name", None),
                "errno": getattr(error, "errno", None),
                "strerror": getattr(error, "strerror", None),
                "filename": None if filename is None else str(filename),
                "traceback": traceback.format_exc(),
            }
        }


def _is_foreign(error: Exception) -> bool:
    """A ValueError out of the depths of a converter is no sentence for a user: raised outside of our code."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    raised_in = trace.tb_frame.f_globals.get("__name__", "") if trace is not None else ""
    is_ours = raised_in.partition(".")[0] == "swinv2"
    return not is_ours and isinstance(error, ValueError) and not isinstance(error, ArtifactError)


if __name__ == "__main__":
    main(sys.argv[1:])
