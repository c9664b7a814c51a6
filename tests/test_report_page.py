"""report.html: whole, self-contained, right in its figures, and there whatever is missing."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from saved import LONG, epochs, write_run
from training import COLOURS, SPECK, write_split

from swinv2 import checkpoints, cli, report
from swinv2.artifact import Record
from swinv2.data import read_split
from swinv2.images import decode
from swinv2.metrics import Tally
from swinv2.model import SwinV2
from swinv2.preprocess import Preprocess
from swinv2.report import learning, page, sections

TEN = [f"digit-{i}" for i in range(10)]


class Page(HTMLParser):
    """What is in a page: tags with their attributes, and the text of each section."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.sections: dict[str, str] = {}
        self.section = ""
        self.text = path.read_text()
        self.feed(self.text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag == "section":
            self.section = dict(attrs)["id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.section = "" if tag == "section" else self.section

    def handle_data(self, data):
        self.sections[self.section] = self.sections.get(self.section, "") + data

    def images(self) -> list[dict]:
        return [attributes for tag, attributes in self.tags if tag == "img"]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Page]:
    folder = tmp_path_factory.mktemp("run")
    write_run(folder, TEN)
    return folder, Page(report.write(folder))


def test_the_page_asks_for_nothing_from_outside(made):
    _, found = made
    assert not {tag for tag, _ in found.tags} & {"script", "link", "iframe", "object", "video", "base"}
    for _, attributes in found.tags:
        for name in ("src", "href", "srcset", "style"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/")), attributes
    assert not re.search(r"url\(|@import", found.text)
    assert found.open == []


def test_every_picture_is_whole_and_has_words_in_its_place(made):
    _, found = made
    assert len(found.images()) >= 12
    for image in found.images():
        assert len(image["alt"]) > 15
        with Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))) as picture:
            colours = len(set(np.asarray(picture.convert("RGB")).reshape(-1, 3).sum(1).tolist()))
            assert colours > 20, f"nothing is drawn: {image['alt']}"


def test_every_section_says_something_and_none_failed(made, capsys):
    _, found = made
    assert list(found.sections)[1:] == [name for name in page.SECTIONS if name != "reconstruction"]
    assert "could not be made" not in found.text
    links = {attributes["href"] for tag, attributes in found.tags if tag == "a"}
    assert links == {f"#{name}" for name in page.SECTIONS if name != "reconstruction"}


def test_the_headline_is_the_count_its_interval_and_the_calibration_error(tmp_path, only):
    only("recipe")
    result = write_run(tmp_path, TEN)
    text = Page(report.write(tmp_path)).sections[""]
    right, n = int((result.labels == result.predictions).sum()), result.images
    share, z = right / n, 1.959963985
    middle, half = share + z * z / 2 / n, z * math.sqrt(share * (1 - share) / n + z * z / 4 / n / n)
    low, high = (100 * (middle + sign * half) / (1 + z * z / n) for sign in (-1, 1))
    assert f"{100 * share:.2f} %" in text
    assert f"{right} of {n} held-out pictures; 95 % interval {low:.1f} to {high:.1f} %" in text
    error = 0.0
    for b in range(15):
        inside = (result.scores > b / 15) & (result.scores <= (b + 1) / 15)
        if inside.any():
            correct = (result.labels == result.predictions)[inside].mean()
            error += inside.mean() * abs(correct - result.scores[inside].mean())
    assert f"{100 * error:.2f} %calibration error" in text


@pytest.fixture
def only(monkeypatch):
    """Leave sections out that a test does not ask for; drawing takes its time."""

    def leave(*names: str) -> None:
        monkeypatch.setattr(page, "SECTIONS", {name: page.SECTIONS[name] for name in names})

    return leave


