"""Tables of the server."""

from __future__ import annotations

from tables.form import measured, origin, table


def serving() -> str:
    """Images per second of servers, as shares of what the runtime computes without one."""
    result = measured("serving-cpu")
    servers = [row for row in result["rows"] if "of_bare" in row]
    counts = list(servers[0]["of_bare"])
    alone = {(r["precision"], r["input"]): r["per_second"] for r in result["rows"] if "per_second" in r}
    rows = (
        [
            row["precision"], row["input"], f"{alone[row['precision'], row['input']]:.0f}", row["contender"],
            row["workers"], *(f"{100 * row['of_bare'][count]:.0f} %" for count in counts),
            f"{row['half_load']['p50_ms']:.0f} / {row['half_load']['p99_ms']:.0f}",
        ]
        for row in servers
    )  # fmt: skip
    transport = {
        row["input"]: f"{row['input']} {row['processor_ms']:.2f} ms"
        for row in result["rows"]
        if "processor_ms" in row
    }
    costs = f"Processor time until one request has arrived: {', '.join(transport.values())}."
    clients = " | ".join(f"{count} client{'s' * (count != '1')}" for count in counts)
    head = f"precision | input | bare: images/s | server | workers | {clients} | half load: p50 / p99 ms"
    return "\n\n".join([f"{origin(result)}.", *([costs] if transport else []), table(head, rows)])


def serve_start() -> str:
    """How long a server takes until it is ready."""
    result = measured("serve-start")
    m = result["machine"]
    rows = (
        [row["runtime"], f"{row['ready_s']:.2f}", f"{row['slowest_ready_s']:.2f}", f"{row['answered_s']:.2f}"]
        for row in result["rows"]
    )
    where = f"{m['cpu']}, {m['threads']} cores; commit {result['commit']}, {result['date']}."
    return f"{where}\n\n{table('runtime | ready, s | slowest | first answer', rows)}"


def serve_memory() -> str:
    """What the processes of a server hold under load that lasts."""
    result = measured("serving-memory")
    first = result["rows"][0]
    asked = sum(first["requests"].values())
    where = (
        f"{asked:,} requests in {first['minutes']:g} minutes; {result['machine']['cpu']}; commit {result['commit']}, "
        f"{result['date']}."
    )
    rows = (
        [row["process"], *(f"{row[key]:.0f}" for key in ("first_mib", "warm_mib", "maximum_mib", "last_mib")),
         f"{row['slope_mib_per_minute']:+.2f}"]
        for row in result["rows"]
    )  # fmt: skip
    head = (
        "process | MiB at first | after a fifth of the time | at most | at last | MiB a minute, from then on"
    )
    return f"{where}\n\n{table(head, rows)}"
