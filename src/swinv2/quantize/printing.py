"""What people see of a quantisation: a table with what it costs, and what was kept in float."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from swinv2 import console

if TYPE_CHECKING:
    from swinv2.quantize import Quantized
    from swinv2.quantize.judging import Share


def print_quantized(found: Sequence[Quantized]) -> None:
    """A table, one line per file, and below it what the figures stand on."""
    if not found:
        return
    from rich.table import Table

    judged = found[0].judgement
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("file", overflow="fold")
    for head in ("size", "in float", "same class", *(("accuracy", "points lost") if judged.accuracy else ())):
        table.add_column(head, justify="right")
    for one in found:
        table.add_row(*_cells(one))
    out = console.stdout()
    out.print(table)
    if judged.float_accuracy is not None:
        out.print(f"the float model: {_with_interval(judged.float_accuracy)}", markup=False)
    out.print(f"{_pictures(found)}; in brackets 95 % intervals", markup=False)
    for one in found:
        if one.kept_float:
            out.print(f"{one.exported.format} keeps in float: {', '.join(one.kept_float)}", markup=False)


def _cells(one: Quantized) -> list[str]:
    judged, (low, high) = one.judgement, one.judgement.drop_interval
    cells = [
        str(one.exported.path),
        f"{one.exported.size / 1e6:.1f} MB",
        f"{len(one.kept_float)} of {one.layers}",
    ]
    if judged.accuracy is None:  # then the agreement is all that there is
        return [*cells, _with_interval(judged.agreement)]
    drop = f"{judged.drop:.2f} ({low:.2f} to {high:.2f})"
    return [*cells, f"{judged.agreement.percent:.2f} %", f"{judged.accuracy.percent:.2f} %", drop]


def _pictures(found: Sequence[Quantized]) -> str:
    """Which pictures calibrated, where any did, and which ones judged."""
    judged = found[0].facts["pictures"]["judged_on"]
    calibration = next((c for one in found if (c := one.facts["pictures"]["calibration"])), None)
    if calibration is None:
        return f"judged on {judged['images']:,} pictures of {_place(judged)}"
    others = "the same" if judged["overlaps"] else f"{judged['images']:,} others of {_place(judged)}"
    return f"calibrated on {calibration['images']:,} pictures of {_place(calibration)}, judged on {others}"


def _place(pictures: dict[str, Any]) -> str:
    return f"{pictures['data']}/{pictures['part']}"


def _with_interval(share: Share) -> str:
    low, high = share.interval
    return f"{share.percent:.2f} % ({low:.2f} to {high:.2f})"
