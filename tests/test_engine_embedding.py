"""Programs that embed the engine: the examples and the program of the header, by find_package and by pkg-config."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from built import FOLDER, LIBRARY, built
from exports import write_small
from PIL import Image

from swinv2 import Predictor

built(LIBRARY)
ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "cpp" / "examples"


def run(*words: object, **options: object) -> str:
    done = subprocess.run([*map(os.fspath, words)], capture_output=True, text=True, timeout=240, **options)
    assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The prefix of an installation that was moved, as archives of a release are."""
    folder = tmp_path_factory.mktemp("installed")
    run("cmake", "--install", FOLDER, "--prefix", folder / "first")
    return (folder / "first").rename(folder / "moved")


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_small(tmp_path_factory.mktemp("model") / "model.safetensors")


def flags(installed: Path) -> list[str]:
    found = next(installed.rglob("swinv2.pc"))
    environment = os.environ | {"PKG_CONFIG_PATH": str(found.parent)}
    words = run("pkg-config", "--cflags", "--libs", "swinv2", env=environment).split()
    return [*words, f"-Wl,-rpath,{found.parents[1]}"]


def test_examples_are_built_by_find_package(installed, model, photo, tmp_path):
    run("cmake", "-S", EXAMPLES, "-B", tmp_path, "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={installed}")
    run("cmake", "--build", tmp_path)
    expected = Predictor(model, top_k=5)(photo).classes
    lines = run(tmp_path / "classify_c", model, photo).splitlines()
    assert [line.split()[-1] for line in lines] == [score.name for score in expected]
    assert float(lines[0].split()[0]) == pytest.approx(100 * expected[0].score, abs=0.01)
    assert run(tmp_path / "classify_cpp", model, photo).startswith(f"{photo}: {expected[0].name}, ")


@pytest.mark.skipif(not shutil.which("pkg-config"), reason="there is no pkg-config")
@pytest.mark.parametrize(("compiler", "source"), [("cc", "classify.c"), ("c++", "classify.cpp")])
def test_examples_are_built_by_pkg_config(compiler, source, installed, model, photo, tmp_path):
    strict = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-std=c99" if compiler == "cc" else "-std=c++17"]
    run(compiler, *strict, EXAMPLES / source, *flags(installed), "-o", tmp_path / "classify")
    assert Predictor(model)(photo).top.name in run(tmp_path / "classify", model, photo).splitlines()[0]


@pytest.mark.skipif(not shutil.which("pkg-config"), reason="there is no pkg-config")
def test_the_program_of_the_header_runs(installed, model, photo, tmp_path):
    comment = (ROOT / "cpp" / "include" / "swinv2.h").read_text().partition("*/")[0]
    program = "\n".join(re.findall(r"^ \*     (.*)$", comment, re.MULTILINE))
    (tmp_path / "program.c").write_text(program)
    run("cc", "-std=c99", "-Wall", tmp_path / "program.c", *flags(installed), "-o", tmp_path / "program")
    assert Predictor(model)(photo).top.name in run(tmp_path / "program", model, photo).splitlines()[0]


def test_the_installed_tool_finds_its_library(installed, model):
    assert '"architecture"' in run(installed / "bin" / "swinv2-cli", "info", model, "--json")


def test_the_document_shows_the_example():
    shown = re.search(
        r"^```c\n(.*?)^```$", (ROOT / "docs" / "engine.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert shown[1] == (EXAMPLES / "classify.c").read_text()
