"""TorchScript: one trace for every batch and device, the record inside, nothing of the machine that made it."""

from __future__ import annotations

import subprocess
import sys
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import randomized
from exports import one_process, small_model, write_small

from swinv2 import artifact, child, lint, probe, verification
from swinv2.artifact import ArtifactError, Record
from swinv2.config import SwinV2Config
from swinv2.export import export
from swinv2.model import SwinV2
from swinv2.parity import TOLERANCES
from swinv2.preprocess import Preprocess
from swinv2.runtimes import RUNTIMES, Options, archive, open_session, torchscript

ROW = RUNTIMES["torchscript"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """precision -> the small model, written and verified as a user would."""
    folder = tmp_path_factory.mktemp("torchscript")
    source = write_small(folder / "model.safetensors")
    with one_process():
        return {
            p: export(source, "torchscript", output=f"{folder}/", precision=p)[0]
            for p in ("fp32", "bf16", "fp16")
        }


def images(batch: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((batch, 3, 64, 64)).astype(np.float32)


def eager(x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return small_model().double()(torch.from_numpy(x).double()).numpy()


def error(found: np.ndarray, exact: np.ndarray) -> float:
    return float(np.abs(found - exact).max() / np.abs(exact).max())


def load(path: Path, **options) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.jit is deprecated as a whole
        return torch.jit.load(str(path), **options)


# ---------------------------------------------------------------------- answers


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_batch_gives_the_logits_of_the_model_in_any_order(exported, precision):
    """A trace is optimised in its second call: what it saw until then must not stay in it."""
    with open_session(exported[precision].path, device="cpu") as session:
        for batch in (2, 1, 7, 3, 7):
            logits = session.run(images(batch, seed=batch))
            assert (logits.dtype, logits.shape) == (np.float32, (batch, 7))
            assert error(logits, eager(images(batch, seed=batch))) < TOLERANCES[precision]


def test_half_precision_is_really_half(exported):
    fp32, bf16 = (open_session(exported[p].path, device="cpu").run(images(2)) for p in ("fp32", "bf16"))
    assert error(bf16, fp32) > 1e-4
    assert exported["bf16"].size < 0.6 * exported["fp32"].size


def test_images_are_computed_some_at_a_time_where_they_are_large(exported, monkeypatch):
    session = open_session(exported["fp32"].path, device="cpu")
    whole, exact = session.run(images(7)), eager(images(7))
    monkeypatch.setattr(torchscript, "images_at_once", lambda *_: 2)
    # Products of other numbers of rows round otherwise: as exact, not the same to the last bit.
    assert error(session.run(images(7)), exact) <= 2 * error(whole, exact)


@pytest.mark.parametrize(("size", "window"), [((50, 70), 4), ((33, 47), 8)])
def test_sizes_that_do_not_divide_are_padded_as_in_the_model(tmp_path, size, window):
    config = SwinV2Config(
        architecture="odd", image_size=size, window=window, embed_dim=32, depths=(2, 2), heads=(1, 2), num_classes=7,
        pretrained_windows=(0, 0),
    )  # fmt: skip
    model = randomized(SwinV2(config)).eval()
    model.record = Record(config, replace(Preprocess.official(64), size=size))
    torchscript.export(model, tmp_path / "odd.torchscript", Options())
    torchscript.write_record(tmp_path / "odd.torchscript", model.record)
    x = np.random.default_rng(0).standard_normal((3, 3, *size)).astype(np.float32)
    with open_session(tmp_path / "odd.torchscript", device="cpu") as session, torch.no_grad():
        assert error(session.run(x), model.double()(torch.from_numpy(x).double()).numpy()) < 1e-5


# ---------------------------------------------------------------------- the trace (P39)


def test_the_trace_names_no_device(exported):
    module = load(exported["fp32"].path)
    constants = [n for n in module.inlined_graph.nodes() if n.kind() == "prim::Constant"]
    assert [n for n in constants if isinstance(n.output().type(), torch._C.DeviceObjType)] == []
    assert [
        n for n in constants if isinstance(n.output().type(), torch._C.TensorType)
    ] == []  # they would not move


def test_everything_moves_with_the_module(exported):
    """On the device "meta" an operator with one operand left on the CPU raises; on CUDA it would in the same way."""
    module = load(exported["fp32"].path)
    for part in module.modules():  # what .to() does; that itself refuses "meta" for scripted modules
        for name, tensor in [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]:
            part._c.setattr(name, tensor.to("meta"))
    for batch in (2, 1, 7):
        assert module(torch.zeros(batch, 3, 64, 64, device="meta")).shape == (batch, 7)
    with pytest.raises(RuntimeError, match="device"):
        module(torch.zeros(2, 3, 64, 64))


def test_the_trace_computes_no_sizes(exported):
    kinds = {node.kind() for node in load(exported["fp32"].path).inlined_graph.nodes()}
    assert kinds & {"aten::size", "aten::floor_divide", "prim::NumToTensor", "aten::Int"} == set()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_trace_from_a_cpu_runs_three_times_on_a_gpu(exported, precision):
    with open_session(exported[precision].path, device="cuda") as session:
        for batch in (2, 1, 7):
            assert error(session.run(images(batch)), eager(images(batch))) < max(2e-3, TOLERANCES[precision])


def test_it_runs_without_our_code(exported):
    """In another process, where swinv2 cannot be imported."""
    done = subprocess.run(
        [
            sys.executable, "-W", "ignore", "-c",
            "import sys; sys.modules['swinv2'] = None\n"
            "import torch\n"
            f"print(tuple(torch.jit.load({str(exported['bf16'].path)!r})(torch.zeros(5, 3, 64, 64)).shape))",
        ],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "(5, 7)"


def test_the_graph_keeps_to_the_rules_of_the_edge_mode(exported):
    nodes = torchscript.nodes(exported["fp32"].path)
    assert lint.problems(nodes, edge=True) == []
    operators = {node.operator for node in nodes}
    assert {"linear", "layer_norm", "softmax", "gelu", "matmul"} <= operators
    assert operators & {"roll", "where", "index", "index_select", "scaled_dot_product_attention"} == set()


# ---------------------------------------------------------------------- the file


def test_two_exports_are_the_same_bytes(tmp_path):
    """In processes of their own, as export works: names inside a trace count on from the last one."""
    source = write_small(tmp_path / "model.safetensors")
    for name in ("a", "b"):
        arguments = {
            "source": str(source),
            "path": str(tmp_path / f"{name}.torchscript"),
            "runtime": "torchscript",
        }
        options = {"precision": "fp32", "keep_float": []}
        child.call(
            "swinv2.export.writing:write",
            arguments | {"options": options, "calibration": None},
            doing="writing",
        )
    assert (tmp_path / "a.torchscript").read_bytes() == (tmp_path / "b.torchscript").read_bytes()


def test_the_file_says_nothing_of_the_machine(exported):
    content = exported["fp32"].path.read_bytes()
    for path in {
        str(Path(torch.__file__).parents[1]),
        str(Path(archive.__file__).parents[2]),
        str(Path.home()),
    }:
        assert path.encode() not in content, path


def test_the_record_is_read_without_the_weights(exported, monkeypatch):
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("the weights were loaded"))
    record = torchscript.read_record(exported["fp32"].path)
    assert record.classes == tuple("abcdefg")
    assert record.provenance["export"]["precision"] == "fp32"


def test_the_record_is_no_part_of_the_digest(exported, tmp_path):
    path = tmp_path / "model.torchscript"
    path.write_bytes(exported["fp32"].path.read_bytes())
    before = torchscript.digest(path)
    record = torchscript.read_record(path)
    torchscript.write_record(path, replace(record, license="MIT"))
    assert torchscript.read_record(path).license == "MIT"
    assert torchscript.digest(path) == before == record.provenance["export"]["sha256"]
    with zipfile.ZipFile(path) as file:
        assert file.namelist().count(archive.RECORD) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["model.torchscript"]


def test_a_verified_file_agrees_with_its_reference(exported):
    path = exported["fp32"].path
    record = verification.read_record(ROW, path)
    with open_session(path, device="cpu") as session:
        found = session.run(probe.images(record, 2))
    reference = verification.Reference.from_dict(record.provenance["export"]["reference"])
    assert error(found, reference.cases[(64, 64)][:2]) < 1e-4


# ---------------------------------------------------------------------- refusals


def test_a_changed_weight_is_caught(exported, tmp_path):
    content = bytearray(exported["fp32"].path.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "model.torchscript").write_bytes(content)
    with pytest.raises(ArtifactError, match="was cut off or damaged; copy it or export it again"):
        open_session(tmp_path / "model.torchscript", device="cpu")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no archive at all"])
def test_files_of_other_kinds_are_refused(tmp_path, content):
    (tmp_path / "model.torchscript").write_bytes(content)
    with pytest.raises(ArtifactError, match="is no torchscript file, or was cut off"):
        open_session(tmp_path / "model.torchscript", device="cpu")


def test_half_a_file_is_refused(exported, tmp_path):
    content = exported["fp32"].path.read_bytes()
    (tmp_path / "model.torchscript").write_bytes(content[: len(content) // 2])
    with pytest.raises(ArtifactError, match="is no torchscript file, or was cut off"):
        open_session(tmp_path / "model.torchscript", device="cpu")


def test_a_folder_and_nothing_at_all_are_named(tmp_path):
    (tmp_path / "folder.torchscript").mkdir()
    with pytest.raises(ArtifactError, match=r"is a folder; give the \.torchscript file inside it"):
        open_session(tmp_path / "folder.torchscript", device="cpu")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.torchscript"):
        open_session(tmp_path / "nowhere.torchscript", device="cpu")


def test_a_file_of_others_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.torchscript", "w") as file:
        file.writestr("model/version", "3")
    with pytest.raises(ArtifactError, match="has no swinv2 record"):
        open_session(tmp_path / "model.torchscript", device="cpu")


def test_a_file_of_another_format_under_this_name_is_named(exported, tmp_path):
    (tmp_path / "model.torchscript").write_bytes(exported["fp32"].path.read_bytes())
    record = torchscript.read_record(tmp_path / "model.torchscript")
    about = record.provenance["export"] | {"format": "pt2"}
    torchscript.write_record(tmp_path / "model.torchscript", artifact.with_provenance(record, export=about))
    with pytest.raises(ArtifactError, match=r"model\.torchscript holds pt2 and not torchscript"):
        open_session(tmp_path / "model.torchscript", device="cpu")


def test_a_record_around_something_else_is_refused(exported, tmp_path):
    with zipfile.ZipFile(tmp_path / "model.torchscript", "w") as file:
        file.writestr("model/version", "3")
    torchscript.write_record(tmp_path / "model.torchscript", torchscript.read_record(exported["fp32"].path))
    with pytest.raises(ArtifactError, match=r"model\.torchscript cannot be loaded: "):
        open_session(tmp_path / "model.torchscript", device="cpu")


def test_another_precision_than_that_of_the_file_has_a_cure(exported):
    with pytest.raises(ValueError, match="is in fp32; export it again with --precision bf16"):
        open_session(exported["fp32"].path, device="cpu", precision="bf16")


def test_an_image_of_another_size_is_refused(exported):
    with pytest.raises(ValueError, match=r"this model takes \[batch, 3, 64, 64\]"):
        open_session(exported["fp32"].path, device="cpu").run(np.zeros((1, 3, 32, 64), np.float32))


def test_threads_are_set(exported):
    before = torch.get_num_threads()
    try:
        open_session(exported["fp32"].path, device="cpu", threads=1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
