"""LiteRT: the file answers as the model does, holds its record, and says in a sentence why it cannot be used."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TWO_STAGES, randomized

from swinv2 import lint, probe
from swinv2.artifact import ArtifactError, Record, with_provenance
from swinv2.model import SwinV2
from swinv2.parity import TOLERANCES
from swinv2.preprocess import Preprocess
from swinv2.runtimes import RUNTIMES, Options, litert, open_session

INT8 = {"precision": "int8", "activations": "dynamic", "keep_float": ("stages.0.1.qkv", "stages.1.0.fc2")}


def model() -> SwinV2:
    made = randomized(SwinV2(replace(TWO_STAGES, image_size=32))).eval()
    made.record = Record(made.config, Preprocess.official(32), tuple("abcdefg"))
    return made


def write(folder: Path, name: str, **options) -> Path:
    path, made = folder / f"{name}.tflite", model()
    litert.export(made, path, Options(**options))
    litert.write_record(
        path, with_provenance(made.record, export={"precision": options.get("precision", "fp32")})
    )
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("litert")
    return {"fp32": write(folder, "fp32"), "int8": write(folder, "int8", **INT8)}


def images(count: int = 3) -> np.ndarray:
    return probe.images(model().record, count)


def exact() -> np.ndarray:
    with torch.no_grad():
        return model().double()(torch.from_numpy(images()).double()).numpy()


def error(path: Path) -> float:
    with open_session(path) as session:
        return float(np.abs(session.run(images()) - exact()).max() / np.abs(exact()).max())


def int8_layers(path: Path) -> set[str]:
    """The layers whose weights are in int8."""
    return {
        litert._layer(one.weights) for one in litert._operators(path.read_bytes()) if one.has_int8_weights
    }


# ---------------------------------------------------------------------- what is written


def test_float_answers_as_the_model_does(files):
    assert error(files["fp32"]) < 1e-5


def test_int8_is_near_and_is_int8(files):
    assert 1e-4 < error(files["int8"]) < TOLERANCES["int8"]
    assert files["int8"].stat().st_size < 0.6 * files["fp32"].stat().st_size


def test_every_layer_is_in_int8_but_those_to_keep(files):
    block = {"q", "k", "v", "proj", "fc1", "fc2"}
    layers = {f"stages.{where}.{part}" for where in ("0.1", "0.2", "1.0") for part in block}
    layers |= {"stages.0.0.proj", "stages.0.3.reduction", "head"}
    assert int8_layers(files["int8"]) == layers - {
        "stages.0.1.q", "stages.0.1.k", "stages.0.1.v", "stages.1.0.fc2"
    }  # fmt: skip
    assert int8_layers(files["fp32"]) == set()


def test_weights_are_scaled_per_channel(files):
    from ai_edge_litert import schema_py_generated as schema

    (graph,) = schema.ModelT.InitFromPackedBuf(files["int8"].read_bytes()).subgraphs
    scales = {
        t.name.decode(): len(t.quantization.scale) for t in graph.tensors if t.type == schema.TensorType.INT8
    }
    channels = {t.name.decode(): t.shape[0] for t in graph.tensors if t.type == schema.TensorType.INT8}
    assert scales == channels


def test_its_graph_keeps_to_the_rules_of_the_edge_mode(files):
    nodes = litert.nodes(files["fp32"])
    assert lint.problems(nodes, edge=True) == []
    assert {node.operator for node in nodes} == {
        "ADD", "BATCH_MATMUL", "CONCATENATION", "CONV_2D", "FULLY_CONNECTED", "GELU", "MEAN", "MUL", "RESHAPE", "RSQRT",
        "SLICE", "SOFTMAX", "SUB", "SUM", "TRANSPOSE",
    }  # fmt: skip


def test_the_same_export_twice_is_the_same_file(files, tmp_path):
    assert write(tmp_path, "again", **INT8).read_bytes() == files["int8"].read_bytes()


def test_a_record_replaces_the_older_one_and_leaves_the_model_alone(files, tmp_path):
    path = Path(shutil.copy(files["fp32"], tmp_path))
    before, record = litert.digest(path), litert.read_record(path)
    litert.write_record(path, replace(record, license="other"))
    litert.write_record(path, replace(record, license="one" * 1000))
    assert litert.read_record(path) == replace(record, license="one" * 1000)
    assert litert.digest(path) == before
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == [litert.RECORD]


def test_a_changed_weight_changes_the_digest(files, tmp_path):
    content = bytearray(files["fp32"].read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "m.tflite").write_bytes(content)
    assert litert.digest(tmp_path / "m.tflite") != litert.digest(files["fp32"])


def test_static_activations_are_refused():
    why = RUNTIMES["litert"].cannot_export(Options(precision="int8", activations="static"))
    assert why == "int8 of litert takes dynamic activations, not 'static'"


# ---------------------------------------------------------------------- the session


def test_any_batch_gives_each_image_its_answer(files):
    with open_session(files["fp32"]) as session:
        whole = session.run(images(5))
        assert whole.shape == (5, 7)
        assert session.run(images(0)).shape == (0, 7)
        for i, image in enumerate(images(5)):
            assert np.array_equal(session.run(image[None])[0], whole[i])


def test_a_session_says_what_it_is(files):
    with open_session(files["int8"]) as session:
        assert (session.runtime, session.device, session.precision) == ("litert", "cpu", "int8")
        assert session.record.classes == tuple("abcdefg")
        with pytest.raises(ValueError, match=r"this model takes \[batch, 3, 32, 32\]"):
            session.run(np.zeros((1, 3, 64, 64), np.float32))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": "int8"}, r"is in fp32; export it again with --precision int8"),
        ({"precision": "bf16"}, r"litert computes in fp32, int8, not in 'bf16'"),
        ({"device": "cuda"}, r"litert runs on cpu, not on 'cuda'"),
        ({"device": "cpu:1"}, r"'cpu:1' is no device of LiteRT here; give cpu"),
    ],
    ids=str,
)
def test_what_it_cannot_is_a_sentence(files, options, words):
    with pytest.raises(ValueError, match=words):
        open_session(files["fp32"], **options)


@pytest.mark.parametrize("content", [b"", b"no model " * 50, "cut"], ids=["empty", "foreign", "cut off"])
def test_wrong_files_are_a_sentence(files, tmp_path, content):
    whole = files["fp32"].read_bytes()
    (tmp_path / "m.tflite").write_bytes(whole[: len(whole) // 2] if content == "cut" else content)
    with pytest.raises(ArtifactError, match="has no swinv2 record behind its model: it was cut off, or"):
        open_session(tmp_path / "m.tflite")


def test_a_model_that_is_none_is_a_sentence(files, tmp_path):
    (tmp_path / "m.tflite").write_bytes(b"no model " * 50)
    litert.write_record(tmp_path / "m.tflite", litert.read_record(files["fp32"]))
    with pytest.raises(ArtifactError, match="is no LiteRT model, or was damaged"):
        open_session(tmp_path / "m.tflite")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"m\.tflite"):
        open_session(tmp_path / "m.tflite")


def test_it_runs_without_torch_and_prints_nothing(files):
    code = (
        "import sys; sys.modules['torch'] = None\nimport numpy\nfrom swinv2.runtimes import open_session\n"
        f"print(open_session({str(files['fp32'])!r}, threads=1).run(numpy.zeros((2, 3, 32, 32), numpy.float32)).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("(2, 7)\n", "")
