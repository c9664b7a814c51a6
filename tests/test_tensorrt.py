"""TensorRT: what can be shown without an NVIDIA GPU.

The graph that its parser is given runs in ONNX Runtime and has only operators that the parser lists; what is asked of
the builder is asked of a stand-in that notes it (FakeTensorRT: it computes nothing and proves nothing about engines).
On a GPU with TensorRT the last test builds, runs and compares.
"""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from exports import small_model, write_small

from swinv2 import lint, probe
from swinv2.artifact import ArtifactError
from swinv2.export import export
from swinv2.fold import fold
from swinv2.runtimes import RUNTIMES, Node, Options, beside, open_session, tensorrt

ROW = RUNTIMES["tensorrt"]
HAS_GPU = torch.cuda.is_available()
# Of the operators that TensorRT 10 reads in float32 and float16 (operators.md of onnx-tensorrt), those we may use.
TAKEN = {
    "Add", "Cast", "Clip", "Concat", "Conv", "Div", "Gelu", "LayerNormalization", "MatMul", "Max", "Mul", "Pad",
    "Reciprocal", "ReduceMean", "ReduceSum", "Reshape", "Slice", "Softmax", "Sqrt", "Squeeze", "Transpose",
}  # fmt: skip


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_graph_has_only_operators_that_the_parser_takes(precision):
    made = tensorrt.graph_of(small_model(), Options(precision=precision))
    assert made.opset_import[0].version == tensorrt.OPSET == 20
    found = {node.op_type for node in made.graph.node}
    assert found <= TAKEN, found - TAKEN
    assert lint.problems([Node(name, 0) for name in found], edge=False) == []
    (images,) = made.graph.input
    assert images.name == "images"
    assert images.type.tensor_type.shape.dim[0].dim_param  # a profile gives it its sizes
    assert [output.name for output in made.graph.output] == ["logits"]


@pytest.mark.parametrize(("precision", "limit"), [("fp32", 1e-5), ("fp16", 2e-2)])
def test_the_graph_gives_the_logits_of_the_model(precision, limit):
    import onnxruntime

    model = small_model()
    made = tensorrt.graph_of(model, Options(precision=precision)).SerializeToString()
    session = onnxruntime.InferenceSession(made, providers=["CPUExecutionProvider"])
    for batch in tensorrt.BATCHES:
        x = probe.images(model.record, batch)
        (found,) = session.run(None, {"images": x})
        with torch.no_grad():
            exact = fold(model)(torch.from_numpy(x)).numpy()
        assert np.abs(found - exact).max() < limit * np.abs(exact).max()


# ---------------------------------------------------------------------- what the builder is asked for


class FakeTensorRT(SimpleNamespace):
    """The names of TensorRT 10 that we call, which only note that they were called."""

    def __init__(self, *, parses: bool = True, builds: bool = True, version: str = "10.9.0"):
        told: list[tuple] = []

        class Logger:
            class Severity:
                INTERNAL_ERROR, ERROR, WARNING = range(3)

        class Builder:
            def __init__(self, logger):
                self.logger = logger

            def create_network(self, flags):
                told.append(("network", flags))
                return "network"

            def create_builder_config(self):
                return Config()

            def create_optimization_profile(self):
                return SimpleNamespace(set_shape=lambda *shapes: told.append(("profile", *shapes)))

            def build_serialized_network(self, network, config):
                self.logger.log(Logger.Severity.WARNING, "nothing of interest")
                if not builds:
                    self.logger.log(Logger.Severity.ERROR, "no tactic\n for MatMul")
                return b"an engine" if builds else None

        class Config:
            clear_flag = set_flag = staticmethod(lambda flag: told.append(("flag", flag)))
            add_optimization_profile = staticmethod(lambda profile: 0)

            def create_timing_cache(self, content):
                told.append(("timings", content))
                return SimpleNamespace(serialize=lambda: content + b"+")

            def set_timing_cache(self, cache, ignore_mismatch):
                self.cache = cache
                return True

            def get_timing_cache(self):
                return self.cache

        class Parser:
            num_errors = 2

            def __init__(self, network, logger):
                pass

            def parse(self, content):
                told.append(("onnx", len(content)))
                return parses

            def get_error(self, i):
                return SimpleNamespace(desc=lambda: f"reason {i}")

        super().__init__(
            told=told, ILogger=Logger, Builder=Builder, OnnxParser=Parser, __version__=version,
            BuilderFlag=SimpleNamespace(TF32="TF32"), NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=1),
        )  # fmt: skip


def test_the_builder_is_asked_for_one_profile_and_for_exact_products(tmp_path):
    fake = FakeTensorRT()
    assert tensorrt.build(fake, b"graph", (3, 64, 96), tmp_path / "cache" / "t.timings") == b"an engine"
    assert ("profile", "images", (1, 3, 64, 96), (8, 3, 64, 96), (32, 3, 64, 96)) in fake.told
    assert ("network", 1 << 1) in fake.told
    assert [flag for kind, flag in (row[:2] for row in fake.told) if kind == "flag"] == ["TF32"]


