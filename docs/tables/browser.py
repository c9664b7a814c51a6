"""The table of the engine in a browser."""

from __future__ import annotations

from tables.form import measured, table


def browser() -> str:
    """The engine beside ONNX Runtime Web, one image on one thread."""
    result = measured("web-cpu")
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    rows = (
        [
            f"`{row['model']}`", row["precision"],
            f"{row['median_ms']['engine']:.0f}", f"{row['median_ms']['onnx']:.0f}",
            f"{row['speedup']:.2f} ({row['speedup_quartiles'][0]:.2f} to {row['speedup_quartiles'][2]:.2f})",
            f"{100 * row['ceiling_share']:.0f} %",
            f"{row['opened_ms']['engine'] / 1000:.1f}", f"{row['opened_ms']['onnx'] / 1000:.1f}",
        ]
        for row in result["rows"]
    )  # fmt: skip
    head = (
        "model | precision | ms: engine | ONNX Runtime Web | times as fast (quartiles) | of the ceiling | "
        "s to open: engine | ONNX Runtime Web"
    )
    where = f"{result['machine']['cpu']}; {versions}; commit {result['commit']}, {result['date']}."
    return f"{where}\n\n{table(head, rows)}"
