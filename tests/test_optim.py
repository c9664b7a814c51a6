"""Parameter groups, layer decay, freezing, the learning rate, and the average of the weights."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import SMALL
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from training import SPECK

from swinv2.config import VARIANTS
from swinv2.counts import parameter_shapes
from swinv2.model import SwinV2
from swinv2.train.method.ema import Ema
from swinv2.train.method.optim import Schedule, adamw, groups, set_rate, summary
from swinv2.train.recipes.recipe import Settled


def official_no_decay(config) -> set[str]:
    """microsoft/Swin-Transformer, optimizer.py, set_weight_decay, with the keywords of the V2 model."""
    return {
        name
        for name, shape in parameter_shapes(config).items()
        if len(shape) == 1
        or name.endswith(".bias")
        or any(keyword in name for keyword in ("cpb_mlp", "logit_scale", "relative_position_bias_table"))
    }


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_groups_are_those_of_the_official_optimizer(name):
    with torch.device("meta"):
        model = SwinV2(VARIANTS[name])
    decay, free = groups(model, Settled(weight_decay=0.05))
    assert set(free.parameters) == official_no_decay(VARIANTS[name])
    assert set(decay.parameters) == set(parameter_shapes(VARIANTS[name])) - official_no_decay(VARIANTS[name])
    assert (decay.weight_decay, free.weight_decay) == (0.05, 0)
    assert decay.count + free.count == sum(p.numel() for p in model.parameters())


def test_names_of_one_block_by_group():
    decay, free = groups(SwinV2(SPECK), Settled(weight_decay=0.05))
    block = "layers.0.blocks.0."
    assert [n.removeprefix(block) for n in decay.parameters if n.startswith(block)] == [
        "attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight",
    ]  # fmt: skip
    assert sorted(n.removeprefix(block) for n in free.parameters if n.startswith(block)) == [
        "attn.cpb_mlp.0.bias", "attn.cpb_mlp.0.weight", "attn.cpb_mlp.2.weight", "attn.logit_scale", "attn.proj.bias",
        "attn.q_bias", "attn.v_bias", "mlp.fc1.bias", "mlp.fc2.bias",
        "norm1.bias", "norm1.weight", "norm2.bias", "norm2.weight",
    ]  # fmt: skip


def test_frozen_parameters_are_in_no_group():
    model = SwinV2(SPECK)
    model.patch_embed.requires_grad_(False)
    names = [name for group in groups(model, Settled(weight_decay=0.05)) for name in group.parameters]
    assert len(names) == len(set(names)) == len(list(model.parameters())) - 4
    assert not any(name.startswith("patch_embed") for name in names)


def test_without_gradient_a_step_shrinks_the_decayed_weights_only():
    model = SwinV2(SPECK)
    decay, free = groups(model, Settled(weight_decay=0.1))
    optimizer = adamw((decay, free), Settled(lr=0.5))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in decay.parameters.items():
        torch.testing.assert_close(p.detach(), before[name] * (1 - 0.5 * 0.1))
    for name, p in free.parameters.items():
        assert torch.equal(p.detach(), before[name])


def test_optimizer_has_the_settings_of_the_recipe():
    optimizer = adamw(groups(SwinV2(SPECK), Settled(weight_decay=0.05)), Settled(betas=(0.8, 0.95), eps=1e-6))
    for group in optimizer.param_groups:
        assert (group["betas"], group["eps"]) == ((0.8, 0.95), 1e-6)


@pytest.mark.parametrize(("epochs", "warmup"), [(10, 2), (3, 0), (5, 5), (7, 1.5)])
def test_learning_rate_is_that_of_timm_at_every_step(epochs, warmup):
    recipe = Settled(epochs=epochs, warmup_epochs=warmup, lr=1e-3, warmup_lr=1e-6, min_lr=1e-5)
    schedule = Schedule.of(recipe, steps_per_epoch=12, batch=512)
    warmup_steps = round(12 * warmup)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    theirs = CosineLRScheduler(
        optimizer, t_initial=12 * epochs - warmup_steps or 1, lr_min=1e-5, warmup_lr_init=1e-6, warmup_t=warmup_steps,
        warmup_prefix=True, cycle_limit=1, t_in_epochs=False,
    )  # fmt: skip
    for step in range(12 * epochs):
        theirs.step_update(step)
        assert schedule(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)


def test_learning_rate_follows_the_batch():
    recipe = Settled(lr=1e-3, warmup_lr=1e-6, min_lr=1e-5, reference_batch=512, epochs=4, warmup_epochs=1)
    small, large = (Schedule.of(recipe, steps_per_epoch=10, batch=batch) for batch in (64, 1024))
    assert small.lr == pytest.approx(1.25e-4)
    for step in range(40):
        assert large(step) == pytest.approx(16 * small(step))


def test_the_last_step_ends_the_cosine():
    schedule = Schedule(steps=100, warmup_steps=10, lr=1.0, warmup_lr=0.0, min_lr=0.01)
    assert (schedule(0), schedule(10)) == (0.0, 1.0)
    assert schedule(100) == pytest.approx(0.01)
    assert schedule(55) == pytest.approx((1.0 + 0.01) / 2)
    assert all(math.isfinite(schedule(step)) for step in range(200))


def test_the_staircase_is_that_of_torch_at_every_step():
    recipe = Settled(
        epochs=9, warmup_epochs=0, lr=1e-3, schedule="steps", decay_epochs=(4, 7), decay_rate=0.3
    )
    schedule = Schedule.of(recipe, steps_per_epoch=5, batch=512)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimizer, [20, 35], gamma=0.3)
    for step in range(45):
        assert schedule(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12), step
        optimizer.step()
        theirs.step()


def test_the_staircase_is_warmed_up_to():
    recipe = Settled(epochs=9, warmup_epochs=2, lr=1e-3, warmup_lr=1e-6, schedule="steps", decay_epochs=(4,))
    schedule = Schedule.of(recipe, steps_per_epoch=5, batch=512)
    expected = [1e-6 + (1e-3 - 1e-6) * step / 10 for step in range(10)] + [1e-3] * 10 + [1e-4]
    assert [schedule(step) for step in range(21)] == pytest.approx(expected)


def test_the_schedule_says_what_it_does():
    recipe = Settled(epochs=4, warmup_epochs=1, lr=1e-3, warmup_lr=1e-6, min_lr=1e-5)
    assert str(Schedule.of(recipe, 10, 512)) == "from 1e-06 in 10 steps, then cosine to 1e-05"
    stairs = Settled(epochs=4, warmup_epochs=0, schedule="steps", decay_epochs=(2, 3))
    assert str(Schedule.of(stairs, 1000, 512)).endswith("then x 0.1 at step 2,000, 3,000")


# ---------------------------------------------------------------- layer decay, freezing


def official_layer(name: str) -> int:
    """The table of the facts for the base model: 26 groups."""
    depths = (2, 2, 18, 2)
    if name.startswith(("patch_embed", "mask_token")):
        return 0
    if name.startswith("layers."):
        _, stage, part, block, *_ = name.split(".")
        return (
            sum(depths[: int(stage) + 1])
            if part == "downsample"
            else sum(depths[: int(stage)]) + int(block) + 1
        )
    return 25


def test_layer_decay_of_the_base_model_is_the_official_one():
    with torch.device("meta"):
        model = SwinV2(VARIANTS["swinv2_base_window12_192"])
    parts = groups(model, Settled(layer_decay=0.75))
    rates = {name: group.rate for group in parts for name in group.parameters}
    assert len(set(rates.values())) == 26
    for name, _ in model.named_parameters():
        assert rates[name] == pytest.approx(0.75 ** (25 - official_layer(name))), name


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.encoder."])
def test_a_wrapped_model_has_the_same_layer_decay(prefix):
    plain = SwinV2(SMALL)
    wrapped: torch.nn.Module = plain
    for name in reversed(prefix.removesuffix(".").split(".")):
        outer = torch.nn.Module()
        outer.add_module(name, wrapped)
        wrapped = outer
    recipe = Settled(layer_decay=0.5, freeze="stage1")
    found = [{n: g.rate for g in groups(m, recipe) for n in g.parameters} for m in (plain, wrapped)]
    assert {f"{prefix}{name}": rate for name, rate in found[0].items()} == found[1]


def test_a_block_takes_its_share_of_the_step():
    """The first step of Adam moves every weight by the rate, whatever the gradient."""
    model = SwinV2(SMALL)
    optimizer = adamw(groups(model, Settled(layer_decay=0.5, weight_decay=0.0)), Settled())
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    set_rate(optimizer, 0.1)
    optimizer.step()
    moved = {name: (before[name] - p.detach()).max().item() for name, p in model.named_parameters()}
    assert moved["head.weight"] == pytest.approx(0.1, rel=1e-4)
    assert moved["layers.3.blocks.1.mlp.fc1.weight"] == pytest.approx(0.05, rel=1e-4)
    assert moved["layers.2.downsample.reduction.weight"] == pytest.approx(0.1 / 8, rel=1e-4)
    assert moved["patch_embed.proj.weight"] == pytest.approx(0.1 / 2**9, rel=1e-4)


@pytest.mark.parametrize(
    ("last", "beginnings"),
    [
        ("none", ()),
        ("embed", ("patch_embed.",)),
        ("stage1", ("patch_embed.", "layers.0.")),
        ("stage4", ("patch_embed.", "layers.")),
    ],
)
def test_freezing_keeps_everything_up_to_a_stage(last, beginnings):
    model = SwinV2(SMALL)
    parts = groups(model, Settled(freeze=last, layer_decay=0.9))
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {name for name, _ in model.named_parameters() if name.startswith(beginnings or "-")}
    assert frozen == {name for group in parts if group.is_frozen for name in group.parameters}
    assert sum(group.count for group in parts) == sum(p.numel() for p in model.parameters())
    learnt = sum(p.numel() for group in adamw(parts, Settled()).param_groups for p in group["params"])
    assert learnt == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_a_stage_that_is_not_there_cannot_be_frozen():
    with pytest.raises(ValueError, match="freeze is stage3, and the model has 2 stages"):
        groups(SwinV2(SPECK), Settled(freeze="stage3"))


def test_the_table_has_a_row_for_each_stage_and_kind():
    parts = groups(SwinV2(SMALL), Settled(layer_decay=0.5, freeze="embed"))
    rows = summary(parts)
    assert [row.part for row in rows] == [
        "",
        *(f"stage{s}" for s in (1, 1, 2, 2, 3, 3, 4, 4)),
        "head",
        "head",
    ]
    assert [row.rate for row in rows[-4:]] == [0.5, 0.5, 1, 1]
    assert sum(row.count for row in rows) == sum(group.count for group in parts)


# ---------------------------------------------------------------- the average of the weights


def test_the_average_is_that_of_timm():
    model = SwinV2(SPECK)
    ours, theirs = Ema(model, 0.9), ModelEmaV3(model, decay=0.9)
    for step in range(5):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(step)))
        ours.update(step=10_000)  # far beyond the steps in which less is kept
        theirs.update(model)
    for name, p in theirs.module.named_parameters():
        torch.testing.assert_close(ours.averages[name], p.detach())


def test_the_first_steps_keep_less():
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    average, expected = Ema(model, 0.5), 0.0
    for step, kept in enumerate([1 / 10, 2 / 11, 3 / 12, 4 / 13]):
        torch.nn.init.constant_(model.weight, step + 1.0)
        average.update(step)
        expected = kept * expected + (1 - kept) * (step + 1)
        assert average.averages["weight"].item() == pytest.approx(expected)
    average.update(100)
    assert average.averages["weight"].item() == pytest.approx((expected + 4) / 2)


def test_averages_take_the_place_of_the_weights_and_give_it_back():
    model = SwinV2(SPECK)
    model.patch_embed.requires_grad_(False)
    average = Ema(model, 0.9)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.0 + 1e-3 * torch.rand_like(p))
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    average.update(10_000)
    averages = {name: tensor.clone() for name, tensor in average.state_dict().items()}
    with average.in_place():
        assert all(torch.equal(p, averages.get(n, weights[n])) for n, p in model.named_parameters())
    assert all(torch.equal(p, weights[n]) for n, p in model.named_parameters())
    assert all(torch.equal(tensor, averages[n]) for n, tensor in average.state_dict().items())
    other = Ema(SwinV2(SPECK), 0.9)
    assert set(other.averages) - set(averages) == {n for n in weights if n.startswith("patch_embed.")}


def test_averages_come_back_from_a_checkpoint():
    first, second = (Ema(SwinV2(SPECK), 0.9) for _ in range(2))
    kept = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    second.load_state_dict(kept)
    second.update(0)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in first.state_dict().items())
    assert not torch.equal(second.averages["head.weight"], kept["head.weight"])
