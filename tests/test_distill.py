"""Learning from a larger model: the loss of the paper, and a teacher that is asked the right question."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import randomized
from training import SPECK, write_split

from swinv2 import checkpoints, config
from swinv2.artifact import Record
from swinv2.data import read_training
from swinv2.data.loader import Batch
from swinv2.model import SwinV2
from swinv2.preprocess import Preprocess
from swinv2.train.classify import Classification
from swinv2.train.method.distill import Teacher, divergence
from swinv2.train.recipes.recipe import Recipe

NAMES = ("blue", "green", "red", "white", "black")
SEEN = Preprocess.official(32)


def teacher_file(path, *, classes=NAMES, preprocess=SEEN, **changes):
    config = replace(SPECK, num_classes=len(classes) or 5, image_size=preprocess.size, **changes)
    model = randomized(SwinV2(config))
    checkpoints.save(model, path, Record(config, preprocess, classes))
    return model.eval()


def teacher(path, classes, **changes) -> Teacher:
    found = Teacher.of(Recipe(teacher=str(path), **changes), classes, SEEN)
    assert found is not None
    return found


@pytest.fixture
def images():
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_agreement_is_the_divergence_of_softened_answers(temperature):
    """With numpy, in float64, from the definition."""
    chance = np.random.default_rng(0)
    student, own = chance.normal(0, 3, (2, 6, 7))

    def softened(logits):
        shares = np.exp(logits / temperature)
        return shares / shares.sum(1, keepdims=True)

    p, q = softened(own), softened(student)
    wanted = temperature**2 * (p * np.log(p / q)).sum(1).mean()
    found = divergence(torch.tensor(student), torch.tensor(own), temperature)
    assert found.item() == pytest.approx(wanted, rel=1e-5)
    assert divergence(torch.tensor(own), torch.tensor(own), temperature).item() == pytest.approx(0, abs=1e-6)


def test_with_several_labels_every_class_is_a_yes_or_no():
    chance = np.random.default_rng(0)
    student, own = chance.normal(0, 3, (2, 6, 7))
    p, q = (1 / (1 + np.exp(-logits / 2)) for logits in (own, student))
    wanted = 4 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean()
    found = divergence(torch.tensor(student), torch.tensor(own), 2.0, is_multi_label=True)
    assert found.item() == pytest.approx(wanted, rel=1e-5)


def test_the_loss_is_a_weighted_sum_whose_gradient_reaches_the_student_alone(tmp_path, images):
    teacher_file(tmp_path / "t.safetensors")
    asked = teacher(tmp_path / "t.safetensors", NAMES, distill_weight=0.3, distill_temperature=3.0)
    logits = torch.randn(4, 5, requires_grad=True)
    task = logits.square().mean()
    loss = asked.loss(task, logits, images)
    wanted = 0.7 * task + 0.3 * divergence(logits, asked.logits(images), 3.0)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    loss.backward()
    assert logits.grad.abs().sum() > 0
    assert not any(p.requires_grad or p.grad is not None for p in asked.network.parameters())


def test_answers_are_in_the_order_of_the_students_classes(tmp_path, images):
    model = teacher_file(tmp_path / "t.safetensors")
    with torch.no_grad():
        wanted = model(images)[:, [2, 0]]
    torch.testing.assert_close(teacher(tmp_path / "t.safetensors", ("red", "blue")).logits(images), wanted)


def test_the_teacher_sees_pictures_as_it_was_trained_to(tmp_path):
    """Another normalisation and size: the same as preparing the pixels for the teacher."""
    grey = Preprocess.official(64)
    grey = replace(grey, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    model = teacher_file(tmp_path / "t.safetensors", preprocess=grey)
    pixels = torch.rand(2, 3, 32, 32)
    seen, own = (
        (pixels - torch.tensor(p.mean)[:, None, None]) / torch.tensor(p.std)[:, None, None]
        for p in (SEEN, grey)
    )
    with torch.no_grad():
        wanted = model(torch.nn.functional.interpolate(own, (64, 64), mode="bicubic", antialias=True))
    found = teacher(tmp_path / "t.safetensors", NAMES).logits(seen)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_classes_without_names_are_taken_as_they_come(tmp_path, images):
    model = teacher_file(tmp_path / "t.safetensors", classes=())
    with torch.no_grad():
        torch.testing.assert_close(teacher(tmp_path / "t.safetensors", NAMES).logits(images), model(images))


def test_a_recipe_without_a_teacher_has_none():
    assert Teacher.of(Recipe(), NAMES, SEEN) is None


@pytest.mark.parametrize(
    ("classes", "sentence"),
    [
        (("red", "pink", "violet"), r"does not know 2 of 3 classes, the first is 'pink'; give a teacher"),
    ],
)
def test_a_teacher_of_other_classes_is_refused(tmp_path, classes, sentence):
    teacher_file(tmp_path / "t.safetensors")
    with pytest.raises(ValueError, match=sentence):
        teacher(tmp_path / "t.safetensors", classes)


def test_a_teacher_of_other_channels_is_refused(tmp_path):
    teacher_file(tmp_path / "t.safetensors", preprocess=Preprocess.official(32, 1), in_chans=1)
    with pytest.raises(ValueError, match=r"takes 1 channels and the model 3"):
        teacher(tmp_path / "t.safetensors", NAMES)


def test_classification_learns_from_the_teacher_what_it_sees_itself(tmp_path, images, monkeypatch):
    """Mixed pictures: the teacher is asked about the mixture."""
    monkeypatch.setitem(config.VARIANTS, SPECK.architecture, SPECK)
    teacher_file(tmp_path / "t.safetensors", classes=("red", "green", "blue"))
    given = {"teacher": str(tmp_path / "t.safetensors"), "distill_weight": 0.4, "distill_temperature": 3.0}
    recipe = Recipe(pretrained=False, image_size=32, mixup=0.8, cutmix=0.0, label_smoothing=0.0, **given)
    task = Classification("swinv2_speck", recipe, *read_training(write_split(tmp_path / "photos")))
    labels = torch.tensor([0, 1, 2, 0])
    batch = Batch(images, labels, torch.arange(4), torch.arange(4), ())
    mixed, targets = task.mix(images, labels, 5)
    assert not torch.equal(mixed, images)
    logits = randomized(task.network).eval()(mixed)
    order = torch.tensor([2, 1, 0])  # blue, green, red
    wanted = 0.4 * divergence(logits, task.teacher.network(mixed)[:, order], 3.0)
    wanted = wanted - 0.6 * (targets * logits.log_softmax(1)).sum(1).mean()
    assert task.loss(task.network, batch, 5)[0].item() == pytest.approx(wanted.item(), rel=1e-5)
    assert not [name for name in task.network.state_dict() if "teacher" in name]
