"""The parts of int8: which pictures, what was lost, how many layers stay in float, and which ones."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import SMALL
from exports import small_model
from PIL import Image
from torch import nn
from training import write_pictures, write_split

from swinv2.artifact import Record
from swinv2.config import VARIANTS, resolve
from swinv2.data import divide, read_split
from swinv2.fold import fold
from swinv2.metrics import wilson
from swinv2.model import SwinV2
from swinv2.preprocess import Preprocess
from swinv2.quantize import search
from swinv2.quantize.choice import choose
from swinv2.quantize.judging import Judgement, Share, judge
from swinv2.quantize.sensitivity import (
    layers,
    quantised,
    rounded_activations,
    rounded_weight,
    sensitivities,
)
from swinv2.quantize.work import count_layers

COLOURED = Record(replace(SMALL, num_classes=3), Preprocess.official(64), ("blue", "green", "red"))


# ---------------------------------------------------------------------- which pictures


def names(split) -> set[str]:
    return set(split.names)


def test_a_divided_set_calibrates_on_its_training_part_and_judges_on_the_other(tmp_path):
    found = choose(write_split(tmp_path), COLOURED, images=10, judge=100)
    assert (len(found.calibration), len(found.judged)) == (10, 9)
    assert all(name.startswith("train/") for name in found.calibration.names)
    assert all(name.startswith("val/") for name in found.judged.names)
    assert found.has_labels


def test_an_undivided_set_is_cut_in_two(tmp_path):
    found = choose(write_pictures(tmp_path, 8), COLOURED, images=100, judge=100)
    assert (len(found.calibration), len(found.judged)) == (12, 12)
    assert not names(found.calibration) & names(found.judged)
    assert not found.overlaps


def test_a_set_of_one_part_is_cut_in_two(tmp_path):
    found = choose(write_pictures(tmp_path / "val", 8).parent, COLOURED, images=5, judge=100)
    assert (len(found.calibration), len(found.judged)) == (5, 19)
    assert not names(found.calibration) & names(found.judged)


def test_what_a_model_was_trained_on_does_not_judge_it(tmp_path):
    train, unseen = divide(read_split(write_pictures(tmp_path, 10)))
    trained = {"name": tmp_path.name, "is_divided": True, "held_out_fingerprint": unseen.fingerprint}
    found = choose(tmp_path, replace(COLOURED, provenance={"data": trained}), images=100, judge=100)
    assert (names(found.calibration), names(found.judged)) == (names(train), names(unseen))


def test_the_choice_is_the_same_every_time_and_from_all_over(tmp_path):
    root = write_pictures(tmp_path, 30)
    first, again = (choose(root, COLOURED, images=20, judge=25) for _ in range(2))
    assert first.to_dict() == again.to_dict()
    assert {name.partition("/")[0] for name in first.calibration.names} == {"blue", "green", "red"}
    assert len(first.judged) == 25
    more = choose(root, COLOURED, images=20, judge=26)
    assert names(first.judged) < names(more.judged)


def test_a_folder_of_pictures_is_taken_without_labels(tmp_path):
    write_pictures(tmp_path, 6, classes=("red",))
    for i, file in enumerate(sorted((tmp_path / "red").iterdir())):
        file.rename(tmp_path / f"{i}.png")
    (tmp_path / "red").rmdir()
    found = choose(tmp_path, COLOURED, images=2, judge=100)
    assert (len(found.calibration), len(found.judged), found.has_labels) == (2, 4, False)
    assert found.why_no_labels == ""


def test_a_single_picture_serves_for_both_and_that_is_recorded(tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "one.png")
    found = choose(tmp_path, COLOURED, images=8, judge=8)
    assert found.overlaps
    assert found.to_dict()["judged_on"]["overlaps"] is True


def test_labels_of_other_classes_are_not_used_and_the_reason_is_given(tmp_path):
    found = choose(write_pictures(tmp_path, 4, classes=("cat", "dog")), COLOURED, images=8, judge=8)
    assert not found.has_labels
    assert "classes that are none of the model's: cat, dog" in found.why_no_labels


def test_labels_are_the_class_ids_of_the_model(tmp_path):
    record = replace(COLOURED, classes=("red", "green", "blue"))
    found = choose(write_pictures(tmp_path, 4), record, images=4, judge=8)
    ids = {"red": 0, "green": 1, "blue": 2}
    assert found.has_labels
    assert [ids[name.partition("/")[0]] for name in found.judged.names] == list(found.judged.labels)


def test_the_facts_for_the_record_hold_no_path(tmp_path):
    assert str(tmp_path) not in json.dumps(
        choose(write_split(tmp_path), COLOURED, images=4, judge=4).to_dict()
    )


# ---------------------------------------------------------------------- what it costs


def test_the_drop_is_what_was_lost_less_what_was_won():
    labels = np.array([0, 1, 2, 0, 1, 2, 0, 1])
    floats, ints = np.eye(3)[[0, 1, 2, 0, 1, 0, 1, 1]], np.eye(3)[[0, 1, 0, 1, 2, 2, 1, 1]]
    found = judge(ints, floats, ints.argmax(1) == labels, floats.argmax(1) == labels)
    assert (found.lost, found.won) == (3, 1)
    assert found.drop == pytest.approx(100 * 2 / 8)
    assert (found.float_accuracy.count, found.accuracy.count) == (6, 4)
    assert found.agreement.count == 4


def test_without_labels_every_other_answer_is_lost():
    found = judge(np.eye(3)[[0, 1, 2, 2]], np.eye(3)[[0, 1, 2, 1]])
    assert (found.drop, found.accuracy, found.float_accuracy) == (25.0, None, None)


def test_a_share_has_the_interval_of_wilson():
    assert Share(9, 10).interval == tuple(100 * end for end in wilson(9, 10))


def test_the_interval_of_the_drop_holds_the_true_one():
    """Of 2,000 experiments with 300 pictures, 6 % lost and 3 % won on average, about 95 of 100 intervals hold 3."""
    draws = np.random.default_rng(0).multinomial(300, [0.06, 0.03, 0.91], size=2000)
    held = 0
    for lost, won, _ in draws.tolist():
        low, high = Judgement(Share(300 - lost - won, 300), None, None, lost, won).drop_interval
        held += low <= 3 <= high
    assert 0.93 <= held / 2000 <= 0.97


# ---------------------------------------------------------------------- how many stay in float


@pytest.mark.parametrize("count", [1, 2, 5, 37, 53, 101])
def test_few_tries_find_a_good_one_wherever_there_is_one(count):
    for needed in range(count + 1):
        tried = search.fewest(count, lambda kept, n=needed: search.Tried(kept, kept, good=kept >= n))
        best = search.best(tried)
        assert len(tried) <= 7
        assert len({one.kept for one in tried}) == len(tried)
        limit = max(1, round(count / 2))
        if needed > limit:
            assert best is None
        else:
            assert best is not None
            assert needed <= best.kept <= min(limit, max(needed + 1 + count // 12, 2 * needed))


def test_where_all_layers_can_be_int8_nothing_else_is_tried():
    assert [one.kept for one in search.fewest(53, lambda kept: search.Tried(kept, kept, good=True))] == [0]


# ---------------------------------------------------------------------- which layers


@pytest.fixture(scope="module")
def network():
    return fold(small_model(config=SMALL))


def pixels(batch: int = 4) -> torch.Tensor:
    return torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_weights_have_255_levels_per_channel():
    weight = (
        torch.randn(6, 5000, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 6)[:, None]
    )
    rounded = rounded_weight(weight)
    for row, exact in zip(rounded, weight, strict=True):
        step = exact.abs().max() / 127
        assert len(row.unique()) <= 255
        assert (row - exact).abs().max() <= step / 2 * 1.001


def test_activations_keep_zero_and_one_token_does_not_spoil_the_others():
    x = torch.randn(50, 64, generator=torch.Generator().manual_seed(0))
    x[7] *= 1000
    x[3, 3] = 0
    alone, together = rounded_activations(x, per_token=True), rounded_activations(x, per_token=False)
    assert alone[3, 3] == together[3, 3] == 0
    others = [i for i in range(50) if i != 7]
    assert (alone - x)[others].abs().max() < 0.02
    assert (together - x)[others].abs().max() > 0.5


@pytest.mark.parametrize("activations", ["static", "dynamic"])
def test_each_layer_is_alone_in_int8(network, activations):
    """Against whole forwards, one for each of some layers."""
    x = pixels()
    found = sensitivities(network, x, activations)
    exact = network(x)
    for name in ("stages.0.0.proj", "stages.1.0.fc1", "stages.2.1.qkv", "stages.2.2.reduction", "head"):
        with quantised(network.get_submodule(name), activations):
            error = float((network(x) - exact).square().mean() / exact.square().mean())
        assert found[name] == pytest.approx(error, rel=2e-2), name
    assert torch.equal(network(x), exact)  # everything is as it was


def test_a_layer_with_an_outlier_is_the_most_sensitive():
    """Of its inputs, since weights have ranges of their own per channel."""
    model = small_model()
    with torch.no_grad():
        mlp = model.layers[1].blocks[0].mlp
        mlp.fc1.bias[0], mlp.fc2.weight[:, 0] = 1000.0, 0.0  # passed on by GELU, and of no use
    found = sensitivities(fold(model), pixels(), "static")
    assert max(found, key=found.__getitem__) == "stages.1.0.fc2"


@pytest.mark.parametrize(
    "name", ["swinv2_pico", "swinv2_tiny_window8_256", "swinv2_base_window12to16_192to256"]
)
def test_layers_are_counted_without_torch(name):
    config = replace(VARIANTS[resolve(name)], num_classes=5)
    with torch.device("meta"):
        model = SwinV2(config)
    linear = [
        n for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d)) and "cpb_mlp" not in n
    ]
    assert count_layers(config) == len(linear)


def test_every_layer_has_a_figure(network):
    assert sensitivities(network, pixels(1), "static").keys() == layers(network).keys()
    assert len(layers(network)) == count_layers(SMALL)
