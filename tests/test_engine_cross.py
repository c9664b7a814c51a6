"""The engine for ARM, Windows and browsers: its tests pass there, and its program answers as the native one does."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from built import built
from exports import write_small

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
NATIVE = [built("swinv2-cli")]

# target of the Makefile: the program that it builds, behind its emulator
TARGETS = {
    "cross-arm": ["qemu-aarch64-static", "-cpu", "max", "-L", "/usr/aarch64-linux-gnu",
                  ROOT / "build" / "aarch64" / "swinv2-cli"],
    "cross-web": ["node", "--no-experimental-fetch", ROOT / "build" / "wasm" / "swinv2-cli.js"],
    "cross-windows": ["wine", ROOT / "build" / "windows" / "swinv2-cli.exe"],
}  # fmt: skip
WINE = {"WINEPREFIX": str(ROOT / "build" / "wine"), "WINEDEBUG": "-all", "LC_ALL": "C.UTF-8"}


def run(*words: object) -> str:
    environment = os.environ | WINE
    done = subprocess.run([*map(os.fspath, words)], capture_output=True, timeout=600, env=environment)
    if b"have no products of" in done.stderr:
        pytest.skip(done.stderr.decode().strip())
    assert done.returncode == 0, f"{words}\n{done.stderr.decode()}"
    return done.stdout.decode()


@pytest.fixture(scope="module", params=sorted(TARGETS))
def program(request) -> list[str | Path]:
    """The words that run swinv2-cli of another system, after its own tests have passed there."""
    words = ["make", "--no-print-directory", request.param]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    if "make: cannot install" in done.stderr:
        pytest.skip(next(line for line in done.stderr.splitlines() if "cannot install" in line))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return TARGETS[request.param]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, list[Path]]:
    """A model and pictures that need no decoder, in a folder with a name beyond ASCII."""
    folder = tmp_path_factory.mktemp("b\u00fccher_\u65e5\u672c")
    random, pictures = np.random.default_rng(0), []
    for height, width in ((64, 64), (131, 97), (50, 200)):
        waves = np.sin(np.arange(height)[:, None, None] / 7 + np.arange(width)[:, None] / 5 + np.arange(3))
        pixels = (waves * 100 + 128 + random.normal(0, 9, waves.shape)).clip(0, 255).astype(np.uint8)
        pictures.append(folder / f"\u00e5_{width}.ppm")
        pictures[-1].write_bytes(b"P6\n%d %d\n255\n" % (width, height) + pixels.tobytes())
    return write_small(folder / "mod\u00e8le.safetensors"), pictures


def maps(program, model: Path, picture: Path, folder: Path, *options: str) -> dict[str, np.ndarray]:
    run(*program, "dump", model, picture, "--output", folder, *options)
    return {path.stem: np.load(path) for path in folder.glob("*.npy")}


def difference(mine: np.ndarray, right: np.ndarray) -> float:
    assert mine.shape == right.shape
    return float(np.abs(mine - right).max() / np.abs(right).max())


def test_every_intermediate_is_that_of_the_native_program(program, files, tmp_path):
    model, pictures = files
    for i, picture in enumerate(pictures):
        expected = maps(NATIVE, model, picture, tmp_path / f"native{i}")
        found = maps(program, model, picture, tmp_path / f"found{i}")
        assert found.keys() == expected.keys()
        assert np.array_equal(found.pop("input"), expected["input"])  # preprocessing: to the last bit
        differences = {name: difference(found[name], expected[name]) for name in found}
        assert max(differences.values()) < 1e-4, differences


def distance(mine: list[np.ndarray], exact: list[np.ndarray]) -> float:
    """Root of the mean square over all pictures."""
    shares = [np.mean((a - b) ** 2) / np.mean(b**2) for a, b in zip(mine, exact, strict=True)]
    return float(np.sqrt(np.mean(shares)))


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_low_precision_strays_no_further_than_the_reference(program, files, tmp_path, precision):
    """Roundings differ between instructions and grow on their way; how far from fp32 they lead may not.

    Maps, not logits: seven values of a random network are a matter of luck. Half as much again is left for
    the products of attention, which the reference does not round.
    """
    model, pictures = files
    exact, reference, found = (
        [maps(words, model, picture, tmp_path / f"{name}{i}", *options) for i, picture in enumerate(pictures)]
        for name, words, options in (
            ("exact", NATIVE, ()),
            ("reference", NATIVE, ("--precision", precision, "--instructions", "reference")),
            ("found", program, ("--precision", precision)),
        )
    )
    for name in sorted(exact[0].keys() - {"input", "embed", "logits"}):
        right = [one[name] for one in exact]
        mine, theirs = (distance([one[name] for one in run], right) for run in (found, reference))
        print(f"{name}: {mine:.4f}, reference {theirs:.4f}")
        assert mine < 1.5 * theirs, name


def test_the_likeliest_classes_are_those_of_the_native_program(program, files):
    model, pictures = files
    expected = json.loads(run(*NATIVE, "classify", model, *pictures, "--json"))
    found = json.loads(run(*program, "classify", model, *pictures, "--json"))
    assert [one["file"] for one in found] == [one["file"] for one in expected]
    for mine, theirs in zip(found, expected, strict=True):
        assert [one["name"] for one in mine["predictions"]] == [one["name"] for one in theirs["predictions"]]
        scores = [one["score"] for one in theirs["predictions"]]
        assert [one["score"] for one in mine["predictions"]] == pytest.approx(scores, abs=1e-5)
