"""Figures against scikit-learn and a plain loop; classes by name; no picture twice, none replaced."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import randomized
from PIL import Image
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    confusion_matrix,
    f1_score,
    log_loss,
    top_k_accuracy_score,
)
from training import COLOURS, SPECK, write_pictures, write_split

from swinv2 import artifact
from swinv2.artifact import Record
from swinv2.cli import main
from swinv2.data import DataError, read_split, read_training
from swinv2.evaluate import evaluate, match_classes
from swinv2.metrics import Tally
from swinv2.model import SwinV2
from swinv2.preprocess import Preprocess

SEVEN = ("ash", "blue", "cyan", "green", "navy", "red", "teal")
PREPROCESS = Preprocess(size=(32, 32), resize_to=36)


def model_of(classes: tuple[str, ...], **record) -> SwinV2:
    """Random weights that answer with different classes."""
    model = randomized(SwinV2(replace(SPECK, num_classes=len(classes))), seed=3).eval()
    model.record = Record(model.config, PREPROCESS, classes=classes, **record)
    return model


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """23 pictures of the first three classes alphabetically, in unequal parts."""
    root = tmp_path_factory.mktemp("photos")
    for name, count in (("blue", 11), ("green", 5), ("red", 7)):
        write_pictures(root / "val", count, classes=(name,), seed=count)
    return root


@pytest.fixture(scope="module")
def plain(photos) -> tuple[np.ndarray, np.ndarray]:
    """Labels and logits of the seven-class model, one picture at a time, without anything of evaluate."""
    model = model_of(SEVEN)
    files = sorted((photos / "val").glob("*/*.png"))
    with torch.inference_mode():
        logits = [model(torch.from_numpy(PREPROCESS.load(path))[None])[0].numpy() for path in files]
    return np.array([SEVEN.index(path.parent.name) for path in files]), np.stack(logits).astype(np.float64)


def test_figures_are_those_of_scikit_learn(photos, plain):
    labels, logits = plain
    answers = logits.argmax(1)
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    result = evaluate(model_of(SEVEN), photos, batch_size=4)
    measured = result.measured
    assert len(set(answers)) > 1, "the case is too easy"
    assert (measured.images, measured.k) == (23, 5)
    assert result.top1 == pytest.approx(100 * accuracy_score(labels, answers))
    assert result.top5 == pytest.approx(100 * top_k_accuracy_score(labels, logits, k=5, labels=range(7)))
    assert measured.loss == pytest.approx(log_loss(labels, shares, labels=range(7)), rel=1e-5)
    assert np.array_equal(measured.confusion(), confusion_matrix(labels, answers, labels=range(7)))
    rows = {row["class"]: row for row in measured.per_class()}
    assert list(rows) == list(COLOURS)
    for name, row in rows.items():
        of_class = labels == SEVEN.index(name)
        assert row["images"] == of_class.sum()
        assert row["correct"] == (answers == labels)[of_class].sum()
        assert row["accuracy"] == pytest.approx(100 * (answers == labels)[of_class].mean())
        assert row["f1"] == pytest.approx(
            100 * f1_score(of_class, answers == SEVEN.index(name), zero_division=0)
        )


@pytest.mark.parametrize("batch_size", [1, 3, 22, 23, 64])
def test_no_figure_depends_on_the_batch(photos, plain, batch_size):
    measured = evaluate(model_of(SEVEN), photos, batch_size=batch_size).measured
    labels, logits = plain
    assert np.array_equal(measured.indices, np.arange(23))
    assert np.array_equal(measured.labels, labels)
    assert np.array_equal(measured.predictions, logits.argmax(1))
    shares = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(measured.scores, shares.max(1) / shares.sum(1), rtol=1e-4)


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_no_figure_depends_on_the_workers(photos, plain, workers):
    measured = evaluate(model_of(SEVEN), photos, batch_size=4, workers=workers).measured
    assert np.array_equal(measured.indices, np.arange(23))
    assert np.array_equal(measured.predictions, plain[1].argmax(1))


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6])
def test_top_5_is_clamped_to_the_classes(photos, count):
    names = ("blue", "green", "red", "x", "y", "z")[:count]
    (photos / "two" / "val").mkdir(parents=True, exist_ok=True)
    for name in ("blue", "green"):
        shutil.copytree(photos / "val" / name, photos / "two" / "val" / name, dirs_exist_ok=True)
    result = evaluate(model_of(names), photos / "two")
    assert result.measured.k == min(count, 5)
    assert (result.top5 == 100) or count == 6


def test_ties_go_to_the_lower_class_in_any_batch():
    tally = Tally(("a", "b", "c"))
    tally.add(np.zeros((4, 3), np.float32), np.array([0, 1, 2, 0]), np.arange(4))
    measured = tally.measurement()
    assert measured.predictions.tolist() == [0] * 4
    assert measured.correct == 2
    np.testing.assert_allclose(measured.losses, np.log(3))


def test_huge_logits_have_finite_losses():
    tally = Tally(("a", "b"))
    tally.add(np.array([[3e4, -3e4]], np.float32), np.array([1]), np.array([0]))
    assert tally.measurement().loss == pytest.approx(6e4)


# ---------------------------------------------------------------- classes


def test_classes_are_matched_by_name_in_any_order(photos, plain):
    order = (3, 6, 1, 0, 5, 2, 4)
    model = model_of(SEVEN)
    with torch.no_grad():
        model.head.weight.copy_(model.head.weight[list(order)])
        model.head.bias.copy_(model.head.bias[list(order)])
    model.record = replace(model.record, classes=tuple(SEVEN[i] for i in order))
    labels, logits = plain
    assert evaluate(model, photos).measured.correct == (logits.argmax(1) == labels).sum()


def test_folders_named_by_synset_are_matched_by_synset(photos):
    synsets = ("n01", "n02", "n03")
    record = model_of(("crane", "crane", "cat"), synsets=synsets).record
    folder = replace(read_split(photos), classes=("n01", "n02", "n03"))
    matched = match_classes(folder, record)
    assert set(matched.labels) == {0, 1, 2}
    assert matched.classes == ("crane", "crane", "cat")


def test_a_class_that_the_model_does_not_know_is_named(photos):
    with pytest.raises(DataError, match=r"none of the model's: green, red; the model's are blue, cyan, teal"):
        evaluate(model_of(("blue", "cyan", "teal")), photos)


def test_a_name_that_two_classes_have_cannot_be_matched(photos):
    with pytest.raises(DataError, match="two classes called 'red'; name the folders by synset"):
        evaluate(model_of(("blue", "red", "green", "red")), photos)


def test_unnamed_classes_need_as_many_folders(photos):
    model = randomized(SwinV2(SPECK)).eval()
    model.record = Record(SPECK, PREPROCESS)
    assert evaluate(model, photos).measured.classes == ("class 0", "class 1", "class 2")
    model = randomized(SwinV2(replace(SPECK, num_classes=4))).eval()
    model.record = Record(model.config, PREPROCESS)
    with pytest.raises(DataError, match=r"4 classes without names and .* has 3;"):
        evaluate(model, photos)


# ---------------------------------------------------------------- which pictures


def test_an_unreadable_picture_stops_the_evaluation_and_is_named(tmp_path):
    write_pictures(tmp_path / "val", 3)
    broken = tmp_path / "val" / "green" / "1.png"
    broken.write_bytes(broken.read_bytes()[:70])
    with pytest.raises(DataError, match=r"green/1\.png.*nothing is measured without it"):
        evaluate(model_of(tuple(COLOURS)), tmp_path)


def with_a_broken_picture(root: Path) -> Path:
    """Nine pictures in val, of which green/1.png is cut off."""
    write_pictures(root / "val", 3)
    broken = root / "val" / "green" / "1.png"
    broken.write_bytes(broken.read_bytes()[:70])
    return root


@pytest.mark.parametrize("batch_size", [1, 4, 9])
def test_an_unreadable_picture_counts_as_wrong_where_that_is_asked_for(tmp_path, batch_size):
    model = model_of(tuple(COLOURS))
    write_pictures(tmp_path / "whole" / "val", 3)
    whole = evaluate(model, tmp_path / "whole").measured
    result = evaluate(
        model, with_a_broken_picture(tmp_path / "broken"), unreadable="wrong", batch_size=batch_size
    )
    measured = result.measured
    assert [one.name for one in result.unreadable] == ["val/green/1.png"]
    assert (measured.images, measured.unreadable) == (9, 1)
    others = [0, 1, 2, 3, 5, 6, 7, 8]
    assert np.array_equal(measured.predictions[others], whole.predictions[others])
    assert measured.correct == (whole.predictions == whole.labels)[others].sum()


def test_where_no_picture_can_be_read_there_is_no_figure(tmp_path):
    for path in write_pictures(tmp_path / "val", 2).rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(
        DataError, match=r"none of the 6 pictures can be read; the first: .*blue/0\.png is empty"
    ):
        evaluate(model_of(tuple(COLOURS)), tmp_path, unreadable="wrong")


def test_answers_that_are_no_numbers_are_refused(photos):
    model = model_of(SEVEN)
    with torch.no_grad():
        model.head.bias[2] = float("nan")
    with pytest.raises(DataError, match=r"0\.png: the model's answer in fp32 is not finite"):
        evaluate(model, photos)


def test_a_part_can_be_chosen(tmp_path):
    write_split(tmp_path, train=4, held_out=2)
    model = model_of(tuple(COLOURS))
    assert [evaluate(model, tmp_path, split=s).measured.images for s in (None, "val", "train")] == [6, 6, 12]
    with pytest.raises(DataError, match="no part called 'test'"):
        evaluate(model, tmp_path, split="test")


def test_an_undivided_folder_is_measured_whole_unless_the_model_was_trained_on_it(tmp_path, capsys):
    write_pictures(tmp_path, 10)
    held_out = read_training(tmp_path)[1]
    data = {"name": held_out.name, "is_divided": True, "held_out_fingerprint": held_out.fingerprint}
    stranger, trained = model_of(tuple(COLOURS)), model_of(tuple(COLOURS), provenance={"data": data})
    assert evaluate(stranger, tmp_path).measured.images == 30
    result = evaluate(trained, tmp_path)
    assert (result.measured.images, result.split.split, result.split.names) == (6, "val", held_out.names)
    assert evaluate(trained, tmp_path, split="all").measured.images == 30
    write_pictures(tmp_path / "red", 9, classes=("more",))  # no longer the folder it was trained on
    assert evaluate(trained, tmp_path).measured.images == 39
    assert "those it learnt from as well" in capsys.readouterr().err


def test_grey_models_are_measured_on_grey_pictures(photos):
    model = randomized(SwinV2(replace(SPECK, in_chans=1))).eval()
    model.record = Record(model.config, replace(PREPROCESS, mean=(0.5,), std=(0.2,)), classes=tuple(COLOURS))
    assert evaluate(model, photos).measured.images == 23


# ---------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    model = model_of(SEVEN)
    artifact.write(path, model.record, model.state_dict())
    return path


def test_the_command_prints_one_document_and_writes_what_it_says(photos, plain, saved, tmp_path, capsys):
    output = tmp_path / "out"
    assert main(["evaluate", str(saved), str(photos), "--json", "--output", str(output)]) == 0
    printed = json.loads(capsys.readouterr().out)
    labels, logits = plain
    correct = int((logits.argmax(1) == labels).sum())
    assert (printed["images"], printed["correct"], printed["split"]) == (23, correct, "val")
    assert set(printed) >= {"top1", "top5", "loss", "per_class"}
    assert sorted(printed["files"]) == sorted(map(str, output.iterdir()))
    with open(output / "predictions.csv", newline="") as file:
        answers = list(csv.DictReader(file))
    assert sum(int(row["correct"]) for row in answers) == correct
    assert len({row["file"] for row in answers}) == 23
    assert [row["prediction"] for row in answers] == [SEVEN[i] for i in logits.argmax(1)]
    assert all(Path(row["file"]).parent.name == row["label"] for row in answers)
    with open(output / "results.csv", newline="") as file:
        assert [row["class"] for row in csv.DictReader(file)] == ["blue", "green", "red"]
    with Image.open(output / "confusion.png") as picture:
        assert min(picture.size) > 400


def test_the_command_prints_a_table(photos, plain, saved, capsys):
    assert main(["evaluate", str(saved), str(photos), "--batch-size", "5"]) == 0
    said = capsys.readouterr().out
    labels, logits = plain
    correct = (logits.argmax(1) == labels).sum()
    assert f"({correct} of 23)" in said
    assert f"top-1 {100 * correct / 23:.2f} %" in said
    assert [line.split()[0] for line in said.splitlines()[2:5]] == ["blue", "green", "red"]


def test_parquet_has_the_rows_of_the_table_with_types(photos, plain, saved, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    with_a_broken_picture(tmp_path)
    arguments = ["--output", str(tmp_path / "out"), "--parquet", "--unreadable", "wrong"]
    assert main(["evaluate", str(saved), str(tmp_path), *arguments]) == 5
    rows = parquet.read_table(tmp_path / "out" / "predictions.parquet").to_pylist()
    with open(tmp_path / "out" / "predictions.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [row["file"] for row in table]
    for row, text in zip(rows, table, strict=True):
        assert row["correct"] is (text["correct"] == "1")
        assert (row["label"], row["prediction"] or "") == (text["label"], text["prediction"])
        if text["file"] == "val/green/1.png":
            assert (row["prediction"], row["loss"], row["class_ids"]) == (None, None, None)
        else:
            assert SEVEN[row["class_ids"][0]] == row["prediction"]
            assert sorted(row["scores"], reverse=True) == row["scores"]
            assert row["loss"] == pytest.approx(float(text["loss"]))


def test_pictures_of_several_classes_are_measured(tmp_path, capsys):
    """Files, a table with a column of labels, thresholds of the model file: all through the command."""
    names = ("blue", "green", "red")
    write_pictures(tmp_path / "pictures", 4)
    files = sorted((tmp_path / "pictures").rglob("*.png"))
    labels = [("red",), ("red", "blue"), (), ("green",)] * 3
    with open(tmp_path / "val.csv", "w") as table:
        table.write("file,labels\n")
        for path, those in zip(files, labels, strict=True):
            table.write(f"{path.relative_to(tmp_path)},{';'.join(those)}\n")
    model = model_of(names, provenance={"thresholds": [0.3, 0.5, 0.7]})
    artifact.write(tmp_path / "model.safetensors", model.record, model.state_dict())
    with torch.inference_mode():
        logits = torch.cat([model(torch.from_numpy(PREPROCESS.load(path))[None]) for path in files])
    scores = logits.double().sigmoid().numpy()
    there = np.array([[name in those for name in names] for those in labels])
    ap = 100 * np.mean([average_precision_score(there[:, c], scores[:, c]) for c in range(3)])
    arguments = ["evaluate", str(tmp_path / "model.safetensors"), str(tmp_path / "val.csv"), "--json"]
    for more, thresholds in (([], [0.3, 0.5, 0.7]), (["--threshold", "0.5"], [0.5] * 3)):
        assert main([*arguments, *more]) == 0
        printed = json.loads(capsys.readouterr().out)
        assert printed["map"] == pytest.approx(ap)
        assert printed["correct"] == ((scores >= thresholds) == there).all(1).sum()
        assert [row["threshold"] for row in printed["per_class"]] == thresholds
    output = tmp_path / "out"
    assert main([*arguments[:-1], "--output", str(output), "--parquet"]) == 0
    said = capsys.readouterr().out
    assert f"mAP {ap:.2f} %" in said
    with open(output / "predictions.csv", newline="") as file:
        assert [row["label"] for row in csv.DictReader(file)] == ["red", "blue;red", "", "green"] * 3
    assert not (output / "confusion.png").exists()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_other_precisions_measure_too(photos, saved, precision):
    assert evaluate(saved, photos, precision=precision).measured.images == 23


def test_mistakes_of_the_caller_are_one_line(photos, saved, tmp_path, capsys):
    for arguments, code, said in (
        ([str(saved), str(tmp_path / "none")], 3, "there is no folder"),
        ([str(tmp_path / "none.safetensors"), str(photos)], 3, "none.safetensors"),
        ([str(saved), str(photos), "--batch-size", "0"], 2, "batch_size is 0"),
        ([str(saved), str(photos), "--device", "cuda:99"], 2, "CUDA device"),
    ):
        assert main(["evaluate", *arguments]) == code
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1


# ---------------------------------------------------------------- several processes


def in_two_processes(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*command, "-m", "swinv2", "evaluate", *arguments], capture_output=True, text=True, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=120,
    )  # fmt: skip


def test_two_processes_count_what_one_counts(photos, saved, tmp_path):
    """23 pictures: one process has one more than the other."""
    assert main(["evaluate", str(saved), str(photos), "--output", str(tmp_path / "one")]) == 0
    done = in_two_processes(
        str(saved), str(photos), "--batch-size", "3", "--json", "--output", str(tmp_path / "two")
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)  # one document, by the first process
    one = json.loads((tmp_path / "one" / "evaluation.json").read_text())
    assert (one["processes"], printed["processes"]) == (1, 2)
    assert printed["images"] == 23
    for key in ("correct", "top1", "top5", "top5_correct", "top1_interval", "per_class"):
        assert printed[key] == one[key]
    for key in ("loss", "ece"):
        assert printed[key] == pytest.approx(one[key], rel=1e-5)
    tables = []
    for folder in ("one", "two"):
        with open(tmp_path / folder / "predictions.csv", newline="") as file:
            tables.append([(row["file"], row["prediction"], row["correct"]) for row in csv.DictReader(file)])
    assert tables[0] == tables[1]


def test_a_picture_that_one_process_cannot_read_ends_both(saved, tmp_path):
    done = in_two_processes(str(saved), str(with_a_broken_picture(tmp_path)))
    assert done.returncode != 0
    assert "green/1.png" in done.stderr
    assert "nothing is measured without it" in done.stderr
    assert "top-1" not in done.stdout
