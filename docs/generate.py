"""Write the generated tables of README.md and docs/ again; figures in documents are computed, not typed.

    python docs/generate.py            write
    python docs/generate.py --check    exit 1 where a document is not what would be written

A table stands between <!-- table: NAME --> and <!-- end -->; TABLES has a function for every NAME.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from swinv2.config import VARIANTS, published, tag
from swinv2.counts import macs, parameters
from swinv2.runtimes import RUNTIMES
from swinv2.train.recipes import rules, settings
from swinv2.weights import WEIGHTS

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"

# PaddleClas, docs/zh_CN/models/ImageNet1k/SwinTransformerV2.md: its columns "FLOPs(G)" and "Params(M)"
PADDLE_SAYS = {
    "swinv2_tiny_window8_256":            (4.3, 21.9),
    "swinv2_tiny_window16_256":           (4.4, 21.9),
    "swinv2_small_window8_256":           (8.4, 37.9),
    "swinv2_small_window16_256":          (8.5, 37.9),
    "swinv2_base_window8_256":            (15.0, 67.0),
    "swinv2_base_window16_256":           (15.1, 67.0),
    "swinv2_base_window12to24_192to384":  (34.0, 67.0),
    "swinv2_large_window12to16_192to256": (33.8, 149.6),
    "swinv2_large_window12to24_192to384": (76.1, 149.6),
}  # fmt: skip


def table(head: str, rows: Iterable[Iterable[object]]) -> str:
    columns = [h.strip() for h in head.split("|")]
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def models() -> str:
    """The published models, and what each reaches."""
    rows = []
    for name in filter(published, VARIANTS):
        config, weights = VARIANTS[name], WEIGHTS[f"{name}.{tag(name)}"]
        trained = {"ms_in1k": "1k", "ms_in22k": "22k", "ms_in22k_ft_in1k": "22k, then 1k"}[tag(name)]
        accuracy = " / ".join(f"{a:.1f}" for a in weights.accuracy) or "-"
        rows.append(
            (f"`{name}`", config.image_size[0], config.window, f"{parameters(config) / 1e6:.1f}",
             f"{macs(config) / 1e9:.1f}", trained, accuracy)
        )  # fmt: skip
    return table("model | image | window | parameters (M) | GMACs | ImageNet | top-1 / top-5 (%)", rows)


def costs() -> str:
    """True parameters and multiply-adds beside what PaddleClas' documents say."""
    rows = []
    for name, config in VARIANTS.items():
        theirs = PADDLE_SAYS.get(name)
        rows.append(
            (f"`{name}`", f"{parameters(config):,}", f"{macs(config) / 1e9:.3f}",
             f"{macs(config, position_bias=False) / 1e9:.3f}",
             *((f"{theirs[1]} M", f"{theirs[0]} G") if theirs else ("-", "-")))
        )  # fmt: skip
    head = "architecture | parameters | GMACs | without the bias MLP | PaddleClas: parameters | PaddleClas: FLOPs"
    return table(head, rows)


def inference() -> str:
    """Every contender of benchmarks/results/inference-cpu*.json."""
    parts = []
    for path in sorted(RESULTS.glob("inference-cpu*.json")):
        result = json.loads(path.read_text())
        m, versions = result["machine"], ", ".join(f"{k} {v}" for k, v in result["versions"].items())
        parts.append(
            f"{m['cpu']}, {m['threads']} threads, {m['isa']}; {versions}; commit {result['commit']}, {result['date']}."
        )
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
    result = json.loads((RESULTS / "training-cpu.json").read_text())
    m, versions = result["machine"], ", ".join(f"{k} {v}" for k, v in result["versions"].items())
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
    where = f"{m['cpu']}, {m['threads']} threads, {m['isa']}; {versions}; commit {result['commit']}, {result['date']}."
    return f"{where}\n\n{table(head, rows)}"


