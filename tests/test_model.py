"""The network: names, initialisation, sizes, features, precisions, and every variant in the registry."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from conftest import SMALL, randomized
from torch import nn

from swinv2.config import VARIANTS, SwinV2Config, published
from swinv2.counts import parameter_shapes, parameters
from swinv2.model import Offsets, PatchMerging, SwinV2, _kept, add_branch, create_model, merge_patches

BUILDABLE = [name for name in VARIANTS if "huge" not in name and "giant" not in name]


# -- every name that ships ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_has_the_official_parameters(name):
    """Built on the meta device: the giants have three billion parameters."""
    with torch.device("meta"):
        model = create_model(name)
    assert {k: tuple(v.shape) for k, v in model.state_dict().items()} == parameter_shapes(VARIANTS[name])
    assert list(model.state_dict()) == list(dict(model.named_parameters()))  # no buffers
    with torch.device("meta"):
        size = VARIANTS[name].image_size
        assert model(torch.empty(2, 3, *size)).shape == (2, VARIANTS[name].num_classes)


@pytest.mark.parametrize("name", BUILDABLE)
def test_every_variant_runs_forward_and_backward_and_reloads(name, tmp_path):
    """At 64 pixels; test_every_variant_at_its_own_size does the full sizes."""
    model = create_model(name, num_classes=5).train()
    model(torch.randn(1, 3, 64, 64)).square().mean().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []
    torch.save(model.state_dict(), tmp_path / "model.pt")
    with torch.device("meta"):
        again = create_model(name, num_classes=5)
    again.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True), assign=True)
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(model.eval()(x), again.eval()(x))


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILDABLE)
def test_every_variant_at_its_own_size(name):
    model = create_model(name).train()
    out = model(torch.randn(1, 3, *model.config.image_size))
    out.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


# -- initialisation -------------------------------------------------------------------------------------


def test_initialisation_is_official():
    model = create_model("swinv2_pico")
    for name, p in model.named_parameters():
        if name.endswith(("norm1.weight", "norm2.weight")) or (
            name.endswith("bias") and "proj.bias" not in name
        ):
            assert not p.any(), name  # residual post-norms start at zero: a block is the identity
        elif "norm" in name:
            assert (p == (1 if name.endswith("weight") else 0)).all(), name
        elif name.endswith("logit_scale"):
            assert (p == math.log(10)).all()
        elif p.ndim == 2:
            assert 0.015 < p.std() < 0.025, (name, p.std())
            assert p.abs().max() <= 2
    x = torch.randn(1, 64, 64, 32)
    block, stage = next(model.blocks()), model.config.stages(256, 256)[0]
    assert torch.equal(block(x, stage, Offsets.of(stage, x)), x)


def test_drop_path_rises_linearly_and_keeps_the_mean():
    model = create_model("swinv2_tiny_window8_256")
    rates = [block.drop_path for block in model.blocks()]
    assert rates == pytest.approx([0.2 * i / 11 for i in range(12)], abs=1e-7)
    torch.manual_seed(0)
    plain = torch.nn.Identity()
    dropped = add_branch(torch.zeros(20000, 1, 1, 2), torch.ones(20000, 1, 1, 2), plain, 0.3)
    assert dropped.mean().item() == pytest.approx(1, abs=0.03)
    assert ((dropped[..., 0] == 0) == (dropped[..., 1] == 0)).all()  # whole samples
    x, branch = torch.randn(2, 3, 2, 2, 4).unbind()
    assert torch.equal(add_branch(x, branch, plain, 0), x + branch)
    keep = torch.tensor([0.0, 1.25, 0.0])
    assert torch.equal(add_branch(x, branch, plain, 0.2, keep)[0], x[0])
    torch.testing.assert_close(add_branch(x, branch, plain, 0.2, keep)[1], x[1] + 1.25 * branch[1])


# -- the position bias ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "stage", "corner"),
    [
        ("swinv2_tiny_window8_256", 0, 1.0566417),  # log2(9) / 3
        ("swinv2_base_window12to16_192to256", 0, 1.1913305),
        ("swinv2_base_window12to24_192to384", 0, 1.3826329),
        ("swinv2_base_window12to24_192to384", 3, 1.4057436),
        ("swinv2_base_window12to16_192to256", 3, 1.2029364),
    ],
)
def test_corner_offsets_are_official(name, stage, corner):
    config = VARIANTS[name]
    table = Offsets.of(config.stages(*config.image_size)[stage], torch.empty(0)).table
    assert table[-1].tolist() == pytest.approx([corner, corner], abs=2e-7)
    assert table[0].tolist() == pytest.approx([-corner, -corner], abs=2e-7)


def test_pretrained_windows_survive_any_number_of_changes():
    config = VARIANTS["swinv2_base_window12_192"]
    for size in (256, 384, 512, 640):
        once = config.resized(size)
        assert once.trained_windows == ((12, 12), (12, 12), (12, 12), (6, 6))
        assert once.resized(256).resized(size, window=once.window).stages(size, size) == once.stages(
            size, size
        )
    assert (config.resized(256).window, config.resized(384).window) == (16, 24)
    assert [VARIANTS["swinv2_tiny_window8_256"].resized(size).window for size in (32, 128, 192, 1024)] == [
        8,
        8,
        6,
        32,
    ]
    official = VARIANTS["swinv2_base_window12to24_192to384"]
    assert config.resized(384).stages(384, 384) == official.stages(384, 384)


def test_one_token_windows_are_finite(small):
    out = small(torch.randn(1, 3, 32, 32))  # the last stage has one token
    out.sum().backward()
    assert out.isfinite().all()
    assert all(p.grad.isfinite().all() for p in small.parameters())


# -- patch merging --------------------------------------------------------------------------------------


def test_patch_merging_takes_neighbours_rows_first():
    x = torch.tensor([[1.0, 3.0], [2.0, 4.0]]).view(1, 2, 2, 1)
    assert merge_patches(x).flatten().tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("size", [(1, 1), (3, 4), (5, 7)])
def test_patch_merging_pads_odd_sides_with_zeros(size):
    x = torch.randn(2, *size, 4)
    merging = PatchMerging(4)
    grown = nn.functional.pad(x, (0, 0, 0, size[1] % 2, 0, size[0] % 2))
    assert torch.equal(merging(x), merging(grown))


# -- features -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 64), (96, 160), (33, 100), (50, 70), (65, 32), (224, 40)])
def test_features_have_the_declared_strides_and_channels(small, size):
    maps = small.features(torch.randn(1, 3, *size))
    assert [(i.name, i.stride, i.channels) for i in small.feature_info] == [
        ("stage1", 4, 32), ("stage2", 8, 64), ("stage3", 16, 128), ("stage4", 32, 256),
    ]  # fmt: skip
    assert list(maps) == [i.name for i in small.feature_info]
    for info in small.feature_info:
        expected = (1, info.channels, -(-size[0] // info.stride), -(-size[1] // info.stride))
        assert tuple(maps[info.name].shape) == expected


def test_the_last_feature_map_is_what_the_head_sees(small):
    x = torch.randn(2, 3, 64, 64)
    last = small.features(x)["stage4"]
    torch.testing.assert_close(small.head(last.mean((2, 3))), small(x))
    torch.testing.assert_close(small.forward_features(x).permute(0, 3, 1, 2), last)


def test_features_feed_a_torchvision_pyramid(small):
    from torchvision.ops import FeaturePyramidNetwork

    fpn = FeaturePyramidNetwork([i.channels for i in small.feature_info], 16)
    maps = fpn(small.features(torch.randn(1, 3, 64, 96)))
    assert [tuple(m.shape[2:]) for m in maps.values()] == [(16, 24), (8, 12), (4, 6), (2, 3)]


def test_no_head_gives_pooled_features():
    model = create_model("swinv2_pico", num_classes=0).eval()
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 256)
    assert not any(name.startswith("head") for name in model.state_dict())


# -- precision and devices ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("how", ["cast", "autocast"])
@pytest.mark.parametrize("size", [(64, 64), (50, 70)])
def test_half_precision_is_finite_and_close(small, dtype, how, size):
    x = torch.randn(4, 3, *size)
    with torch.inference_mode():
        exact = copy.deepcopy(small).double()(x.double())
        if how == "cast":
            out = copy.deepcopy(small).to(dtype)(x.to(dtype))
        else:
            with torch.autocast("cpu", dtype):
                out = small(x)
    assert out.isfinite().all()
    # 2^-8 a rounding in bfloat16; some tens of them in a row
    assert (out.double() - exact).norm() / exact.norm() < (0.1 if dtype == torch.bfloat16 else 0.02)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_trains_without_nan(small, dtype):
    model = small.train()
    with torch.autocast("cpu", dtype):
        loss = nn.functional.cross_entropy(model(torch.randn(4, 3, 64, 64)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_no_tensor_is_made_on_another_device(small):
    """With meta as the default device, a tensor created without device= would end the forward pass."""
    x = torch.randn(1, 3, 50, 70)
    with torch.device("meta"):
        assert small(x).isfinite().all()


def test_nothing_waits_for_the_device():
    """On meta tensors nothing has values: reading one (a synchronisation on a GPU) raises."""
    with torch.device("meta"):
        model = SwinV2(SMALL)
        for backend in ("sdpa", "matmul"):
            model.backend = backend
            assert model(torch.empty(2, 3, 50, 70)).shape == (2, 7)


# -- training -------------------------------------------------------------------------------------------


def test_inference_first_and_training_after(small):
    """What is kept from call to call must not be an inference tensor."""
    _kept.cache_clear()
    with torch.inference_mode():
        expected = small(torch.ones(1, 3, 64, 64))
    out = small(torch.ones(1, 3, 64, 64))
    out.sum().backward()
    torch.testing.assert_close(out, expected)


def test_checkpointing_changes_memory_not_gradients(small):
    x, grads = torch.randn(2, 3, 64, 64), []
    for checkpointing in (False, True):
        model = copy.deepcopy(small).train()
        model.checkpointing = checkpointing
        model(x).square().mean().backward()
        grads.append([p.grad for p in model.parameters()])
    for plain, recomputed in zip(*grads, strict=True):
        torch.testing.assert_close(recomputed, plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_sum_that_runs_through_the_blocks_has_the_dtype_that_is_asked_for(small, dtype):
    """The other one than autocast would give it: a CPU's keeps bfloat16, a GPU's float32."""
    found = set()
    for block in small.train().blocks():
        block.register_forward_hook(lambda block, args, out: found.update((args[0].dtype, out.dtype)))
    small.residual = dtype
    images = torch.randn(2, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        out = small(images)
    out.float().square().sum().backward()
    assert found == {dtype}
    assert {p.grad.dtype for p in small.parameters()} == {torch.float32}


def test_back_ends_agree_in_the_network(small):
    x, outs = torch.randn(2, 3, 50, 70), []
    for backend in ("reference", "sdpa", "matmul", None):
        small.backend = backend
        outs.append(small(x))
    for out in outs[1:]:
        torch.testing.assert_close(out, outs[0], rtol=0, atol=1e-5)


# -- errors ---------------------------------------------------------------------------------------------


def test_wrong_channels_are_one_sentence(small):
    with pytest.raises(
        ValueError, match=r"shape \[1, 1, 64, 64\]; this model takes \[batch, 3, height, width\]"
    ):
        small(torch.randn(1, 1, 64, 64))


def test_unknown_names_come_with_the_nearest():
    with pytest.raises(ValueError, match=r"'swinv2_tini_window8_256'; did you mean swinv2_tiny_window8_256"):
        create_model("swinv2_tini_window8_256")


def test_other_channel_counts_and_settings():
    model = create_model(
        "swinv2_pico", in_chans=4, num_classes=2, image_size=(64, 96), window=4, drop_path=0.1
    )
    assert model.config == SwinV2Config(
        architecture="swinv2_pico_window8_256", image_size=(64, 96), window=4, embed_dim=32, depths=(2, 2, 4, 2),
        heads=(1, 2, 4, 8), num_classes=2, in_chans=4, drop_path=0.1,
    )  # fmt: skip
    assert model(torch.randn(1, 4, 64, 96)).shape == (1, 2)


def test_extra_norms_of_the_giants_run():
    config = SwinV2Config(
        image_size=32, window=4, embed_dim=32, depths=(1, 1, 13, 1), heads=(1, 2, 4, 8), extra_norm_period=6
    )
    model = randomized(SwinV2(config))
    assert sorted(n for n in model.state_dict() if "norm3" in n and "weight" in n) == [
        "layers.2.blocks.11.norm3.weight", "layers.2.blocks.5.norm3.weight",
    ]  # fmt: skip
    model(torch.randn(1, 3, 32, 32)).sum().backward()
    assert model.layers[2].blocks[5].norm3.weight.grad.any()


def test_published_models_are_twelve():
    assert sum(map(published, VARIANTS)) == 12
    assert parameters(VARIANTS["swinv2_huge_window12_192"]) - 21841 * (2816 + 1) == pytest.approx(
        658e6, rel=0.01
    )
    assert parameters(VARIANTS["swinv2_giant_window12_192"]) - 21841 * (4096 + 1) == pytest.approx(
        3.0e9, rel=0.01
    )
