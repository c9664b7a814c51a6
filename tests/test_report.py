"""Pictures and tables of a run: nothing cut off, nothing on top of something else, nothing left open."""

from __future__ import annotations

import csv
import itertools
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from swinv2 import report
from swinv2.metrics import Measurement, Tally


def measured(names: list[str], images: int = 400, margin: float = 2.5) -> Measurement:
    random = np.random.default_rng(0)
    labels = random.integers(0, len(names), images)
    logits = random.normal(size=(images, len(names)))
    logits[np.arange(images), labels] += margin
    tally = Tally(tuple(names))
    tally.add(logits, labels, np.arange(images))
    return tally.measurement()


def epochs(count: int, *, mixed: bool = False) -> list[dict]:
    return [
        {
            "epoch": e + 1, "lr": 1e-3 * (count - e) / count, "train_loss": 2 / (e + 1), "loss": 1.5 / (e + 1),
            "train_top1": None if mixed else 90 - 50 / (e + 1), "top1": 95 - 60 / (e + 1),
        }
        for e in range(count)
    ]  # fmt: skip


LONG = "swinv2_large_window12to24_192to384 on a data set with quite a long name/validation, epoch 100"
MANY = [f"a very long class name, number {i}" for i in range(30)]
FIGURES = {
    "curves of 1 epoch":     lambda: report.curves(epochs(1), "pico on digits"),
    "curves of 300 epochs":  lambda: report.curves(epochs(300), LONG),
    "curves of mixed":       lambda: report.curves(epochs(5, mixed=True), "pico on digits"),
    "2 classes":             lambda: report.confusion(measured(["cat", "dog"]), LONG),
    "10 classes":            lambda: report.confusion(measured([f"digit-{i}" for i in range(10)]), "pico on digits"),
    "30 long names":         lambda: report.confusion(measured(MANY, 20000), LONG),
    "45 classes":            lambda: report.confusion(measured([f"class {i}" for i in range(45)], 3000), LONG),
    "200 classes":           lambda: report.confusion(measured([str(i) for i in range(200)], 3000), LONG),
}  # fmt: skip


@pytest.mark.parametrize("name", FIGURES)
def test_every_text_is_inside_the_picture_and_covers_no_other(name, tmp_path):
    figure = FIGURES[name]()
    report.save(figure, tmp_path / "figure.png")
    figure.draw_without_rendering()
    boxes = [(text, text.get_window_extent()) for text in drawn(figure)]
    for text, box in boxes:
        inside = (
            box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1
        )
        assert inside, f"{text.get_text()!r} is cut: {box} in {figure.bbox}"
    level = [
        (t, box) for t, box in boxes if not t.get_rotation() % 90
    ]  # the box of a turned text is larger than it
    for (one, a), (other, b) in itertools.combinations(level, 2):
        overlap = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert min(overlap) <= 1, f"{one.get_text()!r} lies on {other.get_text()!r}"


def drawn(figure) -> list:
    """All texts of a figure, but for the labels of ticks that lie outside of the view."""
    texts = [figure._suptitle]
    for axes in figure.axes:
        texts += [axes.xaxis.label, axes.yaxis.label, *axes.texts]
        texts += [
            title for title in axes.get_children() if isinstance(title, Text) and title not in axes.texts
        ]
        texts += axes.get_legend().get_texts() if axes.get_legend() else []
        for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            ticks = [t for t in axis.get_major_ticks() if min(low, high) <= t.get_loc() <= max(low, high)]
            texts += [tick.label1 for tick in ticks]
    return [text for text in texts if text.get_text().strip()]


def test_every_cell_up_to_30_classes_has_its_count():
    result = measured([f"c{i}" for i in range(12)], 900)
    figure = report.confusion(result, "x")
    counts = result.confusion()
    written = {
        (round(t.get_position()[1]), round(t.get_position()[0])): int(
            t.get_text().split("\n")[0].replace(",", "")
        )
        for t in figure.axes[0].texts
    }
    assert written == {(int(r), int(c)): int(counts[r, c]) for r, c in zip(*np.nonzero(counts), strict=True)}


def test_classes_without_pictures_and_without_predictions_are_left_out():
    tally = Tally(("a", "never", "b"))
    tally.add(np.eye(3)[[0, 2, 2]] * 9, np.array([0, 2, 0]), np.arange(3))
    axes = report.confusion(tally.measurement(), "x").axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b"]


def test_the_title_and_the_subtitle_say_what_was_measured():
    result = measured(["cat", "dog"])
    figure = report.confusion(result, "pico on pets/val")
    assert figure.get_suptitle() == "pico on pets/val"
    assert figure.axes[0].get_title(loc="left") == f"{result.correct} of 400 right ({result.top1:.2f} %)"


@pytest.mark.parametrize("names", [["$5", "$10", "a_b^c"], ["\u732b", "\u72ac"], ["<b>", "%d"]])
def test_any_class_name_can_be_drawn(names, tmp_path):
    report.save(report.confusion(measured(names), "$x on $y"), tmp_path / "confusion.png")
    with Image.open(tmp_path / "confusion.png") as picture:
        picture.load()


def test_an_interrupted_picture_leaves_the_old_one(tmp_path, monkeypatch):
    target = tmp_path / "curves.png"
    target.write_bytes(b"old")
    figure = report.curves(epochs(2), "x")
    monkeypatch.setattr(type(figure), "savefig", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        report.save(figure, target)
    assert target.read_bytes() == b"old"


def test_a_table_survives_commas_and_quotes(tmp_path):
    rows = [{"class": 'a, "b"', "accuracy": 1.5}, {"class": "c", "accuracy": 2.0}]
    report.results_csv(tmp_path / "r.csv", rows)
    with open(tmp_path / "r.csv", newline="") as file:
        assert [(r["class"], float(r["accuracy"])) for r in csv.DictReader(file)] == [
            ('a, "b"', 1.5),
            ("c", 2.0),
        ]


def test_drawing_needs_neither_pyplot_nor_a_display(tmp_path):
    code = (
        "import sys; from swinv2 import report; assert 'matplotlib' not in sys.modules\n"
        "rows = [dict(epoch=1, lr=1, train_loss=1, loss=1, train_top1=1, top1=1)]\n"
        f"report.save(report.curves(rows, 'x'), __import__('pathlib').Path({str(tmp_path)!r}) / 'c.png')\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, env={"PATH": ""})
