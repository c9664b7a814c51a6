"""Window attention as one kernel of a GPU, forward and backward, written in Triton.

Files in the order in which they are needed: tiles (addresses, mask, logits), forward, backward, small (the kernels),
launch (their sizes), op (their place in PyTorch). Triton is imported when a CUDA tensor comes, or in its interpreter.
"""

from __future__ import annotations

import os
from functools import lru_cache
from importlib.util import find_spec

import torch
from torch import Tensor

from swinv2.config import Pair

HEAD_DIMS = (16, 32, 64)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MOST_TOKENS = 4096  # of a window; beyond it the bias alone is larger than any map
CAPABILITY = (8, 0)  # before it Triton has no tensor cores, and everything spills
# No device has computed with these kernels yet: until tests/test_triton_gpu.py has passed on one, they are taken where
# somebody names them (backend="triton"), and by themselves only where this says so.
IS_CHOSEN = os.environ.get("SWINV2_TRITON") == "1"


def unsupported(qkv: Tensor, *, heads: int, window: Pair, shift: Pair) -> str | None:
    if qkv.dtype not in DTYPES:
        return f"needs torch.float32, bfloat16 or float16, got {qkv.dtype}"
    if (head_dim := qkv.shape[-1] // 3 // heads) not in HEAD_DIMS:
        return f"head dim {head_dim} is not 16, 32 or 64"
    if window[0] * window[1] > MOST_TOKENS:
        return f"windows of {window[0] * window[1]} tokens are more than {MOST_TOKENS}"
    if not all(0 <= by < side for by, side in zip(shift, window, strict=True)):
        return f"shift {shift} is not within the window {window}"
    if qkv.shape[1] * qkv.shape[2] * qkv.shape[3] >= 2**31:
        return "one image's map has 2^31 values or more"
    return refusal(qkv.device.type, qkv.device.index)


def refusal(device: str, index: int | None) -> str | None:
    return _asked(device, index)


# A compiler takes the answer as it is and looks no further. torch.compiler.assume_constant_result does no more, and
# imports the whole compiler.
refusal._dynamo_marked_constant = True  # type: ignore[attr-defined]


@lru_cache
def _asked(device: str, index: int | None) -> str | None:
    if find_spec("triton") is None:
        return "needs the package triton"
    if os.environ.get("TRITON_INTERPRET") == "1":
        if device != "cpu":
            return f"Triton's interpreter is on, which needs CPU tensors, got {device}"
    elif device != "cuda":
        return f"needs a CUDA tensor, got {device}"
    elif torch.version.hip:
        return "is not tested on GPUs of AMD"
    elif (has := torch.cuda.get_device_capability(index)) < CAPABILITY:
        return f"needs compute capability 8.0, and the device has {has[0]}.{has[1]}"
    import swinv2.ops.triton.diagonals
    import swinv2.ops.triton.norm_op
    import swinv2.ops.triton.op
    import swinv2.ops.triton.products_op
    import swinv2.ops.triton.rounding  # noqa: F401  each registers operators of torch.ops.swinv2

    return None


def attend(
    qkv: Tensor, logit_scale: Tensor, bias: Tensor, *, heads: int, window: Pair, shift: Pair
) -> Tensor:
    if torch.is_autocast_enabled(qkv.device.type):  # as products of matrices and SDPA do
        qkv = qkv.to(torch.get_autocast_dtype(qkv.device.type))
    scale = logit_scale.flatten().float()
    needs_grad = torch.is_grad_enabled() and (qkv.requires_grad or scale.requires_grad or bias.requires_grad)
    out, _ = torch.ops.swinv2.window_attention(
        qkv.contiguous(), scale, bias.contiguous(), heads, window, shift, needs_grad
    )
    return out
