"""The graph that the model writes: right at every size, batch, opset and precision, and plain enough for everybody."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import SMALL, randomized
from exports import small_model

from swinv2 import lint, probe
from swinv2.config import VARIANTS
from swinv2.fold import fold
from swinv2.model import SwinV2
from swinv2.runtimes import Options
from swinv2.runtimes import onnx as runtime
from swinv2.runtimes.onnx.dynamic import dynamic_graph
from swinv2.runtimes.onnx.static import graph
from swinv2.runtimes.onnx.writing import walk, write

SIZES = [
    (64, 64),
    (33, 47),
    (72, 88),
    (20, 200),
]  # whole windows; odd everywhere; padded windows; one row of windows
# What the static graph may hold, whatever the opset.
PLAIN = {
    "Add", "Attention", "Concat", "Conv", "Div", "Erf", "Gelu", "LayerNormalization", "MatMul", "Mul", "Pad",
    "Reciprocal", "ReduceMean", "ReduceSum", "Reshape", "Slice", "Softmax", "Sqrt", "Squeeze", "Transpose",
}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> SwinV2:
    return small_model(config=SMALL)


def images(batch: int, size: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((batch, 3, *size)).astype(np.float32)


def exact(model: SwinV2, x: np.ndarray) -> np.ndarray:
    """The logits of the plain network, one image at a time."""
    with torch.no_grad():
        return torch.cat([model(one[None]) for one in torch.from_numpy(x)]).numpy()


def run(made: onnx.ModelProto | Path, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    source = str(made) if isinstance(made, Path) else made.SerializeToString()
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"images": x})[0]


def error(found: np.ndarray, reference: np.ndarray) -> float:
    return float(np.abs(found - reference).max() / np.abs(reference).max())


def products(made: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [
        node for node in made.graph.node if node.op_type in ("MatMul", "MatMulInteger") and "/" in node.name
    ]


# ---------------------------------------------------------------------- one image size


@pytest.mark.parametrize("opset", [17, 18, 20, 23, 24])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_static_graph_gives_the_logits_of_the_model(model, size, opset):
    made = graph(fold(model, image_size=size), opset=opset)
    onnx.checker.check_model(made, full_check=True)
    assert made.opset_import[0].version == opset
    x = images(2, size)
    assert error(run(made, x), exact(model, x)) < 2e-5


@pytest.mark.parametrize("opset", [17, 23])
def test_one_file_takes_every_batch(model, opset):
    made, x = graph(fold(model), opset=opset), images(33, (64, 64))
    reference = exact(model, x)
    for batch in (1, 2, 7, 33):
        assert error(run(made, x[:batch]), reference[:batch]) < 2e-5, batch


@pytest.mark.parametrize("opset", [17, 20, 23])
@pytest.mark.parametrize("size", [(64, 64), (33, 47)], ids=str)
def test_the_static_graph_is_plain(model, size, opset, tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(graph(fold(model, image_size=size), opset=opset), path)
    nodes = walk(path)
    assert lint.problems(nodes, edge=True) == []
    assert min(node.rank for node in nodes) > 0  # every rank is known
    assert {node.operator for node in nodes} <= PLAIN


def test_a_block_has_few_operators(model):
    """A shift brings eight slices and concatenations and, with an own mask for every window, transpositions."""
    names = [node.name for node in graph(fold(model)).graph.node]
    counts = Counter(name.rpartition("/")[0].split(".")[2] for name in names if name.startswith("stages.0."))
    assert counts["1"] <= 40, counts
    assert counts["2"] <= 62, counts


def test_attention_and_norms_are_one_operator_each_where_the_opset_has_them(model):
    counts = Counter(node.op_type for node in graph(fold(model)).graph.node)
    blocks = sum(SMALL.depths)
    assert counts["Attention"] == counts["Gelu"] == blocks
    assert counts["LayerNormalization"] == 2 * blocks + 2 + len(SMALL.depths) - 1
    assert counts["Softmax"] == counts["Erf"] == 0


def test_operators_are_named_after_the_modules_of_the_folded_network(model):
    modules = {name for name, _ in fold(model).named_modules()}
    found = {node.name.partition("/")[0].removesuffix(".q").removesuffix(".k").removesuffix(".v")
             for node in products(graph(fold(model)))}  # fmt: skip
    assert found <= modules
    assert {
        "stages.0.1.qkv",
        "stages.0.1.proj",
        "stages.0.1.fc1",
        "stages.0.1.fc2",
        "stages.0.3.reduction",
        "head",
    } <= found
    names = [node.name for node in graph(fold(model)).graph.node]
    assert len(set(names)) == len(names)


def test_inputs_and_outputs_have_names_and_sizes(model):
    made = graph(fold(model))
    shapes = [
        (value.name, [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim])
        for value in (*made.graph.input, *made.graph.output)
    ]
    assert shapes == [("images", ["batch", 3, 64, 64]), ("logits", ["batch", 7])]


def test_a_fixed_batch_is_in_the_shape(model):
    made = graph(fold(model), batch=3)
    assert [dim.dim_value for dim in made.graph.input[0].type.tensor_type.shape.dim] == [3, 3, 64, 64]
    x = images(3, (64, 64))
    assert error(run(made, x), exact(model, x)) < 2e-5


def test_masks_are_stored_once_for_a_stage():
    deep = randomized(SwinV2(replace(SMALL, depths=(6, 2, 2, 2)))).eval()
    masks = [tensor.name for tensor in graph(fold(deep)).graph.initializer if ".mask." in tensor.name]
    assert masks == ["stages.0.mask.2x2", "stages.1.mask.2x2"]


def test_a_network_without_head_gives_features(model):
    headless = randomized(SwinV2(replace(SMALL, num_classes=0))).eval()
    x = images(2, (64, 64))
    assert error(run(graph(fold(headless)), x), exact(headless, x)) < 2e-5


# ---------------------------------------------------------------------- any size


@pytest.fixture(scope="module", params=[17, 23], ids="opset{}".format)
def any_size(model, request):
    made = dynamic_graph(model, opset=request.param)
    onnx.checker.check_model(made, full_check=True)
    return made


@pytest.mark.parametrize("size", [*SIZES, (96, 80), (1, 1), (4, 9), (16, 17), (128, 128)], ids=str)
def test_the_dynamic_graph_takes_any_size(model, any_size, size):
    x = images(2, size)
    assert error(run(any_size, x), exact(model, x)) < 2e-5


def test_the_dynamic_graph_takes_any_batch(model, any_size):
    x = images(7, (33, 47))
    assert error(run(any_size, x), exact(model, x)) < 2e-5


@pytest.mark.parametrize("size", [(32, 16), (64, 64), (33, 47)], ids=str)
def test_windows_that_were_trained_with_one_token_follow_the_rule_of_the_config(size):
    """Such a stage has no distances of its own: today's window is their unit, so the bias depends on the size."""
    tiny = randomized(SwinV2(replace(SMALL, image_size=(32, 16)))).eval()
    assert (1, 1) in tiny.config.trained_windows
    x = images(2, size)
    assert error(run(dynamic_graph(tiny), x), exact(tiny, x)) < 2e-5