def int8() -> str:
    """Every file of benchmarks/results/int8-cpu.json."""
    result = json.loads((RESULTS / "int8-cpu.json").read_text())
    m, versions = result["machine"], ", ".join(f"{k} {v}" for k, v in result["versions"].items())
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
    where = f"{m['cpu']}, {m['threads']} threads, {m['isa']}; {versions}; commit {result['commit']}, {result['date']}."
    return f"{where}\n\n{table(head + ''.join(f' | x faster, batch {batch}' for batch in SPEEDS), rows)}"


SPEEDS = (1, 8)  # batches

STARTS = {
    "finetune": "weights", "scratch_small": "nothing", "scratch_1k": "nothing", "pretrain_22k": "nothing",
    "finetune_22k_1k_256": "22k weights", "finetune_22k_1k_384": "22k weights", "simmim_pretrain": "nothing",
    "simmim_finetune": "SimMIM weights",
}  # fmt: skip


def shipped_recipes() -> str:
    """The recipes of the package; rates as they are for the batch of the recipe."""
    rows = []
    for name in sorted(settings.names(), key=list(STARTS).index):
        recipe = settings.load(name)
        if recipe.epochs is None:
            rows.append(
                (
                    f"`{name}`",
                    STARTS[name],
                    "of the weights",
                    *["by the rule"] * 4,
                    f"{recipe.weight_decay:g}",
                )
            )
            continue
        settled = recipe.settled(images=10**6, classes=1000)
        scale = settled.learning_rate(settled.batch_size) / settled.lr
        rates = " / ".join(f"{rate * scale:.0e}" for rate in (settled.lr, settled.warmup_lr, settled.min_lr))
        if settled.schedule == "steps":
            rates = rates.rpartition(" / ")[0] + f" / x {settled.decay_rate:g} at {settled.decay_epochs[0]}"
        image = recipe.image_size or ("given" if name == "scratch_small" else "256")
        rows.append(
            (f"`{name}`", STARTS[name], image, f"{settled.epochs}, {settled.warmup_epochs:g}", settled.batch_size,
             rates.replace("e-0", "e-"), f"{settled.layer_decay:g}", f"{settled.weight_decay:g}")
        )  # fmt: skip
    head = "recipe | starts from | image | epochs, warm-up | batch | lr / first / last | layer decay | weight decay"
    return table(head, rows)


def rule(rows: Iterable[rules.Row]) -> str:
    """One of the tables that settle a recipe."""
    head = (
        "up to pictures | batch | epochs | bottom | drop path up to | crops from | RandAugment "
        "| erasing | mixup, cutmix"
    )
    return table(
        head,
        (
            (f"{row.images:,.0f}" if row.images < math.inf else "more", row.batch, row.epochs, f"{row.bottom:g}",
             f"{row.drop_path:g}" if row.drop_path < 1 else "any", f"{row.crop:.0%}", f"`{row.auto_augment}`",
             f"{row.erasing:g}", f"{row.mixup:g}, {row.cutmix:g}")
            for row in rows
        ),
    )  # fmt: skip


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


def exports() -> str:
    """Every row of benchmarks/results/exports-cpu.json: our export and timm's of the same weights, in one runtime."""
    result = json.loads((RESULTS / "exports-cpu.json").read_text())
    m, versions = result["machine"], ", ".join(f"{k} {v}" for k, v in result["versions"].items())
    where = f"{m['cpu']}, {m['threads']} threads, {m['isa']}; {versions}; commit {result['commit']}, {result['date']}."
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


