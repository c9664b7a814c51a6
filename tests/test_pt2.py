"""AOTInductor packages: one for every batch and thread count, run without our code, the same bytes in every export."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TWO_STAGES, randomized

from swinv2 import artifact, child
from swinv2.artifact import ArtifactError, Record
from swinv2.export import export
from swinv2.model import SwinV2
from swinv2.parity import TOLERANCES
from swinv2.preprocess import Preprocess
from swinv2.runtimes import RUNTIMES, Options, archive, open_session, pt2

ROW = RUNTIMES["pt2"]
CONFIG = replace(TWO_STAGES, image_size=32)


def model() -> SwinV2:
    made = randomized(SwinV2(CONFIG)).eval()
    made.record = Record(CONFIG, Preprocess.official(32), tuple("abcdefg"))
    return made


def written(folder: Path, precision: str = "fp32") -> Path:
    """Exported as a user would, and verified by that."""
    artifact.write(folder / "model.safetensors", model().record, model().state_dict())
    (one,) = export(folder / "model.safetensors", "pt2", precision=precision)
    return one.path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return written(tmp_path_factory.mktemp("pt2"))


def images(batch: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((batch, 3, 32, 32)).astype(np.float32)


def eager(x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model().double()(torch.from_numpy(x).double()).numpy()


def error(found: np.ndarray, exact: np.ndarray) -> float:
    return float(np.abs(found - exact).max() / np.abs(exact).max())


def changed(path: Path, to: Path, **export_fields) -> Path:
    """A copy whose record says something else about the export."""
    to.write_bytes(path.read_bytes())
    record = pt2.read_record(path)
    about = record.provenance["export"] | export_fields
    pt2.write_record(to, artifact.with_provenance(record, export=about))
    return to


# ---------------------------------------------------------------------- answers


def test_every_batch_gives_the_logits_of_the_model(path):
    with open_session(path, device="cpu") as session:
        for batch in (2, 1, 7, 32, 3):
            logits = session.run(images(batch, seed=batch))
            assert (logits.dtype, logits.shape) == (np.float32, (batch, 7))
            assert error(logits, eager(images(batch, seed=batch))) < 1e-5


@pytest.mark.parametrize("threads", [1, 2])
def test_it_computes_with_as_many_threads_as_it_is_told(path, threads):
    before = torch.get_num_threads()
    try:
        with open_session(path, device="cpu", threads=threads) as session:
            assert torch.get_num_threads() == threads
            assert error(session.run(images(5)), eager(images(5))) < 1e-5
    finally:
        torch.set_num_threads(before)


def test_images_are_computed_some_at_a_time_where_they_are_large(path, monkeypatch):
    session = open_session(path, device="cpu")
    whole = session.run(images(7))
    monkeypatch.setattr(pt2, "images_at_once", lambda *_: 2)
    assert error(session.run(images(7)), whole) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_really_half(tmp_path, path, precision):
    half = written(tmp_path, precision)
    with open_session(half, device="cpu") as session:
        assert 1e-4 < error(session.run(images(7)), eager(images(7))) < TOLERANCES[precision]
    assert half.stat().st_size < path.stat().st_size


def test_it_runs_without_our_code(path):
    """In another process, where swinv2 cannot be imported."""
    done = subprocess.run(
        [
            sys.executable, "-W", "ignore", "-c",
            "import sys; sys.modules['swinv2'] = None\n"
            "import torch\n"
            f"model = torch._inductor.aoti_load_package({str(path)!r})\n"
            "print(*model(torch.arange(5 * 3 * 32 * 32).reshape(5, 3, 32, 32) % 7 / 3.0).flatten().tolist())",
        ],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = np.array(done.stdout.split(), np.float64).reshape(5, 7)
    x = (np.arange(5 * 3 * 32 * 32).reshape(5, 3, 32, 32) % 7 / np.float32(3)).astype(np.float32)
    assert error(found, eager(x)) < 1e-5


# ---------------------------------------------------------------------- torch.export (P40)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_program_has_one_graph_for_every_batch(precision):
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    program = pt2.program_of(model(), dtype, torch.device("cpu"))
    (batch,) = program.range_constraints.values()
    assert str(batch) == "VR[1, int_oo]"  # from 1, without an end
    for n in (1, 2, 7, 32):
        found = program.module()(torch.from_numpy(images(n)))
        assert found.dtype == torch.float32
        assert error(found.numpy(), eager(images(n))) < TOLERANCES[precision]


def test_strict_tracing_finds_no_graph_break():
    from swinv2.fold import fold

    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad():
        program = torch.export.export(
            fold(model()), (torch.zeros(2, 3, 32, 32),), dynamic_shapes=({0: batch},), strict=True
        )
    assert error(program.module()(torch.from_numpy(images(3))).numpy(), eager(images(3))) < 1e-5


# ---------------------------------------------------------------------- the file


@pytest.mark.slow
def test_two_exports_are_the_same_bytes(path, tmp_path):
    """The second one under another name, in a process with other temporary folders and another number of threads.

    AOTInductor would write all of them into the code: with one thread here, none of its loops would be parallel.
    """
    arguments = {
        "source": str(path.with_name("model.safetensors")), "path": str(tmp_path / "other.pt2"), "runtime": "pt2",
        "options": {"precision": "fp32", "keep_float": []}, "calibration": None,
    }  # fmt: skip
    (tmp_path / "elsewhere").mkdir()
    child.call(
        "swinv2.export.writing:write", arguments, doing="writing other.pt2",
        environment={"TMPDIR": str(tmp_path / "elsewhere"), "OMP_NUM_THREADS": "3"},
    )  # fmt: skip
    assert pt2.digest(tmp_path / "other.pt2") == pt2.read_record(path).provenance["export"]["sha256"]
    record = pt2.read_record(path)
    pt2.write_record(tmp_path / "other.pt2", record)
    assert (tmp_path / "other.pt2").read_bytes() == path.read_bytes()
    assert list((tmp_path / "elsewhere").iterdir()) == []  # the compiler cleaned up
    with zipfile.ZipFile(path) as package:
        (name,) = (name for name in package.namelist() if name.endswith(".so"))
        assert re.search(rb"GOMP_parallel|__kmpc_fork_call", package.read(name))


def test_the_file_says_nothing_of_the_machine(path):
    content = path.read_bytes()
    for place in {
        str(Path(torch.__file__).parents[1]),
        str(Path(archive.__file__).parents[2]),
        str(path.parent),
    }:
        assert place.encode() not in content, place
    assert not re.search(rb"torchinductor_|/tmp/\w|\.cpp\b", content)


def test_the_record_says_what_the_code_needs(path):
    about = pt2.read_record(path).provenance["export"]
    assert (about["device"], about["precision"], about["dynamic"]) == ("cpu", "fp32", ["batch"])
    assert about["torch"] == torch.__version__
    assert about["needs"] == pt2.needs(path)


def test_the_record_is_read_without_loading_the_code(path, monkeypatch):
    monkeypatch.setattr(
        torch._inductor, "aoti_load_package", lambda *_, **__: pytest.fail("the code was loaded")
    )
    assert pt2.read_record(path).classes == tuple("abcdefg")


# ---------------------------------------------------------------------- refusals


def test_code_for_other_processors_is_not_run(path, tmp_path):
    """It would end the process with an illegal instruction."""
    other = changed(path, tmp_path / "other.pt2", needs=["avx512", "amx_of_tomorrow"])
    with pytest.raises(
        ValueError, match=r"this CPU has no .*amx_of_tomorrow; export it again on a machine like this"
    ):
        open_session(other, device="cpu")


def test_a_cpu_with_half_of_an_instruction_set_lacks_it(monkeypatch):
    monkeypatch.setattr(
        torch.cpu, "get_capabilities", lambda: {"avx512_f": True, "avx2": True, "fma3": True, "bmi2": True}
    )
    assert pt2._lacks(["avx2"]) is None
    assert "no avx512;" in pt2._lacks(["avx512"])


def test_code_for_a_gpu_is_not_run_on_a_cpu(path, tmp_path):
    other = changed(path, tmp_path / "other.pt2", device="cuda", needs=["cuda", "9.0"])
    with pytest.raises(ValueError, match="holds code for cuda; export it again with --device cpu"):
        open_session(other, device="cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_code_for_a_gpu_needs_one(path, tmp_path):
    other = changed(path, tmp_path / "other.pt2", device="cuda", needs=["cuda", "9.0"])
    with pytest.raises(ValueError, match="cannot run here: torch sees no CUDA device"):
        open_session(other)
    assert "torch sees no CUDA device" in ROW.cannot_export(Options(device="cuda"))


def test_a_compiler_must_be_there(monkeypatch):
    monkeypatch.setattr(pt2, "COMPILER", "no-such-compiler -pipe")
    assert ROW.cannot_export(Options()) == (
        "writing pt2 needs a C++ compiler, and there is no no-such-compiler here; install g++, or name one in CXX"
    )


def test_other_devices_are_refused_before_anything_is_read():
    assert ROW.cannot_export(Options(device="npu")) == "pt2 is compiled for cpu or cuda, not for 'npu'"


def test_a_changed_byte_of_code_is_caught_before_it_runs(path, tmp_path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "model.pt2").write_bytes(content)
    with pytest.raises(ArtifactError, match="was cut off or damaged; copy it or export it again"):
        open_session(tmp_path / "model.pt2", device="cpu")


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_file_that_was_cut_off_is_refused(path, tmp_path, share):
    content = path.read_bytes()
    (tmp_path / "model.pt2").write_bytes(content[: int(share * len(content))])
    with pytest.raises(ArtifactError, match="is no pt2 file, or was cut off"):
        open_session(tmp_path / "model.pt2", device="cpu")


def test_a_package_of_others_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.pt2", "w") as file:
        file.writestr("model/archive_format", "pt2")
    with pytest.raises(ArtifactError, match="has no swinv2 record"):
        open_session(tmp_path / "model.pt2", device="cpu")


def test_a_file_of_another_format_under_this_name_is_named(path, tmp_path):
    other = changed(path, tmp_path / "model.pt2", format="torchscript")
    with pytest.raises(
        ArtifactError, match=r"model\.pt2 holds torchscript and not pt2; give it the suffix it had"
    ):
        open_session(other, device="cpu")


def test_a_record_without_code_is_refused(path, tmp_path):
    with zipfile.ZipFile(tmp_path / "model.pt2", "w") as file:
        file.writestr("model/archive_format", "pt2")
    pt2.write_record(tmp_path / "model.pt2", pt2.read_record(path))
    with pytest.raises(
        ArtifactError, match=r"was compiled with torch .* and does not load in .*; export it again"
    ):
        open_session(tmp_path / "model.pt2", device="cpu")


def test_another_precision_than_that_of_the_file_has_a_cure(path):
    with pytest.raises(ValueError, match="is in fp32; export it again with --precision bf16"):
        open_session(path, device="cpu", precision="bf16")


# ---------------------------------------------------------------------- C++, CUDA

PROGRAM = r"""
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/torch.h>
#include <iostream>
int main(int, char** argv) {
  c10::InferenceMode mode;
  torch::inductor::AOTIModelPackageLoader model(argv[1]);
  for (int batch : {2, 1, 7}) {
    auto logits = model.run({torch::ones({batch, 3, 32, 32})})[0];
    std::cout << logits.size(0) << " " << logits[batch - 1][0].item<float>() << "\n";
  }
}
"""


@pytest.mark.slow
def test_a_program_in_cpp_runs_it(path, tmp_path):
    """Against the libraries of the torch package; without Python."""
    from torch.utils.cpp_extension import include_paths

    (tmp_path / "main.cpp").write_text(PROGRAM)
    libraries = Path(torch.__file__).parent / "lib"
    abi = int(torch.compiled_with_cxx11_abi())
    subprocess.run(
        [
            pt2.COMPILER, "-std=c++20", "-O0", f"-D_GLIBCXX_USE_CXX11_ABI={abi}", *(f"-I{p}" for p in include_paths()),
            "main.cpp", "-o", "main", f"-L{libraries}", f"-Wl,-rpath,{libraries}", "-ltorch", "-ltorch_cpu", "-lc10",
        ],
        cwd=tmp_path, check=True,
    )  # fmt: skip
    done = subprocess.run(
        [tmp_path / "main", path],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.environ["PATH"]},
    )
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [int(batch) for batch, _ in rows] == [2, 1, 7]
    expected = eager(np.ones((1, 3, 32, 32), np.float32))[0, 0]
    assert all(abs(float(logit) - expected) < 1e-4 for _, logit in rows)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_package_for_cuda(tmp_path, precision):
    artifact.write(tmp_path / "model.safetensors", model().record, model().state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (one,) = export(tmp_path / "model.safetensors", "pt2", precision=precision, device="cuda")
    with open_session(one.path) as session:
        assert session.device == "cuda"
        assert error(session.run(images(7)), eager(images(7))) < max(2e-3, TOLERANCES[precision])


def test_replaced_records_leave_one(path, tmp_path):
    other = changed(path, tmp_path / "other.pt2", note=1)
    pt2.write_record(other, replace(pt2.read_record(other), license="MIT"))
    with zipfile.ZipFile(other) as file:
        assert file.namelist().count(archive.RECORD) == 1
    assert pt2.read_record(other).license == "MIT"
    assert pt2.digest(other) == pt2.digest(path)