def test_pretrained_windows_keep_their_unit_at_other_sizes():
    grown = randomized(SwinV2(replace(SMALL, pretrained_windows=((3, 3), (3, 3), (3, 3), (2, 2))))).eval()
    x = images(1, (96, 80))
    assert error(run(dynamic_graph(grown), x), exact(grown, x)) < 2e-5
    assert error(run(graph(fold(grown, image_size=(96, 80))), x), exact(grown, x)) < 2e-5


# ---------------------------------------------------------------------- precisions


@pytest.mark.parametrize("opset", [17, 23])
@pytest.mark.parametrize("size", [(64, 64), (33, 47)], ids=str)
def test_half_precision_is_near_and_really_half(model, size, opset):
    x = images(3, size)
    for made in (
        graph(fold(model, image_size=size), opset=opset, half=True),
        dynamic_graph(model, opset=opset, half=True),
    ):
        onnx.checker.check_model(made, full_check=True)
        wide = [
            t.name
            for t in made.graph.initializer
            if t.data_type == onnx.TensorProto.FLOAT and len(t.raw_data) > 64
        ]
        assert wide == []
        assert 1e-5 < error(run(made, x), exact(model, x)) < 2e-2


@pytest.fixture(scope="module")
def calibration(model) -> np.ndarray:
    return probe.images(model.record, 8)


@pytest.mark.parametrize("activations", ["static", "dynamic"])
def test_int8_is_near_and_its_weights_are_a_quarter(model, calibration, activations, tmp_path):
    path, whole = tmp_path / "int8.onnx", tmp_path / "fp32.onnx"
    notes = write(model, path, Options("int8", activations=activations), calibration)
    write(model, whole, Options(), None)
    assert notes["int8"] == {"activations": activations, "weights": "per channel", "float": []}
    assert path.stat().st_size < 0.4 * whole.stat().st_size
    assert 1e-3 < error(run(path, calibration), exact(model, calibration)) < 0.15
    assert lint.problems(walk(path), edge=True) == []


@pytest.mark.parametrize("activations", ["static", "dynamic"])
def test_layers_are_kept_in_float(model, calibration, activations, tmp_path):
    kept = ("stages.0.1.qkv", "stages.2.1.fc2", "stages.1.2", "head")
    path = tmp_path / "int8.onnx"
    write(model, path, Options("int8", activations=activations, keep_float=kept), calibration)
    made = onnx.load(path)
    is_float = {
        tensor.name for tensor in made.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT
    }
    found = {
        name.removesuffix(".weight") for name in is_float if name.endswith(".weight") and "norm" not in name
    }
    of_qkv = {f"stages.0.1.qkv.{part}" for part in "qkv"}
    expected = of_qkv | {"stages.2.1.fc2", "stages.1.2.reduction", "head"}
    assert found == expected | ({"stages.0.0.proj"} if activations == "dynamic" else set())