def engine(*files: str) -> str:
    """Every row of files of results, all from one machine: the engine and its peers in one process."""
    results = [json.loads((RESULTS / file).read_text()) for file in files]
    m, versions = results[0]["machine"], results[0]["versions"]
    assert all((result["machine"], result["versions"]) == (m, versions) for result in results)
    measured = [row for result in results for row in result["rows"]]
    sets = sorted({row.get("instructions", m["isa"]) for row in measured})
    commits = dict.fromkeys(f"commit {result['commit']}, {result['date']}" for result in results)
    libraries = ", ".join(f"{library} {version}" for library, version in versions.items())
    where = f"{m['cpu']}, {', '.join(sets)}; {libraries}; {'; '.join(commits)}."
    peers = ("onnx", "openvino", "litert", "timm eager")
    rows = (
        [
            f"`{row['model']}`", row["precision"], row["batch"], row["threads"], f"{row['median_ms']['engine']:.1f}",
            *(f"{row['median_ms'][peer]:.1f}" if peer in row["median_ms"] else "" for peer in peers),
            f"{row['speedup']:.2f} ({row['speedup_quartiles'][0]:.2f} to {row['speedup_quartiles'][2]:.2f})",
            f"{row['goal']:.2f}", f"{100 * row['ceiling_share']:.0f} %", f"{100 * row['ceiling_goal']:.0f} %",
        ]
        for row in measured
    )  # fmt: skip
    head = (
        "model | precision | batch | threads | ms: engine | ONNX Runtime | OpenVINO | LiteRT | timm eager | "
        "times the best of them (quartiles) | goal | of the ceiling | goal"
    )
    return f"{where}\n\n{table(head, rows)}"


def engine_stages() -> str:
    """The parts of the engine's time for one image, and their share of the ceiling."""
    result = json.loads((RESULTS / "engine-cpu.json").read_text())
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
    (row,) = footprint()["rows"]
    shares: dict[str, list[float]] = {}
    for product in row["products"]:
        shares.setdefault(product["precision"], []).append(100 * product["ceiling_share"])
    rows = ([precision, f"{min(s):.0f} to {max(s):.0f} %"] for precision, s in shares.items())
    return table("products alone, one thread | of the ceiling", rows)


def engine_footprint() -> str:
    """Size, start and memory of the engine."""
    (row,) = footprint()["rows"]
    starts = [
        [
            f"process to first answer, {one['precision']}", f"{one['seconds']:.2f} s",
            f"{one['memory_bytes'] / 1e6:.0f} MB, of which weights {one['weight_bytes'] / 1e6:.0f} MB",
        ]
        for one in row["starts"]
    ]  # fmt: skip
    large = ["4096 x 4096 pixels, from Python", "", f"{row['large_memory_bytes'] / 1e6:,.0f} MB"]
    library = ["stripped library", "", f"{row['library_bytes'] / 1e6:.2f} MB on the disk"]
    return table(f"{row['model']} | time | size", [library, *starts, large])


def engine_answers() -> str:
    """What bfloat16 and int8 change in the answers of trained models."""
    (row,) = footprint()["rows"]
    rows = (
        [
            one["name"], one["precision"], f"{one['same_class']} of {one['pictures']}",
            f"{100 * one['correct'] / one['pictures']:.2f} %", f"{one['error']:.1e}",
        ]
        for one in row["answers"]
    )  # fmt: skip
    return table(
        "model | precision | class of fp32 | accuracy | largest error of a logit, of the largest", rows
    )


def footprint() -> dict:
    return json.loads((RESULTS / "footprint.json").read_text())


def _part(figures: dict) -> str:
    share = f", {100 * figures['ceiling_share']:.0f} %" if "ceiling_share" in figures else ""
    return f"{figures['ms']:.2f} ms{share}"


def serving() -> str:
    """Images per second of servers, as shares of what the runtime computes without one."""
    result = json.loads((RESULTS / "serving-cpu.json").read_text())
    m, versions = result["machine"], ", ".join(f"{k} {v}" for k, v in result["versions"].items())
    where = f"{m['cpu']}, {m['threads']} cores, {m['isa']}; {versions}; commit {result['commit']}, {result['date']}."
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
    return "\n\n".join([where, *([costs] if transport else []), table(head, rows)])


