"""Linear layers, computed on a CPU by the faster of two kernels.

PyTorch's float32 product goes to a library that uses half of the vector width of some CPUs; its convolution goes to
oneDNN, which does not, and a 1x1 convolution in channels-last is the same product. In half precision both go
there, and the convolution gains with many rows only (docs/log.md). Compilers and exporters see the product.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HALF_PRECISION_ROWS = 2048  # from where a convolution is faster than a product in bfloat16


class Linear(nn.Linear):
    """torch.nn.Linear with the same parameters, [..., in] -> [..., out]."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """torch.nn.functional.linear to rounding: x [..., in], weight [out, in], bias [out] -> [..., out]."""
    if not prefers_convolution(x):
        return F.linear(x, weight, bias)
    outs, ins = weight.shape
    image = x.reshape(1, -1, 1, ins).permute(0, 3, 1, 2)  # 1 in pixels 1, channels last in memory
    out = F.conv2d(image, weight[:, :, None, None], bias)
    return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], outs)


def prefers_convolution(x: Tensor) -> bool:
    """Whether the convolution is the faster way for x [..., in], here and now."""
    if type(x) is not Tensor or x.device.type != "cpu":
        return False
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    if dtype == torch.bfloat16:
        return x.numel() >= HALF_PRECISION_ROWS * x.shape[-1]
    return dtype == torch.float32 and x.numel() > 0
