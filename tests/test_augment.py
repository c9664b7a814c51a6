"""What happens to the pictures of a batch: mixing, sizes, dropped branches, all as functions of (seed, step)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import SMALL, randomized
from PIL import Image
from timm.data import Mixup
from training import SPECK

from swinv2.data.order import Key, Order
from swinv2.model import Offsets, SwinV2
from swinv2.preprocess import Preprocess
from swinv2.train.method.augment import Augment, Mix, seeded
from swinv2.train.method.drop_path import DropPaths
from swinv2.train.recipes.recipe import Settled

BOTH = Settled(mixup=0.8, cutmix=1.0, label_smoothing=0.1, seed=1)


def batch(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    return torch.rand(count, 3, 8, 8, generator=generator), torch.arange(count) % 5


# ---------------------------------------------------------------- mixing


@pytest.mark.parametrize(
    "recipe", [BOTH, Settled(mixup=0.2), Settled(cutmix=0.5), Settled(mixup=1.0, mix_prob=0.5)]
)
def test_mixing_an_even_batch_is_timms(recipe):
    images, labels = batch(6)
    theirs = Mixup(recipe.mixup, recipe.cutmix, prob=recipe.mix_prob, label_smoothing=0.0, num_classes=5)
    for step in range(8):
        with seeded(recipe.seed, step):
            expected = theirs(images.clone(), labels)
        for found, wanted in zip(Mix(recipe, classes=5)(images, labels, step), expected, strict=True):
            torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_mixing_takes_any_batch(count, mixup, cutmix):
    """Target and picture are mixed in the same proportion; of an odd batch, the first picture stays itself."""
    mix = Mix(Settled(mixup=mixup, cutmix=cutmix), classes=7)
    images = torch.arange(count).float().view(-1, 1, 1, 1).expand(count, 3, 8, 8)
    labels = torch.arange(count)
    partner = labels.flip(0) if count % 2 == 0 else (count - labels) % count
    changed = 0
    for step in range(6):
        mixed, targets = mix(images, labels, step)
        assert (mixed.shape, targets.shape) == (images.shape, (count, 7))
        torch.testing.assert_close(targets.sum(1), torch.ones(count))
        torch.testing.assert_close(
            mixed.mean((1, 2, 3)), targets[:, :count] @ labels.float(), rtol=0, atol=1e-5
        )
        assert all(
            targets[i].nonzero().flatten().tolist() in ([i], sorted({i, int(partner[i])})) for i in labels
        )
        changed += not torch.equal(mixed, images)
    assert changed == (0 if count == 1 else 6)


def test_mixing_follows_from_seed_and_step_and_leaves_its_input_alone():
    images, labels = batch(4)
    before = images.clone()
    mix = Mix(BOTH, classes=5)
    first = mix(images, labels, 3)[0]
    torch.rand(5)
    assert torch.equal(first, mix(images, labels, 3)[0])
    assert not torch.equal(first, mix(images, labels, 4)[0])
    assert torch.equal(images, before)


def test_parts_of_a_step_are_mixed_as_the_whole_is():
    """Two processes with two parts each, as the order hands them out."""
    images, labels = batch(16)
    for step in range(4):
        whole = Mix(BOTH, classes=5)(images, labels, step)
        for rank in range(2):
            for part in Order(16, 16, seed=0, rank=rank, world=2, accumulate=2):
                positions = [key.position for key in part]
                mixed = Mix(BOTH, classes=5)(images[positions], labels[positions], step)
                torch.testing.assert_close(mixed[0], whole[0][positions])
                torch.testing.assert_close(mixed[1], whole[1][positions])


def test_several_labels_are_mixed_as_pictures_are():
    images, _ = batch(4)
    several = torch.tensor([[1.0, 1, 0], [0, 0, 1], [0, 0, 0], [1, 0, 1]])
    mix = Mix(Settled(mixup=0.8), classes=5)
    shares = mix(images, torch.arange(4), 2)[1][:, :4]
    torch.testing.assert_close(Mix(Settled(mixup=0.8), classes=3)(images, several, 2)[1], shares @ several)


def test_without_mixing_nothing_happens():
    images, labels = batch(4)
    mix = Mix(Settled(), classes=5)
    same, targets = mix(images, labels, 0)
    assert not mix.is_on
    assert same is images
    assert targets is labels


# ---------------------------------------------------------------- pictures


def picture(seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("kind", ["photo", "small", "none"])
def test_pictures_have_the_size_of_their_epoch(kind):
    augment = Augment(Settled(augment=kind, sizes={1: 16, 3: 24}), Preprocess.official(32))
    sides = [augment(picture(), Key(epoch, 0, 0)).shape[-1] for epoch in range(5)]
    assert sides == [32, 16, 16, 24, 24]


def test_a_size_that_is_that_of_the_run_changes_nothing():
    plain, sized = (Augment(Settled(sizes=sizes), Preprocess.official(32)) for sizes in ({}, {0: 32}))
    assert torch.equal(plain(picture(), Key(2, 3, 0)), sized(picture(), Key(2, 3, 0)))


def test_colours_are_changed_only_where_that_is_asked_for():
    """A grey picture stays as it is under crops and flips, and does not under a change of brightness."""
    grey = Image.new("RGB", (40, 40), (128, 128, 128))
    plain = Settled(auto_augment="none", random_erasing=0.0, color_jitter=0.0)
    spread = []
    for recipe in (plain, Settled(auto_augment="none", random_erasing=0.0, color_jitter=0.4)):
        augment = Augment(recipe, Preprocess.official(32))
        values = torch.stack([augment(grey, Key(0, index, 0)) for index in range(4)])
        spread.append(values.std(0).max().item())
    assert spread[0] == 0
    assert spread[1] > 0.05


# ---------------------------------------------------------------- dropped branches


def network(rate: float = 0.5) -> SwinV2:
    model = randomized(SwinV2(SMALL))
    model.set_drop_path(rate)
    return model.train()


def test_parts_drop_the_branches_that_the_whole_batch_drops():
    model, images = network(), torch.randn(12, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    paths = DropPaths(model, seed=3)
    paths.draw(7, torch.arange(12), 12)
    whole = model(images)
    for part in (torch.tensor([11, 0, 5]), torch.tensor([1, 2, 3, 4]), torch.tensor([8])):
        torch.rand(9)  # what others draw does not matter
        DropPaths(model, seed=3).draw(7, part, 12)
        torch.testing.assert_close(model(images[part]), whole[part], rtol=1e-4, atol=1e-5)
    paths.draw(8, torch.arange(12), 12)
    assert not torch.allclose(model(images), whole, atol=1e-2)


def test_branches_are_dropped_as_often_as_the_rate_says():
    model = network(0.4)
    DropPaths(model, seed=0).draw(0, torch.arange(8000), 8000)
    first, *others = model.blocks()
    assert first.keep is None
    for block in others:
        assert block.keep.unique().tolist() == pytest.approx([0, 1 / (1 - block.drop_path)])
        assert (block.keep == 0).float().mean(1).tolist() == pytest.approx([block.drop_path] * 2, abs=0.02)
        assert block.keep.mean().item() == pytest.approx(1, abs=0.03)
    rows = torch.stack([block.keep[branch] == 0 for block in others for branch in (0, 1)]).float()
    assert rows.corrcoef().fill_diagonal_(0).abs().max() < 0.05


def test_a_block_multiplies_its_branches_with_what_it_was_given():
    model = network()
    block = list(model.blocks())[5]
    stage = model.config.stages(64, 64)[2]
    x = torch.randn(3, *stage.grid, stage.dim, generator=torch.Generator().manual_seed(0))
    block.keep = torch.tensor([[0.0, 0.0, 2.0], [0.0, 2.0, 0.0]])
    found = block(x, stage, Offsets.of(stage, x))
    attended = block.norm1(block.attn(x, stage, Offsets.of(stage, x), stage.shift_of(1), None))
    assert torch.equal(found[0], x[0])
    torch.testing.assert_close(found[1], x[1] + 2 * block.norm2(block.mlp(x))[1])
    torch.testing.assert_close(found[2], x[2] + 2 * attended[2])


def test_evaluation_drops_nothing_and_a_cleared_model_draws_by_itself():
    model, images = network(), torch.randn(2, 3, 64, 64)
    paths = DropPaths(model, seed=0)
    expected = model.eval()(images)
    paths.draw(0, torch.arange(2), 2)
    assert torch.equal(model(images), expected)
    paths.clear()
    model.train()
    assert not torch.equal(model(images), model(images))


def test_checkpointing_changes_no_gradient():
    model, images = network(), torch.randn(4, 3, 64, 64)
    gradients = []
    for checkpointing in (False, True):
        model.checkpointing = checkpointing
        DropPaths(model, seed=0).draw(1, torch.arange(4), 4)
        model.zero_grad()
        model(images).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(checkpointed, plain)


def test_a_compiled_model_takes_new_draws_without_compiling_again():
    model = SwinV2(SPECK)
    model.set_drop_path(0.5)
    model = randomized(model).train()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    images = torch.randn(8, 3, 32, 32)
    paths = DropPaths(compiled, seed=0)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for step in range(4):
            paths.draw(step, torch.arange(8), 8)
            torch.testing.assert_close(compiled(images), model(images))


def test_a_model_without_a_rate_is_left_alone():
    model = network(0.0)
    DropPaths(model, seed=0).draw(0, torch.arange(4), 4)
    assert all(block.keep is None for block in model.blocks())