MISSING = {
    "metrics.jsonl":   ("learning", "no epochs in metrics.jsonl"),
    "predictions.csv": ("confusion", "no predictions.csv"),
    "summary.json":    ("data", "does not say how many pictures"),
    "augmented.png":   ("batch", "no augmented.png"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISSING)
def test_a_file_that_is_missing_leaves_a_sentence_in_its_section(name, tmp_path, only, capsys):
    write_run(tmp_path, ["cat", "dog"], images=30)
    (tmp_path / name).unlink()
    only(MISSING[name][0], "recipe")
    found = Page(report.write(tmp_path))
    section, sentence = MISSING[name]
    assert sentence in found.sections[section]
    assert "could not be made" not in found.text
    assert capsys.readouterr().err == ""


def test_a_plot_that_fails_keeps_the_others(tmp_path, monkeypatch, only, capsys):
    only("learning", "classes", "time")
    write_run(tmp_path, ["cat", "dog"], images=30)
    monkeypatch.setattr(learning, "loss_panel", lambda *_: 1 / 0)
    found = Page(report.write(tmp_path))
    assert "This section could not be made: ZeroDivisionError" in found.sections["learning"]
    assert "'How it learnt' could not be made" in capsys.readouterr().err
    assert len(found.images()) == 3


def test_names_cannot_become_part_of_the_page(tmp_path, only):
    only("confusion", "classes", "gallery")
    evil = ["<script>alert(1)</script>", '"><img src=x onerror=y>', "$5 & more"]
    write_run(tmp_path, evil, images=40)
    found = Page(report.write(tmp_path))
    assert not any(tag == "script" or "onerror" in attributes for tag, attributes in found.tags)
    assert evil[0] in found.sections["classes"]


@pytest.mark.parametrize("names", [[LONG.format(i) for i in range(12)], [f"species {i}" for i in range(60)]])
def test_many_and_long_classes_have_a_row_each(names, tmp_path, only):
    only("confusion", "classes", "data")
    write_run(tmp_path, names, images=300)
    found = Page(report.write(tmp_path))
    assert all(name in found.sections["classes"] for name in names)
    assert "could not be made" not in found.text
    pairs = any("most frequent mistake" in image["alt"] for image in found.images())
    assert pairs == (len(names) > sections.MANY)


def without_score(row: dict) -> dict:
    return {key: value for key, value in row.items() if not key.endswith("top1")}


def test_a_pre_training_shows_what_was_completed(tmp_path):
    rows = [{"kind": "epoch", **without_score(row)} for row in epochs(2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Image.new("RGB", (40, 20), "teal").save(tmp_path / "reconstruction.png")
    held_out = {"loss": 0.75, "images": 40}
    (tmp_path / "summary.json").write_text(json.dumps({"task": "pre-training", "held_out": held_out}))
    found = Page(report.write(tmp_path))
    assert {"learning", "reconstruction"} <= set(found.sections)
    assert not {"confusion", "gallery"} & set(found.sections)
    assert "0.7500lowest held-out loss, in epoch 2" in found.sections[""]
    assert "could not be made" not in found.text


def test_pictures_with_several_classes_have_figures_of_their_own(tmp_path, only):
    only("confusion", "classes", "calibration")
    held_out = {"images": 3, "correct": 1, "map": 71.5, "f1_micro": 66.67, "exact": 33.33, "loss": 0.4}
    (tmp_path / "summary.json").write_text(json.dumps({"classes": ["cat", "dog"], "held_out": held_out}))
    answers = [("a.png", "cat|dog", "cat|dog"), ("b.png", "cat", ""), ("c.png", "", "dog")]
    report.results_csv(
        tmp_path / "predictions.csv",
        [
            {"file": f, "label": t, "prediction": p, "score": 0.7, "loss": 0.3, "correct": int(t == p)}
            for f, t, p in answers
        ],
    )
    found = Page(report.write(tmp_path))
    assert "71.50 %" in found.sections[""]
    assert re.search(
        r"cat\s*2\s*50\.00\s*100\.00\s*66\.67", found.sections["classes"]
    )  # recall, precision, F1
    assert "none is taken for another" in found.sections["confusion"]
    assert "could not be made" not in found.text


def test_an_evaluation_has_no_sections_about_learning(tmp_path):
    write_run(tmp_path, ["cat", "dog"], images=30)
    figures = json.loads((tmp_path / "summary.json").read_text())["held_out"] | {"runtime": "torch on cpu"}
    for name in ("summary.json", "metrics.jsonl", "recipe.yaml", "augmented.png"):
        (tmp_path / name).unlink()
    (tmp_path / "evaluation.json").write_text(json.dumps(figures))
    found = Page(report.write(tmp_path))
    assert list(found.sections)[1:] == ["confusion", "classes", "calibration", "gallery", "recipe"]
    assert "measured on torch on cpu" in found.sections[""]
    assert "could not be made" not in found.text


@pytest.mark.parametrize("name", ["summary.json", "metrics.jsonl", "predictions.csv"])
def test_a_damaged_file_is_named(name, tmp_path):
    write_run(tmp_path, ["cat", "dog"], images=30)
    text = (tmp_path / name).read_text()
    (tmp_path / name).write_text(text[:40] + "\n" + text[60:])
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        report.write(tmp_path)


def test_a_last_line_that_was_cut_is_left_out(tmp_path):
    write_run(tmp_path, ["cat", "dog"], images=30)
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"kind": "step", "st')
    assert len(report.read_lines(path)) == 15


def test_the_command_names_the_page_and_refuses_a_folder_without_a_run(tmp_path, only, capsys):
    only("recipe")
    write_run(tmp_path / "run", ["cat", "dog"], images=30)
    assert cli.main(["report", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"report": str(tmp_path / "run" / "report.html")}
    assert cli.main(["report", str(tmp_path)]) == 3
    assert "holds no run" in capsys.readouterr().err
    assert cli.main(["report", str(tmp_path / "nowhere")]) == 3
    assert "there is no folder" in capsys.readouterr().err


# ---------------------------------------------------------------------- the gallery, with real pictures


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A model of random weights, measured on pictures that are there."""
    root = tmp_path_factory.mktemp("gallery")
    split = read_split(write_split(root / "data", held_out=8))
    torch.manual_seed(0)
    network = SwinV2(SPECK).eval()
    record = Record(SPECK, Preprocess.official(32), tuple(COLOURS))
    folder = root / "run"
    write_run(folder, list(COLOURS), data=root / "data")
    checkpoints.save(network, folder / "best.safetensors", record)
    tally = Tally(split.classes)
    images = np.stack([record.preprocess(decode(split.read(i))) for i in range(len(split))])
    with torch.no_grad():
        tally.add(network(torch.from_numpy(images)).numpy(), np.array(split.labels), np.arange(len(split)))
    report.results_csv(folder / "predictions.csv", tally.measurement().answers(split.names))
    return folder


def test_the_gallery_shows_the_pictures_and_where_the_model_looked(run, only):
    only("gallery")
    found = Page(report.write(run))
    answers = report.saved.Saved.read(run).answers
    wrong = sorted((a for a in answers if a["label"] != a["prediction"]), key=lambda a: -a["score"])[:12]
    text = found.sections["gallery"]
    places = [text.index(answer["file"]) for answer in wrong]
    assert places == sorted(places)
    maps = [image for image in found.images() if "Grad-CAM" in image["alt"]]
    shown = [image for image in found.images() if ": shows " in image["alt"]]
    assert len(maps) == len(shown) == found.text.count("answer <b>")
    first = next(image for image in shown if image["alt"].startswith(wrong[0]["file"]))
    with Image.open(io.BytesIO(base64.b64decode(first["src"].partition(",")[2]))) as picture:
        original = decode(run.parent / "data" / wrong[0]["file"])
        assert picture.tobytes() == original.tobytes()  # a small picture is shown as it is


def test_maps_can_be_left_out(run, only):
    only("gallery")
    found = Page(report.write(run, grad_cam=False))
    assert not any("Grad-CAM" in image["alt"] for image in found.images())
    assert any(": shows " in image["alt"] for image in found.images())


def test_pictures_that_have_moved_are_found_where_data_says(run, tmp_path, only):
    only("gallery")
    (run.parent / "data").rename(tmp_path / "moved")
    try:
        assert "--data FOLDER says where they are" in Page(report.write(run)).sections["gallery"]
        found = Page(report.write(run, data=tmp_path / "moved"))
        assert any(": shows " in image["alt"] for image in found.images())
    finally:
        (tmp_path / "moved").rename(run.parent / "data")
