"""Everything that is to be measured on a GPU, in one command that ends in time.

    python benchmarks/gpu.py --minutes 9
    python benchmarks/gpu.py --dry-run      # the same way on a CPU, in Triton's interpreter, with tiny sizes

Kernels first, then inference and training of the models that have goals, then the rest; what there is no time for is
left out, and stays empty in docs/benchmarks.md. Run `make gpu` before: speeds of wrong kernels say nothing.
Results are written after every row, with device, versions and commit.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from datetime import date
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PARTS = ("kernels", "products", "inference", "sessions", "training", "tiles")
TINY8, TINY16 = "swinv2_tiny_window8_256", "swinv2_tiny_window16_256"
BASE16, LARGE24 = "swinv2_base_window16_256", "swinv2_large_window12to24_192to384"
# model, precision, batches: the goals first, then the rest of the nine models of PaddleClas
INFERENCE: list[tuple[str, str, list[int]]] = [
    (TINY8, "bf16", [1, 4, 8, 32, 256, 1024]), (LARGE24, "bf16", [1, 4, 8, 64]), (TINY16, "bf16", [1, 4, 8, 256]),
    (BASE16, "bf16", [1, 4, 8, 256]), (TINY8, "fp32", [1, 4, 8, 256]), (TINY8, "fp16", [1, 4, 8, 256]),
    *((name, precision, [1, 4, 8, 128]) for precision in ("bf16", "fp32") for name in (
        "swinv2_small_window8_256", "swinv2_small_window16_256", "swinv2_base_window8_256",
        "swinv2_base_window12to24_192to384", "swinv2_large_window12to16_192to256")),
    *((name, "fp32", [1, 4, 8, 128]) for name in (TINY16, BASE16, LARGE24)),
]  # fmt: skip
SESSIONS = [
    (TINY8, ["bf16"], [1, 2, 4, 8, 16, 32]), (BASE16, ["bf16", "fp8"], [1, 8, 32, 128]),
    (LARGE24, ["bf16", "fp8"], [1, 8, 32]),
]  # fmt: skip
WITH_GOALS = 4  # rows of INFERENCE; each is trained as well
TRAINING = {TINY8: (256, 256), LARGE24: (384, 12), TINY16: (256, 128), BASE16: (256, 64)}  # pixels, batch


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", default=PARTS[:-1], choices=PARTS)
    parser.add_argument("--minutes", type=float, default=60, help="no row is begun after it")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--compile-mode", default="reduce-overhead", help="or max-autotune, which takes minutes more"
    )
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "gpu.json")
    args = parser.parse_args()
    if args.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
    import torch

    if not args.dry_run and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device here; --dry-run goes through everything on a CPU")
    result: dict[str, Any] = {part: [] for part in (*PARTS, "skipped")}
    for part, row in rows(args, result):
        result[part].append(row)
        print(json.dumps(row), flush=True)
        args.output.write_text(json.dumps(result, indent=1) + "\n")
    print(*result["skipped"], f"wrote {args.output}", sep="\n")


def rows(args: argparse.Namespace, result: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Part and row, while there is time; what there is none for, or fails as a whole, goes to result."""
    import torch
    from gpu_timing import Clock, ceilings, machine, reason
    from inference import commit

    dry = args.dry_run
    device = torch.device("cpu" if dry else "cuda")
    limits = ceilings(device, small=dry)
    result |= {"date": date.today().isoformat(), "commit": commit(), "machine": machine(device),
               "versions": versions(), "ceilings": limits}  # fmt: skip
    clock = Clock(args.minutes)
    for part, what, measure in plan(args, device, limits):
        if part not in args.parts:
            continue
        if not clock.has_time():
            result["skipped"].append(f"{part}: {what}: no time was left")
            continue
        torch._dynamo.reset()
        if not dry:
            torch.cuda.empty_cache()
        try:
            yield from ((part, row) for row in measure())
        except Exception as error:  # a lent device is not had again soon: go on with the rest
            result["skipped"].append(f"{part}: {what}: {reason(error)}")