def test_weights_have_a_scale_for_every_output_channel(model, calibration, tmp_path):
    path = tmp_path / "int8.onnx"
    write(model, path, Options("int8"), calibration)
    scales = {
        t.name: list(t.dims)
        for t in onnx.load(path).graph.initializer
        if t.name.startswith("stages.0.1.fc1.weight")
    }
    assert scales["stages.0.1.fc1.weight_scale"] == [128]


def test_int8_takes_any_size_too(model, calibration, tmp_path):
    path = tmp_path / "int8.onnx"
    write(model, path, Options("int8", dynamic_size=True), calibration)
    x = images(2, (33, 47))
    assert error(run(path, x), exact(model, x)) < 0.15


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (Options("int8"), "needs pictures to measure their ranges; give --data"),
        (Options("int8", activations="dynamic", keep_float=("stages.0.1.fc3",)), "no layer 'stages.0.1.fc3' to keep"),
        (Options("int8", activations="dynamic", keep_float=("stages.0.1.fc",)), "no layer 'stages.0.1.fc' to keep"),
        (Options("int8", activations="some"), "activations are 'some'; give static or dynamic"),
    ],
)  # fmt: skip
def test_impossible_int8_is_refused(model, options, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        runtime.export(model, tmp_path / "model.onnx", options)


@pytest.mark.parametrize(("opset", "possible"), [(16, False), (17, True), (23, True), (99, False)])
def test_opsets_without_the_operators_are_refused(opset, possible):
    why = runtime.cannot_export(Options(opset=opset))
    assert (why is None) == possible
    assert possible or f"opset is {opset}; give one from 17 to" in why


# ---------------------------------------------------------------------- files


@pytest.mark.parametrize(
    "options",
    [
        Options(),
        Options(dynamic_size=True),
        Options("fp16"),
        Options("int8"),
        Options("int8", activations="dynamic"),
    ],
)
def test_writing_twice_gives_the_same_bytes(model, calibration, options, tmp_path):
    first, second = tmp_path / "a.onnx", tmp_path / "b.onnx"
    for path in (first, second):
        runtime.export(model, path, options, calibration)
    assert first.read_bytes() == second.read_bytes()


def test_the_notes_say_which_opset_and_format_a_runtime_must_know(model, tmp_path):
    assert runtime.export(model, tmp_path / "a.onnx", Options(opset=20)) == {"opset": 20, "ir_version": 9}


def test_too_many_weights_for_one_file_go_into_one_beside_it(model, tmp_path):
    notes = write(model, tmp_path / "big.onnx", Options(), None, one_file=1000)
    assert notes["weights"] == "big.onnx.data"
    assert (tmp_path / "big.onnx").stat().st_size < 1_500_000 < (tmp_path / "big.onnx.data").stat().st_size
    x = images(2, (64, 64))
    assert error(run(tmp_path / "big.onnx", x), exact(model, x)) < 2e-5
    before = runtime.digest(tmp_path / "big.onnx")
    weights = bytearray((tmp_path / "big.onnx.data").read_bytes())
    weights[1000] ^= 1
    (tmp_path / "big.onnx.data").write_bytes(weights)
    assert runtime.digest(tmp_path / "big.onnx") != before


# ---------------------------------------------------------------------- every published model


def narrow(name: str) -> SwinV2:
    """A variant with its own windows, heads, pretrained windows and norms, but few channels, blocks and classes."""
    config = VARIANTS[name]
    depths = tuple(min(depth, config.extra_norm_period or 2) for depth in config.depths)
    return randomized(
        SwinV2(replace(config, embed_dim=4 * config.heads[0], depths=depths, num_classes=5))
    ).eval()


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_writes_its_graph(name):
    model = narrow(name)
    made = graph(fold(model))
    onnx.checker.check_model(made, full_check=True)
    x = images(1, model.config.image_size)
    found, eager = run(made, x), exact(model, x)
    reference = model.double()(torch.from_numpy(x).double()).detach().numpy()
    # Heads of four channels are sensitive to rounding, in eager mode as well.
    assert error(found, reference) < 3 * error(eager, reference) + 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in VARIANTS if "huge" not in name and "giant" not in name])
def test_every_variant_of_full_size_gives_the_logits_of_the_model(name, tmp_path):
    model = randomized(SwinV2(VARIANTS[name])).eval()
    write(model, tmp_path / "model.onnx", Options(), None)
    onnx.checker.check_model(tmp_path / "model.onnx", full_check=True)
    x = images(2, model.config.image_size)
    assert error(run(tmp_path / "model.onnx", x), exact(model, x)) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("size", [(256, 256), (384, 320), (512, 512), (288, 352), (300, 420)], ids=str)
def test_a_full_size_model_takes_any_size(size):
    model = randomized(SwinV2(VARIANTS["swinv2_tiny_window16_256"])).eval()
    x = images(1, size)
    assert error(run(dynamic_graph(model), x), exact(model, x)) < 1e-4
