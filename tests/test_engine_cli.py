"""swinv2-cli answers as the Python package does, and says in one sentence what it cannot do."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from built import built
from exports import small_model, write_small
from PIL import Image

from swinv2 import Predictor
from swinv2.preprocess import Preprocess

TOOL = built("swinv2-cli")


def run(*arguments: object, stdin: bytes = b"") -> subprocess.CompletedProcess:
    words = [TOOL, *map(os.fspath, arguments)]
    return subprocess.run(words, input=stdin, capture_output=True, timeout=120, check=False)


def answer(*arguments: object, code: int = 0, stdin: bytes = b"") -> object:
    """The JSON document of a command that ends with that code."""
    done = run(*arguments, "--json", stdin=stdin)
    assert done.returncode == code, done.stderr.decode()
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_small(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder with pictures, some of them where none are looked for, and what is none."""
    random = np.random.default_rng(0)
    for name in ("b.png", 'a "quoted" \t name.png', "below/c.PNG", ".hidden/d.png", "below/.e.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(path)
    (tmp_path / "note.txt").write_text("no picture")
    (tmp_path / "below" / "up").symlink_to(tmp_path)
    return tmp_path


def test_classes_are_those_of_python(model, photos):
    found = answer("classify", model, photos, "--top-k", "3")
    expected = [one.to_dict() for one in Predictor(model, runtime="torch", top_k=3)(photos)]
    assert [one["file"] for one in found] == [one["file"] for one in expected]
    for mine, theirs in zip(found, expected, strict=True):
        assert [p["name"] for p in mine["predictions"]] == [p["name"] for p in theirs["predictions"]]
        assert [p["score"] for p in mine["predictions"]] == pytest.approx(
            [p["score"] for p in theirs["predictions"]], abs=1e-5
        )


def test_text_has_a_line_per_class(model, photos):
    lines = run("classify", model, photos / "b.png", "--top-k", "2").stdout.decode().splitlines()
    assert lines[0] == str(photos / "b.png")
    assert len(lines) == 3
    assert all(line.split()[1] == "%" for line in lines[1:])


def test_stdin_is_a_picture(model, photos):
    data = (photos / "b.png").read_bytes()
    (piped,), (named,) = (
        answer("classify", model, "-", stdin=data),
        answer("classify", model, photos / "b.png"),
    )
    assert piped == {**named, "file": "stdin"}


def test_pictures_that_cannot_be_read_do_not_stop_the_others(model, photos):
    (photos / "cut.png").write_bytes((photos / "b.png").read_bytes()[:200])
    found = answer("classify", model, photos / "cut.png", photos / "missing.png", photos / "b.png", code=5)
    assert found[0]["error"].startswith(f"{photos / 'cut.png'} is cut off or damaged")
    assert found[1]["error"].startswith(f"{photos / 'missing.png'} cannot be read")
    assert found[2]["predictions"]


def test_info_is_the_record(model):
    found = answer("info", model)
    assert (found["architecture"], found["height"], found["classes"]) == ("two_stages_for_tests", 64, 7)
    assert found["record"]["classes"] == list("abcdefg")
    assert b"two_stages_for_tests" in run("info", model).stdout


def test_dump_is_the_trace_of_python(model, photos, tmp_path):
    listed = answer("dump", model, photos / "b.png", "--output", tmp_path / "maps")
    maps = {one["name"]: np.load(tmp_path / "maps" / f"{one['name']}.npy") for one in listed}
    assert all(list(maps[one["name"]].shape) == one["shape"] for one in listed)
    tensor = Preprocess.official(64).load(photos / "b.png")
    assert np.array_equal(maps["input"], tensor)
    with torch.no_grad():
        logits = small_model()(torch.from_numpy(tensor)[None])[0].numpy()
    assert np.abs(maps["logits"] - logits).max() <= 1e-4 * np.abs(logits).max()


def test_bench_measures_the_network_and_pictures(model, photos):
    found = answer(
        "bench", model, photos / "b.png", "--runs", "3", "--warm-up", "0", "--size", "40x72", "--batch", "2"
    )
    assert (found["batch"], found["height"], found["width"], found["runs"]) == (2, 40, 72, 3)
    for part in ("network", "pictures"):
        ordered = [found[part][key] for key in ("fastest_ms", "median_ms", "p90_ms", "p99_ms", "slowest_ms")]
        assert ordered == sorted(ordered)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "no command is given"),
        (["draw", "m"], 2, "draw is no command"),
        (["classify"], 2, "classify needs a model file"),
        (["classify", "MODEL"], 2, "classify needs an image"),
        (["classify", "MODEL", "x.png", "--top-k", "many"], 2, "--top-k is many; give a whole number"),
        (["classify", "MODEL", "x.png", "--best"], 2, "--best stands at the end"),
        (["classify", "MODEL", "x.png", "--best", "3"], 2, "--best is no option"),
        (["bench", "MODEL", "--size", "64"], 2, "--size is 64; give ROWSxCOLUMNS"),
        (["info", "MODEL", "x.png"], 2, "info takes a model and no images"),
        (["dump", "MODEL", "x.png", "y.png"], 2, "dump takes one image"),
        (["info", "MODEL", "--precision", "fp13"], 2, "fp13"),
        (["info", "MODEL", "--instructions", "mmx"], 3, "mmx"),
        (["info", "missing.safetensors"], 3, "missing.safetensors"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(arguments, code, words, model):
    done = run(*[model if word == "MODEL" else word for word in arguments])
    assert done.returncode == code, done.stderr.decode()
    sentence = done.stderr.decode()
    assert sentence.startswith("swinv2-cli: ")
    assert words in sentence
    assert sentence.count("\n") == 1
