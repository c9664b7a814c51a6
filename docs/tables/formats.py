"""Tables of runtimes and of the files that exports write."""

from __future__ import annotations

from swinv2.runtimes import RUNTIMES
from tables.form import measured, origin, table

SPEEDS = (1, 8)  # batches


def formats() -> str:
    """The rows of RUNTIMES, and what benchmarks/results/formats-cpu.json found of each."""
    result = measured_formats()
    rows = []
    for row in RUNTIMES.values():
        written = [entry for entry in result["exports"] if entry["format"] == row.name and entry.get("error")]
        timed = [one for one in result["contenders"] if one["runtime"] == row.name and one["batches"]]
        errors = [f"{entry['error']:.0e} {entry['precision']}" for entry in written]
        times = [f"{by_batch(one, 'p50_ms')} {one['precision']}" for one in timed]
        yes = {True: "yes", False: ""}
        rows.append((
            f"`{row.name}`", f"`{row.suffixes[0]}`", ", ".join(row.exports) or "-", ", ".join(row.devices),
            ", ".join(row.precisions), "yes" if row.dynamic_batch else "one by one", yes[row.dynamic_size],
            yes[row.edge], ", ".join(errors), ", ".join(times),
        ))  # fmt: skip
    head = "runtime | file | exports | devices | precisions | any batch | any size | edge graph | error here | ms here"
    return table(head, rows)


def formats_here() -> str:
    """All figures of benchmarks/results/formats-cpu.json, and what could not be written or run there."""
    result = measured_formats()
    if not result["contenders"]:
        return "Not measured yet: `python benchmarks/formats.py`."
    m, settings = result["machine"], result["settings"]
    rows = []
    for one in (one for one in result["contenders"] if one["batches"]):
        memory = max(figures["memory_bytes"] or 0 for figures in one["batches"].values())
        rows.append((
            one["label"], by_batch(one, "p50_ms"), by_batch(one, "images_per_second"), by_batch(one, "speed", "{:.2f}"),
            f"{one['bytes'] / 1e6:.0f}", f"{memory / 1e6:,.0f}", f"{one['load_ms']:.0f}", f"{one['first_ms']:.0f}",
            f"{one['compared']['error']:.0e}" if one["compared"] else "-",
        ))  # fmt: skip
    batches = " / ".join(map(str, settings["batch_sizes"]))
    where = (
        f"`{result['model']['architecture']}` with random weights; {m['cpu']}, {settings['threads']} threads, "
        f"{settings['rounds']} rounds; {', '.join(f'{k} {v}' for k, v in result['versions'].items())}; "
        f"commit {result['commit']}, {result['date']}. {result.get('rerun', '')}".rstrip()
    )
    reasons = ((e, e.get("why_not") or e.get("not_run")) for e in result["exports"])
    missing = [f"- {e['format']} {e['precision']}: {why}" for e, why in reasons if why]
    head = f"contender | ms, batch {batches} | images/s | speed | MB | peak MB | load ms | first ms | error"
    return "\n\n".join(filter(None, (where, table(head, rows), "\n".join(missing))))


def exports() -> str:
    """Every row of benchmarks/results/exports-cpu.json: our export and timm's of the same weights, in one runtime."""
    result = measured("exports-cpu")
    where = f"{origin(result)}."
    if note := result.get("note"):
        where += f" {note[0].upper()}{note[1:]}."
    rows = []
    for row in result["rows"]:
        for runtime in ("onnx", "openvino"):
            if f"{runtime}_speedup" not in row:
                continue  # ONNX Runtime has no bfloat16 on a CPU
            theirs, ours = (row["median_ms"][f"{runtime} {who}"] for who in ("timm", "swinv2"))
            low, _, high = row[f"{runtime}_speedup_quartiles"]
            rows.append(
                (f"`{row['model']}`", runtime, row["batch"], row["precision"], row["rounds"], f"{theirs:.1f}",
                 f"{ours:.1f}", f"{row[f'{runtime}_speedup']:.2f}", f"{low:.2f} to {high:.2f}",
                 f"{row[f'{runtime}_goal']:g}")
            )  # fmt: skip
    head = "model | runtime | batch | precision | rounds | ms: timm | ours | speed-up | quartiles of the rounds | goal"
    return f"{where}\n\n{table(head, rows)}"


def int8() -> str:
    """Every file of benchmarks/results/int8-cpu.json."""
    result = measured("int8-cpu")
    rows: list[tuple[object, ...]] = []
    for model in result["models"]:
        what = f"{model['name']}, {model['image_size'][0]} px, {model['judged_on']['images']:,} pictures"
        for row in model["rows"]:
            how = f"{row['format']}, {row['activations']}"
            if "refused" in row:
                rows.append(
                    (what, how, f"refused beyond {model['max_drop']:g} points", *["-"] * (4 + len(SPEEDS)))
                )
                continue
            low, high = row["drop_interval"]
            speed = {one["batch"]: f"{one['ratio']:.2f}" for one in row["speed"]}
            rows.append(
                (what, how, f"{len(row['kept_float'])} of {row['layers']}",
                 f"{row['bytes'] / 1e6:.1f} / {row['float_bytes'] / 1e6:.1f}",
                 f"{row['float_accuracy']['percent']:.2f}",
                 f"{row['drop']:.2f} ({low:.2f} to {high:.2f})", f"{row['agreement']['percent']:.2f} %",
                 *(speed.get(batch, "-") for batch in SPEEDS))
            )  # fmt: skip
    head = "model | format, activations | in float | MB / in float32 | accuracy in float, % | points lost | same class"
    return f"{origin(result)}.\n\n{table(head + ''.join(f' | x faster, batch {batch}' for batch in SPEEDS), rows)}"


def by_batch(contender: dict, key: str, form: str = "{:.0f}") -> str:
    """A figure at every batch: 42 / 316."""
    values = (figures[key] for figures in contender["batches"].values())
    return " / ".join("1" if value is None else form.format(value) for value in values)


def measured_formats() -> dict:
    return measured("formats-cpu", {"exports": [], "contenders": []})
