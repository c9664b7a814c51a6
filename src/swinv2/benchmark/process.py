"""A contender in a process of its own, that works when it is asked and is asked again and again.

Memory is then one contender's alone, a crash is one contender's end, and contenders can take turns. Requests are
lines of JSON on its stdin, answers are lines on what was its stdout; whatever a runtime prints goes to a file, whose
last line is quoted where the process dies.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from swinv2 import child


class Process:
    """A process with one swinv2.benchmark.turns.Turns.

    Args:
        name: of the contender, for sentences about its death.
    """

    def __init__(self, name: str):
        self.name = name
        self._folder = tempfile.TemporaryDirectory(prefix="swinv2-")
        self._said = Path(self._folder.name, "said")
        path = os.pathsep.join(p for p in sys.path if p)  # ours as we were found, wherever that was
        with open(self._said, "wb") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "swinv2.benchmark.turns"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=said, text=True, env=os.environ | {"PYTHONPATH": path},
            )  # fmt: skip

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, method: str, **arguments: Any) -> Any:
        """The result of a method of Turns, whose arguments and result are JSON.

        Raises:
            ValueError, ArtifactError, ImportError, OSError: raised by it.
            child.Died: the process crashed, was killed, or raised anything else.
        """
        doing = f"running {self.name}"
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps([method, arguments]) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line.endswith("\n"):
            raise child.died(self._process.wait(), doing, self._said.read_text(errors="replace"))
        return child.outcome(json.loads(line), doing)

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        with contextlib.suppress(BrokenPipeError), self._process:  # closes the pipes and waits
            pass
        self._folder.cleanup()

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