def test_tensorrt_11_has_no_flags_for_what_it_always_does(tmp_path):
    fake = FakeTensorRT(version="11.4.1")
    fake.NetworkDefinitionCreationFlag, fake.BuilderFlag = SimpleNamespace(), SimpleNamespace()
    tensorrt.build(fake, b"graph", (3, 64, 64), tmp_path / "t.timings")
    assert ("network", 0) in fake.told
    assert "flag" not in {row[0] for row in fake.told}


def test_timings_of_kernels_are_kept_for_the_next_build(tmp_path):
    fake, timings = FakeTensorRT(), tmp_path / "cache" / "t.timings"
    for _ in range(2):
        tensorrt.build(fake, b"graph", (3, 64, 64), timings)
    assert [row[1] for row in fake.told if row[0] == "timings"] == [b"", b"+"]
    assert timings.read_bytes() == b"++"
    assert [p.name for p in timings.parent.iterdir()] == ["t.timings"]


def test_the_parsers_own_reasons_are_quoted(tmp_path):
    with pytest.raises(ValueError, match=r"TensorRT 10\.9\.0 does not read the graph: reason 0; reason 1"):
        tensorrt.build(FakeTensorRT(parses=False), b"graph", (3, 64, 64), tmp_path / "t")


def test_the_builders_own_reasons_are_quoted_and_its_warnings_not(tmp_path):
    with pytest.raises(ValueError, match=r"TensorRT 10\.9\.0 built no engine: no tactic for MatMul$"):
        tensorrt.build(FakeTensorRT(builds=False), b"graph", (3, 64, 64), tmp_path / "t")
    assert not (tmp_path / "t").exists()


# ---------------------------------------------------------------------- refusals


def test_it_must_be_asked_for_a_gpu():
    assert (
        tensorrt.cannot_export(Options())
        == "tensorrt builds engines for the GPU that is here; add --device cuda"
    )


@pytest.mark.skipif(HAS_GPU, reason="has a CUDA device")
def test_without_a_gpu_it_is_refused_with_the_reason():
    assert "torch sees no CUDA device here" in tensorrt.cannot_export(Options(device="cuda"))
    assert "torch sees no CUDA device here" in tensorrt.unsupported("auto", "fp32")


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_precisions_that_no_graph_of_ours_has_are_refused(precision):
    assert f"tensorrt is written in fp32, fp16, not in '{precision}'" == ROW.cannot_export(
        Options(precision=precision)
    )


def test_a_package_that_is_a_stub_is_named(monkeypatch):
    from swinv2.runtimes import torch as pytorch

    def stub():
        raise RuntimeError("libnvinfer.so.11:\n cannot open shared object file")

    monkeypatch.setattr(pytorch, "unsupported", lambda device, precision: None)
    monkeypatch.setattr(tensorrt, "_tensorrt", stub)
    assert tensorrt.unsupported("cuda", "fp32") == (
        "tensorrt does not load here: libnvinfer.so.11: cannot open shared object file"
    )


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="tensorrt is installed")
def test_where_the_package_is_missing_the_command_says_how_to_get_it(tmp_path):
    source = write_small(tmp_path / "model.safetensors")
    with pytest.raises(ImportError, match=r'needs tensorrt -- pip install "swinv2\[tensorrt\]"'):
        export(source, "tensorrt", device="cuda")
    with pytest.raises(ImportError, match=r'needs tensorrt -- pip install "swinv2\[tensorrt\]"'):
        open_session(tmp_path / "model.engine")
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_file_without_its_record_is_refused(tmp_path):
    (tmp_path / "model.engine").write_bytes(b"an engine")
    with pytest.raises(ArtifactError, match=r"has no model\.engine\.json beside it"):
        tensorrt.open(tmp_path / "model.engine", device="auto", precision="auto")


@pytest.mark.skipif(HAS_GPU, reason="has a CUDA device")
def test_an_engine_is_not_opened_without_a_gpu(tmp_path):
    (tmp_path / "model.engine").write_bytes(b"an engine")
    beside.write_record(tmp_path / "model.engine", small_model().record)
    with pytest.raises(ValueError, match="torch sees no CUDA device here"):
        tensorrt.open(tmp_path / "model.engine", device="auto", precision="auto")


# ---------------------------------------------------------------------- the real one


@pytest.mark.gpu
@pytest.mark.skipif(
    not HAS_GPU or importlib.util.find_spec("tensorrt") is None, reason="needs a CUDA device and TensorRT"
)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_engine_gives_the_logits_of_the_model(tmp_path, precision):
    source = write_small(tmp_path / "model.safetensors")
    (one,) = export(source, "tensorrt", precision=precision, device="cuda")  # raises where they differ
    assert [c.batch for c in one.comparisons] == [1, 2, 7]
    with open_session(one.path) as session:
        record = session.record
        whole = session.run(probe.images(record, 40))  # more than the profile takes at once
    assert whole.shape == (40, 7)