def serve_start() -> str:
    """How long a server takes until it is ready."""
    result = json.loads((RESULTS / "serve-start.json").read_text())
    m = result["machine"]
    rows = (
        [row["runtime"], f"{row['ready_s']:.2f}", f"{row['slowest_ready_s']:.2f}", f"{row['answered_s']:.2f}"]
        for row in result["rows"]
    )
    where = f"{m['cpu']}, {m['threads']} cores; commit {result['commit']}, {result['date']}."
    return f"{where}\n\n{table('runtime | ready, s | slowest | first answer', rows)}"


def serve_memory() -> str:
    """What the processes of a server hold under load that lasts."""
    result = json.loads((RESULTS / "serving-memory.json").read_text())
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


def by_batch(contender: dict, key: str, form: str = "{:.0f}") -> str:
    """A figure at every batch: 42 / 316."""
    values = (figures[key] for figures in contender["batches"].values())
    return " / ".join("1" if value is None else form.format(value) for value in values)


def measured_formats() -> dict:
    path = RESULTS / "formats-cpu.json"
    return json.loads(path.read_text()) if path.exists() else {"exports": [], "contenders": []}


def gpu() -> str:
    """The nine models that PaddleClas documents, from benchmarks/results/gpu.json; cells stay empty until measured."""
    result = gpu_results()
    best: dict[tuple[str, str, int], tuple[float, str]] = {
        (row["model"], row["precision"], row["batch"]): (
            row["median_ms"][row["ours"]],
            row["images_per_second"],
        )
        for row in result["inference"]
    }
    rows = []
    for name in PADDLE_SAYS:
        cells = []
        for precision in ("fp32", "bf16"):
            for batch in (1, 4, 8):
                found = best.get((name, precision, batch))
                cells.append(f"{found[0]:.2f}" if found else "")
            speeds = [speed for (model, p, _), (_, speed) in best.items() if (model, p) == (name, precision)]
            cells.append(f"{max(speeds):,.0f}" if speeds else "")
        rows.append((f"`{name}`", *cells))
    columns = " | ".join(f"{p}: batch 1, ms | 4 | 8 | best images/s" for p in ("fp32", "bf16"))
    return f"{where_of_gpu(result)}\n\n{table(f'model | {columns}', rows)}"


def gpu_kernels() -> str:
    """Window attention alone, forward / forward with backward, in ms; cells stay empty until measured."""
    result = gpu_results()
    labels, parts = ("eager", "sdpa", "compiled", "flex", "triton"), ("forward", "training")
    rows = []
    for row in result["kernels"]:
        times = ([row[part]["median_ms"].get(label) for part in parts] for label in labels)
        cells = (" / ".join(f"{t:.3g}" if t else "-" for t in both) for both in times)
        share = " / ".join(f"{100 * (row[part]['of_product'] or 0):.0f} %" for part in parts)
        rows.append((f"{row['name']}, {row['images']} images", *cells, share))
    rows = rows or [("", *[""] * (len(labels) + 1))]
    head = (
        "window attention, bf16 | eager | SDPA | torch.compile | FlexAttention | Triton | of a large product"
    )
    return f"{where_of_gpu(result)}\n\n{table(head, rows)}"


def gpu_products() -> str:
    """Layers at inference and sums of diagonals, in microseconds; cells stay empty until measured."""
    result = gpu_results()
    kinds = {"gelu": "fc1 and GELU", "merge": "patch merging", "diagonals": "gradient of the bias table"}
    labels = ("by index", "eager", "compiled", "tanh", "triton")
    rows = []
    for row in result.get("products", []):
        times = (row["median_ms"].get(label) for label in labels)
        shares = (f"{100 * row[of]:.0f} %" if row[of] else "" for of in ("of_product", "of_copy"))
        where = f"{kinds[row['kind']]}: {row['name']}"
        rows.append((where, *(f"{1000 * t:.3g}" if t else "" for t in times), *shares))
    rows = rows or [("", *[""] * (len(labels) + 2))]
    head = (
        "what | sum by index | eager | torch.compile | cuBLAS, tanh | Triton | of a large product | of a copy"
    )
    return f"{where_of_gpu(result)}\n\n{table(head, rows)}"


