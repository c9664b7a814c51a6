"""Write the generated tables of README.md and docs/ again; figures in documents are computed, not typed.

    python docs/generate.py            write
    python docs/generate.py --check    exit 1 where a document is not what would be written

A table stands between <!-- table: NAME --> and <!-- end -->; TABLES has a function for every NAME.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from swinv2.config import VARIANTS, published, tag
from swinv2.counts import macs, parameters
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


TABLES: dict[str, Callable[[], str]] = {"models": models, "costs": costs, "inference": inference}


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
