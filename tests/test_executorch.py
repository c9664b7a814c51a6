"""ExecuTorch: XNNPACK computes every operator at any batch, in int8 as well; what is wrong is said in a sentence."""

from __future__ import annotations

import shutil
import subprocess
import sys
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TWO_STAGES, randomized

from swinv2 import child, lint, probe
from swinv2.artifact import ArtifactError, Record, with_provenance
from swinv2.model import SwinV2
from swinv2.parity import TOLERANCES
from swinv2.preprocess import Preprocess
from swinv2.runtimes import Options, beside, executorch, open_session

DYNAMIC = {"precision": "int8", "activations": "dynamic", "keep_float": ("stages.0.1.qkv", "stages.1.0.fc2")}
STATIC = {**DYNAMIC, "activations": "static"}


def model() -> SwinV2:
    made = randomized(SwinV2(replace(TWO_STAGES, image_size=32))).eval()
    made.record = Record(made.config, Preprocess.official(32), tuple("abcdefg"))
    return made


def write(folder: Path, name: str, **options) -> tuple[Path, dict]:
    path, made = folder / f"{name}.pte", model()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in the process of an export
        notes = executorch.export(made, path, Options(**options), probe.images(made.record, 5))
    about = {"precision": options.get("precision", "fp32"), **notes}
    beside.write_record(path, with_provenance(made.record, export=about))
    return path, notes


@pytest.fixture(scope="module")
def fp32(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("executorch"), "fp32")[0]


@pytest.fixture(scope="module")
def int8(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("executorch"), "int8", **DYNAMIC)[0]


def images(count: int = 3) -> np.ndarray:
    return probe.images(model().record, count)


def exact(count: int = 3) -> np.ndarray:
    with torch.no_grad():
        return model().double()(torch.from_numpy(images(count)).double()).numpy()


def error(path: Path) -> float:
    with open_session(path) as session:
        return float(np.abs(session.run(images()) - exact()).max() / np.abs(exact()).max())


# ---------------------------------------------------------------------- what is written


@pytest.mark.slow
def test_a_last_map_of_one_token(tmp_path):
    """As in models for pictures of 32 pixels."""
    config = replace(TWO_STAGES, image_size=8, depths=(1, 1))
    made = randomized(SwinV2(config)).eval()
    assert config.stages(8, 8)[-1].grid == (1, 1)
    made.record = Record(config, Preprocess.official(8), tuple("abcdefg"))
    path = tmp_path / "m.pte"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        notes = executorch.export(made, path, Options(), None)
    beside.write_record(path, with_provenance(made.record, export={"precision": "fp32", **notes}))
    x = probe.images(made.record, 3)
    with torch.no_grad(), open_session(path) as session:
        expected = made.double()(torch.from_numpy(x).double()).numpy()
        assert np.abs(session.run(x) - expected).max() < 1e-5 * np.abs(expected).max()


def test_float_answers_as_the_model_does(fp32):
    assert error(fp32) < 1e-5


def test_int8_is_near_and_is_int8(int8, fp32):
    assert 1e-4 < error(int8) < TOLERANCES["int8"]
    assert int8.stat().st_size < 0.6 * fp32.stat().st_size


@pytest.mark.parametrize("count", [1, 2, 7, 8])
def test_the_file_itself_takes_any_batch(fp32, count):
    """As programs in C++ call it; our session gives it one image after the other."""
    with open_session(fp32) as session:
        found = session._method.execute([torch.from_numpy(images(count))])[0].numpy()
    assert np.abs(found - exact(count)).max() < 1e-5 * np.abs(exact(count)).max()


@pytest.mark.parametrize("name", ["fp32", "int8"])
def test_xnnpack_computes_every_operator_in_one_graph(name, request):
    found = beside.read_record(request.getfixturevalue(name)).provenance["export"]["xnnpack"]
    assert found["operators"] > 150
    assert (found["graphs"], found["others"]) == (1, 0)


def test_its_graph_keeps_to_the_rules_of_the_edge_mode(fp32):
    nodes = executorch.nodes(fp32)
    assert lint.problems(nodes, edge=True) == []
    assert max(node.rank for node in nodes) == 4
    count = Counter(node.operator for node in nodes)
    assert (count["Softmax"], count["BatchMatrixMultiply"], count["Gelu"]) == (3, 6, 3)
    assert count["StaticSlice"] == 8  # of the one shifted block: two for each axis, there and back


