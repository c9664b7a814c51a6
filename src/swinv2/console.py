"""What people and programs see: results on stdout, progress and notes on stderr.

A command with --json prints exactly one JSON document on stdout. rich is imported when the first line is
printed, not before, so that `swinv2 --help` stays fast.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


@cache
def stdout() -> Console:
    """For results that people read: tables, lines of a prediction."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


@cache
def stderr() -> Console:
    """For progress, notes and errors."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def emit_json(value: Any) -> None:
    """The result of a command with --json; for programs, which have it at once: a server goes on afterwards."""
    json.dump(value, sys.stdout, ensure_ascii=False, indent=2)
    sys.stdout.write("\n")
    sys.stdout.flush()
