"""Tables of the network in PyTorch on a CPU."""

from __future__ import annotations

from tables.form import RESULTS, measured, origin, table


def inference() -> str:
    """Every contender of benchmarks/results/inference-cpu*.json."""
    parts = []
    for path in sorted(RESULTS.glob("inference-cpu*.json")):
        result = measured(path.stem)
        parts.append(f"{origin(result)}.")
        rows = []
        for row in result["rows"]:
            times = ", ".join(f"{label} {ms:.0f}" for label, ms in row["median_ms"].items())
            rows.append(
                (f"`{row['model']}`", row["batch"], row["precision"], times, f"{row['folded_speedup']:.2f}",
                 f"{row['eager_speedup']:.2f}", f"{row['of_ceiling']:.0%}")
            )  # fmt: skip
        head = "model | batch | precision | median ms | folded: speed-up | eager: speed-up | folded: of the ceiling"
        parts.append(table(head, rows))
    return "\n\n".join(parts)


def training() -> str:
    """Steps of benchmarks/results/training-cpu.json."""
    result = measured("training-cpu")
    rows = [
        (f"`{row['model']}`", row["image_size"], row["batch"], row["precision"],
         *(f"{row['images_per_second'][k]:.1f}" for k in ("timm", "swinv2")), f"{row['speedup']:.2f}",
         *(f"{row['peak_mb'][k]:,}" for k in ("timm", "swinv2")), f"{row['memory']:.2f}")
        for row in result["rows"]
    ]  # fmt: skip
    head = (
        "model | pixels | batch | precision | images/s: timm | ours | speed-up | peak MB: timm | ours "
        "| ours / timm"
    )
    return f"{origin(result)}.\n\n{table(head, rows)}"
