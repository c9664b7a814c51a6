"""What a training step keeps for its backward pass on a GPU, ours beside timm's: counted, so that no GPU is needed.

    python benchmarks/gpu_kept.py

Both run forward under autocast to bfloat16 with tensors that have a CUDA device, shapes, and no values; autograd says
what it keeps. Eager mode, with drop path, ours with the kernels in Triton. What does not grow with the batch is not
counted: weights and their copies, gradients, moments of AdamW, position biases. Results go to
benchmarks/results/gpu-kept.json; docs/generate.py makes the table of docs/gpu.md.
"""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from unittest import mock

import timm
import torch
from gpu import TRAINING, versions
from inference import RESULTS, commit
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from swinv2 import ops
from swinv2.model import create_model

BATCH = 13  # a number that divides nothing else: what it does not divide is none of the images'


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(TRAINING))
    parser.add_argument("--output", type=Path, default=RESULTS / "gpu-kept.json")
    args = parser.parse_args()
    register_operators()
    result = {"date": date.today().isoformat(), "commit": commit(), "versions": versions(), "models": []}
    for name, (size, _) in TRAINING.items():
        if name in args.models:
            row = {"model": name, "image_size": size, "mb_per_image": measure(name, size)}
            print(json.dumps(row), flush=True)
            result["models"].append(row)
            args.output.write_text(json.dumps(result, indent=1) + "\n")


def measure(name: str, size: int) -> dict[str, float]:
    """Label -> MB of an image."""
    networks = {
        "timm": timm.create_model(name, drop_path_rate=0.2).train(),
        "swinv2": create_model(name, drop_path=0.2).train(),
    }
    with as_with_a_gpu(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
        found = {
            label: kept(without_values(network, mode, "cuda"), size) for label, network in networks.items()
        }
    return {label: round(size / BATCH / 2**20, 1) for label, size in found.items()}


def kept(network: nn.Module, size: int) -> int:
    """Bytes of all tensors of images that the forward pass keeps, each of them once."""
    tensors: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        tensors[tensor.untyped_storage()._cdata] = tensor
        return tensor

    x = torch.empty(BATCH, 3, size, size, device="cuda")
    with saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cuda", torch.bfloat16):
        network(x)
    return sum(t.untyped_storage().nbytes() for t in tensors.values() if t.numel() % BATCH == 0)


def without_values(network: nn.Module, mode: FakeTensorMode, device: str) -> nn.Module:
    """The network itself, on a device that need not be there."""
    for module in network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(mode.from_tensor(parameter).detach().to(device))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = mode.from_tensor(buffer).to(device)
    return network


def register_operators() -> None:
    import swinv2.ops.triton.diagonals
    import swinv2.ops.triton.norm_op
    import swinv2.ops.triton.op
    import swinv2.ops.triton.products_op  # noqa: F401


def as_with_a_gpu() -> ExitStack:
    """Nothing asks the device what it can."""
    stack = ExitStack()
    for target, name, value in (
        (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
        (torch.cuda, "is_bf16_supported", lambda *_, **__: True),
        (ops.triton, "refusal", lambda *_: None),
        (ops.triton, "IS_CHOSEN", True),
    ):
        stack.enter_context(mock.patch.object(target, name, value))
    return stack


if __name__ == "__main__":
    main()
