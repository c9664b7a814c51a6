"""Layers in float8: what is rounded how, which layers, what a GPU's product is given; here in float32."""

from __future__ import annotations

import pytest
import torch
from conftest import SMALL, randomized
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from swinv2 import float8
from swinv2.artifact import Record
from swinv2.float8 import E4M3, LAYERS, Float8Linear, in_float8, rounded
from swinv2.fold import fold
from swinv2.model import SwinV2
from swinv2.preprocess import Preprocess
from swinv2.runtimes import open_session
from swinv2.runtimes import torch as runtime
from swinv2.runtimes.torch import TorchSession


def rows(n: int, width: int, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, width, generator=g) * torch.logspace(-6, 6, n)[:, None]


def test_every_row_uses_the_whole_range():
    x = rows(13, 96)
    small, scale = rounded(x)
    assert small.dtype == E4M3
    assert scale.shape == (13, 1)
    assert small.float().abs().amax(1).tolist() == [448.0] * 13
    off = (small.double() * scale.double() - x.double()).abs()
    # Three bits after the leading one: half a step is 1/16 of a value; below 2^-6 of the format steps are 2^-9.
    assert (off <= x.double().abs() / 16 * 1.0001 + scale.double() * 2**-10).all()


def test_rows_of_zeros_and_of_half_precision():
    small, scale = rounded(torch.zeros(2, 16))
    assert not small.float().any()
    assert scale.isfinite().all()
    x = rows(4, 32).bfloat16()
    small, scale = rounded(x)
    assert torch.equal(small.float() * scale, rounded(x.float())[0].float() * scale)
    assert small.float().isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("has_bias", [True, False])
def test_a_layer_is_the_product_of_what_was_rounded(dtype, has_bias):
    torch.manual_seed(0)
    layer = nn.Linear(48, 32, bias=has_bias).to(dtype)
    x = torch.randn(2, 3, 5, 48).to(dtype)
    found = Float8Linear(layer)(x)
    (a, a_scale), (b, b_scale) = rounded(x.view(-1, 48)), rounded(layer.weight.detach())
    exact = (a.double() * a_scale) @ (b.double() * b_scale).T + (layer.bias.double() if has_bias else 0)
    assert found.dtype == dtype
    assert found.shape == (2, 3, 5, 32)
    limit = {torch.float32: 1e-6, torch.bfloat16: 4e-3}[dtype]
    assert (found.double().view(-1, 32) - exact).norm() <= limit * exact.norm()
    assert 0.01 < (exact - layer(x).double().view(-1, 32)).norm() / exact.norm() < 0.06


@pytest.mark.parametrize("layers", [LAYERS, ("qkv",)])
def test_named_layers_of_all_blocks_are_replaced_and_no_others(layers):
    network = in_float8(fold(SwinV2(SMALL)), layers=layers)
    found = {name for name, module in network.named_modules() if isinstance(module, Float8Linear)}
    linear = {name for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    assert {name.rpartition(".")[2] for name in found} == set(layers)
    assert len(found) == 8 * len(layers)
    assert not {name for name in linear if name.rpartition(".")[2] in layers}


def test_sides_that_are_no_multiple_of_16_stay_as_they_are():
    network = fold(SwinV2(SMALL))
    block = network.stages[0][1]
    block.fc1 = nn.Linear(32, 120)
    in_float8(network)
    assert isinstance(block.fc1, nn.Linear)
    assert isinstance(block.proj, Float8Linear)


def test_a_network_answers_nearly_as_before():
    model = randomized(SwinV2(SMALL)).eval()
    x = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        exact = fold(model)(x)
        half = fold(model, dtype=torch.bfloat16)(x)
        small = in_float8(fold(model, dtype=torch.bfloat16))(x)
    off, half_off = ((found.float() - exact).norm() / exact.norm() for found in (small, half))
    assert half_off < off < 0.12


def test_a_gpu_is_given_what_its_product_takes():
    """PyTorch checks layouts, scales and types of the call on a device that is not there."""
    layer = Float8Linear(nn.Linear(96, 64).bfloat16())
    with FakeTensorMode() as mode:
        for name, tensor in layer._buffers.items():
            layer._buffers[name] = mode.from_tensor(tensor).to("cuda")
        out = layer(torch.empty(2, 5, 5, 96, device="cuda", dtype=torch.bfloat16))
    assert (out.shape, out.dtype, out.device.type) == ((2, 5, 5, 64), torch.bfloat16, "cuda")


def test_what_cannot_compute_it_says_so(small, tmp_path, monkeypatch):
    said = "fp8 needs a CUDA device of compute capability 8.9 or more, and the device is cpu; take bf16"
    small.record = Record(small.config, Preprocess.official(64), tuple("abcdefg"))
    monkeypatch.setattr(runtime, "fastest_device", lambda: "cpu")
    for device in ("cpu", "auto"):
        with pytest.raises(ValueError, match=said):
            TorchSession(small, device=device, precision="fp8")
    with pytest.raises(ValueError, match=said):
        open_session(tmp_path / "model.safetensors", "torch", device="cpu", precision="fp8")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert (
        float8.unsupported("cuda:1")
        == "fp8 needs compute capability 8.9 or more, and cuda:1 has 8.0; take bf16"
    )
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert float8.unsupported("cuda") is None
