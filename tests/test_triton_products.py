"""Triton's products with GELU, of patch merging and embedding, in its interpreter, against the layers in float64."""

from __future__ import annotations

import copy
import sys
from functools import partial

import interpreted  # noqa: F401  first
import pytest
import torch
from conftest import SMALL, randomized
from products import (
    EMBEDDED,
    MERGED,
    assert_products_at_most_twice_eager,
    convolution,
    filled,
    layer_norm,
    linear,
    watched,
)
from torch import nn

from swinv2.config import SwinV2Config
from swinv2.fold import FoldedMerging, fold
from swinv2.model import SwinV2
from swinv2.ops import products
from swinv2.ops.triton import products_op, refusal

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


# map, channels in and out: one token and many, a tile exactly, ragged in all directions
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("size", "ins", "outs"),
    [((1, 1), 96, 384), ((13, 11), 40, 72), ((16, 8), 64, 128), ((3, 50), 96, 200)],
    ids=str,
)
def test_gelu_of_a_product_errs_at_most_twice_eager(size, ins, outs, dtype):
    layer = linear(ins, outs, dtype, bias=True)
    assert_products_at_most_twice_eager(products.linear_gelu, filled(2, *size, ins, dtype=dtype), layer)


def test_gelu_is_the_exact_one():
    """With erf: the usual approximation by tanh is off by up to 5e-4."""
    layer = linear(32, 32, torch.float32, bias=True)
    nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)
    x = torch.linspace(-6, 6, 64 * 32).view(64, 32)
    found = products.linear_gelu(x, layer, backend="triton").double()
    assert (found - nn.functional.gelu(x.double())).abs().max() < 5e-7


@pytest.mark.filterwarnings("ignore:overflow")  # to minus infinity, whose power of two is the right one
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.bfloat16, 2**-7), (torch.float16, 2**-10)], ids=str)
def test_gelu_of_every_number_in_16_bits(dtype, rounding):
    """Its polynomial shows nowhere: what is rounded is off by a few millionths of itself, or by a ten-billionth."""
    layer = linear(16, 16, dtype, bias=True)
    nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)
    numbers = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype).view(-1, 16)
    x = numbers.masked_fill(~numbers.isfinite(), 0.0)
    found = products.linear_gelu(x, layer, backend="triton").double()
    wanted = nn.functional.gelu(x.double())
    smallest = torch.finfo(dtype).smallest_normal
    assert ((found - wanted).abs() <= rounding * wanted.abs() + max(smallest * rounding, 2e-7)).all()


# tokens, channels in and out: one and many, a tile exactly, ragged in all directions, as wide as it gets
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("size", "ins", "outs"),
    [((1, 1), 96, 96), ((13, 11), 40, 72), ((16, 8), 256, 64), ((3, 50), 96, 200), ((2, 5), 384, 256)],
    ids=str,
)
def test_the_end_of_a_branch_errs_at_most_twice_eager(size, ins, outs, dtype):
    layers = linear(ins, outs, dtype, bias=True), layer_norm(outs, dtype)
    x, inner = (filled(2, *size, channels, dtype=dtype, seed=channels) for channels in (outs, ins + 1))
    inner = inner[..., 1:]  # as it need not lie
    assert_products_at_most_twice_eager(partial(ended, inner), x, *layers)


def ended(
    inner: torch.Tensor, x: torch.Tensor, layer: nn.Module, norm: nn.Module, *, backend: str
) -> torch.Tensor:
    return products.add_normed(x, inner.to(x.dtype), layer, norm, backend=backend)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("images", "size", "channels"), MERGED, ids=str)
def test_merging_errs_at_most_twice_eager(images, size, channels, dtype):
    layers = linear(4 * channels, 2 * channels, dtype, bias=False), layer_norm(2 * channels, dtype)
    assert products_op.can_norm(2 * channels) == (channels < 264)
    assert_products_at_most_twice_eager(products.merge, filled(images, *size, channels, dtype=dtype), *layers)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("images", "size", "colours", "side", "channels"), EMBEDDED, ids=str)
