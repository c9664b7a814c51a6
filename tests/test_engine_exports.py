"""Programs in C++ that run an export behind the engine's preprocessing: with OpenVINO, and with AOTInductor."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from built import FOLDER, LIBRARY, built
from exports import write_small
from PIL import Image

import swinv2
from swinv2 import Predictor

pytestmark = pytest.mark.slow

built(LIBRARY)
EXAMPLES = Path(__file__).parents[1] / "cpp" / "examples"
# format: the folder of the program, the package that it is built against, and where that is
PROGRAMS = {
    "openvino": ("openvino", "openvino", "-DOpenVINO_DIR={}/cmake"),
    "pt2": ("aotinductor", "torch", "-DTORCH={}"),
}


def run(*words: object) -> subprocess.CompletedProcess[str]:
    plain = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
    }  # no library path, no settings of ours
    return subprocess.run([*map(os.fspath, words)], capture_output=True, text=True, timeout=400, env=plain)


def done(*words: object) -> str:
    ended = run(*words)
    assert ended.returncode == 0, f"{words}\n{ended.stdout}{ended.stderr}"
    return ended.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    prefix = tmp_path_factory.mktemp("installed")
    done("cmake", "--install", FOLDER, "--prefix", prefix)
    return prefix


@pytest.fixture(scope="module", params=sorted(PROGRAMS))
def case(request, installed, tmp_path_factory) -> tuple[str, Path, Path]:
    """A format, the program for it, and an export for another image size than that of its model."""
    name, package, option = PROGRAMS[request.param]
    build = tmp_path_factory.mktemp(name)
    place = option.format(Path(pytest.importorskip(package).__file__).parent)
    done(
        "cmake", "-S", EXAMPLES / name, "-B", build, "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={installed}", place
    )
    done("cmake", "--build", build)
    source = write_small(tmp_path_factory.mktemp("model") / "model.safetensors")
    (one,) = swinv2.export(source, request.param, image_size=96)
    return request.param, build / f"classify_{name}", one.path


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_the_classes_are_those_of_python(case, suffix, tmp_path):
    """Of a picture that is resized and cropped, by the runtime of the same export."""
    runtime, program, exported = case
    x, y = np.meshgrid(np.arange(210), np.arange(130))
    pixels = np.stack([x + y, 2 * x, 255 - y], -1) % 256
    photo = tmp_path / f"photo.{suffix}"
    Image.fromarray(pixels.astype(np.uint8)).save(photo)
    with Predictor(exported, runtime=runtime, device="cpu", top_k=5) as predictor:
        assert predictor.session.record.preprocess.size == (96, 96)
        expected = predictor(photo).classes
    rows = [line.split(" %  ") for line in done(program, exported, photo).splitlines()]
    assert [name for _, name in rows] == [score.name for score in expected]
    shares = [100 * score.score for score in expected]
    assert [float(share) for share, _ in rows] == pytest.approx(shares, abs=1e-3)


def test_what_goes_wrong_is_a_sentence(case, tmp_path):
    _, program, exported = case
    (tmp_path / "photo.png").write_bytes(b"no picture")
    for words, sentence in [
        ((), "usage: classify_"),
        ((exported, tmp_path / "absent.png"), "absent.png cannot be opened"),
        ((exported, tmp_path / "photo.png"), "the image is not an image of a kind that is read"),
    ]:
        ended = run(program, *words)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert sentence in ended.stderr
