"""What native libraries print, out of the way: they write past Python, straight to file descriptor 2."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def kept_stderr() -> Iterator[list[str]]:
    """What the process writes to its standard error goes into the list, line by line, when the context ends."""
    lines: list[str] = []
    with tempfile.TemporaryFile() as file:
        try:
            before = os.dup(2)
        except OSError:  # there is none, as in a program without a console
            yield lines
            return
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(before, 2)
            os.close(before)
            file.seek(0)
            lines += file.read().decode(errors="replace").splitlines()
