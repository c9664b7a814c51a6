"""ImageNet-V2, whose folders are numbers, and ImageNet-real, against timm's own counting."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import randomized
from timm.data.real_labels import RealLabelsImagenet
from training import SPECK, write_pictures

from swinv2.artifact import Record
from swinv2.data import DataError, read_split
from swinv2.evaluate import evaluate, match_classes
from swinv2.evaluate.real import against_real, read_real
from swinv2.metrics import Tally
from swinv2.model import SwinV2
from swinv2.preprocess import Preprocess

PREPROCESS = Preprocess(size=(32, 32), resize_to=36)


def imagenet_model(count: int = 1000, **record) -> SwinV2:
    model = randomized(SwinV2(replace(SPECK, num_classes=count)), seed=3).eval()
    model.record = Record(model.config, PREPROCESS, **record)
    return model


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize("names", [(), tuple(f"thing {i}" for i in range(1000))])
def test_folders_that_are_numbers_are_class_ids(tmp_path, names, capsys):
    """ "10" comes before "2" in a folder, and is not class 1."""
    write_pictures(tmp_path / "val", 1, classes=("0", "1", "2", "10", "999"))
    result = evaluate(imagenet_model(classes=names), tmp_path)
    assert result.measured.labels.tolist() == [0, 1, 10, 2, 999]
    assert "are numbers: 0 is taken for class 0 of the model" in capsys.readouterr().err


def test_names_go_before_numbers(tmp_path):
    """A model of digits may list its classes in any order."""
    write_pictures(tmp_path / "val", 1, classes=("0", "1", "2"))
    record = imagenet_model(3, classes=("2", "1", "0")).record
    assert match_classes(read_split(tmp_path), record).labels == (2, 1, 0)


def test_numbers_beyond_the_classes_are_no_class_ids(tmp_path):
    write_pictures(tmp_path / "val", 1, classes=("1", "3"))
    with pytest.raises(DataError, match="none of the model's: 1, 3"):
        evaluate(imagenet_model(3, classes=("a", "b", "c")), tmp_path)


def test_as_many_numbers_as_nameless_classes_may_be_sorted_as_text(tmp_path):
    """Such a model was trained on folders in the order 0, 1, 10, 2, ...: 10 is its third class."""
    classes = tuple(map(str, range(11)))
    write_pictures(tmp_path / "val", 1, classes=classes)
    assert match_classes(read_split(tmp_path), imagenet_model(11).record).labels == tuple(range(11))


# ---------------------------------------------------------------- ImageNet-real


def real_case(count: int = 300, seed: int = 0) -> tuple[np.ndarray, list[list[int]], list[str]]:
    """Logits, real labels (some of none, some of several), names in the order in which they are measured."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(count, 1000)).astype(np.float32)
    likely = np.argsort(-logits, axis=1)[:, :12]
    labels = [
        sorted(set(random.choice(likely[i], random.integers(0, 4), replace=False).tolist()))
        for i in range(count)
    ]
    names = [f"ILSVRC2012_val_{i + 1:08d}.JPEG" for i in range(count)]
    return logits, labels, names


def test_real_accuracies_are_those_of_timm(tmp_path):
    logits, labels, names = real_case()
    (tmp_path / "real.json").write_text(json.dumps(labels))
    theirs = RealLabelsImagenet(names, tmp_path / "real.json")
    theirs.add_result(torch.from_numpy(logits))
    tally = Tally(tuple(map(str, range(1000))))
    tally.add(logits, np.zeros(len(names), int), np.arange(len(names)))
    found = against_real(tally.measurement(), names, read_real(tmp_path / "real.json"))
    assert found.excluded == sum(not row for row in labels) > 20
    assert found.images == len(names) - found.excluded
    assert {1: found.top1, 5: found.top5} == pytest.approx(theirs.get_accuracy())
    assert 5 < found.top1 < found.top5 < 95


def test_pictures_are_found_by_the_number_in_any_folder_and_order():
    logits, labels, names = real_case()
    order = np.random.default_rng(1).permutation(len(names))
    shuffled = [f"val/n{i % 9:08d}/{names[i].lower()}" for i in order]
    tally, moved = Tally(tuple(map(str, range(1000)))), Tally(tuple(map(str, range(1000))))
    tally.add(logits, np.zeros(len(names), int), np.arange(len(names)))
    moved.add(logits[order], np.zeros(len(names), int), np.arange(len(names)))
    real = tuple(map(frozenset, labels))
    assert against_real(tally.measurement(), names, real) == against_real(moved.measurement(), shuffled, real)


def test_the_published_labels_that_timm_ships_are_read():
    real = read_real("timm")
    assert len(real) == 50_000
    assert sum(map(bool, real)) == 46_837  # as the paper counts them


def test_evaluate_gives_both_figures(tmp_path):
    model = imagenet_model()
    (tmp_path / "val" / "7").mkdir(parents=True)
    pictures = sorted(write_pictures(tmp_path / "made", 4, classes=("red", "blue")).rglob("*.png"))
    for number, path in enumerate(pictures, 1):
        path.rename(tmp_path / "val" / "7" / f"ILSVRC2012_val_{number:08d}.JPEG")
    plain = evaluate(model, tmp_path / "val", split="all")
    answers = plain.measured.predictions.tolist()
    labels = [[answers[0], 3], [], [answers[2]], [1], [2], [], [4], [answers[7]]]
    (tmp_path / "real.json").write_text(json.dumps(labels))
    result = evaluate(model, tmp_path / "val", split="all", real_labels=tmp_path / "real.json")
    assert (result.real.images, result.real.excluded) == (6, 2)
    assert result.real.correct == 3 + sum([answers[3]] == [1] for _ in (0,)) + (answers[4] == 2) + (
        answers[6] == 4
    )
    assert result.to_dict()["real_labels"]["correct"] == result.real.correct
    assert result.measured.correct == plain.measured.correct


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[[1, 2]", "is not JSON"),
        ('{"a": [1]}', "is not a list of lists"),
        ("[]", "is not a list of lists"),
        ("[[1], [1000]]", "has the label 1000 for picture 2; class ids are 0 to 999"),
        ('[["cat"]]', "has the label 'cat' for picture 1"),
    ],
)
def test_a_file_that_holds_no_real_labels_is_refused(tmp_path, text, sentence):
    (tmp_path / "real.json").write_text(text)
    with pytest.raises(DataError, match=sentence):
        read_real(tmp_path / "real.json")


def test_pictures_without_a_number_and_models_of_other_classes_are_refused(tmp_path):
    write_pictures(tmp_path / "val", 1, classes=("1", "2"))
    (tmp_path / "real.json").write_text("[[1], [2]]")
    with pytest.raises(DataError, match=r"val/1/0\.png is called otherwise than ILSVRC2012_val_00000001"):
        evaluate(imagenet_model(), tmp_path, real_labels=tmp_path / "real.json")
    with pytest.raises(ValueError, match="models of 1000 classes"):
        evaluate(imagenet_model(3), tmp_path, real_labels=tmp_path / "real.json")
    (tmp_path / "val" / "1" / "0.png").rename(tmp_path / "val" / "1" / "ILSVRC2012_val_00000003.png")
    (tmp_path / "val" / "2" / "0.png").rename(tmp_path / "val" / "2" / "ILSVRC2012_val_00000001.png")
    with pytest.raises(
        DataError, match=r"00000003\.png has no real labels; the file has those of pictures 1 to 2"
    ):
        evaluate(imagenet_model(), tmp_path, real_labels=tmp_path / "real.json")
