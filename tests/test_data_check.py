"""`swinv2 data check`: each thing that is wrong with a data set has its one sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from training import write_pictures, write_split

from swinv2.cli import main
from swinv2.data.check import check


def good(root: Path) -> Path:
    """Nothing is wrong with it."""
    return write_split(root, train=12, held_out=3)


def nothing(root: Path) -> None:
    shutil.rmtree(root)


def empty(root: Path) -> None:
    nothing(root)
    root.mkdir()


def no_folders(root: Path) -> None:
    empty(root)
    Image.new("RGB", (4, 4)).save(root / "1.png")


def one_class(root: Path) -> None:
    for part in ("train", "val"):
        for name in ("green", "red"):
            shutil.rmtree(root / part / name)


def no_train(root: Path) -> None:
    shutil.rmtree(root / "train")


def empty_class(root: Path) -> None:
    (root / "train" / "yellow").mkdir()


def class_only_held_out(root: Path) -> None:
    (root / "val" / "red").rename(root / "val" / "rot")


def class_never_held_out(root: Path) -> None:
    shutil.rmtree(root / "val" / "red")


def cut_off(root: Path) -> None:
    file = root / "train" / "red" / "3.png"
    file.write_bytes(file.read_bytes()[:-300])


def not_pictures(root: Path) -> None:
    for i in range(2):
        (root / "val" / "blue" / f"{i}.png").write_text("<html>404</html>")


def copied_across(root: Path) -> None:
    for i in range(2):
        shutil.copy(root / "val" / "blue" / f"{i}.png", root / "train" / "blue" / f"from-val-{i}.png")


def in_two_classes(root: Path) -> None:
    shutil.copy(root / "train" / "blue" / "0.png", root / "train" / "red" / "00.png")


def copied_within(root: Path) -> None:
    shutil.copy(root / "train" / "blue" / "0.png", root / "train" / "blue" / "00.png")


def hardly_any(root: Path) -> None:
    for i in range(1, 12):
        (root / "train" / "red" / f"{i}.png").unlink()


def uneven(root: Path) -> None:
    write_pictures(root / "train", 400, classes=("blue",), seed=5)


def same_name(root: Path) -> None:
    write_pictures(root / "train", 12, classes=("Red ",), seed=7)
    write_pictures(root / "val", 3, classes=("Red ",), seed=8)


def phone_pictures(root: Path) -> None:
    (root / "train" / "red" / "IMG_1.HEIC").write_bytes(b"x")


BROKEN: dict[str, tuple[Callable[[Path], None], str, str, str]] = {
    # case                 how                     severity   kind               what is said
    "not there":           (nothing,               "error",   "unusable",        "there is no folder"),
    "empty":               (empty,                 "error",   "unusable",        "holds no pictures; it needs"),
    "no class folders":    (no_folders,            "error",   "unusable",        "holds pictures but no folders"),
    "one class":           (one_class,             "error",   "one-class",       "one class only, 'blue'"),
    "no train":            (no_train,              "error",   "no-train",        "has no part to learn from"),
    "empty class":         (empty_class,           "error",   "unusable",        "yellow holds no pictures"),
    "class only in val":   (class_only_held_out,   "error",   "extra-classes",   "that train lacks: rot"),
    "class not in val":    (class_never_held_out,  "warning", "missing-classes", "val has no pictures of red"),
    "cut off":             (cut_off,               "error",   "unreadable",      "1 of 36 pictures in train"),
    "web pages":           (not_pictures,          "error",   "unreadable",      "looks like a web page"),
    "in train and val":    (copied_across,         "error",   "copies-across",   "train and val share 2 pictures"),
    "in two classes":      (in_two_classes,        "error",   "two-classes",     "under more than one class"),
    "copies":              (copied_within,         "warning", "copies",          "train has 1 picture more than once"),
    "hardly any pictures": (hardly_any,            "warning", "few-pictures",    "fewer than 10 pictures of red (1)"),
    "uneven":              (uneven,                "warning", "uneven",          "400 pictures of blue and 12"),
    "misspelt class":      (same_name,             "warning", "alike-classes",   "the same name: 'Red ', 'red'"),
    "unknown format":      (phone_pictures,        "warning", "not-read",        "not read: train/red/IMG_1.HEIC"),
}  # fmt: skip


def test_a_good_set_has_no_problems_and_its_counts(tmp_path, capsys):
    root = good(tmp_path / "photos")
    assert main(["data", "check", str(root), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["problems"] == []
    assert found["parts"]["train"]["classes"] == {"blue": 12, "green": 12, "red": 12}
    assert found["parts"]["val"]["images"] == 9
    assert main(["data", "check", str(root)]) == 0
    assert "nothing is wrong with it" in capsys.readouterr().out


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_set_has_its_sentence_and_its_exit_code(tmp_path, capsys, case):
    break_it, severity, kind, said = BROKEN[case]
    root = good(tmp_path / "photos")
    break_it(root)
    code = main(["data", "check", str(root), "--json"])
    problems = {p["kind"]: p for p in json.loads(capsys.readouterr().out)["problems"]}
    assert (kind in problems, code) == (True, 3 if severity == "error" else 0), problems
    assert problems[kind]["severity"] == severity
    assert said in problems[kind]["text"]
    assert "\n" not in problems[kind]["text"]
    assert main(["data", "check", str(root)]) == code
    assert f"{severity}: {problems[kind]['text']}" in capsys.readouterr().out.splitlines()


def test_all_pictures_concerned_are_listed(tmp_path):
    root = good(tmp_path / "photos")
    copied_across(root)
    cut_off(root)
    found = {problem.kind: problem.pictures for problem in check(root).problems}
    assert found == {
        "unreadable": ("train/red/3.png",),
        "copies-across": tuple(f"train/blue/from-val-{i}.png = val/blue/{i}.png" for i in range(2)),
    }


def test_lists_are_checked_for_what_they_name(tmp_path):
    write_pictures(tmp_path / "p", 11, classes=("a", "b"))
    lines = [f"p/{name}/{i}.png {label}" for label, name in ((1, "a"), (2, "b")) for i in range(13)]
    (tmp_path / "all.txt").write_text("\n".join(lines))
    problems = {problem.kind: problem for problem in check(tmp_path / "all.txt").problems}
    assert problems["unreadable"].pictures == ("p/a/11.png", "p/a/12.png", "p/b/11.png", "p/b/12.png")
    assert "no such file" in problems["unreadable"].text
    assert problems["empty-classes"].text == "all has no pictures of 0; labels count from 0"
