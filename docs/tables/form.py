"""How a table of a document is written, and where the results of benchmarks lie."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def table(head: str, rows: Iterable[Iterable[object]]) -> str:
    """Of a head "one | two" and rows of cells."""
    columns = [h.strip() for h in head.split("|")]
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def measured(name: str, without: dict[str, Any] | None = None) -> dict[str, Any]:
    """The content of benchmarks/results/NAME.json, or what is given for a file that is not there yet."""
    path = RESULTS / f"{name}.json"
    if without is not None and not path.exists():
        return without
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def origin(result: dict[str, Any]) -> str:
    """Machine, libraries, commit and date of results, as a sentence without its end."""
    m, versions = result["machine"], ", ".join(f"{k} {v}" for k, v in result["versions"].items())
    return f"{m['cpu']}, {m['threads']} threads, {m['isa']}; {versions}; commit {result['commit']}, {result['date']}"
