"""MNN: what its converter makes of our graph gives the logits of the model, and the converter does nothing else."""

from __future__ import annotations

import importlib.util
import math
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import TWO_STAGES
from exports import small_model, write_small

from swinv2 import child, lint, probe
from swinv2.artifact import ArtifactError
from swinv2.export import export
from swinv2.fold import fold
from swinv2.runtimes import mnn, open_session
from swinv2.runtimes.base import Options
from swinv2.runtimes.mnn import converting
from swinv2.runtimes.mnn.rewriting import GELU, rewritten
from swinv2.runtimes.onnx.static import graph

needs_mnn = pytest.mark.skipif(
    importlib.util.find_spec("MNN") is None,
    reason="needs MNN, which brings a converter that no environment should run",
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """precision -> the small model, written and verified as a user would."""
    folder = tmp_path_factory.mktemp("mnn")
    source = write_small(folder / "model.safetensors")
    return {p: export(source, "mnn", output=f"{folder}/", precision=p)[0] for p in ("fp32", "fp16")}


def network():
    """The small model as MNN's converter sees it."""
    return rewritten(graph(fold(small_model()), opset=mnn.OPSET))


def run_onnx(model, images: np.ndarray) -> np.ndarray:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {model.graph.input[0].name: images})[0]


# ---------------------------------------------------------------------- the graph, without MNN


def test_gelu_is_exact_to_three_millionths():
    x = np.concatenate([np.linspace(-12, 12, 48001), np.linspace(-1000, 1000, 2001)])
    share = 1 / (1 + np.exp(-np.clip(x * np.polynomial.polynomial.polyval(x * x, GELU), -700, 700)))
    exact = np.array([0.5 * v * math.erfc(-v / math.sqrt(2)) for v in x])
    assert np.abs(x * share - exact).max() < 3.1e-6


@pytest.mark.parametrize("batch", [1, 3])
def test_the_rewritten_graph_is_the_same_network(batch):
    import onnx

    model = small_model()
    x = probe.images(model.record, batch)
    ours = network()
    onnx.checker.check_model(ours, full_check=True)
    exact = run_onnx(graph(fold(model), opset=mnn.OPSET), x)
    assert np.abs(run_onnx(ours, x) - exact).max() < 1e-5 * np.abs(exact).max()


def test_nothing_is_left_that_the_converter_gets_wrong():
    operators = [node.op_type for node in network().graph.node]
    assert {"Gelu", "Erf", "Shape", "Gather"} & set(operators) == set()
    blocks = sum(TWO_STAGES.depths)
    assert operators.count("MatMul") == 2 * blocks  # of attention
    assert operators.count("Sigmoid") == blocks


# ---------------------------------------------------------------------- the converter, without MNN

CONVERTERS = {  # a module _tools that does what MNN's command would: it must not come through
    "pip": "import os\ndef mnnconvert(arguments): os.system('pip install x')",
    "process": "import subprocess\ndef mnnconvert(arguments): subprocess.run(['true'])",
    "connection": "import socket\ndef mnnconvert(arguments): socket.create_connection(('127.0.0.1', PORT))",
    "request": "import urllib.request\ndef mnnconvert(arguments): urllib.request.urlopen('http://127.0.0.1:PORT/')",
    "telemetry": "def mnnconvert(arguments): import MNN.tools",
}


@pytest.fixture
def pretended(tmp_path, monkeypatch):
    """Puts a module in the place of MNN's converter."""
    (tmp_path / "MNN" / "tools").mkdir(parents=True)
    for folder in ("MNN", "MNN/tools"):
        (tmp_path / folder / "__init__.py").touch()
    (tmp_path / "_mnncengine.py").write_text("def get_model_uuid(path): return 'a-random-name'")
    monkeypatch.syspath_prepend(tmp_path)
    return lambda code: (tmp_path / "_tools.py").write_text(code)


@pytest.mark.parametrize("name", CONVERTERS)
def test_a_converter_that_wants_more_than_to_convert_is_stopped(pretended, tmp_path, name):
    with socket.create_server(("127.0.0.1", 0)) as server:
        pretended(CONVERTERS[name].replace("PORT", str(server.getsockname()[1])))
        with pytest.raises((child.Died, PermissionError, ImportError)) as caught:
            converting.convert(tmp_path / "a.onnx", tmp_path / "a.mnn", half=False)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody called
            server.accept()
    assert "may not do this" in str(caught.value) or "MNN.tools" in str(caught.value)


def test_a_file_that_was_not_converted_is_an_error(pretended, tmp_path):
    pretended("def mnnconvert(arguments): return False")
    with pytest.raises(ValueError, match="could not read the graph"):
        converting.convert(tmp_path / "a.onnx", tmp_path / "a.mnn", half=False)


def test_the_random_name_in_a_file_is_replaced(tmp_path):
    names = set()
    for random in ("1" * 36, "2" * 36):
        path = tmp_path / "a.mnn"
        path.write_bytes(b"head " + random.encode() + b" tail")
        converting.name_after_content(path, random)
        names.add(path.read_bytes())
    assert len(names) == 1
    assert b"1" * 36 not in names.pop()


def test_an_opset_is_refused():
    assert mnn.cannot_export(Options()) is None
    assert "leave --opset out" in str(mnn.cannot_export(Options(opset=17)))


# ---------------------------------------------------------------------- with MNN


@needs_mnn
@pytest.mark.parametrize(("precision", "limit"), [("fp32", 2e-5), ("fp16", 1e-2)])
def test_mnn_gives_the_logits_of_the_model(exported, precision, limit):
    assert [c.batch for c in exported[precision].comparisons] == [1, 2, 7]
    assert max(c.error for c in exported[precision].comparisons) < limit


@needs_mnn
def test_the_graph_keeps_to_the_rules_of_the_edge_mode(exported):
    nodes = mnn.nodes(exported["fp32"].path)
    assert lint.problems(nodes, edge=True) == []
    assert {"Shape", "Rank", "Gather", "GELU"} & {node.operator for node in nodes} == set()


@needs_mnn
def test_two_exports_have_the_same_bytes(tmp_path):
    for name in ("a.mnn", "b.mnn"):
        mnn.export(small_model(), tmp_path / name, Options())
    assert (tmp_path / "a.mnn").read_bytes() == (tmp_path / "b.mnn").read_bytes()


@needs_mnn
@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff\xe0 a picture", None])
def test_files_that_are_no_network_are_refused(exported, tmp_path, content):
    path = tmp_path / "model.mnn"
    for file in exported["fp32"].path.parent.glob("model.mnn*"):
        shutil.copy(file, tmp_path)
    path.write_bytes(path.read_bytes()[:3_000_000] if content is None else content)
    with pytest.raises(ArtifactError, match="is no file of MNN, or was cut off"):
        open_session(path)


@needs_mnn
def test_fp32_is_not_to_be_had_from_weights_in_fp16(exported):
    with pytest.raises(ValueError, match="has weights in fp16; export it again for fp32"):
        open_session(exported["fp16"].path, precision="fp32")


@needs_mnn
def test_its_greeting_is_not_among_our_answers(exported):
    path = str(exported["fp32"].path)
    code = f"from swinv2.runtimes import open_session; open_session({path!r}, threads=1); print('ours')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "ours\n"


def test_a_missing_file_is_named():
    with pytest.raises(FileNotFoundError):
        open_session(Path("nowhere.mnn"), "mnn") if importlib.util.find_spec("MNN") else mnn.nodes(
            Path("nowhere.mnn")
        )
