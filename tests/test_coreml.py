"""Core ML: the program that is written is the network, computed here with numpy (mil.py); Apple's systems run it."""

from __future__ import annotations

import logging
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import mil
import numpy as np
import pytest
import torch
from conftest import TWO_STAGES, randomized
from exports import one_process, small_model, write_small

from swinv2 import lint, probe, verification
from swinv2.artifact import ArtifactError, Record
from swinv2.export import export
from swinv2.model import SwinV2, create_model
from swinv2.preprocess import Preprocess
from swinv2.runtimes import RUNTIMES, coreml, open_session

pytestmark = pytest.mark.filterwarnings(
    "ignore"
)  # the package is full of what newer Pythons and numpys advise against
elsewhere = pytest.mark.skipif(sys.platform == "darwin", reason="Core ML runs here")


def uneven_model() -> SwinV2:
    """Two stages of a size that no patch, window or merging divides."""
    config = replace(TWO_STAGES, image_size=(60, 52))
    model = randomized(SwinV2(config), seed=3).eval()
    model.record = Record(config, replace(Preprocess.official(64), size=(60, 52), resize="squash"))
    return model


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """precision -> a model, written as a user would."""
    folder = tmp_path_factory.mktemp("coreml")
    with one_process():  # the package takes ten seconds to import
        (fp32,) = export(write_small(folder / "model.safetensors"), "coreml")
        (fp16,) = export(uneven_model(), "coreml", output=folder / "uneven.mlpackage", precision="fp16")
    return {"fp32": fp32, "fp16": fp16}


@pytest.fixture
def path(exported, tmp_path) -> Path:
    """A copy to change."""
    return shutil.copytree(exported["fp32"].path, tmp_path / "model.mlpackage")


def check(path: Path, model: SwinV2, limit: float) -> None:
    assert model.record is not None
    x = probe.images(model.record, 1)
    with torch.no_grad():
        exact = model(torch.from_numpy(x)).numpy()
    found = mil.run(path, x)
    assert found.dtype == np.float32
    assert np.abs(found - exact).max() < limit * np.abs(exact).max()


def test_the_program_is_the_network(exported):
    check(exported["fp32"].path, small_model(), 1e-5)


def test_the_program_in_fp16_is_the_network_and_knows_no_infinity(exported):
    """The keys of padded tokens are zero: they must not be multiplied by one over their length."""
    check(exported["fp16"].path, uneven_model(), 2e-2)


def test_fp16_halves_the_weights(exported):
    (parameters,) = {sum(p.numel() for p in uneven_model().parameters())}
    assert 1.5 * parameters < (exported["fp16"].path / coreml.WEIGHTS).stat().st_size < 3 * parameters


def test_the_program_keeps_to_the_rules_of_the_edge_mode(exported):
    nodes = coreml.nodes(exported["fp32"].path)
    assert lint.problems(nodes, edge=True) == []
    assert max(node.rank for node in nodes) == 4


@elsewhere
def test_the_record_says_that_it_was_not_run(exported):
    about = verification.read_record(RUNTIMES["coreml"], exported["fp32"].path).provenance["export"]
    assert about["verified"] is None
    assert "converted, not run here" in about["not_run"]
    assert about["oldest_runtime"] == "iOS 16, macOS 13"


@pytest.mark.slow
def test_two_exports_have_the_same_bytes(exported, path):
    before = coreml.digest(path)
    source = exported["fp32"].path.with_name("model.safetensors")
    (again,) = export(source, "coreml", output=path.with_name("again.mlpackage"))
    assert coreml.digest(again.path) == before
    for file in sorted(exported["fp32"].path.rglob("*")):
        if file.is_file():
            assert file.read_bytes() == (again.path / file.relative_to(exported["fp32"].path)).read_bytes(), (
                file.name
            )


def test_the_digest_knows_the_network_and_not_the_record(path):
    before = coreml.digest(path)
    coreml.write_record(path, replace(coreml.read_record(path), license="another"))
    assert coreml.digest(path) == before
    weights = path / coreml.WEIGHTS
    changed = bytearray(weights.read_bytes())
    changed[-7] ^= 1
    weights.write_bytes(changed)
    assert coreml.digest(path) != before


@elsewhere
def test_it_is_refused_where_core_ml_is_not(path):
    with pytest.raises(ValueError, match="Core ML runs on the systems of Apple only"):
        open_session(path)


DAMAGES = {
    "weights": lambda path: shutil.rmtree((path / coreml.WEIGHTS).parent),
    "foreign": lambda path: (path / coreml.PROGRAM).write_bytes(b"\xff\xd8\xff a picture"),
    "program": lambda path: (path / coreml.PROGRAM).unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_packages_are_refused(path, damage):
    damage(path)
    with pytest.raises(ArtifactError, match=r"Core ML package.*export"):
        coreml.read_record(path)


def test_logging_is_as_it_was(path):
    before = logging.root.manager.disable
    coreml.read_record(path)
    assert logging.root.manager.disable == before


class FakeModel:
    """Not Core ML: answers with the sum of the image, to show that the session hands images over one by one."""

    def __init__(self, path, compute_units):
        self.units = compute_units

    def predict(self, given):
        assert given["images"].shape == (1, 3, 64, 64)
        return {"logits": np.full((1, 7), given["images"].sum(), np.float64)}


def test_a_session_hands_over_one_image_at_a_time(path, monkeypatch):
    fake = SimpleNamespace(
        models=SimpleNamespace(MLModel=FakeModel),
        ComputeUnit=SimpleNamespace(ALL="all", CPU_AND_NE="neural engine"),
    )
    record = coreml.read_record(path)
    monkeypatch.setattr(coreml, "_coremltools", lambda: fake)
    monkeypatch.setattr(coreml, "unsupported", lambda device, precision: None)
    monkeypatch.setattr(coreml, "read_record", lambda path: record)
    with coreml.open(path, device="npu", precision="auto") as session:
        assert session._model.units == "neural engine"
        x = probe.images(record, 3)
        assert np.allclose(session.run(x), x.sum((1, 2, 3))[:, None].repeat(7, 1), rtol=1e-4)
    with pytest.raises(ValueError, match="leave threads out"):
        coreml.open(path, device="auto", precision="auto", threads=2)
    with pytest.raises(ValueError, match="is in fp32; export it again with --precision fp16"):
        coreml.open(path, device="auto", precision="fp16")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["swinv2_tiny_window8_256", "swinv2_tiny_window16_256", "swinv2_base_window12to16_192to256"]
)
def test_full_size_programs_are_the_network(tmp_path, name):
    model = randomized(create_model(name)).eval()
    model.record = Record(model.config, Preprocess.official(model.config.image_size))
    (one,) = export(model, "coreml", output=tmp_path / "model.mlpackage")
    check(one.path, model, 1e-5)
