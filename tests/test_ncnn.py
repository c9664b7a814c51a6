"""ncnn: the network that we write gives the logits of the model in ncnn itself, in every precision it computes in."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL, randomized
from exports import small_model, write_small

from swinv2 import artifact, lint, probe
from swinv2.artifact import ArtifactError, Record
from swinv2.export import export
from swinv2.model import SwinV2, create_model
from swinv2.preprocess import Preprocess
from swinv2.runtimes import ncnn, open_session
from swinv2.runtimes.base import Options
from swinv2.runtimes.ncnn.layers import Layer, one_reader_each

WEIGHTS = ".ncnn.bin"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """precision -> the small model, written and verified as a user would."""
    folder = tmp_path_factory.mktemp("ncnn")
    source = write_small(folder / "model.safetensors", config=SMALL)
    return {p: export(source, "ncnn", output=f"{folder}/", precision=p)[0] for p in ("fp32", "fp16")}


@pytest.fixture
def path(exported, tmp_path) -> Path:
    """A copy to damage."""
    for file in exported["fp32"].path.parent.glob("model.[!s]*"):
        shutil.copy(file, tmp_path)
    return tmp_path / "model.param"


def error(found: np.ndarray, exact: np.ndarray) -> float:
    return float(np.abs(found - exact).max() / np.abs(exact).max())


def logits(model: SwinV2, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(x)).numpy()


@pytest.mark.parametrize(("precision", "limit"), [("fp32", 1e-5), ("fp16", 1e-2)])
def test_ncnn_gives_the_logits_of_the_model(exported, precision, limit):
    assert [c.batch for c in exported[precision].comparisons] == [1, 2, 7]
    assert max(c.error for c in exported[precision].comparisons) < limit


def test_bf16_is_computed_from_a_file_in_fp32(exported):
    model = small_model(config=SMALL)
    x = probe.images(model.record, 2)
    with open_session(exported["fp32"].path, precision="bf16") as session:
        found = session.run(x)
    assert session.precision == "bf16"
    assert 1e-4 < error(found, logits(model, x)) < 8e-2


def test_fp16_halves_the_file(exported):
    assert exported["fp16"].size < 0.6 * exported["fp32"].size


def test_fp32_is_not_to_be_had_from_weights_in_fp16(exported):
    with pytest.raises(ValueError, match="has weights in fp16; export it again for fp32"):
        open_session(exported["fp16"].path, precision="fp32")


def write(model: SwinV2, folder: Path) -> Path:
    """Without the child processes of export()."""
    from swinv2.runtimes import beside

    path = folder / "model.param"
    about = ncnn.export(model, path, Options())
    assert model.record is not None
    beside.write_record(path, artifact.with_provenance(model.record, export={"precision": "fp32", **about}))
    return path


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({}, (60, 52)),                                            # sizes that no patch, window or merging divides
        ({"heads": (2, 4, 8, 16), "embed_dim": 64}, (64, 64)),     # as many tokens as channels in the first stages
        ({"window": 16}, (64, 64)),                                # one window per map
        ({"in_chans": 1, "num_classes": 2}, (64, 64)),
        ({"num_classes": 0}, (64, 64)),                            # no head
    ],
    ids=["uneven", "square", "one-window", "grey", "headless"],
)  # fmt: skip
def test_every_geometry_is_written_right(tmp_path, changes, size):
    config = replace(SMALL, image_size=size, **changes)
    model = randomized(SwinV2(config), seed=3).eval()
    preprocess = replace(Preprocess.official(64, config.in_chans), size=size, resize="squash")
    model.record = Record(config, preprocess)
    x = probe.images(model.record, 2)
    with open_session(write(model, tmp_path)) as session:
        assert error(session.run(x), logits(model, x)) < 1e-5


def test_the_graph_keeps_to_the_rules_of_the_edge_mode(exported):
    nodes = ncnn.nodes(exported["fp32"].path)
    assert lint.problems(nodes, edge=True) == []
    assert max(node.rank for node in nodes) == 4
    assert sum(node.operator == "SDPA" for node in nodes) == sum(SMALL.depths)


def test_two_exports_have_the_same_bytes(tmp_path):
    files = []
    for name in "ab":
        (tmp_path / name).mkdir()
        path = write(small_model(config=SMALL), tmp_path / name)
        files.append((path.read_bytes(), path.with_suffix(WEIGHTS).read_bytes()))
    assert files[0] == files[1]


def test_a_value_that_several_layers_read_is_split():
    layers = [
        Layer("Input", "a", [], ["a"]),
        Layer("ReLU", "b", ["a"], ["b"]),
        Layer("ReLU", "c", ["a"], ["c"]),
    ]
    found = [(layer.kind, layer.inputs, layer.outputs) for layer in one_reader_each(layers)]
    assert found == [
        ("Input", [], ["a"]), ("Split", ["a"], ["a/0", "a/1"]), ("ReLU", ["a/0"], ["b"]), ("ReLU", ["a/1"], ["c"]),
    ]  # fmt: skip


def test_threads_are_those_of_the_session(path):
    with open_session(path, threads=1) as one, open_session(path, threads=2) as two:
        assert (one._net.opt.num_threads, two._net.opt.num_threads) == (1, 2)
        x = probe.images(one.record, 1)
        assert error(one.run(x), two.run(x)) < 1e-5


@pytest.mark.parametrize("keep", [10, 4_000_000, -40])
def test_weights_that_were_cut_off_are_refused(path, keep):
    weights = path.with_suffix(WEIGHTS)
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(ArtifactError, match="cannot be loaded by ncnn"):
        open_session(path)


@pytest.mark.parametrize("keep", [0, 3, 5000, -1])
def test_a_network_that_was_cut_off_is_refused(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ArtifactError, match=r"is no \.param file of ncnn"):
        open_session(path)


@pytest.mark.parametrize(
    "content", [b"\xff\xd8\xff\xe0 a picture", b"7767517\nfour 5\n", b"7767517\n1 1\nReLU a x y z\n"]
)
def test_files_of_another_kind_are_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"is no \.param file of ncnn"):
        open_session(path)


def test_missing_weights_are_named(path):
    path.with_suffix(WEIGHTS).unlink()
    with pytest.raises(ArtifactError, match=r"has no model\.ncnn\.bin beside it"):
        open_session(path)


def test_a_layer_that_this_ncnn_lacks_is_named(path):
    path.write_text(path.read_text().replace("SDPA ", "SPDA "))
    with pytest.raises(
        ArtifactError, match=r"needs the layer SPDA, which ncnn .* lacks; pip install -U ncnn"
    ):
        open_session(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["swinv2_tiny_window8_256", "swinv2_tiny_window16_256", "swinv2_base_window12to16_192to256"]
)
def test_full_size_models_have_the_logits_of_torch(tmp_path, name):
    model = randomized(create_model(name)).eval()
    model.record = Record(model.config, Preprocess.official(model.config.image_size))
    x = probe.images(model.record, 1)
    with open_session(write(model, tmp_path)) as session:
        assert error(session.run(x), logits(model, x)) < 1e-5