def plan(
    args: argparse.Namespace, device: Any, limits: dict[str, float]
) -> Iterator[tuple[str, str, Callable[[], list]]]:
    """Part, what of it, and the function that measures its rows."""
    import gpu_kernels
    import gpu_models
    import gpu_products
    import gpu_sessions

    dry, rounds = args.dry_run, 1 if args.dry_run else args.rounds
    compiler = {"backend": "aot_eager"} if dry else {"mode": args.compile_mode}
    if dry:
        register_tiny()
    ceiling = limits["product_tflops"]
    cases = gpu_kernels.DRY if dry else gpu_kernels.CASES
    for case in cases:
        yield "kernels", case.name, partial(gpu_kernels.measure, case, device, rounds, ceiling, dry=dry)

    def answers(name: str, precision: str, batches: list[int]) -> tuple[str, str, Callable[[], list]]:
        run = partial(gpu_models.inference, name, precision, batches, device, rounds, ceiling, compiler)
        return "inference", f"{name} {precision}", run

    first = [("tiny", "bf16", [1, 2])] if dry else INFERENCE[:WITH_GOALS]
    training = {"tiny": (32, 2)} if dry else TRAINING
    for name, precision, batches in first:
        yield answers(name, precision, batches)
        yield (
            "training", name,
            partial(gpu_models.training, name, *training[name], device, rounds, compiler),
        )  # fmt: skip
    for name, precisions, batches in [("tiny", ["bf16", "fp8"], [1, 2])] if dry else SESSIONS:
        yield (
            "sessions", name,
            partial(gpu_sessions.sessions, name, precisions, batches, device, rounds),
        )  # fmt: skip
    layers = gpu_products.DRY if dry else gpu_products.CASES
    for layer in layers:
        what = f"{layer.kind}: {layer.name}"
        yield "products", what, partial(gpu_products.measure, layer, device, rounds, limits, dry=dry)
    for name, precision, batches in [("tiny", "fp32", [1])] if dry else INFERENCE[WITH_GOALS:]:
        yield answers(name, precision, batches)
    for case in cases:
        yield "tiles", case.name, partial(gpu_kernels.sweep, case, device, rounds)
    for layer in layers:
        yield "tiles", f"{layer.kind}: {layer.name}", partial(gpu_products.sweep, layer, device, rounds)


def versions() -> dict[str, str]:
    found = {}
    for library in ("torch", "triton", "timm", "transformers", "torchvision", "swinv2"):
        try:
            found[library] = version(library)
        except PackageNotFoundError:  # a source tree, or a library that then says so when it is asked
            continue
    return found


def register_tiny() -> None:
    """ "tiny", of two stages and 32 pixels, for us and for timm."""
    from dataclasses import replace

    from timm.models import SwinTransformerV2, register_model

    from swinv2 import ops
    from swinv2.config import VARIANTS

    ops.choose = lambda qkv, **geometry: "sdpa" if ops.triton.unsupported(qkv, **geometry) else "triton"
    VARIANTS["tiny"] = replace(
        VARIANTS[TINY8], architecture="tiny", image_size=(32, 32), window=4, embed_dim=32, depths=(2, 1), heads=(1, 2),
        pretrained_windows=((0, 0), (0, 0)),
    )  # fmt: skip

    def tiny(pretrained: bool = False, **given: Any) -> SwinTransformerV2:
        sizes = {"img_size": 32, "window_size": 4, "embed_dim": 32, "depths": (2, 1), "num_heads": (1, 2)}
        wanted = {key: value for key, value in given.items() if key in ("num_classes", "drop_path_rate")}
        return SwinTransformerV2(**sizes, **wanted)

    register_model(tiny)


if __name__ == "__main__":
    main()
