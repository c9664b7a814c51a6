"""The table of runtimes chooses and refuses in words; the torch session gives the logits of the model."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from swinv2 import artifact, runtimes
from swinv2.artifact import Record
from swinv2.preprocess import Preprocess
from swinv2.runtimes import RUNTIMES, Session, Unsupported, choose, engine, open_session
from swinv2.runtimes import torch as torch_runtime
from swinv2.runtimes.torch import TorchSession

TORCH = RUNTIMES["torch"]
NOT_EVERYWHERE = {
    "tensorrt",
    "coreml",
    "mnn",
}  # need an NVIDIA GPU, a Mac, a package that is not in our extras


@pytest.fixture
def model(small):
    small.record = Record(small.config, Preprocess.official(64), tuple("abcdefg"))
    return small


@pytest.fixture
def path(model, tmp_path):
    artifact.write(tmp_path / "model.safetensors", model.record, model.state_dict())
    return tmp_path / "model.safetensors"


@pytest.fixture
def two(monkeypatch):
    """A second runtime that opens .thing files, and .safetensors as well."""

    class Thing(Session):
        runtime, device, precision = "thing", "cpu", "fp32"

        def run(self, images):
            return images.mean((2, 3))

    module = SimpleNamespace(
        open=lambda source, **options: Thing(), unsupported=lambda device, precision: None
    )
    monkeypatch.setitem(sys.modules, "thing_runtime", module)
    row = replace(
        TORCH, name="thing", suffixes=(".thing", ".safetensors"), names=False, devices=("cpu",),
        precisions=("fp32",), package="numpy", extra="thing", module="thing_runtime",
    )  # fmt: skip
    monkeypatch.setattr(runtimes, "RUNTIMES", {"thing": row, "torch": TORCH})
    monkeypatch.setattr(runtimes, "ORDER", {"cpu": (), "other": ()})
    return row


def absent():
    raise Unsupported("the engine was not built")


def images(batch: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((batch, 3, 64, 64)).astype(np.float32)


def eager(model, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model.double()(torch.from_numpy(x).double()).numpy()


def error(found: np.ndarray, exact: np.ndarray) -> float:
    return float(np.abs(found - exact).max() / np.abs(exact).max())


# ---------------------------------------------------------------------- torch


@pytest.mark.parametrize(("precision", "limit"), [("fp32", 2e-5), ("bf16", 5e-2), ("fp16", 1e-2)])
@pytest.mark.parametrize("batch", [1, 3])
def test_session_gives_the_logits_of_the_model(path, model, precision, limit, batch):
    with open_session(path, "torch", device="cpu", precision=precision) as session:
        logits = session.run(images(batch))
    assert (logits.dtype, logits.shape) == (np.float32, (batch, 7))
    assert error(logits, eager(model, images(batch))) < limit


def test_half_precision_is_really_half(model):
    fp32, bf16 = (TorchSession(model, device="cpu", precision=p).run(images()) for p in ("fp32", "bf16"))
    assert error(bf16, fp32) > 1e-4


def test_a_model_in_memory_is_a_session(model):
    assert error(TorchSession(model, device="cpu").run(images()), eager(model, images())) < 2e-5


def test_the_model_of_a_session_is_not_changed(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    TorchSession(model, device="cpu", precision="bf16").run(images())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_session_says_what_it_is(path):
    session = open_session(path, "torch", device="cpu")
    assert (session.runtime, session.device, session.precision) == ("torch", "cpu", "fp32")
    assert session.record.classes == tuple("abcdefg")


def test_auto_names_the_device_that_it_takes(model):
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert TorchSession(model).device == expected


def test_a_model_without_record_is_refused(small):
    with pytest.raises(ValueError, match="has no record"):
        TorchSession(small)


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 3, 64, 65), (1, 1, 64, 64)])
def test_images_of_another_shape_are_refused(model, shape):
    with pytest.raises(ValueError, match=r"this model takes \[batch, 3, 64, 64\]"):
        TorchSession(model, device="cpu").run(np.zeros(shape, np.float32))


def test_logits_do_not_depend_on_memory_layout(model):
    session, x = TorchSession(model, device="cpu"), images()
    backwards = np.ascontiguousarray(x[..., ::-1])[..., ::-1]
    assert np.array_equal(session.run(backwards), session.run(x))


def test_threads_are_set(path):
    before = torch.get_num_threads()
    try:
        open_session(path, "torch", device="cpu", threads=1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_missing_cuda_is_said_before_the_model_is_read():
    with pytest.raises(ValueError, match="torch sees no CUDA device here"):
        open_session("nowhere.safetensors", device="cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("precision", "limit"), [("fp32", 2e-3), ("bf16", 5e-2), ("fp16", 1e-2)])
def test_cuda_gives_the_logits_of_the_model(model, precision, limit):
    exact = eager(model, images())
    assert error(TorchSession(model.float(), device="cuda", precision=precision).run(images()), exact) < limit


# ---------------------------------------------------------------------- the table


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"runtime": "tensorflow"}, "no runtime is called 'tensorflow'; there are auto, engine, torch"),
        ({"device": "tpu"}, "torch runs on cpu, cuda, mps, not on 'tpu'"),
        ({"device": "cuda:x"}, "'cuda:x' is no device"),
        ({"precision": "int3"}, "torch computes in fp32, bf16, fp16, fp8, not in 'int3'"),
        ({"runtime": "torch", "precision": "int8"}, "torch computes in fp32, bf16, fp16, fp8, not in 'int8'"),
        ({"threads": 0}, "threads is 0; give at least 1"),
    ],
)
def test_impossible_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        open_session("model.safetensors", **options)


@pytest.mark.parametrize(
    "name", ["swinv2_tiny_window8_256", "swinv2_tiny_window8_256.ms_in1k", "owner/repo", "m.safetensors"]
)
def test_names_and_artifacts_go_to_the_engine_and_then_to_torch(name, monkeypatch):
    monkeypatch.setattr(engine, "library", absent)
    monkeypatch.setattr(runtimes.accelerators, "signs", lambda: False)
    assert choose(name) is TORCH
    monkeypatch.setattr(engine, "unsupported", lambda device, precision: None)
    assert choose(name) is RUNTIMES["engine"]
    assert choose(name, precision="fp16") is TORCH
    assert choose(name, "torch") is TORCH


def test_a_gpu_goes_before_the_engine(monkeypatch):
    monkeypatch.setattr(engine, "unsupported", lambda device, precision: None)
    monkeypatch.setattr(runtimes.accelerators, "signs", lambda: True)
    monkeypatch.setattr(torch_runtime, "fastest_device", lambda: "cuda")
    assert choose("m.safetensors") is TORCH
    assert choose("m.safetensors", device="cpu") is RUNTIMES["engine"]
    monkeypatch.setattr(torch_runtime, "fastest_device", lambda: "cpu")
    assert choose("m.safetensors") is RUNTIMES["engine"]


def test_the_suffix_chooses(two):
    assert choose("a.thing") is two
    assert choose("a.pth") is TORCH


def test_the_first_row_that_can_is_preferred(two):
    assert choose("a.safetensors") is two


def test_a_row_that_cannot_is_passed_over(two):
    assert choose("a.safetensors", precision="bf16") is TORCH


def test_a_row_that_refuses_the_model_is_passed_over(two, path, monkeypatch):
    monkeypatch.setattr(sys.modules["thing_runtime"], "open", lambda source, **options: absent())
    assert open_session(path, device="cpu").runtime == "torch"
    with pytest.raises(ValueError, match=r"^the engine was not built$"):
        open_session(path, "thing")
    monkeypatch.setitem(runtimes.RUNTIMES, "torch", replace(TORCH, package="no_such_package"))
    with pytest.raises(ImportError, match=r"here: the engine was not built; needs no_such_package -- pip"):
        open_session(path)


def test_a_named_runtime_is_not_replaced(two):
    with pytest.raises(ValueError, match="thing computes in fp32, not in 'bf16'"):
        choose("a.safetensors", "thing", precision="bf16")


def test_a_named_runtime_says_which_files_it_opens(two):
    with pytest.raises(ValueError, match=r"thing does not open a\.pth; it opens \.thing, \.safetensors"):
        choose("a.pth", "thing")


def test_every_reason_is_named_where_nothing_can(two):
    with pytest.raises(ValueError, match=r"thing runs on cpu.*; torch runs on cpu, cuda, mps, not on 'tpu'"):
        choose("a.safetensors", device="tpu")


def test_a_runtime_that_is_not_installed_names_the_cure(two, monkeypatch):
    monkeypatch.setitem(runtimes.RUNTIMES, "thing", replace(two, package="no_such_package"))
    with pytest.raises(ImportError, match=r'needs no_such_package -- pip install "swinv2\[thing\]"'):
        choose("a.thing")


def test_a_second_runtime_opens(two):
    with open_session("a.thing") as session:
        assert session.run(np.ones((2, 3, 4, 4), np.float32)).shape == (2, 3)


@pytest.mark.parametrize("row", RUNTIMES.values(), ids=RUNTIMES)
def test_every_row_keeps_the_contract(row):
    module = row.load()
    assert callable(module.open)
    why = module.unsupported("auto", row.precisions[0])
    assert why is None or row.name in NOT_EVERYWHERE, why
    assert set(row.precisions) <= set(runtimes.PRECISIONS)
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in row.suffixes)
