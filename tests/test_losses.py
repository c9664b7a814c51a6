"""The losses, against timm's, scikit-learn's and plain ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy

from swinv2.train.method.loss import Loss
from swinv2.train.recipes.recipe import Recipe


@dataclass
class Pictures:
    """What a loss sees of a data set."""

    counts: tuple[int, ...]
    is_multi_label: bool = False


PICTURES = Pictures((10, 30, 1, 59))
generator = torch.Generator().manual_seed(0)
LOGITS = 3 * torch.randn(6, 4, generator=generator)
LABELS = torch.tensor([0, 1, 1, 2, 3, 3])
MIXED = torch.rand(6, 4, generator=generator).softmax(1)
SEVERAL = (torch.rand(6, 4, generator=generator) > 0.5).float()


def loss(pictures: Pictures = PICTURES, **changes) -> Loss:
    return Loss.of(Recipe(**changes), pictures)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_cross_entropy_of_labels_is_that_of_timm(smoothing):
    expected = LabelSmoothingCrossEntropy(smoothing)(LOGITS, LABELS)
    torch.testing.assert_close(loss(label_smoothing=smoothing)(LOGITS, LABELS), expected)


def test_cross_entropy_of_mixed_targets_is_that_of_timm():
    torch.testing.assert_close(
        loss(label_smoothing=0.0)(LOGITS, MIXED), SoftTargetCrossEntropy()(LOGITS, MIXED)
    )
    smoothed = 0.9 * MIXED + 0.1 / 4  # as timm's Mixup makes them
    torch.testing.assert_close(
        loss(label_smoothing=0.1)(LOGITS, MIXED), SoftTargetCrossEntropy()(LOGITS, smoothed)
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_binary_cross_entropy_of_labels_is_that_of_timm(smoothing):
    expected = BinaryCrossEntropy(smoothing)(LOGITS, LABELS)
    torch.testing.assert_close(loss(loss="bce", label_smoothing=smoothing)(LOGITS, LABELS), expected)


def test_several_labels_are_one_question_for_each_class():
    found = loss(Pictures((3, 3, 3, 3), is_multi_label=True), label_smoothing=0.0)(LOGITS, SEVERAL)
    chance = LOGITS.sigmoid()
    expected = -(SEVERAL * chance.log() + (1 - SEVERAL) * (1 - chance).log()).mean()
    torch.testing.assert_close(found, expected)


def test_cross_entropy_of_several_labels_is_refused():
    with pytest.raises(
        ValueError, match="one label a picture, and these pictures have several; give --loss bce"
    ):
        loss(Pictures((3, 3), is_multi_label=True), loss="cross_entropy")


def test_balanced_weights_are_those_of_scikit_learn():
    labels = [label for label, count in enumerate(PICTURES.counts) for _ in range(count)]
    expected = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    weights = loss(class_weights="balanced").weights
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float32))
    assert weights[labels].mean().item() == pytest.approx(1)


@pytest.mark.parametrize("targets", [LABELS, MIXED], ids=["labels", "mixed"])
def test_balanced_cross_entropy_weighs_each_class_in_each_picture(targets):
    found = loss(class_weights="balanced", label_smoothing=0.1)(LOGITS, targets)
    shares = torch.eye(4)[targets] if targets.ndim == 1 else targets
    weights = torch.tensor([100 / 4 / count for count in PICTURES.counts])
    expected = -(weights * (0.9 * shares + 0.1 / 4) * LOGITS.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(found, expected)


def test_balanced_binary_cross_entropy_weighs_the_yes_of_rare_classes():
    pictures = Pictures((1, 1, 4, 2), is_multi_label=True)
    found = loss(pictures, class_weights="balanced", label_smoothing=0.0)(LOGITS, SEVERAL)
    weights = torch.tensor([2.0, 2.0, 0.5, 1.0])
    chance = LOGITS.sigmoid()
    expected = -(weights * SEVERAL * chance.log() + (1 - SEVERAL) * (1 - chance).log()).mean()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", ["cross_entropy", "bce"])
@pytest.mark.parametrize("weights", ["none", "balanced"])
def test_the_loss_of_a_batch_is_the_mean_of_its_parts(kind, weights):
    whole = loss(loss=kind, class_weights=weights)
    parts = torch.stack(
        [whole(LOGITS[part], LABELS[part]) for part in (slice(0, 2), slice(2, 4), slice(4, 6))]
    )
    torch.testing.assert_close(whole(LOGITS, LABELS), parts.mean())


def test_a_class_without_pictures_has_a_finite_weight():
    assert loss(Pictures((5, 0)), class_weights="balanced").weights.isfinite().all()


def test_half_precision_logits_are_summed_in_full():
    logits = (LOGITS * 20).half()
    assert loss()(logits, LABELS).dtype is torch.float32
    torch.testing.assert_close(loss()(logits, LABELS), loss()(logits.float(), LABELS))
