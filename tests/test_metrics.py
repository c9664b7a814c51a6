"""Figures against scikit-learn, scipy, torch and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, average_precision_score, f1_score

from swinv2 import metrics, multilabel
from swinv2.metrics import NOTHING, Tally, calibration_error, reliability, wilson


@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
@pytest.mark.parametrize(("correct", "images"), [(0, 1), (1, 1), (0, 20), (7, 9), (50, 100), (43210, 50000)])
def test_the_interval_is_wilsons(correct, images, level):
    expected = binomtest(correct, images).proportion_ci(level, method="wilson")
    assert wilson(correct, images, level) == pytest.approx((expected.low, expected.high), abs=1e-12)


def confident(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores, and answers that are right less often than the scores say."""
    random = np.random.default_rng(seed)
    scores = random.uniform(0.1, 1, count)
    return scores, random.uniform(size=count) < scores**2


def test_reliability_is_scikit_learns_calibration_curve():
    scores, correct = confident(3000)
    accuracy, confidence = calibration_curve(correct, scores, n_bins=15, strategy="uniform")
    rows = reliability(scores, correct)
    assert [row["accuracy"] for row in rows] == pytest.approx(accuracy)
    assert [row["confidence"] for row in rows] == pytest.approx(confidence)
    assert sum(row["images"] for row in rows) == 3000


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_the_calibration_error_is_that_of_a_plain_loop(bins):
    scores, correct = confident(500, seed=1)
    expected = 0.0
    for b in range(bins):
        inside = [i for i in range(500) if b / bins < scores[i] <= (b + 1) / bins]
        if inside:
            expected += abs(sum(scores[i] for i in inside) - sum(correct[i] for i in inside)) / 500
    assert calibration_error(scores, correct, bins) == pytest.approx(expected)
    assert expected > 0.05


def test_a_score_on_an_edge_is_in_the_lower_bin_and_one_is_in_the_last():
    rows = reliability(np.array([0.2, 0.2000001, 1.0]), np.array([True, False, True]), bins=5)
    assert [(row["low"], row["images"]) for row in rows] == [(0.0, 1), (0.2, 1), (0.8, 1)]


def test_a_model_that_is_right_as_often_as_it_says_is_calibrated():
    scores = np.repeat([0.25, 0.75], 4000)
    correct = np.concatenate([np.arange(4000) % 4 == 0, np.arange(4000) % 4 != 0])
    assert calibration_error(scores, correct) == pytest.approx(0)
    assert calibration_error(scores, ~correct) == pytest.approx(0.5)


# ---------------------------------------------------------------- pictures without an answer


def tally_with_a_gap() -> Tally:
    tally = Tally(("a", "b", "c"))
    tally.add(np.eye(3, dtype=np.float32)[[0, 1, 1]] * 5, np.array([0, 1, 2]), np.array([0, 1, 3]))
    tally.add_unreadable(0, 2)
    return tally


def test_a_picture_without_an_answer_is_wrong_in_every_count():
    measured = tally_with_a_gap().measurement()
    assert (measured.images, measured.correct, measured.unreadable) == (4, 2, 1)
    assert measured.top1 == 50
    assert measured.in_top.tolist() == [True, True, False, True]
    assert measured.predictions.tolist() == [0, 1, NOTHING, 1]
    rows = {row["class"]: row for row in measured.per_class()}
    assert (rows["a"]["images"], rows["a"]["correct"], rows["a"]["precision"]) == (2, 1, 100)
    assert measured.confusion().sum() == 3


def test_loss_and_calibration_leave_it_out():
    measured = tally_with_a_gap().measurement()
    logits = torch.eye(3)[[0, 1, 1]] * 5
    assert measured.loss == pytest.approx(
        float(torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2])))
    )
    assert measured.ece == pytest.approx(100 * abs(float(logits.softmax(1).max()) - 2 / 3), abs=1e-4)


def test_its_row_has_no_prediction():
    rows = tally_with_a_gap().measurement().answers(["p", "q", "r", "s"])
    assert rows[2] == {"file": "r", "label": "a", "prediction": "", "score": "0", "loss": "", "correct": 0}
    assert list(rows[0]) == ["file", "label", "prediction", "score", "loss", "correct"]
    assert [row["file"] for row in rows] == ["p", "q", "r", "s"]


def test_shares_of_several_processes_make_the_whole():
    logits = np.random.default_rng(0).normal(size=(10, 6)).astype(np.float32)
    labels = np.arange(10) % 6
    whole, parts = Tally(tuple("abcdef")), [Tally(tuple("abcdef")) for _ in range(3)]
    whole.add(logits, labels, np.arange(10))
    for rank, part in enumerate(parts):
        for i in range(rank, 10, 3):
            part.add(logits[i : i + 1], labels[i : i + 1], np.array([i]))
    first = parts[0]
    first.gather(lambda rows: [part.rows for part in parts])
    a, b = whole.measurement(), first.measurement()
    assert a.to_dict() == b.to_dict()
    assert np.array_equal(a.top, b.top)


