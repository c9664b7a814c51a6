"""Image folders, and the embedded data set."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets import ImageFolder as TorchvisionImageFolder
from training import write_pictures, write_split

from swinv2.cli import main
from swinv2.data import DataError, read_split, read_training
from swinv2.data.digits import digits

# ---------------------------------------------------------------- folders


def test_classes_and_labels_are_those_of_torchvision(tmp_path):
    write_pictures(tmp_path / "train", 3, classes=("b", "a", "B", "10", "9", "a b"))
    write_pictures(tmp_path / "train" / "a" / "deeper", 1, classes=("still a",))
    (tmp_path / "train" / "a" / "notes.txt").write_text("no picture")
    write_pictures(tmp_path / "val", 1, classes=("a",))
    ours, theirs = read_training(tmp_path)[0], TorchvisionImageFolder(tmp_path / "train")
    assert list(ours.classes) == theirs.classes
    assert {(str(ours.read(i)), label) for i, label in enumerate(ours.labels)} == set(theirs.samples)


@pytest.mark.parametrize("name", ["val", "validation", "test", "held-out", "held_out", "Test", "VALID"])
def test_held_out_part_is_found_by_its_usual_names(tmp_path, name):
    write_pictures(tmp_path / "train", 3)
    write_pictures(tmp_path / name, 2)
    train, held_out = read_training(tmp_path)
    assert (len(train), len(held_out), held_out.split, held_out.is_divided) == (9, 6, name, False)
    assert read_split(tmp_path).names == held_out.names


def test_validation_goes_before_test_and_test_can_be_asked_for(tmp_path):
    for name, count in (("train", 3), ("test", 2), ("val", 1)):
        write_pictures(tmp_path / name, count)
    assert read_training(tmp_path)[1].split == "val"
    assert len(read_split(tmp_path, "test")) == 6
    assert len(read_split(tmp_path, "train")) == 9


def test_an_undivided_folder_is_divided_by_file_names_the_same_way_everywhere(tmp_path):
    first, second = write_pictures(tmp_path / "x" / "photos", 10), tmp_path / "elsewhere"
    shutil.copytree(first, second)
    parts = [[part.names for part in read_training(f)] for f in (first, second)]
    assert parts[0] == parts[1]
    train, held_out = read_training(first)
    assert (train.counts, held_out.counts) == ((8, 8, 8), (2, 2, 2))
    assert not set(train.names) & set(held_out.names)
    assert set(train.names) | set(held_out.names) == set(read_split(first).names)
    assert read_split(first, "val").names == held_out.names
    assert held_out.is_divided
    assert held_out.fingerprint == read_training(second)[1].fingerprint != train.fingerprint


def test_a_class_of_one_picture_stays_in_the_training_part(tmp_path):
    write_pictures(tmp_path, 5, classes=("a", "b"))
    write_pictures(tmp_path, 1, classes=("rare",))
    train, held_out = read_training(tmp_path)
    assert (train.counts, held_out.counts) == ((4, 4, 1), (1, 1, 0))


def test_held_out_labels_follow_the_training_classes_where_some_are_absent(tmp_path):
    write_pictures(tmp_path / "train", 2, classes=("a", "b", "c"))
    write_pictures(tmp_path / "val", 2, classes=("c",))
    held_out = read_training(tmp_path)[1]
    assert (held_out.classes, set(held_out.labels)) == (("a", "b", "c"), {2})


BROKEN = {
    "nothing there":          ([], None, "there is no folder"),
    "a file":                 (["x.png"], "x.png", "is a file"),
    "no pictures":            (["a/notes.txt", "b/notes.txt"], "", "a holds no pictures"),
    "empty":                  (["."], "", "holds no pictures"),
    "one class":              (["train/cat/1.png", "val/cat/1.png"], "", "one class only, 'cat'"),
    "one class, undivided":   (["cat/1.png"], "", "one class only, 'cat'"),
    "pictures without folders": (["1.png", "2.png"], "", "holds pictures but no folders"),
    "loose in train":         (["train/1.png", "val/a/1.png"], "", "holds pictures but no folders"),
    "class missing in train": (["train/a/1.png", "train/b/1.png", "val/c/1.png"], "", "lacks: c"),
    "empty class in train":   (["train/a/1.png", "train/b/x.txt", "val/a/1.png"], "", "b holds no pictures"),
    "no train":               (["val/a/1.png", "val/b/1.png"], "", "val/ but no train/"),
    "one picture per class":  (["a/1.png", "b/1.png"], "", "one picture per class"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_folder_is_refused_in_one_sentence(tmp_path, case, capsys):
    files, given, said = BROKEN[case]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".png"):
            Image.new("RGB", (4, 4)).save(tmp_path / name)
        elif name != ".":
            (tmp_path / name).write_text("x")
    folder = tmp_path / ("missing" if given is None else given)
    with pytest.raises((DataError, FileNotFoundError)) as error:
        read_training(folder)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert main(["train", str(folder), "--pretrained=false", "--output", str(tmp_path / "run")]) == 3
    assert not (tmp_path / "run").exists()
    assert said in capsys.readouterr().err


def test_an_unknown_split_names_those_that_are_there(tmp_path):
    write_split(tmp_path, train=1, held_out=1)
    with pytest.raises(DataError, match=r"no part called 'testing'; it has train, val"):
        read_split(tmp_path, "testing")


# ---------------------------------------------------------------- digits


@pytest.fixture(scope="module")
def digits_folder(tmp_path_factory) -> Path:
    return digits(tmp_path_factory.mktemp("data") / "digits").root


def test_digits_are_those_of_scikit_learn(digits_folder):
    original = load_digits()
    seen = set()
    for part in read_training(digits_folder):
        for i, label in enumerate(part.labels):
            path = part.read(i)
            index = int(path.stem)
            seen.add(index)
            assert part.classes[label] == f"digit-{original.target[index]}"
            if index % 50 == 0:  # averaged back to 8 x 8, the picture is the original but for some smoothing
                pixels = np.asarray(Image.open(path), float).reshape(8, 4, 8, 4).mean((1, 3)) / 255 * 16
                assert np.abs(pixels - original.images[index]).mean() < 1
                assert np.corrcoef(pixels.ravel(), original.images[index].ravel())[0, 1] > 0.98
    assert seen == set(range(1797))


def test_digits_are_split_a_fifth_of_each_class(digits_folder):
    train, held_out = read_training(digits_folder)
    assert (len(train), len(held_out), held_out.is_divided) == (1438, 359, False)
    for inside, outside in zip(train.counts, held_out.counts, strict=True):
        assert abs(outside / (inside + outside) - 0.2) < 0.005
    samples = sorted((digits_folder / "samples").iterdir())
    held = {held_out.read(i).read_bytes() for i in range(len(held_out))}
    assert [p.stem for p in samples] == list(train.classes)
    assert all(p.read_bytes() in held for p in samples)


def test_preparing_twice_does_nothing_and_says_so(digits_folder, capsys):
    before = {p: p.stat().st_mtime_ns for p in digits_folder.rglob("*")}
    assert main(["data", "prepare", "digits", str(digits_folder)]) == 0
    assert "already there, nothing to do" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in digits_folder.rglob("*")} == before


def test_a_folder_with_something_else_is_not_touched(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match="holds something else"):
        digits(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_an_interrupted_preparation_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "swinv2.data.digits.shutil.copyfile", lambda *_: (_ for _ in ()).throw(OSError("disk full"))
    )
    with pytest.raises(OSError, match="disk full"):
        digits(tmp_path / "digits")
    assert list(tmp_path.iterdir()) == []
