"""Image folders, the embedded data set, and batches."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets import ImageFolder as TorchvisionImageFolder
from training import write_pictures, write_split

from swinv2.cli import main
from swinv2.data import loader as loading
from swinv2.data.folder import DataError, read_split, read_training
from swinv2.data.loader import AsPredicted, Order, Pictures, Unreadable, decode_all, fits_in_memory, loader
from swinv2.data.prepare import digits
from swinv2.preprocess import Preprocess
from swinv2.train.augment import Augment, posterize, seeded
from swinv2.train.recipe import Recipe

PREPROCESS = Preprocess(size=(32, 32), resize_to=36)


# ---------------------------------------------------------------- folders


def test_classes_and_labels_are_those_of_torchvision(tmp_path):
    write_pictures(tmp_path / "train", 3, classes=("b", "a", "B", "10", "9", "a b"))
    write_pictures(tmp_path / "train" / "a" / "deeper", 1, classes=("still a",))
    (tmp_path / "train" / "a" / "notes.txt").write_text("no picture")
    write_pictures(tmp_path / "val", 1, classes=("a",))
    ours, theirs = read_training(tmp_path)[0], TorchvisionImageFolder(tmp_path / "train")
    assert list(ours.classes) == theirs.classes
    assert {(str(p), label) for p, label in zip(ours.paths, ours.labels, strict=True)} == set(theirs.samples)


@pytest.mark.parametrize("name", ["val", "validation", "test", "held-out", "held_out", "Test", "VALID"])
def test_held_out_part_is_found_by_its_usual_names(tmp_path, name):
    write_pictures(tmp_path / "train", 3)
    write_pictures(tmp_path / name, 2)
    train, held_out = read_training(tmp_path)
    assert (len(train), len(held_out), held_out.split, held_out.is_divided) == (9, 6, name, False)
    assert read_split(tmp_path).paths == held_out.paths


def test_validation_goes_before_test_and_test_can_be_asked_for(tmp_path):
    for name, count in (("train", 3), ("test", 2), ("val", 1)):
        write_pictures(tmp_path / name, count)
    assert read_training(tmp_path)[1].split == "val"
    assert len(read_split(tmp_path, "test")) == 6
    assert len(read_split(tmp_path, "train")) == 9


def test_an_undivided_folder_is_divided_by_file_names_the_same_way_everywhere(tmp_path):
    first, second = write_pictures(tmp_path / "x" / "photos", 10), tmp_path / "elsewhere"
    shutil.copytree(first, second)
    parts = [[[p.relative_to(f) for p in part.paths] for part in read_training(f)] for f in (first, second)]
    assert parts[0] == parts[1]
    train, held_out = read_training(first)
    assert (train.counts, held_out.counts) == ((8, 8, 8), (2, 2, 2))
    assert not set(train.paths) & set(held_out.paths)
    assert set(train.paths) | set(held_out.paths) == set(read_split(first).paths)
    assert read_split(first, "val").paths == held_out.paths
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
        for path, label in zip(part.paths, part.labels, strict=True):
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
    held = {path.read_bytes() for path in held_out.paths}
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
        "swinv2.data.prepare.shutil.copyfile", lambda *_: (_ for _ in ()).throw(OSError("disk full"))
    )
    with pytest.raises(OSError, match="disk full"):
        digits(tmp_path / "digits")
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- batches


@pytest.mark.parametrize("augment", ["small", "photo"])
@pytest.mark.parametrize(("workers", "in_memory"), [(0, True), (2, False)])
def test_batches_do_not_depend_on_workers_or_memory(tmp_path, augment, workers, in_memory):
    folder = read_training(write_split(tmp_path))[0]
    recipe = Recipe(augment=augment, seed=3)

    def epochs(workers: int, in_memory: bool) -> list[torch.Tensor]:
        order = Order(len(folder), 5, 3)
        decoded = decode_all(folder, 3) if in_memory else None
        batches = loader(Pictures(folder, 3, Augment(recipe, PREPROCESS), decoded), order, workers=workers)
        images = []
        for order.epoch in range(2):
            images += [batch.images for batch in batches]
            torch.rand(order.epoch + workers)  # what else the program draws does not matter
        return images

    plain, other = epochs(0, False), epochs(workers, in_memory)
    assert len(plain) == len(other) == 2 * (24 // 5)
    assert all(torch.equal(a, b) for a, b in zip(plain, other, strict=True))


def test_a_picture_looks_different_in_each_epoch_and_with_each_seed(tmp_path):
    folder = read_training(write_split(tmp_path))[0]
    image = decode_all(folder, 3)[0]
    looks = [Augment(Recipe(augment="small", seed=s), PREPROCESS)(image, key) for s, key in
             [(0, (0, 0)), (0, (1, 0)), (0, (0, 1)), (1, (0, 0)), (0, (0, 0))]]  # fmt: skip
    assert torch.equal(looks[0], looks[4])
    assert all(not torch.equal(looks[0], other) for other in looks[1:4])


def test_the_strongest_augmentation_of_the_paper_takes_every_picture():
    """RandAugment at its limit keeps 0 bits of a colour, which Pillow 13 refuses."""
    augment = Augment(Recipe(augment="photo", auto_augment="rand-m10-n15-inc1"), PREPROCESS)
    image = Image.new("RGB", (40, 30), (200, 100, 50))
    for index in range(20):
        assert augment(image, (0, index)).isfinite().all()


@pytest.mark.parametrize("bits", [0, 1, 4, 8])
def test_posterize_keeps_the_highest_bits(bits):
    image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    expected = np.arange(256) >> (8 - bits) << (8 - bits)
    assert np.array_equal(np.asarray(posterize(image, bits)).ravel(), expected)


def test_augmentation_leaves_the_random_numbers_of_the_program_alone(tmp_path):
    torch.manual_seed(5), random.seed(5), np.random.seed(5)
    expected = torch.rand(3), random.random(), np.random.rand()
    torch.manual_seed(5), random.seed(5), np.random.seed(5)
    with seeded(1, 2, 3):
        torch.rand(7), random.random(), np.random.rand(2)
    assert torch.equal(torch.rand(3), expected[0])
    assert (random.random(), np.random.rand()) == expected[1:]


def test_a_shuffled_epoch_has_full_batches_and_no_picture_twice():
    order = Order(23, 5, seed=1)
    epochs = []
    for order.epoch in range(3):
        batches = list(order)
        assert [len(batch) for batch in batches] == [5] * 4 == [5] * len(order)
        indices = [index for batch in batches for epoch, index in batch]
        assert len(set(indices)) == 20
        epochs.append(indices)
    assert epochs[0] != epochs[1] != epochs[2]


def test_fewer_pictures_than_a_batch_make_one_batch():
    assert [len(batch) for batch in Order(3, 64, seed=0)] == [3]


@pytest.mark.parametrize("batch_size", [1, 4, 23, 64])
def test_an_evaluation_sees_every_picture_once_in_order(batch_size):
    assert [index for batch in Order(23, batch_size) for _, index in batch] == list(range(23))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_picture_is_named_and_not_replaced(tmp_path, workers):
    folder = read_training(write_split(tmp_path))[0]
    folder.paths[2].write_bytes(folder.paths[2].read_bytes()[:60])
    folder.paths[5].write_bytes(b"")
    order = Order(len(folder), 4)
    batches = list(loader(Pictures(folder, 3, AsPredicted(PREPROCESS)), order, workers=workers))
    assert [len(batch.labels) for batch in batches] == [3, 3, 4, 4, 4, 4]
    assert [Path(u.path) for batch in batches for u in batch.unreadable] == [folder.paths[2], folder.paths[5]]
    assert 2 not in batches[0].indices


def test_small_pictures_are_kept_and_large_ones_are_not(tmp_path):
    folder = read_training(write_split(tmp_path))[0]
    need = len(folder) * 20 * 24 * 3
    assert fits_in_memory(folder, need)
    assert not fits_in_memory(folder, need - 1)


def test_workers_are_fewer_where_shared_memory_is_small(monkeypatch):
    monkeypatch.setattr(loading, "cpus", lambda: 16)
    for free, workers in ((64, 1), (20, 0), (100_000, 8)):
        usage = shutil._ntuple_diskusage(0, 0, free * 2**20)
        monkeypatch.setattr(loading.shutil, "disk_usage", lambda _, usage=usage: usage)
        assert loading.default_workers(10 * 2**20) == workers


def test_unreadable_pictures_are_found_while_all_are_decoded(tmp_path):
    folder = read_training(write_split(tmp_path))[0]
    folder.paths[4].write_bytes(b"not a picture")
    found = decode_all(folder, 3, keep=False)
    assert [i for i, image in enumerate(found) if isinstance(image, Unreadable)] == [4]
    assert str(folder.paths[4]) in found[4].reason
