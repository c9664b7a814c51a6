"""A folded model gives the logits of the model it came from, without what produced the constants."""

from __future__ import annotations

import pytest
import torch
from conftest import SMALL, randomized

from swinv2 import model
from swinv2.config import SwinV2Config
from swinv2.fold import FoldedBlock, fold
from swinv2.model import Block, SwinV2


@pytest.mark.parametrize("size", [(64, 64), (96, 128), (50, 70), (32, 32), (33, 200)])
def test_logits_agree_to_rounding(small, size):
    x = torch.randn(3, 3, *size)
    with torch.inference_mode():
        expected = small(x)
        out = fold(small, image_size=size)(x)
    assert (out - expected).abs().max() <= 2e-6 * expected.abs().max()


def test_float64_agrees_to_the_last_digits(small):
    model, x = small.double(), torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(fold(model)(x), model(x), rtol=0, atol=1e-13)


def test_constants_replace_what_produced_them(small):
    folded = fold(small)
    names = {n for n, _ in folded.named_modules()}
    assert not any("cpb_mlp" in n for n in names)
    assert not any(p.requires_grad for p in folded.parameters())
    blocks = [m for m in folded.modules() if isinstance(m, FoldedBlock)]
    # 16 tokens a window; a grid of 16 x 16 tokens is 16 windows, which only the shifted block tells apart.
    assert [tuple(b.bias.shape) for b in blocks[:2]] == [(1, 16, 16), (16, 1, 16, 16)]
    assert all((b.logit_scale <= torch.tensor(100.0).log() + 1e-6).all() for b in blocks)


def test_nothing_but_plain_arithmetic_runs(small):
    """The graph of a folded model holds no sigmoid, log2 or index of the position bias, and no mask arithmetic."""
    program = torch.export.export(fold(small), (torch.randn(1, 3, 64, 64),))
    ops = {node.target.__name__.split(".")[0] for node in program.graph.nodes if node.op == "call_function"}
    assert not ops & {"sigmoid", "log2", "index", "arange", "where", "ne", "meshgrid"}, ops
    assert {"linear", "matmul", "softmax", "layer_norm"} <= ops


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_constants_wide(small, dtype):
    folded, x = fold(small, dtype=dtype), torch.randn(4, 3, 64, 64)
    assert {p.dtype for p in folded.parameters()} == {dtype}
    assert {b.dtype for b in folded.buffers()} == {torch.float32}
    with torch.inference_mode():
        exact, out = small(x), folded(x)
    assert (out.float() - exact).norm() / exact.norm() < (0.1 if dtype == torch.bfloat16 else 0.02)


def test_the_model_is_not_changed_and_shares_nothing(small):
    x = torch.randn(1, 3, 64, 64)
    expected = small(x)
    folded = fold(small)
    for p in [*folded.parameters(), *folded.buffers()]:
        p.zero_()
    assert torch.equal(small(x), expected)


def test_giants_extra_norms_are_folded():
    config = SwinV2Config(image_size=32, window=4, embed_dim=32, depths=(1, 1, 6, 1), heads=(1, 2, 4, 8),
                          extra_norm_period=6)  # fmt: skip
    model, x = randomized(SwinV2(config)).eval(), torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(fold(model)(x), model(x))


def test_another_size_is_one_sentence(small):
    with pytest.raises(ValueError, match=r"takes \[batch, 3, 64, 64\]; fold\(model, image_size=...\)"):
        fold(small)(torch.randn(1, 3, 96, 96))


def test_a_model_without_head_folds():
    config = SwinV2Config(**SMALL.to_dict() | {"num_classes": 0})
    model, x = randomized(SwinV2(config)).eval(), torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(fold(model)(x), model(x))


def test_the_public_name_is_a_function_however_it_is_imported(small):
    import swinv2

    assert swinv2.fold(small).image_size == (64, 64)


@pytest.mark.parametrize("which", ["model", "folded"])
def test_large_batches_go_through_in_parts_with_the_same_result(small, which, monkeypatch):
    run, x = (small if which == "model" else fold(small)), torch.randn(7, 3, 64, 64)
    batches = []
    first = next(m for m in run.modules() if isinstance(m, Block | FoldedBlock))
    first.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    with torch.inference_mode():
        whole = run(x)
        monkeypatch.setattr(model, "CACHED_VALUES", 2 * 4 * 32 * 16 * 16)  # two images in the first stage
        torch.testing.assert_close(run(x), whole, rtol=0, atol=1e-5)
    assert batches == [7, 2, 2, 2, 1]