def gpu_training() -> str:
    """Steps of training on a GPU, images/s and peak memory; cells stay empty until measured."""
    result = gpu_results()
    labels = ("timm eager", "timm compiled", "swinv2 eager", "swinv2 compiled", "swinv2 graph")
    rows: list[tuple[object, ...]] = []
    for row in result["training"]:
        figures = [row[what].get(label) for what in ("images_per_second", "peak_mb") for label in labels]
        cells = (f"{figure:,.0f}" if figure else "-" for figure in figures)
        rows.append((f"`{row['model']}`", row["image_size"], row["batch"], *cells))
    rows = rows or [("", *[""] * (2 + 2 * len(labels)))]
    head = " | ".join(["model | pixels | batch", *labels, *(f"MB: {label}" for label in labels)])
    return f"{where_of_gpu(result)}\n\n{table(head, rows)}"


def float8_answers() -> str:
    """What layers in float8 change: held-out pictures of a trained model, and logits of one with random weights."""
    result = json.loads((RESULTS / "float8.json").read_text())
    rows: list[tuple[object, ...]] = []
    for row in (*result["answers"], *result["random"]):
        kept = f"{row['same_class']} of {row['pictures']}" if "same_class" in row else ""
        right = f"{100 * row['correct'] / row['pictures']:.2f} %" if "correct" in row else ""
        name = f"`{row['model']}`, random weights" if row in result["random"] else row["model"]
        rows.append((name, row["float8"], kept, right, f"{row['norm']:.2e}", f"{row['largest']:.2e}"))
    return table("model | in float8 | class of fp32 | accuracy | error of the logits | of the worst", rows)


def gpu_results() -> dict:
    path = RESULTS / "gpu.json"
    return json.loads(path.read_text()) if path.exists() else {"kernels": [], "inference": [], "training": []}


def where_of_gpu(result: dict) -> str:
    if "machine" not in result:
        return "Not measured yet."
    m, versions = result["machine"], ", ".join(f"{k} {v}" for k, v in result["versions"].items())
    ceilings = "a large product reaches {product_tflops:.0f} TFLOP/s, a copy {copy_tb_per_s:.1f} TB/s"
    limits = ceilings.format(**result["ceilings"])
    return (
        f"{m['device']}, CUDA {m['cuda']}; {versions}; {limits}; commit {result['commit']}, {result['date']}."
    )


TABLES: dict[str, Callable[[], str]] = {
    "models": models,
    "costs": costs,
    "inference": inference,
    "training": training,
    "int8": int8,
    "exports": exports,
    "engine": lambda: engine("engine-cpu.json"),
    "engine_amx": lambda: engine("engine-amx.json", "engine-amx-base.json", "engine-amx-large.json"),
    "engine_stages": engine_stages,
    "engine_products": engine_products,
    "engine_footprint": engine_footprint,
    "engine_answers": engine_answers,
    "serving": serving,
    "serve_start": serve_start,
    "serve_memory": serve_memory,
    "recipes": shipped_recipes,
    "from_weights": lambda: rule(rules.FROM_WEIGHTS),
    "formats": formats,
    "formats_here": formats_here,
    "gpu": gpu,
    "gpu_kernels": gpu_kernels,
    "gpu_products": gpu_products,
    "gpu_training": gpu_training,
    "float8_answers": float8_answers,
    "from_nothing": lambda: rule(rules.FROM_NOTHING),
}


def filled(text: str) -> str:
    """A document with its tables computed."""
    pattern = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.S)
    return pattern.sub(lambda m: f"{m[1]}\n{TABLES[m[2]]()}\n\n{m[3]}", text)


def main() -> int:
    check, stale = "--check" in sys.argv[1:], []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        text = path.read_text()
        if filled(text) != text:
            stale.append(path.relative_to(ROOT))
            if not check:
                path.write_text(filled(text))
    print(*(f"{'stale' if check else 'wrote'} {path}" for path in stale), sep="\n", end="\n" if stale else "")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
