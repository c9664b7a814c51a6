"""What inference and training move through a GPU's memory, and how fast that lets them be: counted, without a GPU.

    python benchmarks/gpu_traffic.py [--operations]

Every operation is taken to read what it is given once, and to write what it makes once, at the speed of a copy, or to
compute at the speed of a large product, whichever takes longer; attention at the speed of its goal. That is a limit of
the sequence of operations as eager mode launches it, with our kernels, and no prediction: what is in a cache moves
faster, and no kernel reaches either speed. Goals beyond it cannot be reached without other kernels.

Training runs on tensors of a CPU that have no values, with the dtypes that a GPU has but for the norms outside of the
blocks. Results go to benchmarks/results/gpu-traffic.json; docs/generate.py makes the table of docs/gpu.md.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from contextlib import ExitStack
from datetime import date
from functools import partial
from math import prod
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from gpu import BASE16, LARGE24, TINY8, TINY16, TRAINING, versions
from gpu_kept import as_with_a_gpu, register_operators, without_values
from inference import RESULTS, commit
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from swinv2 import model as network
from swinv2 import ops
from swinv2.config import VARIANTS
from swinv2.fold import fold
from swinv2.ops import mlp, residual

# Of an H200 as others have measured it; gpu.py measures both where there is one.
COPY = 4.3e12  # bytes a second that a copy reads and writes
PRODUCT = 790e12  # FLOP/s of large products in bfloat16
ATTENTION = {8: 100e12, 16: 150e12, 24: 150e12}  # by window, the goals for both products
INFERENCE = [(TINY8, 256), (TINY16, 256), (BASE16, 256), (LARGE24, 64)]  # batch
GOALS = {
    ("inference", TINY8): 27_000, ("inference", TINY16): 21_000, ("inference", BASE16): 8_500,
    ("inference", LARGE24): 1_500, ("training", TINY8): 8_000, ("training", LARGE24): 500,
}  # fmt: skip
# Nothing is read or written by these; the last are of tensors that have no values yet.
VIEWS = frozenset({
    "view", "_unsafe_view", "t", "transpose", "permute", "expand", "slice", "select", "detach", "unsqueeze", "squeeze",
    "alias", "split", "unbind", "as_strided", "split_with_sizes", "unfold", "lift_fresh", "device", "promote_types",
    "is_same_size", "empty", "empty_like", "new_empty",
})  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=[name for name, _ in INFERENCE])
    parser.add_argument("--operations", action="store_true", help="show what each kind of them takes")
    parser.add_argument("--output", type=Path, default=RESULTS / "gpu-traffic.json")
    args = parser.parse_args()
    register_operators()
    result: dict[str, Any] = {"date": date.today().isoformat(), "commit": commit(), "versions": versions(),
                              "copy_tb_per_s": COPY / 1e12, "product_tflops": PRODUCT / 1e12, "rows": []}  # fmt: skip
    planned = [("inference", "bf16", name, batch) for name, batch in INFERENCE]
    planned += [
        ("training", how, name, batch)
        for name, (_, batch) in TRAINING.items()
        for how in ("bf16", "bf16_all")
    ]
    for what, precision, name, batch in planned:
        if name not in args.models:
            continue
        count = inference(name, batch) if what == "inference" else training(name, batch, precision)
        row = {"what": what, "model": name, "precision": precision, "batch": batch} | count.figures(batch)
        row["goal"] = GOALS.get((what, name))
        print(json.dumps(row), flush=True)
        if args.operations:
            count.show(batch)
        result["rows"].append(row)
        args.output.write_text(json.dumps(result, indent=1) + "\n")


class Count(TorchDispatchMode):
    """Bytes, FLOP and seconds of the operations within it, by name."""

    def __init__(self, window: int):
        super().__init__()
        self.attention = ATTENTION[window]
        self.launches: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.flops: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        name = function._schema.name.split("::")[1]
        if name in VIEWS:
            return made
        tensors = [t for t in tree_leaves((args, kwargs, made)) if isinstance(t, Tensor)]
        moved = sum(size_of(t) for t in tensors)
        if name == "window_attention_backward" and self.has_three_kernels(args):
            moved += 2 * (size_of(args[0]) + size_of(args[1]))
        flops = self.flops_of(name, args)
        speed = self.attention if "attention" in name else PRODUCT
        self.launches[name] += 1
        self.bytes[name] += moved
        self.flops[name] += flops
        self.seconds[name] += max(moved / COPY, flops / speed)
        return made

    def flops_of(self, name: str, args: tuple) -> int:
        match name:
            case "mm":
                return 2 * args[0].numel() * args[1].shape[1]
            case "addmm":
                return 2 * args[1].numel() * args[2].shape[1]
            case "linear_gelu" | "merge" | "embed":
                product = 2 * args[1].numel()  # of a token, with all weights
                tokens = args[0].numel() // prod(args[1].shape[1:])
                return product * tokens
            case "add_normed":
                return 2 * args[1].numel() * len(args[2])
            case "linear_gelu_backward":
                return 2 * args[0].numel() * args[1].shape[1]
            case "window_attention":
                return 2 * 2 * args[0].numel() // 3 * prod(args[4])  # qkv has three values of every channel
            case "window_attention_backward":
                products = 9 if self.has_three_kernels(args) else 5  # logits and their gradients in each
                return products * 2 * args[0].numel() * prod(args[7])
        return 0

    def has_three_kernels(self, args: tuple) -> bool:
        """Whether the gradients of queries, keys and bias are computed one after the other."""
        return prod(args[7]) > 64

    def figures(self, batch: int) -> dict[str, float]:
        return {
            "mb_per_image": round(self.bytes.total() / batch / 1e6, 1),
            "gflop_per_image": round(self.flops.total() / batch / 1e9, 2),
            "launches": self.launches.total(),
            "images_per_second_at_most": round(batch / self.seconds.total(), -1),
        }

    def show(self, batch: int) -> None:
        for name, seconds in self.seconds.most_common(16):
            figures = f"{self.bytes[name] / batch / 1e6:8.1f} MB {self.flops[name] / batch / 1e9:7.2f} GFLOP"
            print(
                f"  {name:26} {self.launches[name]:5d} x {figures} {1e6 * seconds / batch:7.2f} us an image"
            )


def size_of(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def inference(name: str, batch: int) -> Count:
    """A folded model in bfloat16."""
    folded = fold(network.create_model(name), dtype=torch.bfloat16)
    with as_with_a_gpu(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
        without_values(folded, mode, "cuda")
        x = torch.empty(batch, 3, *folded.image_size, dtype=torch.bfloat16, device="cuda")
        with torch.no_grad(), Count(VARIANTS[name].window) as count:
            folded(x)
    return count


def training(name: str, batch: int, precision: str) -> Count:
    """A step with our kernels: forward, backward, clipping and AdamW."""
    model = network.create_model(name, drop_path=0.2).train()
    model.backend = "triton"
    model.residual = torch.bfloat16 if precision == "bf16_all" else torch.float32
    with named_kernels(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
        without_values(model, mode, "cpu")
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        x = torch.empty(batch, 3, *model.config.image_size)
        labels = torch.zeros(batch, dtype=torch.long)
        for _ in range(2):  # the averages of AdamW are made in the first step
            with Count(VARIANTS[name].window) as count:
                with torch.autocast("cpu", torch.bfloat16):
                    logits = model(x)
                F.cross_entropy(logits.float(), labels).backward()
                nn.utils.clip_grad_norm_(model.parameters(), 5.0)
                optimizer.step()
                optimizer.zero_grad()
    return count


def named_kernels() -> ExitStack:
    """What would choose our kernels on a GPU names them."""
    stack = ExitStack()
    for target, name, value in (
        (ops.triton, "refusal", lambda *_: None),
        (network, "add_norm", partial(residual.add_norm, backend="triton")),
        (network, "mlp", partial(mlp.mlp, backend="triton")),
    ):
        stack.enter_context(mock.patch.object(target, name, value))
    return stack


if __name__ == "__main__":
    main()
