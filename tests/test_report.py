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
from saved import epochs, measured, steps

from swinv2 import report
from swinv2.metrics import Tally
from swinv2.preprocess import Preprocess
from swinv2.report import classes, confidence, errors, learning, speed

LONG = "swinv2_large_window12to24_192to384 on a data set with quite a long name/validation, epoch 100"
MANY = [f"a very long class name, number {i}" for i in range(30)]
TEN = [f"digit-{i}" for i in range(10)]
SPECIES = [f"species {i}" for i in range(120)]
FEW, LITTLE = ["cat", "dog"], {"images": 30}
FIGURES = {
    "curves of 1 epoch":     lambda: report.curves(epochs(1), "pico on digits"),
    "curves of 300 epochs":  lambda: report.curves(epochs(300), LONG),
    "curves of mixed":       lambda: report.curves(epochs(5, mixed=True), "pico on digits"),
    "curves of losses only": lambda: report.curves([without(row, "top1") for row in epochs(5)], "pico on digits"),
    "2 classes":             lambda: report.confusion(measured(FEW), LONG),
    "10 classes":            lambda: report.confusion(measured(TEN), "pico on digits"),
    "30 long names":         lambda: report.confusion(measured(MANY, 20000), LONG),
    "45 classes":            lambda: report.confusion(measured([f"class {i}" for i in range(45)], 3000), LONG),
    "200 classes":           lambda: report.confusion(measured([str(i) for i in range(200)], 3000), LONG),
    "loss, 1 epoch":         lambda: learning.loss_panel(epochs(1), steps(20)),
    "loss, 300 epochs":      lambda: learning.loss_panel(epochs(300), steps(6000)),
    "score, 1 epoch":        lambda: learning.score_panel(epochs(1)),
    "rate, 3 epochs":        lambda: learning.rate_panel(epochs(3), steps(60)),
    "gradient, 1 step":      lambda: learning.gradient_panel(epochs(1), steps(5)),
    "gradient, wide":        lambda: learning.gradient_panel(epochs(3), wide(steps(60))),
    "pairs of 10":           lambda: errors.pairs_panel(measured(TEN), 15),
    "pairs of long names":   lambda: errors.pairs_panel(measured(MANY, 2000), 15),
    "pairs, a single one":   lambda: errors.pairs_panel(measured(FEW, **LITTLE), 1),
    "2 classes apart":       lambda: classes.per_class_panels(measured(FEW, **LITTLE).per_class()),
    "10 classes apart":      lambda: classes.per_class_panels(measured(TEN).per_class()),
    "30 long names apart":   lambda: classes.per_class_panels(measured(MANY, 2000).per_class()),
    "worst of 120 apart":    lambda: classes.per_class_panels(measured(SPECIES, 3000).per_class()),
    "spread of 120":         lambda: classes.spread_panel(measured(SPECIES, 3000).per_class()),
    "support of 120":        lambda: classes.support_panel(measured(SPECIES, 3000).per_class()),
    "counts of 2":           lambda: classes.distribution_panel(FEW, [9, 1], [3, 0]),
    "counts of 30, long":    lambda: classes.distribution_panel(MANY, range(100, 130), range(30)),
    "counts of 120":         lambda: classes.distribution_panel(SPECIES, [c**3 for c in range(120)], range(120)),
    "reliability":           lambda: confidence.reliability_panel(measured(TEN)),
    "reliability of few":    lambda: confidence.reliability_panel(measured(FEW, **LITTLE)),
    "scores":                lambda: confidence.scores_panel(measured(SPECIES, 3000)),
    "coverage":              lambda: confidence.coverage_panel(measured(TEN)),
    "coverage of few":       lambda: confidence.coverage_panel(measured(FEW, **LITTLE)),
    "threshold":             lambda: confidence.threshold_panel(measured(TEN)),
    "time of 1 row":         lambda: speed.time_panel(steps(5)),
    "time of 1200 rows":     lambda: speed.time_panel(steps(6000)),
    "throughput":            lambda: speed.throughput_panel(steps(6000)),
    "mosaic of 1":           lambda: mosaic(1, "one"),
    "mosaic of long names":  lambda: mosaic(64, f"{MANY[0][:18]} 50 %\n{MANY[1][:18]} 50 %"),
}  # fmt: skip


def without(row: dict, key: str) -> dict:
    return {k: v for k, v in row.items() if not k.endswith(key)}


def wide(rows: list[dict]) -> list[dict]:
    return [{**row, "grad_norm": 10.0 ** (i % 5 - 2)} for i, row in enumerate(rows)]


def mosaic(count: int, label: str):
    return report.mosaic(np.zeros((count, 1, 20, 24)), [label] * count, Preprocess.official(24, 1))


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
    texts = [figure._suptitle] if figure._suptitle else []
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


def test_mixed_pictures_have_an_empty_training_accuracy():
    axes = learning.score_panel(epochs(5, mixed=True)).axes[0]
    assert [line.get_label() for line in axes.lines if not line.get_label().startswith("_")] == ["held out"]


def test_a_mosaic_shows_the_pixels_before_they_were_normalised():
    preprocess = Preprocess.official(16)
    pixels = np.random.default_rng(0).random((5, 3, 16, 16))
    mean, std = (np.array(values)[:, None, None] for values in (preprocess.mean, preprocess.std))
    figure = report.mosaic((pixels - mean) / std, list("abcde"), preprocess)
    shown = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    assert np.allclose(np.stack(shown), pixels.transpose(0, 2, 3, 1), atol=1e-6)
    assert [axes.get_xlabel() for axes in figure.axes if axes.images] == list("abcde")


@pytest.mark.parametrize(
    ("targets", "names"),
    [
        ([1, 0], ["dog", "cat"]),
        ([[0.05, 0.95, 0.05, 0.05], [0.0, 0.0, 1.0, 0.0]], ["dog", "cow"]),  # smoothed; not
        ([[0.7, 0.3, 0.0, 0.0]], ["cat 70 %\ndog 30 %"]),
        ([[0.05 + 0.54, 0.05 + 0.36, 0.05, 0.05]], ["cat 60 %\ndog 40 %"]),  # mixed and smoothed
    ],
)
def test_targets_are_named_by_what_was_mixed(targets, names):
    assert report.target_names(np.array(targets), ["cat", "dog", "cow", "hen"]) == names


def test_the_split_of_the_time_and_what_to_do_about_it():
    found = speed.shares(steps(60))
    assert [round(found[key], 6) for key in speed.PARTS] == [0.2, 0.133333, 0.666667]
    assert "keeps up" in speed.sentence(found)
    assert "--workers" in speed.sentence({**found, "data_seconds": 0.5})
    whole = [{"epoch": 1, "step": 10, "data_seconds": 1.0, "transfer_seconds": 0.0, "compute_seconds": 3.0}]
    assert speed.by_step(whole)[0]["compute_seconds"] == 0.3


def test_confused_pairs_are_the_largest_cells_off_the_diagonal():
    result = measured(TEN, 900)
    counts = result.confusion()
    pairs = errors.confused(result, 5)
    wrong = sorted((int(counts[i, j]) for i in range(10) for j in range(10) if i != j), reverse=True)
    assert [count for _, _, count, _ in pairs] == wrong[:5]
    for true, said, count, share in pairs:
        i, j = TEN.index(true), TEN.index(said)
        assert (count, share) == (counts[i, j], counts[i, j] / (result.labels == i).sum())


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