def int8_layers(path: Path) -> int:
    """Products whose weights are in int8."""
    from executorch.exir._serialize._program import _extract_delegate_payload

    from swinv2.runtimes.executorch.program import _as_json

    graph = _as_json(_extract_delegate_payload(path.read_bytes(), "Xnnpack"))
    tensors = [value["xvalue_union"] for value in graph["xvalues"]]
    kinds = {t.get("tensor_value", t)["id_out"]: t.get("tensor_value", t)["datatype"] for t in tensors}
    products = [node["xnode_union"] for node in graph["xnodes"] if "filter_id" in node["xnode_union"]]
    return sum(kinds[product["filter_id"]] == "xnn_datatype_qcint8" for product in products)


def test_every_layer_is_in_int8_per_channel_but_those_to_keep(int8, fp32):
    assert int8_layers(int8) == 3 * 6 + 2 - 4  # six a block, reduction and head; without q, k, v and fc2
    assert int8_layers(fp32) == 0


@pytest.mark.slow
def test_static_int8(tmp_path):
    path, notes = write(tmp_path, "static", **STATIC)
    assert 1e-4 < error(path) < TOLERANCES["int8"]
    assert (notes["xnnpack"]["graphs"], notes["xnnpack"]["others"]) == (1, 0)
    assert int8_layers(path) == 3 * 6 + 3 - 4  # and the convolution


@pytest.mark.slow
def test_the_same_export_twice_is_the_same_file(fp32, tmp_path):
    assert write(tmp_path, "again")[0].read_bytes() == fp32.read_bytes()


# ---------------------------------------------------------------------- the session


def test_any_batch_gives_each_image_its_answer(fp32):
    with open_session(fp32) as session:
        whole = session.run(images(5))
        assert whole.shape == (5, 7)
        assert session.run(images(0)).shape == (0, 7)
        for i, image in enumerate(images(5)):
            assert np.array_equal(session.run(image[None])[0], whole[i])


def test_a_session_says_what_it_is(int8):
    with open_session(int8) as session:
        assert (session.runtime, session.device, session.precision) == ("executorch", "cpu", "int8")
        assert session.record.classes == tuple("abcdefg")
        with pytest.raises(ValueError, match=r"this model takes \[batch, 3, 32, 32\]"):
            session.run(np.zeros((1, 3, 64, 64), np.float32))


def test_every_session_has_its_own_threads(fp32):
    from executorch.extension.pybindings import portable_lib

    used = []
    one, three = open_session(fp32, threads=1), open_session(fp32, threads=3)
    for session in (one, three, one):
        used.append((session.run(images()), portable_lib._threadpool_get_thread_count()))
    assert [threads for _, threads in used] == [1, 3, 1]
    assert all(np.array_equal(logits, used[0][0]) for logits, _ in used)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": "int8"}, r"is in fp32; export it again with --precision int8"),
        ({"precision": "bf16"}, r"executorch computes in fp32, int8, not in 'bf16'"),
        ({"device": "cuda"}, r"executorch runs on cpu, not on 'cuda'"),
        ({"device": "cpu:1"}, r"'cpu:1' is no device of ExecuTorch; give cpu"),
    ],
    ids=str,
)
def test_what_it_cannot_is_a_sentence(fp32, options, words):
    with pytest.raises(ValueError, match=words):
        open_session(fp32, **options)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "overflow"),
        (b"no model " * 50, "Program identifier 'odel' != expected 'ET12'"),
        ("cut", "File size is too small"),
    ],
    ids=["empty", "foreign", "cut off"],
)
def test_wrong_files_are_a_sentence_with_the_reason(fp32, tmp_path, content, reason):
    whole, path = fp32.read_bytes(), tmp_path / "m.pte"
    path.write_bytes(whole[: len(whole) // 2] if content == "cut" else content)
    shutil.copy(beside.path_of(fp32), beside.path_of(path))
    # In a process of its own: what the library prints there is not mixed with what its exporter set up here.
    asked = {
        "path": str(path),
        "runtime": "executorch",
        "device": "cpu",
        "cases": [],
        "folder": str(tmp_path),
    }
    with pytest.raises(
        ArtifactError, match=f"is no ExecuTorch program, or was damaged or cut off: .*{reason}"
    ):
        child.call("swinv2.verification:run", asked, doing="opening")


def test_a_file_without_its_record_is_a_sentence(fp32, tmp_path):
    path = Path(shutil.copy(fp32, tmp_path / "m.pte"))
    with pytest.raises(ArtifactError, match=r"has no m\.pte\.json beside it"):
        open_session(path)


def test_a_session_prints_nothing(fp32):
    code = (
        "import numpy\nfrom swinv2.runtimes import open_session\n"
        f"print(open_session({str(fp32)!r}, threads=1).run(numpy.zeros((2, 3, 32, 32), numpy.float32)).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("(2, 7)\n", "")
