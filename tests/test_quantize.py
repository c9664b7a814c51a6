"""Int8: pictures that judge are not those that calibrate, the drop is measured, and too large a one leaves nothing."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL
from exports import PretendSession, install_pretend, small_model, write_small
from PIL import Image
from training import write_pictures

from swinv2 import cli, runtimes
from swinv2.data import DataError
from swinv2.quantize import LostTooMuch, quantize
from swinv2.quantize.choice import choose
from swinv2.runtimes import RUNTIMES, beside
from swinv2.verbs import Exit, UsageError

pytestmark = pytest.mark.usefixtures("one_process")

PICTURES = 40


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write_small(tmp_path_factory.mktemp("source") / "model.safetensors", config=SMALL)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """In folders named after what the small model says of them: in float it is always right."""
    root, model = tmp_path_factory.mktemp("pictures"), small_model(config=SMALL)
    for i in range(PICTURES):
        pixels = np.random.default_rng(i).integers(0, 255, (3, 3, 3)).astype(np.uint8)
        picture = Image.fromarray(pixels).resize((72, 80), Image.Resampling.BICUBIC)
        with torch.no_grad():
            logits = model(torch.from_numpy(model.record.preprocess(picture))[None])
        place = root / model.record.classes[int(logits.argmax())]
        place.mkdir(exist_ok=True)
        picture.save(place / f"{i}.png")
    return root


# ---------------------------------------------------------------------- the whole, with a runtime that is told


class Told:
    """What the pretended int8 gets wrong: `shift` is added to one class while `needed` layers are not in float."""

    def __init__(self) -> None:
        self.needed, self.shift = 0, 0.0
        self.kept: list[tuple[str, ...]] = []
        self.calibration: list[np.ndarray | None] = []


@pytest.fixture
def told(monkeypatch) -> Told:
    told = Told()
    install_pretend(monkeypatch)

    def export(model, path, options, calibration):
        told.kept.append(options.keep_float)
        told.calibration.append(calibration)
        state = model.state_dict()
        if len(options.keep_float) < told.needed:
            state["head.bias"][6] += told.shift
        torch.save(state, path)
        return {}

    monkeypatch.setattr(sys.modules["pretend_runtime"], "export", export)
    monkeypatch.setattr(PretendSession, "precision", "int8")
    row = replace(
        RUNTIMES["pretend"], exports=("int8",), precisions=("int8",), activations=("static", "dynamic")
    )
    monkeypatch.setitem(runtimes.RUNTIMES, "pretend", row)
    return told


def left_in(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_a_good_int8_is_written_at_once(told, source, pictures, tmp_path):
    (one,) = quantize(source, pictures, "pretend", output=tmp_path / "m.pretend")
    assert (one.drop, one.kept_float, one.layers) == (0.0, (), 37)
    assert told.kept == [()]
    assert left_in(tmp_path) == ["m.pretend", "m.pretend.json"]
    assert (one.judgement.float_accuracy.count, one.judgement.agreement.images) == (20, 20)


def test_it_is_calibrated_on_the_pictures_that_the_record_names(told, source, pictures, tmp_path):
    quantize(source, pictures, "pretend", output=tmp_path / "m.pretend", images=7)
    (calibration,) = told.calibration
    record = beside.read_record(tmp_path / "m.pretend")
    facts = record.provenance["export"]["int8"]
    chosen = choose(pictures, record, images=7, judge=2000).calibration
    assert facts["pictures"]["calibration"]["fingerprint"] == chosen.fingerprint
    expected = [record.preprocess.load(chosen.read(i)) for i in range(len(chosen))]
    assert np.array_equal(calibration, np.stack(expected))


def test_the_most_sensitive_layers_stay_in_float_as_few_as_will_do(told, source, pictures, tmp_path):
    told.needed, told.shift = 3, 0.3
    (one,) = quantize(source, pictures, "pretend", output=tmp_path / "m.pretend")
    assert [len(kept) for kept in told.kept] == [0, 2, 5, 3]
    facts = beside.read_record(tmp_path / "m.pretend").provenance["export"]["int8"]
    assert (
        one.kept_float
        == told.kept[-1]
        == tuple(facts["kept_float"])
        == tuple(name for name, _ in facts["sensitivity"][:3])
    )
    assert len(facts["sensitivity"]) == one.layers == 37
    errors = [error for _, error in facts["sensitivity"]]
    assert errors == sorted(errors, reverse=True)
    assert facts["tries"][0]["drop"] > 0.5
    assert (facts["tries"][-1], one.drop) == ({"kept_float": 3, "drop": 0.0}, 0.0)
    assert (
        len(beside.read_record(tmp_path / "m.pretend").provenance["export"]["verified"]["comparisons"]) == 3
    )


def test_too_large_a_drop_leaves_nothing(told, source, pictures, tmp_path):
    told.needed, told.shift = 99, 0.3
    (tmp_path / "m.pretend").write_text("older")
    with pytest.raises(
        LostTooMuch, match=r"points of accuracy with 18 of 37 layers in float, and 0\.5 are allowed"
    ):
        quantize(source, pictures, "pretend", output=tmp_path / "m.pretend")
    assert left_in(tmp_path) == ["m.pretend"]
    assert (tmp_path / "m.pretend").read_text() == "older"


def test_a_drop_that_is_allowed_is_written_and_said(told, source, pictures, tmp_path):
    told.needed, told.shift = 99, 0.3
    (one,) = quantize(source, pictures, "pretend", output=tmp_path / "m.pretend", max_drop=60)
    assert 0 < one.drop <= 60
    assert one.judgement.accuracy.percent == pytest.approx(100 - one.drop)
    assert one.judgement.drop_interval[0] < one.drop < one.judgement.drop_interval[1]


def test_what_is_not_the_same_network_counts_as_too_large_a_drop(told, source, pictures, tmp_path):
    told.needed, told.shift = 1, 100.0
    (one,) = quantize(source, pictures, "pretend", output=tmp_path / "m.pretend", max_drop=100)
    assert len(one.kept_float) == 1
    assert one.facts["tries"][0]["drop"] is None


def test_what_is_never_the_same_network_is_refused_with_the_difference(told, source, pictures, tmp_path):
    told.needed, told.shift = 99, 100.0
    with pytest.raises(LostTooMuch, match=r"logits differ by .* with 18 of 37 layers in float"):
        quantize(source, pictures, "pretend", output=tmp_path / "m.pretend")
    assert left_in(tmp_path) == []


def test_few_pictures_are_named_as_the_reason(told, source, pictures, tmp_path):
    told.needed, told.shift = 99, 0.3
    with pytest.raises(LostTooMuch, match=r"one of 20 pictures is 5 points: give more"):
        quantize(source, pictures, "pretend", output=tmp_path / "m.pretend")


def test_dynamic_activations_need_no_calibration(told, source, pictures, tmp_path):
    (one,) = quantize(source, pictures, "pretend", output=tmp_path / "m.pretend", activations="dynamic")
    assert told.calibration == [None]
    assert (one.facts["activations"], one.facts["pictures"]["calibration"]) == ("dynamic", None)


def test_a_picture_that_cannot_be_read_is_named(told, source, tmp_path):
    write_pictures(tmp_path / "data", 4)
    (tmp_path / "data" / "red" / "1.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"red/1\.png.*repair it or remove it"):
        quantize(source, tmp_path / "data", "pretend", output=tmp_path / "m.pretend")


def test_several_labels_a_picture_are_judged_by_all_of_them(told, source, pictures, tmp_path):
    model, rows = small_model(config=SMALL), ["file,labels"]
    for file in sorted(pictures.rglob("*.png")):
        with torch.no_grad():
            scores = model(torch.from_numpy(model.record.preprocess.load(file))[None]).sigmoid()[0]
        there = [name for name, score in zip(model.record.classes, scores, strict=True) if score >= 0.5]
        rows.append(f"{file},{';'.join(there)}")
    (tmp_path / "all.csv").write_text("\n".join(rows) + "\n")
    told.needed, told.shift = 99, 0.3
    (one,) = quantize(source, tmp_path / "all.csv", "pretend", output=tmp_path / "m.pretend", max_drop=100)
    assert one.judgement.float_accuracy.percent == 100
    assert one.judgement.accuracy.percent < 100


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"to": "torchscript"}, UsageError, r"torchscript has no int8; choose from onnx, openvino"),
        ({"to": "int8"}, UsageError, r"int8 has no int8; choose from"),
        ({"data": None}, UsageError, r"int8 needs pictures to be calibrated and judged on; add --data"),
        ({"max_drop": -1}, UsageError, r"max_drop is -1; give points between 0 and 100"),
        ({"images": 0}, UsageError, r"images is 0; give at least 1"),
        ({"judge": 0}, UsageError, r"judge is 0; give at least 1"),
        ({"activations": "none"}, ValueError, r"takes static or dynamic activations, not 'none'"),
        ({"data": "nowhere"}, FileNotFoundError, r"there is no folder nowhere"),
        ({"output": "m.onnx"}, UsageError, r"files of pretend end in"),
    ],
)
def test_impossible_options_are_a_sentence(told, source, pictures, options, error, words):
    with pytest.raises(error, match=words):
        quantize(source, **{"data": pictures, "to": "pretend"} | options)


def test_a_runtime_that_is_not_here_cannot_be_judged(told, source, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(
        sys.modules["pretend_runtime"], "unsupported", lambda *_: "pretend runs on the moon only"
    )
    with pytest.raises(ValueError, match="runs on the moon only"):
        quantize(source, pictures, "pretend", output=tmp_path / "m.pretend")
    assert left_in(tmp_path) == []


# ---------------------------------------------------------------------- for real


FORMATS = [
    pytest.param(name, kind, marks=[] if name == "onnx" else pytest.mark.slow)
    for name, row in RUNTIMES.items()
    if "int8" in row.exports
    for kind in row.activations
]


@pytest.mark.parametrize(("name", "activations"), FORMATS)
def test_int8_is_small_and_answers_as_the_float_model_does(name, activations, source, pictures, tmp_path):
    target = tmp_path / f"m{RUNTIMES[name].suffixes[0]}"
    (one,) = quantize(source, pictures, name, output=target, activations=activations, max_drop=10)
    assert one.exported.size < 0.45 * source.stat().st_size
    assert one.judgement.agreement.percent >= 90
    assert 1e-5 < one.exported.worst.error < 0.1  # 0 would be the float model beside itself
    with runtimes.open_session(target, name) as session:
        assert (session.precision, session.runtime) == ("int8", name)
    first = [file.read_bytes() for file in RUNTIMES[name].files(target)]
    quantize(source, pictures, name, output=target, activations=activations, max_drop=10)
    assert [file.read_bytes() for file in RUNTIMES[name].files(target)] == first


# ---------------------------------------------------------------------- the command


def line(source: Path, pictures: Path, *more: str) -> list[str]:
    return ["quantize", str(source), "--data", str(pictures), *more]


@pytest.fixture
def two(told, monkeypatch):
    """`--to onnx` goes to the format that is told; the others are as they are."""
    pretend = replace(RUNTIMES["pretend"], name="onnx")
    monkeypatch.setitem(runtimes.RUNTIMES, "onnx", pretend)
    return told


def test_the_table_says_what_it_costs_and_where_it_was_measured(two, source, pictures, tmp_path, capsys):
    two.needed, two.shift = 1, 0.3
    assert cli.main(line(source, pictures, "--to", "onnx", "--output", f"{tmp_path}/")) == Exit.DONE
    said = capsys.readouterr()
    out = " ".join(said.out.split())
    assert "1 of 37" in out
    assert "100.00 % 0.00 (" in out
    assert "the float model: 100.00 % (83.89 to 100.00)" in out
    assert (
        f"calibrated on 20 pictures of {pictures.name}/all, judged on 20 others of {pictures.name}/all" in out
    )
    assert "onnx keeps in float: head" in out
    assert "trying each of 37 layers" in said.err


def test_without_labels_the_agreement_has_the_interval(two, source, tmp_path, capsys):
    write_pictures(tmp_path / "data", 8, classes=("cat", "dog"))
    assert cli.main(line(source, tmp_path / "data", "--to", "onnx", "--output", f"{tmp_path}/")) == Exit.DONE
    said = capsys.readouterr()
    assert "100.00 % (67.56 to 100.00)" in " ".join(said.out.split())
    assert "labels are not used, and each answer that differs counts as lost" in said.err


def test_json_has_everything_and_names_what_failed(two, source, pictures, tmp_path, capsys):
    more = ("--to", "onnx,litert", "--activations", "static", "--output", f"{tmp_path}/", "--json")
    assert cli.main(line(source, pictures, *more)) == Exit.PARTIAL
    done, failed = json.loads(capsys.readouterr().out)
    assert (done["format"], done["drop"], done["agreement"]["images"]) == ("onnx", 0.0, 20)
    assert done["int8"]["pictures"]["judged_on"]["has_labels"] is True
    assert failed["format"] == "litert"
    assert "takes dynamic activations, not 'static'" in failed["error"]


def test_too_large_a_drop_is_exit_code_3(two, source, pictures, tmp_path, capsys):
    two.needed, two.shift = 99, 0.3
    assert cli.main(line(source, pictures, "--to", "onnx", "--output", f"{tmp_path}/")) == Exit.MODEL
    assert "was not written: it loses" in capsys.readouterr().err
    assert left_in(tmp_path) == []


def test_export_in_int8_is_the_same(two, source, pictures, tmp_path, capsys):
    more = ["--to", "onnx", "--precision", "int8", "--output", f"{tmp_path}/"]
    assert cli.main(["export", str(source), *more]) == Exit.USAGE
    assert "add --data" in capsys.readouterr().err
    assert cli.main(["export", str(source), *more, "--data", str(pictures), "--dynamic-size"]) == Exit.USAGE
    assert "int8 is written for one image size" in capsys.readouterr().err
    assert cli.main(["export", str(source), *more, "--data", str(pictures)]) == Exit.DONE
    assert left_in(tmp_path) == ["model.int8.pretend", "model.int8.pretend.json"]
    assert "int8" in beside.read_record(tmp_path / "model.int8.pretend").provenance["export"]
