"""The shipped recipes against the published settings, and the rule that settles what a recipe leaves open."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml
from conftest import SMALL

from swinv2.artifact import Record
from swinv2.cli import parse
from swinv2.config import VARIANTS
from swinv2.data.split import Split
from swinv2.model import SwinV2
from swinv2.preprocess import Preprocess
from swinv2.train.method.optim import Schedule
from swinv2.train.recipes import rules, settings
from swinv2.train.recipes.recipe import Recipe, Settled
from swinv2.train.start import settle

TINY, BASE, LARGE = (
    VARIANTS[name]
    for name in ("swinv2_tiny_window8_256", "swinv2_base_window8_256", "swinv2_large_window12_192")
)

# ---------------------------------------------------------------- the published runs

# Effective values; microsoft/Swin-Transformer, configs/swinv2 and configs/simmim.
PUBLISHED = {
    # recipe               images     epochs warm-up lr     warm-up lr, min lr batch wd    layer decay
    "scratch_1k":          (1_281_167, 300, 20, 1e-3, 1e-6, 1e-5, 1024, 0.05, 1.0),
    "pretrain_22k":        (14_197_122, 90, 5,  1e-3, 1e-6, 1e-5, 4096, 0.1,  1.0),
    "finetune_22k_1k_256": (1_281_167, 30,  5,  4e-5, 4e-8, 4e-7, 1024, 1e-8, 1.0),
    "finetune_22k_1k_384": (1_281_167, 30,  5,  4e-5, 4e-8, 4e-7, 1024, 1e-8, 1.0),
    "simmim_finetune":     (1_281_167, 100, 20, 5e-3, 1e-6, 1e-6, 2048, 0.05, 0.75),
}  # fmt: skip
# The model that a run starts from, and what it then is: image, window, drop path.
RUNS = [
    ("swinv2_tiny_window8_256",   "scratch_1k",          256, 8,  0.2),
    ("swinv2_tiny_window16_256",  "scratch_1k",          256, 16, 0.2),
    ("swinv2_small_window8_256",  "scratch_1k",          256, 8,  0.3),
    ("swinv2_small_window16_256", "scratch_1k",          256, 16, 0.3),
    ("swinv2_base_window8_256",   "scratch_1k",          256, 8,  0.5),
    ("swinv2_base_window16_256",  "scratch_1k",          256, 16, 0.5),
    ("swinv2_base_window12_192",  "pretrain_22k",        192, 12, 0.2),
    ("swinv2_large_window12_192", "pretrain_22k",        192, 12, 0.2),
    ("swinv2_base_window12_192",  "finetune_22k_1k_256", 256, 16, 0.2),
    ("swinv2_base_window12_192",  "finetune_22k_1k_384", 384, 24, 0.2),
    ("swinv2_large_window12_192", "finetune_22k_1k_256", 256, 16, 0.2),
    ("swinv2_large_window12_192", "finetune_22k_1k_384", 384, 24, 0.2),
    ("swinv2_base_window12_192",  "simmim_finetune",     224, 14, 0.1),
]  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_run_has_the_published_settings(name):
    images, epochs, warmup, lr, warmup_lr, min_lr, batch, decay, layer_decay = PUBLISHED[name]
    recipe = settings.load(name).settled(images=images, classes=1000, config=BASE)
    assert (recipe.epochs, recipe.warmup_epochs, recipe.batch_size) == (epochs, warmup, batch)
    assert (recipe.weight_decay, recipe.layer_decay, recipe.schedule) == (decay, layer_decay, "cosine")
    schedule = Schedule.of(recipe, images // batch, batch)
    assert (schedule.lr, schedule.warmup_lr, schedule.min_lr) == pytest.approx((lr, warmup_lr, min_lr))
    assert (recipe.betas, recipe.eps, recipe.clip_grad, recipe.ema) == ((0.9, 0.999), 1e-8, 5.0, 0)
    assert (recipe.label_smoothing, recipe.mixup, recipe.cutmix) == (0.1, 0.8, 1.0)
    assert (recipe.mix_prob, recipe.mix_switch_prob) == (1.0, 0.5)
    assert (recipe.augment, recipe.crop_scale, recipe.flip) == ("photo", (0.08, 1), True)
    assert (recipe.auto_augment, recipe.random_erasing) == ("rand-m9-mstd0.5-inc1", 0.25)
    assert (recipe.freeze, recipe.class_weights, recipe.loss) == ("none", "none", "auto")


@pytest.mark.parametrize(("model", "name", "image", "window", "drop_path"), RUNS)
def test_a_published_run_has_the_published_geometry(model, name, image, window, drop_path):
    recipe, trained = settings.load(name), VARIANTS[model]
    config = trained.resized(recipe.image_size)
    assert (config.image_size, config.window) == ((image, image), window)
    assert recipe.settled(images=10**6, classes=1000, config=config).drop_path == drop_path
    if recipe.pretrained:
        assert config.pretrained_windows == ((12, 12), (12, 12), (12, 12), (6, 6))
    else:
        assert config == trained


def test_simmim_pretraining_has_the_published_settings():
    recipe = settings.load("simmim_pretrain").settled(images=1_281_167, classes=1000, config=BASE)
    assert (recipe.image_size, recipe.epochs, recipe.warmup_epochs, recipe.batch_size) == (192, 800, 10, 2048)
    assert (recipe.weight_decay, recipe.drop_path, recipe.clip_grad) == (0.05, 0.1, 5.0)
    schedule = Schedule.of(recipe, 625, 2048)
    assert (schedule(0), schedule(6250), schedule(700 * 625 - 1)) == pytest.approx((2e-6, 4e-4, 4e-4))
    assert (schedule(700 * 625), schedule(800 * 625 - 1)) == pytest.approx((4e-5, 4e-5))
    assert (recipe.crop_scale, recipe.flip, recipe.auto_augment) == ((0.67, 1), True, "none")
    assert (recipe.color_jitter, recipe.random_erasing, recipe.mixup, recipe.cutmix) == (0, 0, 0, 0)
    assert (recipe.mask_patch, recipe.mask_ratio, recipe.mask_norm) == (32, 0.6, 47)


def test_every_shipped_recipe_is_checked_here_or_settled_by_the_rule():
    assert set(settings.names()) == {*PUBLISHED, "simmim_pretrain", "finetune", "scratch_small"}
    for name in PUBLISHED:
        recipe = settings.load(name)
        settled = recipe.settled(images=10, classes=10)
        left_open = {f.name for f in fields(Recipe) if getattr(recipe, f.name) != getattr(settled, f.name)}
        assert left_open <= {"drop_path"}, "a published run leaves nothing to a rule"


# ---------------------------------------------------------------- the rate follows the batch


def test_the_same_total_batch_gives_the_same_curve():
    """8 x 128, 4 x 128 in 2 parts and 1 x 64 in 16 parts are all 1024; half of it takes half the rate."""
    recipe = settings.load("scratch_1k").settled(images=1_281_167, classes=1000)
    curve = Schedule.of(recipe, 1251, recipe.batch_size)
    for world, parts, images in ((8, 1, 128), (4, 2, 128), (1, 16, 64)):
        same = replace(recipe, accumulate=parts)
        total = world * parts * images
        assert [Schedule.of(same, 1251, total)(step) for step in (0, 9999, 10**5)] == [
            curve(step) for step in (0, 9999, 10**5)
        ]
    assert Schedule.of(recipe, 2502, 512).lr == curve.lr / 2


# ---------------------------------------------------------------- the rule

SIZES = (6, 30, 150, 500, 3_000, 12_000, 60_000, 500_000, 1_281_167)


@pytest.mark.parametrize("pretrained", [True, False])
@pytest.mark.parametrize("config", [TINY, BASE, LARGE], ids=lambda config: config.architecture)
@pytest.mark.parametrize("images", SIZES)
def test_the_rule_gives_every_set_a_run_that_can_learn(images, config, pretrained):
    recipe = Recipe(pretrained=pretrained).settled(images=images, classes=3, config=config)
    assert type(recipe) is Settled
    steps = recipe.epochs * (images // recipe.batch_size)
    assert recipe.batch_size <= images
    assert steps >= 1000 or recipe.epochs == 300
    assert 0.05 * steps <= recipe.warmup_epochs * steps / recipe.epochs <= 0.2 * steps
    effective = recipe.learning_rate(recipe.batch_size)
    assert 1e-5 < effective < 1e-3
    assert recipe.warmup_lr < recipe.min_lr < recipe.lr
    bottom = recipe.layer_decay ** (sum(config.depths) + 1)
    assert (0.02 < bottom < 0.6) if pretrained else bottom == 1
    if recipe.ema:
        assert 20 <= 1 / (1 - recipe.ema) <= steps / 10, "an average over a part of the run"


def test_more_pictures_take_fewer_passes_larger_batches_and_stronger_augmentation():
    recipes = [Recipe().settled(images=images, classes=10) for images in SIZES]
    for few, many in pairwise(recipes):
        assert few.epochs >= many.epochs
        assert few.batch_size <= many.batch_size
        assert few.crop_scale[0] >= many.crop_scale[0]
        assert few.random_erasing <= many.random_erasing
        assert few.mixup <= many.mixup
        assert few.layer_decay <= many.layer_decay, "few pictures keep more of the trained weights"


def test_the_tables_are_in_order_and_complete():
    for table in (rules.FROM_WEIGHTS, rules.FROM_NOTHING):
        assert [row.images for row in table] == sorted({row.images for row in table})
        assert table[-1].images == float("inf")


def test_pictures_are_mixed_only_where_every_class_has_many():
    assert Recipe().settled(images=60_000, classes=1_000).mixup > 0
    assert Recipe().settled(images=60_000, classes=5_000).mixup == 0
    assert Recipe().settled(images=60_000, classes=5_000).cutmix == 0


def test_larger_models_learn_at_lower_rates_and_drop_no_more_than_a_fine_tune_needs():
    tiny, base, large = (Recipe().settled(images=9_000, classes=9, config=c) for c in (TINY, BASE, LARGE))
    assert tiny.lr > base.lr > large.lr
    assert (BASE.drop_path, base.drop_path) == (0.5, 0.2)
    assert Recipe(pretrained=False).settled(images=9_000, classes=9, config=BASE).drop_path == 0.5


def test_deep_and_shallow_models_hold_on_to_their_bottom_alike():
    tiny, base = (Recipe().settled(images=3_000, classes=10, config=config) for config in (TINY, BASE))
    assert tiny.layer_decay**13 == pytest.approx(base.layer_decay**25, rel=0.05)


def test_what_is_given_stays():
    given = {
        "batch_size": 24, "epochs": 3, "warmup_epochs": 0.0, "lr": 1e-3, "min_lr": 0.0, "layer_decay": 1.0, "ema": 0.0,
        "drop_path": 0.0, "crop_scale": (0.3, 0.9), "auto_augment": "none", "random_erasing": 0.0, "mixup": 0.0,
        "cutmix": 0.7,
    }  # fmt: skip
    recipe = Recipe(**given).settled(images=100_000, classes=10, config=BASE)
    assert {name: getattr(recipe, name) for name in given} == given


def test_a_settled_recipe_is_settled_for_good():
    recipe = Recipe().settled(images=3_000, classes=10)
    assert recipe.settled(images=7, classes=2, config=LARGE) == recipe


def test_the_demo_keeps_its_settings():
    recipe = settings.load("scratch_small").settled(images=1438, classes=10)
    assert (recipe.epochs, recipe.warmup_epochs, recipe.batch_size) == (15, 2, 64)
    assert recipe.learning_rate(64) == pytest.approx(1e-3)
    assert (recipe.layer_decay, recipe.ema, recipe.mixup, recipe.cutmix) == (1, 0, 0, 0)
    assert (recipe.augment, recipe.flip, recipe.rotate, recipe.shift, recipe.zoom) == (
        "small",
        False,
        10,
        0.1,
        0.1,
    )


# ---------------------------------------------------------------- the network is prepared for it


def pictures(labels: tuple, **changes) -> Split:
    names = tuple(f"{i}.png" for i in range(len(labels)))
    return Split(Path("photos"), "train", ("a", "b", "c"), names, labels, **changes)


def test_the_network_drops_what_the_settled_recipe_says():
    network = SwinV2(replace(SMALL, drop_path=0.5, num_classes=3))
    settled = settle(network, Recipe(checkpointing=True), pictures((0, 1, 2) * 20))
    rates = [block.drop_path for block in network.blocks()]
    assert (settled.drop_path, network.config.drop_path, network.checkpointing) == (0.1, 0.1, True)
    assert rates == pytest.approx([0.1 * i / 7 for i in range(8)])


def test_the_network_has_a_residual_stream_in_bf16_where_all_is():
    network = SwinV2(replace(SMALL, num_classes=3))
    for precision, residual in (("bf16_all", torch.bfloat16), ("bf16", None), ("fp32", None)):
        settle(network, Recipe(precision=precision), pictures((0, 1, 2) * 20))
        assert network.residual is residual


def test_a_new_head_of_yes_and_no_starts_with_how_often_each_class_is_there():
    network = SwinV2(replace(SMALL, num_classes=3))
    settle(network, Recipe(loss="bce"), pictures((0, 0, 0, 1)))
    assert network.head.bias.sigmoid().tolist() == pytest.approx([0.75, 0.25, 1e-4], rel=1e-3)
    settle(network, Recipe(), pictures(((0, 1), (0,), (0, 1, 2), ())))
    assert network.head.bias.sigmoid().tolist() == pytest.approx([0.75, 0.5, 0.25])


def test_a_head_that_knows_the_classes_keeps_what_it_knows():
    network = SwinV2(replace(SMALL, num_classes=3))
    network.record = Record(network.config, Preprocess.official(64), ("a", "b", "c"))
    before = network.head.bias.clone()
    settle(network, Recipe(loss="bce"), pictures((0, 0, 0, 1)))
    assert network.head.bias.equal(before)


# ---------------------------------------------------------------- settings


def test_sizes_count_from_the_epoch_that_they_are_given_for():
    recipe = Recipe(sizes={4: 64, 0: 32})
    assert [recipe.size_at(epoch) for epoch in (0, 3, 4, 99)] == [32, 32, 64, 64]
    assert Recipe(sizes={2: 32}).size_at(1) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"sizes": {0: 128, 20: 192}},
        {"schedule": "steps", "decay_epochs": (60, 80)},
        {"freeze": "stage2", "ema": 0.99},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_recipe_comes_back_from_its_file(tmp_path, changes):
    recipe = settings.load("finetune", **changes)
    (tmp_path / "mine.yaml").write_text(recipe.to_yaml())
    assert settings.load(tmp_path / "mine.yaml") == recipe
    settled = recipe.settled(images=100, classes=2)
    (tmp_path / "settled.yaml").write_text(settled.to_yaml())
    assert settings.load(tmp_path / "settled.yaml").settled(images=9, classes=3) == settled
    assert (
        settings.load("finetune", **yaml.safe_load(settled.to_yaml())).settled(images=9, classes=3) == settled
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"freeze": "stage9"}, "freeze is 'stage9'; give none or embed or stage1"),
        ({"schedule": "steps"}, r"decay_epochs empty; give the epochs, as in \[60, 80\]"),
        ({"schedule": "steps", "decay_epochs": [4, 2]}, "give each epoch once, in order"),
        ({"decay_epochs": 3}, r"decay_epochs is 3; give whole numbers, as in \[60, 80\]"),
        ({"sizes": 128}, r"sizes is 128; give sizes by epoch, as in \{0: 128, 20: 192\}"),
        ({"sizes": {-1: 128}}, "give epochs from 0 on"),
        ({"sizes": {0: 0}}, "pixels a side of at least 1"),
        ({"accumulate": 0}, "accumulate is 0; give at least 1"),
        ({"ema": 1.0}, "ema is 1.0; give 0 for none, or a decay below 1"),
        ({"layer_decay": 1.5}, "layer_decay is 1.5; give a share above 0 and up to 1"),
        ({"mix_prob": 2.0}, "a probability from 0 to 1"),
        ({"loss": "focal"}, "loss is 'focal'; give auto or cross_entropy or bce"),
        ({"crop_scale": [0.9, 0.2]}, "the smallest share, above 0, then the largest"),
        ({"epochs": 2, "warmup_epochs": 3.0}, "give no more than epochs"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_in_one_sentence(given, said):
    with pytest.raises(ValueError, match=said) as error:
        settings.load("finetune", **given)
    assert "\n" not in str(error.value)


def test_settings_with_several_values_are_options():
    values = parse(["train", "photos", "--decay-epochs", "60,80", "--sizes", "{0: 128, 20: 192}"])[1]
    assert (values["decay_epochs"], values["sizes"]) == ((60, 80), {0: 128, 20: 192})
    assert parse(["train", "photos", "--decay-epochs=60"])[1]["decay_epochs"] == (60,)


def test_a_command_takes_only_the_settings_that_it_knows():
    def plain(data: str, **overrides: float) -> int:
        """Do nothing.

        Args:
            data: a folder.
        """
        return 0

    chosen = settings.takes_recipe(without=("mixup", "teacher"))(plain)
    names = chosen.__annotations__.keys()
    assert {"epochs", "cutmix"} < names
    assert not {"mixup", "teacher", "name"} & names


def test_every_setting_is_described():
    described = {
        line.partition(":")[0].strip() for line in (Recipe.__doc__ or "").splitlines() if ":" in line
    }
    assert {field.name for field in fields(Recipe)} <= described


def test_the_documentation_names_every_recipe():
    text = (Path(__file__).parent.parent / "docs" / "recipes.md").read_text()
    assert [name for name in settings.names() if f"`{name}`" not in text] == []
