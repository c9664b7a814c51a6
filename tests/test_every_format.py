"""One photograph, one answer: in every format that is written here a model gives the classes of the model itself."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import randomized
from exports import write_small

import swinv2
from swinv2 import artifact, verification
from swinv2.artifact import Record
from swinv2.export import Exported, export
from swinv2.model import create_model
from swinv2.preprocess import Preprocess
from swinv2.runtimes import RUNTIMES, Options, formats

PHOTOGRAPH = Path(swinv2.__file__).parent / "probe" / "portrait.png"
# Formats that cannot be written everywhere: what must be missing for the test to go without them.
NOT_EVERYWHERE = {"tensorrt": "tensorrt", "mnn": "MNN"}
WRITTEN_NOT_RUN = {"coreml"}  # Core ML itself is in the systems of Apple
# Half a minute and more each; quick tests of them are in files of their own.
LONG = {"pt2", "executorch", "coreml"}

# The converters' packages are full of what newer Pythons advise against; no warning is asked for here.
pytestmark = pytest.mark.filterwarnings("ignore")


def here() -> list[str]:
    """The formats to test; what may be absent is named above, and anything else that is fails."""
    return [
        name
        for name in formats()
        if name not in NOT_EVERYWHERE
        or (importlib.util.find_spec(NOT_EVERYWHERE[name]) and not RUNTIMES[name].cannot_export(Options()))
    ]


def each(names: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in names]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write_small(tmp_path_factory.mktemp("everywhere") / "model.safetensors")


@pytest.fixture(scope="module")
def exported(source) -> Callable[[str], Exported]:
    """Name of a format -> the small model in it, written with the others that take as long as that."""
    done: dict[str, Exported] = {}

    def find(name: str) -> Exported:
        if name not in done:
            together = [other for other in here() if (other in LONG) == (name in LONG)]
            done.update((one.format, one) for one in export(source, together, output=f"{source.parent}/"))
        return done[name]

    return find


@pytest.mark.parametrize("name", each(here()))
def test_every_format_is_written_and_compared(exported, name):
    one = exported(name)
    if name in WRITTEN_NOT_RUN and one.not_run:
        assert one.comparisons == ()
        return
    assert [c.batch for c in one.comparisons] == [1, 2, 7]
    assert max(c.error for c in one.comparisons) < 1e-4
    assert {c.agreement for c in one.comparisons} == {1}


@pytest.mark.parametrize("name", each(here()))
def test_labels_and_preprocessing_travel_with_every_format(source, exported, name):
    found, written = (
        artifact.read_record(source),
        verification.read_record(RUNTIMES[name], exported(name).path),
    )
    assert (written.classes, written.preprocess, written.config) == (
        found.classes,
        found.preprocess,
        found.config,
    )
    assert written.provenance["recipe"] == "none"
    assert written.provenance["export"]["format"] == name


@pytest.mark.parametrize("name", each(sorted(set(here()) - WRITTEN_NOT_RUN)))
def test_one_photograph_has_one_answer(source, exported, name):
    check_answer(source, exported(name).path, name)


def check_answer(source: Path, path: Path, runtime: str) -> None:
    with (
        swinv2.Predictor(source, device="cpu") as ours,
        swinv2.Predictor(path, runtime=runtime, device="cpu") as theirs,
    ):
        expected, found = ours(PHOTOGRAPH), theirs(PHOTOGRAPH)
    assert [c.name for c in found.classes] == [c.name for c in expected.classes]
    assert np.allclose([c.score for c in found.classes], [c.score for c in expected.classes], rtol=1e-3)


@pytest.mark.parametrize("name", each(name for name in here() if RUNTIMES[name].edge))
def test_graphs_keep_to_the_rules_of_the_edge_mode(exported, name):
    graph = exported(name).about["graph"]
    assert graph["nodes"] > 100
    assert graph["largest_rank"] <= 4


FULL_SIZE = ("swinv2_tiny_window8_256", "swinv2_tiny_window16_256", "swinv2_base_window12to16_192to256")


@pytest.fixture(scope="module", params=FULL_SIZE)
def full(request, tmp_path_factory):
    """A published architecture with random weights that all matter."""
    model = randomized(create_model(request.param)).eval()
    folder = tmp_path_factory.mktemp(request.param)
    record = Record(model.config, Preprocess.official(model.config.image_size))
    artifact.write(folder / "model.safetensors", record, model.state_dict())
    return folder / "model.safetensors"


@pytest.mark.slow
@pytest.mark.parametrize("name", here())
def test_full_size_models_have_one_answer_in_every_format(full, name):
    (one,) = export(full, name)  # raises where the logits differ
    if one.comparisons:
        check_answer(full, one.path, name)
    for file in RUNTIMES[name].files(one.path):
        file.unlink() if file.is_file() else None
