"""Tables of the engine."""

from __future__ import annotations

from tables.form import measured, table

FAR = 0.1  # of the largest logit; int8 of the engine, ONNX Runtime and LiteRT is within 0.052


def engine(*names: str) -> str:
    """Every row of several results, all from one machine: the engine and its peers in one process."""
    results = [measured(name) for name in names]
    m, versions = results[0]["machine"], results[0]["versions"]
    assert all((r["machine"]["cpu"], r["versions"]) == (m["cpu"], versions) for r in results)
    every = [row for result in results for row in result["rows"]]
    sets = sorted({row.get("instructions", m["isa"]) for row in every})
    commits = dict.fromkeys(f"commit {result['commit']}, {result['date']}" for result in results)
    libraries = ", ".join(f"{library} {version}" for library, version in versions.items())
    where = f"{m['cpu']}, {', '.join(sets)}; {libraries}; {'; '.join(commits)}."
    peers = ("onnx", "openvino", "litert", "timm eager")
    rows = (
        [
            f"`{row['model']}`", row["precision"], row["batch"], row["threads"], f"{row['median_ms']['engine']:.1f}",
            *(_time(row, peer) for peer in peers),
            f"{row['speedup']:.2f} ({row['speedup_quartiles'][0]:.2f} to {row['speedup_quartiles'][2]:.2f})",
            f"{row['goal']:.2f}", f"{100 * row['ceiling_share']:.0f} %", f"{100 * row['ceiling_goal']:.0f} %",
        ]
        for row in every
    )  # fmt: skip
    head = (
        "model | precision | batch | threads | ms: engine | ONNX Runtime | OpenVINO | LiteRT | timm eager | "
        "times the best of them (quartiles) | goal | of the ceiling | goal"
    )
    return f"{where}\n\n{table(head, rows)}"


def _time(row: dict, peer: str) -> str:
    """Milliseconds, with a star where the answers are far from the exact ones."""
    ms = row["median_ms"].get(peer)
    return "" if ms is None else f"{ms:.1f}{'' if row['error'][peer] <= FAR else '*'}"


def engine_stages() -> str:
    """The parts of the engine's time for one image, and their share of the ceiling."""
    result = measured("engine-cpu")
    chosen = [
        row for row in result["rows"] if row["batch"] == 1 and row["threads"] == 2 and "tiny" in row["model"]
    ]
    parts = [part for part, figures in chosen[0]["stages"].items() if figures["ms"] >= 0.02]
    rows = (
        [part, *(_part(row["stages"][part]) for row in chosen)]
        for part in parts
    )  # fmt: skip
    return table(" | ".join(["part", *(row["precision"] for row in chosen)]), rows)


def engine_products() -> str:
    """The range of the products' share of the ceiling, by precision."""
    columns = []
    for result in footprints():
        shares: dict[str, list[float]] = {}
        for product in result["rows"][0]["products"]:
            shares.setdefault(product["precision"], []).append(100 * product["ceiling_share"])
        columns.append([f"{min(s):,.0f} to {max(s):,.0f} %" for s in shares.values()])
    rows = zip(("fp32", "bf16", "int8"), *columns, strict=True)
    return table(f"products alone, one thread, of the ceiling | {machines()}", rows)


def engine_footprint() -> str:
    """Size, start and memory of the engine."""
    columns = []
    for result in footprints():
        (row,) = result["rows"]
        starts = [
            f"{one['seconds']:.2f} s, {one['memory_bytes'] / 1e6:.0f} MB, of which weights "
            f"{one['weight_bytes'] / 1e6:.0f} MB"
            for one in row["starts"]
        ]
        large = f"{row['large_memory_bytes'] / 1e6:,.0f} MB"
        columns.append([f"{row['library_bytes'] / 1e6:.2f} MB on the disk", *starts, large])
    what = [
        "stripped library", *(f"process to first answer, {precision}" for precision in ("fp32", "bf16", "int8")),
        "4096 x 4096 pixels, from Python",
    ]  # fmt: skip
    return table(f"{row['model']} | {machines()}", zip(what, *columns, strict=True))


def engine_answers() -> str:
    """What bfloat16 and int8 change in the answers of trained models."""
    rows = (
        [
            result["machine"]["cpu"], one["name"], one["precision"], f"{one['same_class']} of {one['pictures']}",
            f"{100 * one['correct'] / one['pictures']:.2f} %", f"{one['error']:.1e}",
        ]
        for result in footprints()
        for one in result["rows"][0]["answers"]
    )  # fmt: skip
    head = "on | model | precision | class of fp32 | accuracy | largest error of a logit, of the largest"
    return table(head, rows)


def footprints() -> list[dict]:
    """Of the two machines."""
    return [measured("footprint"), measured("footprint-amx")]


def machines() -> str:
    """The heads of their columns."""
    return " | ".join(f"{r['machine']['cpu']}, commit {r['commit']}, {r['date']}" for r in footprints())


def _part(figures: dict) -> str:
    share = f", {100 * figures['ceiling_share']:.0f} %" if "ceiling_share" in figures else ""
    return f"{figures['ms']:.2f} ms{share}"