def test_a_picture_that_is_counted_twice_is_a_defect():
    tally = Tally(("a", "b"))
    for _ in range(2):
        tally.add(np.zeros((1, 2)), np.array([0]), np.array([7]))
    with pytest.raises(AssertionError, match="twice"):
        tally.measurement()


# ---------------------------------------------------------------- several classes a picture


def several(classes: int, images: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels that have something to do with each other; the last of many classes has no picture."""
    random = np.random.default_rng(seed)
    labels = random.uniform(size=(images, classes)) < 0.3
    if classes > 2:
        labels[:, -1] = False
    logits = (random.normal(size=(images, classes)) * 2 + 2 * labels - 1).astype(np.float32)
    return logits, labels


def measured_of(logits, labels, thresholds=None) -> multilabel.Measurement:
    tally = multilabel.Tally(tuple(f"c{i}" for i in range(labels.shape[1])), thresholds)
    for start in range(0, len(logits), 7):
        part = slice(start, start + 7)
        tally.add(logits[part], labels[part].astype(np.float32), np.arange(len(logits))[part])
    return tally.measurement()


@pytest.mark.parametrize("classes", [1, 2, 5])
@pytest.mark.parametrize("threshold", [0.5, 0.3])
def test_multi_label_figures_are_those_of_scikit_learn(classes, threshold):
    logits, labels = several(classes)
    scores = torch.tensor(logits, dtype=torch.float64).sigmoid().numpy()
    said, present = scores >= threshold, [c for c in range(classes) if labels[:, c].any()]
    measured = measured_of(logits, labels, [threshold] * classes)
    ap = [average_precision_score(labels[:, c], scores[:, c]) for c in present]
    f1 = [f1_score(labels[:, c], said[:, c]) for c in present]
    assert measured.mean_ap == pytest.approx(100 * np.mean(ap))
    assert measured.f1("macro") == pytest.approx(100 * np.mean(f1))
    assert measured.f1("micro") == pytest.approx(100 * f1_score(labels.ravel(), said.ravel()))
    assert measured.exact == pytest.approx(100 * (said == labels).all(1).mean())
    if classes > 1:
        assert measured.exact == pytest.approx(100 * accuracy_score(labels, said))
    rows = measured.per_class()
    assert [row["class"] for row in rows] == [f"c{c}" for c in present]
    assert [row["f1"] for row in rows] == pytest.approx([100 * value for value in f1])
    assert [row["ap"] for row in rows] == pytest.approx([100 * value for value in ap])
    assert [row["images"] for row in rows] == labels[:, present].sum(0).tolist()


def test_the_multi_label_loss_is_binary_cross_entropy():
    logits, labels = several(5)
    logits[0, 0] = 3e4  # torch and we stay finite
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor(logits, dtype=torch.float64), torch.tensor(labels, dtype=torch.float64)
    )
    assert measured_of(logits, labels).loss == pytest.approx(float(expected))


def test_the_best_threshold_has_the_highest_f1_of_all():
    logits, labels = several(4, images=80, seed=3)
    measured = measured_of(logits, labels)
    best = measured.best_thresholds()
    for c in measured.present:
        reached = f1_score(labels[:, c], measured.scores[:, c] >= best[c])
        tried = [f1_score(labels[:, c], measured.scores[:, c] >= t) for t in np.linspace(0.001, 0.999, 999)]
        assert reached >= max(tried) - 1e-12
    assert best[3] == 0.5, "a class without pictures keeps its threshold"
    tuned = measured_of(logits, labels, best)
    assert tuned.f1("macro") > measured.f1("macro")
    assert tuned.mean_ap == measured.mean_ap


def test_pictures_of_nothing_and_unreadable_ones():
    tally = multilabel.Tally(("sea", "sky"))
    tally.add(np.array([[-9.0, -9.0], [9.0, 9.0]]), np.array([[0, 0], [1, 1]]), np.array([0, 2]))
    tally.add_unreadable(np.array([0, 0]), 1)
    measured = tally.measurement()
    assert measured.is_correct.tolist() == [True, False, True], (
        "no answer is not the answer that nothing is there"
    )
    assert measured.unreadable == 1
    rows = measured.answers(["a", "b", "c"])
    assert [row["label"] for row in rows] == ["", "", "sea;sky"]
    assert [row["prediction"] for row in rows] == ["", "", "sea;sky"]
    assert [row["correct"] for row in rows] == [1, 0, 1]
    assert rows[1]["loss"] == ""


def test_both_kinds_of_data_have_the_same_columns():
    one = tally_with_a_gap().measurement().answers(["a", "b", "c", "d"])
    logits, labels = several(3, images=4)
    many = measured_of(logits, labels).answers(["a", "b", "c", "d"])
    assert list(one[0]) == list(many[0])
    assert {"images", "correct", "loss", "unreadable"} <= metrics.Measurement.to_dict(
        tally_with_a_gap().measurement()
    ).keys() & measured_of(logits, labels).to_dict().keys()
