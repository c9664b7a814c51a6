"""Parameter groups, learning rate, mixing."""

from __future__ import annotations

import math

import pytest
import torch
from timm.scheduler import CosineLRScheduler
from training import SPECK

from swinv2.config import VARIANTS
from swinv2.counts import parameter_shapes
from swinv2.model import SwinV2
from swinv2.train.augment import Mix
from swinv2.train.optim import Schedule, adamw, groups
from swinv2.train.recipe import Recipe


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
    decay, free = groups(model, 0.05)
    assert set(free.parameters) == official_no_decay(VARIANTS[name])
    assert set(decay.parameters) == set(parameter_shapes(VARIANTS[name])) - official_no_decay(VARIANTS[name])
    assert (decay.weight_decay, free.weight_decay) == (0.05, 0)
    assert decay.count + free.count == sum(p.numel() for p in model.parameters())


def test_names_of_one_block_by_group():
    decay, free = groups(SwinV2(SPECK), 0.05)
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
    names = [name for group in groups(model, 0.05) for name in group.parameters]
    assert len(names) == len(set(names)) == len(list(model.parameters())) - 4
    assert not any(name.startswith("patch_embed") for name in names)


def test_without_gradient_a_step_shrinks_the_decayed_weights_only():
    model = SwinV2(SPECK)
    decay, free = groups(model, 0.1)
    optimizer = adamw((decay, free), Recipe(lr=0.5))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in decay.parameters.items():
        torch.testing.assert_close(p.detach(), before[name] * (1 - 0.5 * 0.1))
    for name, p in free.parameters.items():
        assert torch.equal(p.detach(), before[name])


def test_optimizer_has_the_settings_of_the_recipe():
    optimizer = adamw(groups(SwinV2(SPECK), 0.05), Recipe(betas=(0.8, 0.95), eps=1e-6))
    for group in optimizer.param_groups:
        assert (group["betas"], group["eps"]) == ((0.8, 0.95), 1e-6)


@pytest.mark.parametrize(("epochs", "warmup"), [(10, 2), (3, 0), (5, 5), (7, 1.5)])
def test_learning_rate_is_that_of_timm_at_every_step(epochs, warmup):
    recipe = Recipe(epochs=epochs, warmup_epochs=warmup, lr=1e-3, warmup_lr=1e-6, min_lr=1e-5)
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
    recipe = Recipe(lr=1e-3, warmup_lr=1e-6, min_lr=1e-5, reference_batch=512, epochs=4, warmup_epochs=1)
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


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_mixing_takes_any_batch(batch, mixup, cutmix):
    mix = Mix(Recipe(mixup=mixup, cutmix=cutmix), classes=5)
    images = torch.arange(batch).float().view(-1, 1, 1, 1).expand(batch, 3, 8, 8)
    labels = torch.arange(batch) % 5
    for step in range(4):
        mixed, targets = mix(images, labels, step)
        assert mixed.shape == images.shape
        torch.testing.assert_close(targets.sum(1), torch.ones(batch))
        # Target and picture are mixed in the same proportion.
        share = targets[torch.arange(batch), labels]
        if batch in (2, 3):
            partner = images.roll(1, 0)
            expected = share.view(-1, 1, 1, 1) * images + (1 - share).view(-1, 1, 1, 1) * partner
            torch.testing.assert_close(mixed.mean((1, 2, 3)), expected.mean((1, 2, 3)), rtol=0, atol=1e-5)


def test_mixing_follows_from_seed_and_step():
    images, labels = torch.rand(4, 3, 8, 8), torch.arange(4)
    mix = Mix(Recipe(mixup=0.8, cutmix=1.0, seed=1), classes=4)
    first = mix(images, labels, 3)[0]
    torch.rand(5)
    assert torch.equal(first, mix(images, labels, 3)[0])
    assert not torch.equal(first, mix(images, labels, 4)[0])


def test_without_mixing_labels_stay_labels():
    images, labels = torch.rand(4, 3, 8, 8), torch.arange(4)
    same, targets = Mix(Recipe(), classes=4)(images, labels, 0)
    assert same is images
    assert targets is labels
