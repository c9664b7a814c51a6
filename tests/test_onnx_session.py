"""Files that ONNX Runtime opens: the record inside, what is refused and how, and what a session does with a batch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from exports import small_model

from swinv2.artifact import ArtifactError, with_provenance
from swinv2.runtimes import Options, open_session, portion
from swinv2.runtimes import onnx as runtime
from swinv2.runtimes.onnx import session as sessions


@pytest.fixture(scope="module")
def model():
    return small_model()


def write(model, path: Path, options: Options | None = None) -> Path:
    options = options or Options()
    runtime.export(model, path, options)
    about = {
        "precision": options.precision,
        "dynamic": ["batch", "height", "width"] if options.dynamic_size else ["batch"],
    }
    runtime.write_record(path, with_provenance(model.record, export=about))
    return path


@pytest.fixture(scope="module")
def path(model, tmp_path_factory) -> Path:
    return write(model, tmp_path_factory.mktemp("onnx") / "model.onnx")


def images(batch: int, side: int = 64) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((batch, 3, side, side)).astype(np.float32)


def exact(model, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(x)).numpy()


def error(found: np.ndarray, reference: np.ndarray) -> float:
    return float(np.abs(found - reference).max() / np.abs(reference).max())


# ---------------------------------------------------------------------- sessions


def test_a_session_gives_the_logits_of_the_model_and_says_what_it_is(path, model):
    with open_session(path, "onnx") as session:
        assert (session.runtime, session.device, session.precision) == ("onnx", "cpu", "fp32")
        assert session.record.classes == tuple("abcdefg")
        logits = session.run(images(3))
    assert (logits.dtype, logits.shape) == (np.float32, (3, 7))
    assert error(logits, exact(model, images(3))) < 2e-5


def test_an_empty_batch_gives_no_logits(path):
    with open_session(path, "onnx") as session:
        assert session.run(images(0)).shape == (0, 7)


def test_large_batches_go_through_in_parts_on_a_cpu(path, model, monkeypatch):
    """An image has 64 * 64 / 16 patches with 128 values each inside the MLP."""
    monkeypatch.setattr(portion, "CACHED_VALUES", 2 * 256 * 128)
    with open_session(path, "onnx", threads=1) as session:
        run, sizes = session._session.run, []
        session._session = SimpleNamespace(
            run=lambda names, feeds: (sizes.append(len(feeds["images"])), run(names, feeds))[1]
        )
        logits = session.run(images(7))
    assert sizes == [2, 2, 2, 1]
    assert error(logits, exact(model, images(7))) < 2e-5


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_are_those_of_the_session(path, threads):
    with open_session(path, "onnx", threads=threads) as session:
        assert session._session.get_session_options().intra_op_num_threads == threads


def test_a_file_for_any_size_takes_any_size_and_another_says_which_it_takes(path, model, tmp_path):
    with open_session(write(model, tmp_path / "any.onnx", Options(dynamic_size=True)), "onnx") as session:
        x = images(2, 40)
        assert session.any_size
        assert error(session.run(x), exact(model, x)) < 2e-5
    with (
        open_session(path, "onnx") as session,
        pytest.raises(ValueError, match=r"takes \[batch, 3, 64, 64\]"),
    ):
        session.run(images(2, 40))


def test_the_precision_is_that_of_the_file(model, path, tmp_path):
    with open_session(
        write(model, tmp_path / "half.onnx", Options("fp16")), "onnx", precision="fp16"
    ) as session:
        assert session.precision == "fp16"
        assert 1e-5 < error(session.run(images(2)), exact(model, images(2))) < 2e-2
    with pytest.raises(ValueError, match=r"model\.onnx is in fp32; export it again with --precision int8"):
        open_session(path, "onnx", precision="int8")


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("cuda", "this onnxruntime has no CUDAExecutionProvider; onnxruntime-gpu has it"),
        ("tensorrt", "this onnxruntime has no TensorrtExecutionProvider"),
        ("cpu:1", "'cpu:1' is no device; give cpu, cuda, cuda:1 or tensorrt"),
    ],
)
def test_devices_that_are_not_there_are_named(path, device, words, monkeypatch):
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ValueError, match=words):
        open_session(path, "onnx", device=device)


@pytest.mark.parametrize(
    ("device", "providers"),
    [
        ("cpu", ["CPUExecutionProvider"]),
        ("cuda:1", [("CUDAExecutionProvider", {"device_id": 1}), "CPUExecutionProvider"]),
        ("tensorrt", [("TensorrtExecutionProvider", {"device_id": 0}), ("CUDAExecutionProvider", {"device_id": 0}),
                      "CPUExecutionProvider"]),
    ],
)  # fmt: skip
def test_providers_are_asked_in_order(path, device, providers, monkeypatch):
    """A stand-in for ONNX Runtime with GPUs, for what is handed to it only."""
    asked = {}

    class Session:
        def __init__(self, path, options, providers):
            asked["providers"] = providers

        def get_providers(self):
            return [name if isinstance(name, str) else name[0] for name in asked["providers"]]

    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: list(sessions.PROVIDERS.values()))
    monkeypatch.setattr("onnxruntime.InferenceSession", Session)
    assert open_session(path, "onnx", device=device).device == device
    assert asked["providers"] == providers


@pytest.mark.gpu
@pytest.mark.skipif(
    "CUDAExecutionProvider" not in __import__("onnxruntime").get_available_providers(),
    reason="needs onnxruntime-gpu",
)
def test_cuda_gives_the_logits_of_the_model(path, model):
    with open_session(path, "onnx", device="cuda") as session:
        assert error(session.run(images(3)), exact(model, images(3))) < 2e-3


# ---------------------------------------------------------------------- the record


def test_the_record_is_read_back(path, model):
    assert (
        runtime.read_record(path).to_dict()
        == with_provenance(model.record, export={"precision": "fp32", "dynamic": ["batch"]}).to_dict()
    )


def test_onnx_itself_reads_the_record_where_others_look_for_it(path):
    made = onnx.load(path)
    onnx.checker.check_model(made, full_check=True)
    assert [entry.key for entry in made.metadata_props] == ["swinv2"]
    assert '"classes": ["a", "b"' in made.metadata_props[0].value


def test_a_new_record_replaces_the_old_one_and_nothing_else(model, tmp_path):
    path = tmp_path / "model.onnx"
    runtime.export(model, path, Options())
    made = onnx.load(path)
    made.metadata_props.add(key="author", value="somebody")
    onnx.save(made, path)
    graph, digest = made.graph.SerializeToString(deterministic=True), runtime.digest(path)
    for name in ("first", "a longer second \N{LATIN SMALL LETTER E WITH ACUTE}", "3"):
        runtime.write_record(path, with_provenance(model.record, recipe=name))
        assert runtime.read_record(path).provenance["recipe"] == name
        assert runtime.digest(path) == digest
    made = onnx.load(path)
    assert {entry.key for entry in made.metadata_props} == {"author", "swinv2"}
    assert made.graph.SerializeToString(deterministic=True) == graph
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.onnx"]


def test_one_changed_weight_changes_the_digest(path, tmp_path):
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "model.onnx").write_bytes(damaged)
    assert runtime.digest(tmp_path / "model.onnx") != runtime.digest(path)


def test_a_session_and_the_record_need_neither_onnx_nor_torch(path):
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['onnx', 'torch', 'timm']))\n"
        "import numpy as np\n"
        "from pathlib import Path\n"
        "from swinv2.runtimes import open_session, onnx\n"
        "record = onnx.read_record(Path(sys.argv[1])); onnx.write_record(Path(sys.argv[1]), record)\n"
        "onnx.digest(Path(sys.argv[1]))\n"
        "with open_session(sys.argv[1], 'onnx') as s: print(s.run(np.zeros((1, 3, 64, 64), np.float32)).shape)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "(1, 7)", done.stderr


# ---------------------------------------------------------------------- files that are not what they should be


@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
def test_a_file_that_was_cut_off_is_refused_in_one_sentence(path, share, tmp_path):
    whole = path.read_bytes()
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(whole[: int(len(whole) * share)])
    for read in (lambda path: open_session(path, "onnx"), runtime.read_record):
        with pytest.raises(ArtifactError, match=r"cut\.onnx is no ONNX file, or was cut off"):
            read(cut)


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 a zip", b"\x08", b"\xff" * 400, b"<xml/>", bytes(64)],
    ids=["empty", "zip", "one byte", "ones", "text", "zeros"],
)  # fmt: skip
def test_foreign_files_are_refused_in_one_sentence(content, tmp_path):
    foreign = tmp_path / "foreign.onnx"
    foreign.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"foreign\.onnx is no ONNX file, or was cut off"):
        open_session(foreign, "onnx")


def test_a_graph_of_others_is_refused(model, tmp_path):
    path = tmp_path / "other.onnx"
    runtime.export(model, path, Options())
    with pytest.raises(ArtifactError, match=r"other\.onnx has no swinv2 record"):
        open_session(path, "onnx")


def test_a_graph_that_the_runtime_cannot_run_is_refused_in_one_sentence(path, tmp_path):
    made = onnx.load(path)
    made.graph.node[5].op_type = "NoSuchOperator"
    onnx.save(made, tmp_path / "odd.onnx")
    with pytest.raises(ArtifactError, match=r"ONNX Runtime .* does not open .*odd\.onnx: .*NoSuchOperator"):
        open_session(tmp_path / "odd.onnx", "onnx")


def test_weights_that_were_not_copied_along_are_missed(model, tmp_path):
    from swinv2.runtimes.onnx import writing

    path = tmp_path / "big.onnx"
    writing.write(model, path, Options(), None, one_file=1000)
    runtime.write_record(path, model.record)
    with open_session(path, "onnx") as session:
        assert error(session.run(images(2)), exact(model, images(2))) < 2e-5
    (tmp_path / "big.onnx.data").unlink()
    with pytest.raises(ArtifactError, match=r"big\.onnx\.data"):
        open_session(path, "onnx")


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_session(tmp_path / "nowhere.onnx", "onnx")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(ArtifactError, match="is a folder"):
        open_session(tmp_path / "folder.onnx", "onnx")
