"""The table that PaddleClas announced: its nine models, how long an answer takes and how many a second can be had."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tables.form import measured, origin, table
from tables.gpu import gpu_results, where_of_gpu
from tables.models import PADDLE_SAYS

BATCHES = (1, 4, 8)


def on_a_cpu() -> str:
    """The engine of benchmarks/results/nine-cpu.json, and how many times as fast as timm it is for one image."""
    result = measured("nine-cpu")
    speedups = {
        (row["model"], row["precision"]): f"{row['speedup']:.1f}"
        for row in result["rows"]
        if row["batch"] == 1 and "speedup" in row
    }
    beside = {
        name: [speedups.get((name, precision), "") for precision in ("fp32", "bf16")] for name in PADDLE_SAYS
    }
    head = " | x timm, fp32 | x timm, bf16"
    return f"{origin(result)}.\n\n{nine(result['rows'], ('fp32', 'bf16', 'int8'), '{:.0f}', '{:.1f}', beside, head)}"


def on_a_gpu() -> str:
    """The fastest of our ways in benchmarks/results/gpu.json; cells stay empty until they have been measured."""
    result = gpu_results()
    return f"{where_of_gpu(result)}\n\n{nine(result['inference'], ('fp32', 'bf16'), '{:.2f}', '{:,.0f}')}"


def nine(
    rows: Iterable[dict[str, Any]],
    precisions: tuple[str, ...],
    ms: str,
    a_second: str,
    beside: dict[str, list[str]] | None = None,
    head: str = "",
) -> str:
    """A line for each model, from rows with the label of ours in "ours".

    Args:
        ms, a_second: how times and images a second are written.
        beside, head: cells that follow by model, and their heads.
    """
    found = {(row["model"], row["precision"], row["batch"]): row for row in rows}
    lines = []
    for name in PADDLE_SAYS:
        cells: list[str] = []
        for precision in precisions:
            ours = {batch: row for (model, p, batch), row in found.items() if (model, p) == (name, precision)}
            for batch in BATCHES:
                cells.append(
                    ms.format(ours[batch]["median_ms"][ours[batch]["ours"]]) if batch in ours else ""
                )
            cells.append(a_second.format(max(r["images_per_second"] for r in ours.values())) if ours else "")
        lines.append([f"`{name}`", *cells, *(beside[name] if beside else [])])
    of_precision = (f"{p}: ms, batch {' | '.join(map(str, BATCHES))} | best images/s" for p in precisions)
    return table(f"model | {' | '.join(of_precision)}{head}", lines)
