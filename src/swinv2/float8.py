"""A folded network whose blocks multiply in float8 (E4M3): half of bfloat16's bytes at twice its speed, on NVIDIA GPUs
since Ada and Hopper.

Weights are rounded once, what goes into a layer is in every call; each output channel and each token has a scale of its
own, so that its largest value becomes the largest of the format. Sums are float32, everything between the products is
bfloat16. What that does to answers was measured by products of the same rounded values in float32 (docs/gpu.md).
"""

from __future__ import annotations

from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swinv2.fold import FoldedBlock, FoldedSwinV2
from swinv2.ops import triton

E4M3 = torch.float8_e4m3fn
LARGEST = 448.0  # of E4M3
SMALLEST = 1e-12  # of a scale: a row of zeros stays one
MULTIPLE = 16  # of what the sides of a product must be
CAPABILITY = (8, 9)
# Of a block. qkv stays wider: in both measurements it adds the most, since attention multiplies what it says of
# directions by up to 100.
LAYERS = ("proj", "fc1", "fc2")


def in_float8(network: FoldedSwinV2, *, layers: Collection[str] = LAYERS) -> FoldedSwinV2:
    """Replace layers of the blocks by such in float8, in place; a GPU wants the rest to be in bfloat16.

    Args:
        layers: of a block, by name: qkv, proj, fc1, fc2. Those with a side that is no multiple of 16 stay as they are.
    """
    for block in [module for module in network.modules() if isinstance(module, FoldedBlock)]:
        for name in layers:
            layer: nn.Linear = getattr(block, name)
            if not (layer.in_features % MULTIPLE or layer.out_features % MULTIPLE):
                setattr(block, name, Float8Linear(layer))
    return network


def unsupported(device: str) -> str | None:
    """Why no such network computes on a device, in words; None where one does."""
    if torch.device(device).type != "cuda":
        return f"fp8 needs a CUDA device of compute capability 8.9 or more, and the device is {device}; take bf16"
    if (has := torch.cuda.get_device_capability(device)) < CAPABILITY:
        return f"fp8 needs compute capability 8.9 or more, and {device} has {has[0]}.{has[1]}; take bf16"
    return None


class Float8Linear(nn.Module):
    """x [..., in] -> [..., out] in the dtype of x.

    Attributes:
        weight: [out, in] in float8; scale: [out, 1] in float32; multiplied they are nearly the weight of before.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Linear):
        super().__init__()
        weight, scale = rounded(layer.weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        rows, scale = rounded(x.reshape(-1, x.shape[-1]))
        out = product(rows, scale, self.weight, self.scale, self.bias, x.dtype)
        return out.view(*x.shape[:-1], -1)


def rounded(x: Tensor) -> tuple[Tensor, Tensor]:
    """[rows, in] -> the same in float8, and scales [rows, 1] in float32 that multiply it."""
    if triton.IS_CHOSEN and x.is_cuda and triton.refusal(x.device.type, x.device.index) is None:
        return torch.ops.swinv2.round_rows(x.contiguous())
    x = x.float()
    scale = (x.abs().amax(-1, keepdim=True) / LARGEST).clamp_min(SMALLEST)
    return (x / scale).to(E4M3), scale


def product(
    x: Tensor, x_scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """x [rows, in] and weight [out, in] in float8, their scales [rows, 1] and [out, 1] -> [rows, out] in dtype."""
    if x.device.type == "cuda":
        return torch._scaled_mm(x, weight.t(), x_scale, weight_scale.t(), bias=bias, out_dtype=dtype)
    out = F.linear(x.float(), weight.float()) * x_scale * weight_scale.t()  # the same values, anywhere
    return (out if bias is None else out + bias.float()).to(dtype)
