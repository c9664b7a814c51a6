"""Exports appear under their names when they give the answers of the model, and leave nothing behind otherwise."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TWO_STAGES
from exports import small_model, write_small
from PIL import Image

import swinv2
from swinv2 import artifact, child, cli, verification
from swinv2.deployments import DEPLOYMENTS
from swinv2.export import Disagreement, export, target
from swinv2.runtimes import RUNTIMES, Node, beside, formats, open_session
from swinv2.verbs import Exit, UsageError


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write_small(tmp_path_factory.mktemp("source") / "model.safetensors")


@pytest.fixture(scope="module")
def exported(source, tmp_path_factory) -> swinv2.export.Exported:
    """For real: in processes of their own."""
    (one,) = export(source, "torchscript", output=tmp_path_factory.mktemp("exported") / "model.torchscript")
    return one


def left_in(folder: Path) -> list[str]:
    """Everything in a folder, hidden files too."""
    return sorted(os.listdir(folder))


# ---------------------------------------------------------------------- what is written


def test_an_export_answers_as_the_model_does(exported):
    x = np.random.default_rng(0).standard_normal((3, 3, 64, 64)).astype(np.float32)
    with torch.no_grad():
        exact = small_model().double()(torch.from_numpy(x).double()).numpy()
    with open_session(exported.path, device="cpu") as session:
        assert np.abs(session.run(x) - exact).max() < 2e-5 * np.abs(exact).max()


def test_it_is_compared_at_batches_1_2_and_7(exported):
    assert [c.batch for c in exported.comparisons] == [1, 2, 7]
    assert all(0 < c.error < 1e-4 for c in exported.comparisons)  # 0 would be the model beside itself
    assert all(c.agreement == 1 and c.cosine > 0.999999 for c in exported.comparisons)


def test_the_record_travels_with_figures_and_origin(exported, source):
    found, written = (
        artifact.read_record(source),
        verification.read_record(RUNTIMES["torchscript"], exported.path),
    )
    assert (written.classes, written.preprocess, written.config) == (
        found.classes,
        found.preprocess,
        found.config,
    )
    assert written.provenance["recipe"] == "none"
    about = written.provenance["export"]
    assert (about["format"], about["precision"], about["dynamic"]) == ("torchscript", "fp32", ["batch"])
    assert torch.__version__.startswith(about["written_with"]["torch"])
    assert about["verified"]["device"] == "cpu"
    assert [c["batch"] for c in about["verified"]["comparisons"]] == [1, 2, 7]
    assert about["graph"]["largest_rank"] <= 4
    assert about["graph"]["operators"]["softmax"] == sum(TWO_STAGES.depths)


def test_the_same_export_twice_is_the_same_file(exported, source, tmp_path):
    (again,) = export(source, "torchscript", output=tmp_path / "model.torchscript")
    assert again.path.read_bytes() == exported.path.read_bytes()


def test_a_model_in_memory_is_exported(pretend, tmp_path):
    (one,) = export(small_model(), "pretend", output=tmp_path / "m.pretend")
    assert left_in(tmp_path) == ["m.pretend", "m.pretend.json"]
    assert one.about["level"] == 3


def test_another_image_size_is_that_of_the_record(pretend, source, tmp_path):
    (one,) = export(source, "pretend", output=tmp_path / "m.pretend", image_size=96)
    assert beside.read_record(one.path).preprocess.size == (96, 96)
    assert {c.size for c in one.comparisons} == {(96, 96)}


def test_a_runtime_that_is_not_here_leaves_the_file_marked(pretend, source, tmp_path):
    pretend.absent = "pretend runs on the moon only"
    (one,) = export(source, "pretend", output=tmp_path / "m.pretend")
    assert (one.comparisons, one.not_run) == ((), "pretend runs on the moon only")
    about = beside.read_record(one.path).provenance["export"]
    assert (about["verified"], about["not_run"]) == (None, "pretend runs on the moon only")


# ---------------------------------------------------------------------- what is refused


def refused(error: type[Exception], words: str, source: Path, folder: Path) -> None:
    """An export fails with a sentence, and an older file under its name is as it was."""
    folder.mkdir(exist_ok=True)
    (folder / "m.pretend").write_text("older")
    with pytest.raises(error, match=words):
        export(source, "pretend", output=folder / "m.pretend")
    assert left_in(folder) == ["m.pretend"]
    assert (folder / "m.pretend").read_text() == "older"


def test_other_answers_are_refused(pretend, source, tmp_path):
    pretend.gain = 1.001
    refused(
        Disagreement,
        r"does not give the answers of the torch model; at batch 1 and 64 x 64",
        source,
        tmp_path,
    )


def test_a_graph_that_breaks_the_rules_is_refused(pretend, source, tmp_path):
    pretend.nodes = [Node("MatMul", 3), Node("Roll", 4), Node("Reshape", 6)]
    refused(
        ValueError, r"breaks the rules: Roll occurs 1 times; 1 results have more than 4", source, tmp_path
    )


def test_a_full_disk_leaves_nothing(pretend, source, tmp_path):
    pretend.error = OSError(errno.ENOSPC, "No space left on device", "m.pretend")
    refused(OSError, "No space left", source, tmp_path)


def test_a_converter_that_dies_leaves_nothing(pretend, source, tmp_path):
    pretend.error = child.Died("writing m.pretend ended with signal SIGSEGV")
    refused(child.Died, "ended with signal SIGSEGV", source, tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_sigterm_puts_everything_away(source, tmp_path):
    line = [
        sys.executable,
        "-m",
        "swinv2",
        "export",
        str(source),
        "--to",
        "torchscript",
        "--output",
        f"{tmp_path}/",
    ]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        while not left_in(tmp_path):
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == Exit.TERMINATED
    assert left_in(tmp_path) == []


def test_a_damaged_model_is_refused_before_anything_is_written(source, tmp_path):
    damaged = tmp_path / "damaged.safetensors"
    content = bytearray(source.read_bytes())
    content[-5] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(artifact.ArtifactError, match="is damaged"):
        export(damaged, "torchscript")
    assert left_in(tmp_path) == ["damaged.safetensors"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"to": "onxx"}, r"there is no format 'onxx'; choose from onnx, openvino"),
        (
            {"to": "torchscript", "precision": "int4"},
            r"torchscript is written in fp32, bf16, fp16, not in 'int4'",
        ),
        (
            {"to": "torchscript", "dynamic_size": True},
            r"torchscript is written for one image size; leave --dynamic",
        ),
        (
            {"to": "torchscript", "output": "m.onnx"},
            r"--output is m.onnx; files of torchscript end in \.torchscript",
        ),
        ({"to": ["torchscript", "onnx"], "output": "m.onnx"}, r"one file for several formats; give a folder"),
        ({"to": "torchscript", "data": "photos"}, r"--data is for int8"),
    ],
)
def test_impossible_options_are_a_sentence(options, words, source):
    with pytest.raises(ValueError, match=words):
        export(source, **options)


def test_a_model_without_record_is_refused():
    model = small_model()
    model.record = None
    with pytest.raises(ValueError, match="has no record"):
        export(model, "torchscript")


@pytest.mark.parametrize(
    ("model", "name", "precision", "output", "several", "expected"),
    [
        ("runs/demo/best.safetensors", "onnx", "fp32", None, False, "runs/demo/best.onnx"),
        ("runs/demo/best.safetensors", "openvino", "int8", None, False, "runs/demo/best.int8.xml"),
        ("swinv2_tiny_window8_256", "litert", "fp32", None, False, "swinv2_tiny_window8_256.tflite"),
        (
            "swinv2_tiny_window8_256.ms_in1k",
            "pt2",
            "bf16",
            None,
            False,
            "swinv2_tiny_window8_256.ms_in1k.bf16.pt2",
        ),
        ("best.safetensors", "onnx", "fp32", "out/", True, "out/best.onnx"),
        ("best.safetensors", "onnx", "fp32", "out", True, "out/best.onnx"),
        ("best.safetensors", "onnx", "fp32", "out/mine.onnx", False, "out/mine.onnx"),
    ],
)
def test_files_are_named_after_the_model(model, name, precision, output, several, expected):
    assert target(model, name, precision, output, several=several) == Path(expected)


def test_one_file_for_several_formats_is_refused():
    with pytest.raises(UsageError, match="give a folder"):
        target("m.safetensors", "onnx", "fp32", "out/m.onnx", several=True)


# ---------------------------------------------------------------------- the command, and the files in use


def test_one_format_that_fails_does_not_stop_the_others(pretend, source, tmp_path, capsys):
    line = ["export", str(source), "--to", "torchscript", "tensorrt", "--output", f"{tmp_path}/"]
    assert cli.main(line) == Exit.PARTIAL
    said = capsys.readouterr()
    assert "error: tensorrt: " in said.err
    assert "100%" in said.out
    assert left_in(tmp_path) == ["model.torchscript"]


def test_json_names_what_failed(pretend, source, tmp_path, capsys):
    line = ["export", str(source), "--to", "torchscript,tensorrt", "--output", f"{tmp_path}/", "--json"]
    assert cli.main(line) == Exit.PARTIAL
    done, failed = json.loads(capsys.readouterr().out)
    assert (done["format"], failed["format"]) == ("torchscript", "tensorrt")
    assert failed["error"]


def test_every_format_can_be_named():
    from typing import get_args

    from swinv2.export import Format

    assert set(get_args(Format)) == set(formats()) | set(DEPLOYMENTS)


def test_an_export_predicts_and_is_evaluated(exported, source, tmp_path, capsys):
    for name, colour in (("a", (200, 30, 30)), ("b", (30, 30, 200))):
        (tmp_path / name).mkdir()
        for i in range(3):
            noise = Image.effect_noise((70, 64), 40 + 10 * i)
            Image.merge("RGB", [noise.point(lambda v, c=c: v * c // 255) for c in colour]).save(
                tmp_path / name / f"{i}.png"
            )
    photo = str(tmp_path / "a" / "0.png")
    ours, theirs = (swinv2.Predictor(path, device="cpu")(photo) for path in (exported.path, source))
    assert [c.name for c in ours.classes] == [c.name for c in theirs.classes]
    assert np.allclose([c.score for c in ours.classes], [c.score for c in theirs.classes], atol=1e-5)
    found = swinv2.evaluate(exported.path, tmp_path, device="cpu", threads=1)
    assert found.measured.top1 == swinv2.evaluate(source, tmp_path, device="cpu").measured.top1


def test_an_export_cannot_be_explained(exported):
    with pytest.raises(
        ValueError, match="is an exported model, which has no gradients; give the model it was made"
    ):
        swinv2.explain("photo.jpg", exported.path)


def test_an_export_for_one_size_is_not_evaluated_at_another(exported, tmp_path, capsys):
    (tmp_path / "a").mkdir()
    Image.new("RGB", (70, 64)).save(tmp_path / "a" / "0.png")
    assert cli.main(["evaluate", str(exported.path), str(tmp_path), "--image-size", "96"]) == Exit.USAGE
    assert "export the model again with --image-size" in capsys.readouterr().err