def test_embedding_errs_at_most_twice_eager(images, size, colours, side, channels, dtype):
    layers = convolution(colours, channels, side, dtype), layer_norm(channels, dtype)
    assert products_op.can_norm(channels) == (channels < 520)
    assert_products_at_most_twice_eager(products.embed, filled(images, colours, *size, dtype=dtype), *layers)


def test_weights_of_patches_may_lie_either_way():
    x, proj, norm = (
        torch.randn(1, 3, 8, 8),
        convolution(3, 32, 4, torch.float32),
        layer_norm(32, torch.float32),
    )
    last = products.embed(x, proj, norm, backend="triton")
    proj.weight.data = proj.weight.data.contiguous()
    assert torch.equal(products.embed(x, proj, norm, backend="triton"), last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_several_tiles_of_tokens_and_channels(dtype, monkeypatch):
    small = products_op.Tile(16, 16, 16, 4, 1)
    monkeypatch.setattr(products_op, "TILES", dict.fromkeys(products_op.TILES, small))
    monkeypatch.setattr(products_op, "NORMED", dict.fromkeys(products_op.NORMED, small))
    monkeypatch.setattr(products_op, "ADDED", dict.fromkeys(products_op.ADDED, small))
    layer = linear(48, 40, dtype, bias=True)
    assert_products_at_most_twice_eager(products.linear_gelu, filled(37, 48, dtype=dtype), layer)
    branch = linear(48, 40, dtype, bias=True), layer_norm(40, dtype)
    x, inner = (filled(37, channels, dtype=dtype, seed=channels) for channels in (40, 48))
    assert_products_at_most_twice_eager(partial(ended, inner), x, *branch)
    layers = linear(4 * 24, 40, dtype, bias=False), layer_norm(40, dtype)
    patches = convolution(3, 40, 4, dtype), layer_norm(40, dtype)
    for most in (512, 8):
        monkeypatch.setattr(products_op, "WIDEST_NORM", most)
        assert_products_at_most_twice_eager(products.merge, filled(2, 9, 11, 24, dtype=dtype), *layers)
        assert_products_at_most_twice_eager(products.embed, filled(2, 3, 37, 22, dtype=dtype), *patches)


def test_few_tokens_take_small_tiles():
    """So that all multiprocessors have something to do at a batch of one."""
    assert products_op.tile(torch.bfloat16, 64, 3072, 768).tokens == 64
    assert products_op.tile(torch.bfloat16, 256 * 4096, 384, 96).tokens == 128
    assert products_op.tile(torch.bfloat16, 64, 3072, 96).depth == 32
    assert products_op.added_tile(torch.bfloat16, 4096, 96, 384).tokens == 32
    assert products_op.added_tile(torch.bfloat16, 256 * 4096, 96, 384).tokens == 128


@pytest.fixture
def kernels(monkeypatch) -> list[str]:
    """A folded model takes our kernels, as on a GPU; the names of those that ran."""
    names = ("embed", "linear_gelu", "add_normed", "merge")
    found = watched(monkeypatch, *names)
    for name in names:
        monkeypatch.setattr(
            sys.modules["swinv2.fold"], name, partial(getattr(products, name), backend="triton")
        )
    monkeypatch.setattr(sys.modules["swinv2.fold"], "_added", partial(products.add_normed, backend="triton"))
    return found


BLOCK = ["add_normed", "linear_gelu", "add_normed"]


@pytest.mark.parametrize("size", [(64, 64), (50, 70)])
def test_a_folded_model_gives_the_same_logits(size, kernels):
    model = randomized(SwinV2(SwinV2Config(**SMALL.to_dict() | {"depths": (2, 1, 1, 1)}))).eval()
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(fold(model, image_size=size)(x), model(x), rtol=0, atol=1e-5)
    assert kernels == ["embed"] + BLOCK * 2 + ["merge", *BLOCK] * 3


@pytest.mark.filterwarnings("ignore")  # of the compiler
def test_a_compiled_folded_model_has_no_breaks(kernels):
    torch._dynamo.reset()
    folded = fold(randomized(SwinV2(SwinV2Config(**SMALL.to_dict() | {"depths": (1, 1, 1, 1)}))).eval())
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = folded(x)
        kernels.clear()
        found = torch.compile(folded, fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert kernels == ["embed", *BLOCK] + ["merge", *BLOCK] * 3
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore")  # of the checks themselves
def test_operators_keep_what_they_promise():
    assert refusal("cpu", None) is None  # and they are registered
    layer, norm = linear(32, 48, torch.float32, bias=True), layer_norm(64, torch.float32)
    torch.library.opcheck(
        torch.ops.swinv2.linear_gelu.default, (torch.randn(2, 3, 32), layer.weight, layer.bias, False)
    )
    branch = linear(48, 64, torch.float32, bias=True)
    torch.library.opcheck(
        torch.ops.swinv2.add_normed.default,
        (
            torch.randn(2, 3, 64),
            torch.randn(2, 3, 48),
            branch.weight,
            branch.bias,
            norm.weight,
            norm.bias,
            1e-5,
        ),
    )
    x, weight = torch.randn(2, 3, 5, 32), linear(128, 64, torch.float32, bias=False).weight
    for given in ((norm.weight, norm.bias), (None, None)):
        torch.library.opcheck(torch.ops.swinv2.merge.default, (x, weight, *given, 1e-5))
    image, proj = torch.randn(2, 3, 9, 8), convolution(3, 64, 4, torch.float32)
    for given in ((norm.weight, norm.bias), (None, None)):
        torch.library.opcheck(torch.ops.swinv2.embed.default, (image, proj.weight, proj.bias, *given, 1e-5))


def test_what_the_kernels_cannot_is_refused_in_words():
    x, layer = torch.randn(2, 32), linear(32, 48, torch.float32, bias=True)
    refused = partial(pytest.raises, ValueError)
    with refused(match="cannot run this: needs torch.float32, bfloat16 or float16, got torch.float64"):
        products.linear_gelu(x.double(), layer, backend="triton")
    with refused(match=r"weights are torch.float32, and what goes in is torch.bfloat16"):
        products.linear_gelu(x.bfloat16(), layer, backend="triton")
    with refused(match="autocast is on"), torch.autocast("cpu", torch.bfloat16):
        products.linear_gelu(x, layer, backend="triton")
    with refused(match=r"needs an nn.Linear with a bias, got Linear\(.*bias=False"):
        products.linear_gelu(x, linear(32, 48, torch.float32, bias=False), backend="triton")
    with refused(match=r"has no gradients: use torch.no_grad\(\), or a folded model"):
        products.linear_gelu(x, copy.deepcopy(layer).requires_grad_(), backend="triton")
    with refused(match=r"has no gradients: use torch.no_grad\(\)"):
        products.linear_gelu(x.requires_grad_(), layer, backend="triton")
    wide = linear(32, 264, torch.float32, bias=True), layer_norm(264, torch.float32)
    with refused(match=r"needs an nn.Linear with a bias, to at most 256 channels, got Linear\(.*264"):
        products.add_normed(torch.randn(2, 264), x.detach(), *wide, backend="triton")
    overlapping = nn.Conv2d(3, 32, 4, 2).requires_grad_(False)
    with refused(match="needs an nn.Conv2d with a bias, square and as wide as its stride, got Conv2d"):
        products.embed(torch.randn(1, 3, 8, 8), overlapping, layer_norm(32, torch.float32), backend="triton")
    layer.register_forward_hook(lambda *_: None)
    with refused(match="somebody watches a layer alone"):
        products.linear_gelu(x.detach(), layer, backend="triton")


def test_training_takes_the_layers_as_they_are():
    """Nothing chooses kernels without gradients where gradients are wanted."""
    merging = FoldedMerging(randomized(SwinV2(SMALL)).layers[0].downsample)
    x = torch.randn(1, 4, 4, 32, requires_grad=True)
    merging(x).sum().backward()
    assert x.grad is not None
