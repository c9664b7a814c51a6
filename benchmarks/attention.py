"""The attention back ends on a CPU, forward: where ops.choose() has its limits from.

    python benchmarks/attention.py

Interleaved medians in milliseconds, one thread pool, for the stages of tiny models at windows 8, 12, 16 and 24.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median

import torch
from inference import commit, interleaved, machine

from swinv2.ops import BACKENDS, choose, window_attention

# grid, heads, window
CASES = [
    (64, 3, 8),
    (16, 12, 8),
    (48, 4, 12),
    (12, 16, 12),
    (64, 3, 16),
    (16, 12, 16),
    (96, 4, 24),
    (24, 16, 24),
]


def measure(grid: int, heads: int, window: int, shift: int, dtype: torch.dtype, rounds: int) -> dict:
    tokens = window * window
    qkv = torch.randn(1, grid, grid, 3 * heads * 32).to(dtype)
    scale, bias = torch.full((heads, 1, 1), 2.3), 16 * torch.rand(heads, tokens, tokens)
    geometry = {"heads": heads, "window": (window, window), "shift": (shift, shift)}
    runs = {
        name: lambda name=name: window_attention(qkv, scale, bias, **geometry, backend=name)
        for name in sorted(set(BACKENDS) - {"reference", "triton"})
    }
    times = {name: round(median(t), 3) for name, t in interleaved(runs, rounds).items()}
    return {"grid": grid, "heads": heads, "window": window, "shift": shift, "dtype": str(dtype).split(".")[1],
            "median_ms": times, "chosen": choose(qkv, **geometry)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "results" / "attention-cpu.json"
    )
    args = parser.parse_args()
    rows = []
    with torch.inference_mode():
        for dtype in (torch.float32, torch.bfloat16):
            for grid, heads, window in CASES:
                for shift in (0, window // 2) if grid > window else (0,):
                    rows.append(measure(grid, heads, window, shift, dtype, args.rounds))
                    print(rows[-1], flush=True)
    args.output.write_text(
        json.dumps({"commit": commit(), "machine": machine(), "rows": rows}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
