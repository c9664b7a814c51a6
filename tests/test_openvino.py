"""OpenVINO: the IR gives the logits of the model in every precision, opens fast again, and refuses in words."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
import torch
from conftest import SMALL, randomized
from exports import small_model

import swinv2
from swinv2 import lint, probe
from swinv2.artifact import ArtifactError, Record, with_provenance
from swinv2.config import VARIANTS
from swinv2.fold import fold
from swinv2.model import SwinV2
from swinv2.parity import TOLERANCES
from swinv2.preprocess import Preprocess
from swinv2.runtimes import RUNTIMES, Options, choose, open_session, portion
from swinv2.runtimes import onnx as onnx_runtime
from swinv2.runtimes import openvino as runtime
from swinv2.runtimes.openvino import cache
from swinv2.runtimes.openvino.graph import graph
from swinv2.runtimes.openvino.writing import hold_in_bf16, linear_layers, to_bf16

KEPT = ("stages.1.0.fc2", "stages.2.1.qkv", "head")
FILES = {
    "fp32": Options(), "bf16": Options(precision="bf16"), "fp16": Options(precision="fp16"),
    "int8": Options(precision="int8"), "kept": Options(precision="int8", keep_float=KEPT),
    "any": Options(dynamic_size=True),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def model() -> SwinV2:
    return small_model(config=SMALL)


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    """Name of a row in FILES -> its file, written when it is first asked for."""
    folder, done = tmp_path_factory.mktemp("openvino"), {}

    def of(name: str) -> Path:
        if name not in done:
            done[name] = write(model, folder / f"{name}.xml", FILES[name])
        return done[name]

    return of


def write(model: SwinV2, path: Path, options: Options) -> Path:
    """As the verb does it, without the comparison."""
    calibration = probe.images(model.record, 12) if options.precision == "int8" else None
    notes = runtime.export(model, path, options, calibration)
    dynamic = ["batch", *(["height", "width"] if options.dynamic_size else [])]
    about = {"precision": options.precision, "dynamic": dynamic, "sha256": runtime.digest(path), **notes}
    runtime.write_record(path, with_provenance(model.record, export=about))
    return path


def exact(model: SwinV2, x: np.ndarray) -> np.ndarray:
    """The logits of the plain network, one image at a time."""
    with torch.no_grad():
        return torch.cat([model(one[None]) for one in torch.from_numpy(x)]).numpy()


def error(found: np.ndarray, reference: np.ndarray) -> float:
    return float(np.abs(found - reference).max() / np.abs(reference).max())


def has(capability: str) -> bool:
    return capability in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def compiled_types(path: Path, kind: str) -> Counter:
    """Precisions in which the nodes of a kind run once compiled."""
    core = ov.Core()
    compiled = core.compile_model(core.read_model(str(path)), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    infos = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    return Counter(
        info["runtimePrecision"].astype(str) for info in infos if info["layerType"].astype(str) == kind
    )


# ---------------------------------------------------------------------- the answers


@pytest.mark.parametrize(("name", "limit"), [("fp32", 1e-5), ("fp16", 5e-3), ("bf16", 8e-2), ("int8", 0.15)])
def test_one_file_gives_the_logits_of_the_model_at_every_batch(model, exported, name, limit):
    x = probe.images(model.record, 7)
    reference = exact(model, x)
    with open_session(exported(name), "openvino", threads=1) as session:
        for batch in (1, 2, 7):
            assert error(session.run(x[:batch]), reference[:batch]) < limit, batch


@pytest.mark.parametrize("size", [(60, 60), (33, 47), (72, 88), (20, 200)], ids=str)
def test_padded_and_odd_sizes_give_the_logits_of_the_model(model, size):
    made = graph(fold(model, image_size=size))
    network = ov.Core().compile_model(
        ov.Core().read_model(made.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    x = probe.images(model.record, 2, size)
    assert error(network(x)[0], exact(model, x)) < 1e-5


@pytest.mark.parametrize("opset", [17, 18, 23])
def test_every_opset_gives_the_same_graph(model, exported, tmp_path, opset):
    path = write(model, tmp_path / "model.xml", Options(opset=opset))
    x = probe.images(model.record, 1)
    with open_session(path, threads=1) as session, open_session(exported("fp32"), threads=1) as first:
        assert session.record.provenance["export"]["opset"] == opset
        np.testing.assert_allclose(session.run(x), first.run(x), atol=1e-5)


@pytest.mark.parametrize("size", [(64, 64), (33, 47), (96, 80), (20, 200)], ids=str)
def test_a_file_for_any_size_gives_the_logits_of_the_model(model, exported, size):
    x = probe.images(model.record, 2, size)
    with open_session(exported("any"), threads=1) as session:
        assert error(session.run(x), exact(model, x)) < 1e-5


def test_norms_after_every_sixth_block_and_one_channel(tmp_path):
    config = replace(SMALL, in_chans=1, extra_norm_period=2, num_classes=0)
    network = randomized(SwinV2(config)).eval()
    preprocess = replace(Preprocess.official(64), mean=(0.5,), std=(0.25,))
    network.record = Record(config, preprocess)
    with open_session(write(network, tmp_path / "grey.xml", Options()), threads=1) as session:
        x = probe.images(network.record, 2)
        assert error(session.run(x), exact(network, x)) < 1e-5


def test_an_onnx_file_opens_in_openvino(model, tmp_path):
    path = tmp_path / "model.onnx"
    onnx_runtime.export(model, path, Options())
    onnx_runtime.write_record(
        path, with_provenance(model.record, export={"precision": "fp32", "dynamic": ["batch"]})
    )
    x = probe.images(model.record, 2)
    with open_session(path, "openvino", threads=1) as session:
        assert session.runtime == "openvino"
        assert error(session.run(x), exact(model, x)) < 1e-5


def test_a_batch_goes_through_in_portions_and_may_be_empty(model, exported):
    x = probe.images(model.record, 3)
    with open_session(exported("fp32"), threads=1) as session, pytest.MonkeyPatch.context() as patch:
        whole = session.run(x)
        patch.setattr(
            portion, "CACHED_VALUES", 2 * 4 * 32 * 16 * 16
        )  # 2 images of 4 * 32 channels and 16 x 16 patches
        assert portion.images_at_a_time(SMALL, (64, 64), 1) == 2
        assert portion.images_at_a_time(SMALL, (64, 64), 32) == 16
        np.testing.assert_allclose(session.run(x), whole, atol=1e-5)
        assert session.run(x[:0]).shape == (0, 7)


def test_threads_may_share_a_session(model, exported):
    x = probe.images(model.record, 4)
    with open_session(exported("fp32"), threads=1) as session, ThreadPoolExecutor(4) as pool:
        whole = session.run(x)
        for found in pool.map(session.run, [x] * 12):
            np.testing.assert_array_equal(found, whole)


def test_what_a_call_returned_survives_the_next_call(model, exported):
    x = probe.images(model.record, 2)
    with open_session(exported("fp32"), threads=1) as session:
        first = session.run(x[:1])
        kept = first.copy()
        session.run(x[1:])
        np.testing.assert_array_equal(first, kept)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["swinv2_tiny_window8_256", "swinv2_tiny_window16_256", "swinv2_base_window12to16_192to256"]
)
def test_full_models_agree_in_every_precision(name, tmp_path):
    network = randomized(SwinV2(VARIANTS[name])).eval()
    network.record = Record(network.config, Preprocess.official(network.config.image_size))
    for precision in ("fp32", "bf16", "fp16"):
        (done,) = swinv2.export(
            network, "openvino", output=tmp_path / f"{precision}.xml", precision=precision
        )
        assert max(c.error for c in done.comparisons) < TOLERANCES[precision]


# ---------------------------------------------------------------------- the graph


@pytest.mark.parametrize("name", ["fp32", "bf16", "int8"])
def test_the_graph_keeps_to_the_rules_of_the_edge_mode(exported, name):
    assert lint.problems(runtime.nodes(exported(name)), edge=True) == []


def test_norms_and_attention_are_one_kernel_each(model, exported):
    """What makes it fast: 2 norms and 2 unit vectors a block, and one kernel for the attention of every block."""
    blocks = sum(SMALL.depths)
    assert (
        compiled_types(exported("fp32"), "RMS").total() == 4 * blocks + 1 + 3 + 1
    )  # embedding, mergings, last
    assert compiled_types(exported("fp32"), "MVN").total() == 0
    assert compiled_types(exported("fp32"), "Softmax").total() == 0
    assert compiled_types(exported("fp32"), "Convolution").total() == 0


def test_weights_take_half_the_space_in_half_precision(exported):
    full = exported("fp32").with_suffix(".bin").stat().st_size
    for name in ("bf16", "fp16"):
        assert exported(name).with_suffix(".bin").stat().st_size < 0.52 * full
    assert exported("int8").with_suffix(".bin").stat().st_size < 0.3 * full


def test_bfloat16_is_rounded_as_torch_rounds():
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * torch.logspace(-30, 30, 1000)
    expected = values.bfloat16().view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(to_bf16(values.numpy()), expected)


def test_held_in_bfloat16_no_large_weight_stays(model):
    network = ov.Core().read_model(graph(fold(model)).SerializeToString())
    hold_in_bf16(network)
    constants = [node for node in network.get_ordered_ops() if node.get_type_name() == "Constant"]
    assert {str(c.get_element_type()) for c in constants if c.data.size >= 1024} == {"<Type: 'bfloat16'>"}


# ---------------------------------------------------------------------- int8


def test_int8_runs_every_linear_layer_in_int8_and_the_kept_ones_in_float(exported):
    layers = 4 * sum(SMALL.depths) + 3 + 2  # qkv, proj, fc1, fc2; mergings; embedding and head
    products = layers + 2 * sum(SMALL.depths)  # q, k and v are three
    assert (
        sum(
            n
            for kind, n in compiled_types(exported("int8"), "FullyConnected").items()
            if kind in ("u8", "i8")
        )
        == products
    )
    found = compiled_types(exported("kept"), "FullyConnected")
    assert found["f32"] == 1 + 3 + 1  # KEPT
    assert found["u8"] + found["i8"] == products - 5


def test_layers_are_named_as_in_the_folded_network(model):
    network = ov.Core().read_model(graph(fold(model)).SerializeToString())
    modules = fold(model).named_modules()
    expected = {name for name, m in modules if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d))}
    assert linear_layers(network).keys() == expected


def test_int8_refuses_layers_that_are_not_there_and_missing_pictures(model, tmp_path):
    options = Options(precision="int8", keep_float=("stages.9.0.fc1",))
    with pytest.raises(ValueError, match=r"no layer 'stages.9.0.fc1' .* it has stages.0.0.proj, "):
        runtime.export(model, tmp_path / "model.xml", options, probe.images(model.record, 2))
    with pytest.raises(ValueError, match="needs pictures to calibrate on"):
        runtime.export(model, tmp_path / "model.xml", Options(precision="int8"), None)


def test_quantising_tells_nobody(tmp_path):
    """NNCF reports to its makers, and openvino-telemetry leaves its files in the home folder when anything does."""
    code = (
        "from exports import small_model; from swinv2 import probe; from swinv2.runtimes import Options, openvino;"
        "from pathlib import Path; m = small_model();"
        f"openvino.export(m, Path({str(tmp_path / 'm.xml')!r}), Options(precision='int8'), probe.images(m.record, 1));"
        "from nncf.telemetry.wrapper import telemetry, NNCFTelemetry; assert not isinstance(telemetry, NNCFTelemetry)"
    )
    variables = {k: v for k, v in os.environ.items() if k not in ("NNCF_CI", "NNCF_DEV", "CI")}
    variables |= {"HOME": str(tmp_path / "home"), "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], env=variables, check=True, capture_output=True, timeout=300)
    assert not (tmp_path / "home" / "intel").exists()


# ---------------------------------------------------------------------- the record, and files that are wrong


def test_the_record_is_in_the_file_whole(model, exported):
    found = runtime.read_record(exported("fp32"))
    assert replace(found, provenance={}) == replace(model.record, provenance={})
    assert found.provenance["recipe"] == "none"


def test_a_record_survives_every_character_and_openvino_reads_it(model, exported, tmp_path):
    path = tmp_path / "model.xml"
    shutil.copy(exported("fp32"), path)
    shutil.copy(exported("fp32").with_suffix(".bin"), path.with_suffix(".bin"))
    names = ("a<b>", 'say "x"', "it's", "&amp;", "caf\u00e9 \u732b", "tab\there", "line\nbreak")
    for record in (replace(model.record, classes=names[::-1]), replace(model.record, classes=names)):
        runtime.write_record(path, record)
    assert runtime.read_record(path) == replace(model.record, classes=names)
    described = ov.Core().read_model(str(path)).get_rt_info(["swinv2"]).astype(str)
    assert swinv2.runtimes.beside.from_json(described, "it").classes == names
    assert path.read_bytes().count(b"<swinv2 ") == 1


def test_the_digest_is_of_graph_and_weights_and_not_of_the_record(model, exported, tmp_path):
    path = tmp_path / "model.xml"
    shutil.copy(exported("fp32"), path)
    weights = shutil.copy(exported("fp32").with_suffix(".bin"), path.with_suffix(".bin"))
    before = runtime.digest(path)
    runtime.write_record(path, replace(model.record, license="another"))
    assert runtime.digest(path) == before
    content = bytearray(Path(weights).read_bytes())
    content[len(content) // 2] ^= 1
    Path(weights).write_bytes(content)
    assert runtime.digest(path) != before


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16", "kept"])
def test_exporting_twice_gives_identical_bytes(model, exported, tmp_path, name):
    again = write(model, tmp_path / f"{name}.xml", FILES[name])
    for suffix in (".xml", ".bin"):
        one, two = (
            hashlib.sha256(p.with_suffix(suffix).read_bytes()).hexdigest() for p in (exported(name), again)
        )
        assert one == two, suffix


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("xml cut", "no OpenVINO model, or was cut off"), ("empty", "no OpenVINO model, or was cut off"),
        ("foreign", "no OpenVINO model, or was cut off"), ("no weights", "has no model.bin beside it"),
        ("weights cut", "was cut off: it has"), ("no record", "has no swinv2 record"),
        ("bad record", "a record that is not JSON"), ("broken graph", "does not open"), ("folder", "is a folder"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_used_are_refused_in_one_sentence(exported, tmp_path, wrong, said):
    path, weights = tmp_path / "model.xml", tmp_path / "model.bin"
    text = exported("fp32").read_text("utf-8")
    shutil.copy(exported("fp32").with_suffix(".bin"), weights)
    if wrong == "folder":
        path.mkdir()
    elif wrong == "no record":
        path.write_bytes(runtime.record.graph_of(exported("fp32")))
    else:
        path.write_text(
            {
                "xml cut": text[: len(text) // 2], "empty": "", "foreign": "<html><net /></html>",
                "bad record": runtime.record.OURS.sub(b'<swinv2 value="{" />\n', text.encode()).decode(),
                "broken graph": text.replace('type="MatMul"', 'type="NoSuchThing"'),
            }.get(wrong, text)
        )  # fmt: skip
    if wrong == "no weights":
        weights.unlink()
    elif wrong == "weights cut":
        weights.write_bytes(weights.read_bytes()[:-5000])
    with pytest.raises(ArtifactError, match=said) as caught:
        open_session(path, "openvino")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_session(tmp_path / "none.xml", "openvino")


# ---------------------------------------------------------------------- precision, device, threads


def test_auto_is_what_the_file_holds_where_the_device_can_compute_it(exported):
    for name, capability in (("fp32", "FP32"), ("bf16", "BF16"), ("fp16", "FP16"), ("int8", "INT8")):
        with open_session(exported(name), "openvino", threads=1) as session:
            assert session.precision == (name if has(capability) else "fp32")
            assert session.device == "cpu"


def test_bfloat16_is_asked_for_and_computed(model, exported):
    if not has("BF16"):
        pytest.skip("this processor has no bfloat16")
    x = probe.images(model.record, 2)
    with open_session(exported("fp32"), "openvino", precision="bf16", threads=1) as session:
        assert session.precision == "bf16"
        assert 1e-4 < error(session.run(x), exact(model, x)) < TOLERANCES["bf16"]


def test_a_file_in_bfloat16_is_computed_in_float32_where_that_is_asked_for(model, exported):
    x = probe.images(model.record, 2)
    with open_session(exported("bf16"), precision="bf16" if has("BF16") else "auto", threads=1) as half:
        rounded = half.run(x)
    with open_session(exported("bf16"), precision="fp32", threads=1) as session:
        assert session.precision == "fp32"
        found = session.run(x)
    assert error(found, exact(model, x)) < 2e-2
    assert not has("BF16") or error(found, rounded) > 1e-4


def test_what_the_file_or_the_device_cannot_give_is_refused_with_the_cure(exported):
    with pytest.raises(ValueError, match="swinv2 quantize MODEL --to openvino"):
        open_session(exported("fp32"), "openvino", precision="int8")
    if not has("FP16"):
        with pytest.raises(ValueError, match="device cpu has no fp16 arithmetic; use fp32, or auto"):
            open_session(exported("fp16"), "openvino", precision="fp16")
    if "NPU" not in ov.Core().available_devices:
        with pytest.raises(ValueError, match="OpenVINO sees no device 'npu' here; it sees cpu"):
            choose(exported("fp32"), "openvino", device="npu")


def test_options_that_cannot_be_written_are_refused():
    row = RUNTIMES["openvino"]
    assert row.cannot_export(Options()) is None
    assert "one image size" in str(row.cannot_export(Options(precision="int8", dynamic_size=True)))
    assert "opset is 9; give one from 17" in str(row.cannot_export(Options(opset=9)))


def test_threads_are_of_the_session(exported, monkeypatch):
    seen, compiled = [], cache.compiled
    monkeypatch.setattr(cache, "compiled", lambda *about: seen.append(about[-1]) or compiled(*about))
    for threads in (1, None):
        open_session(exported("fp32"), "openvino", threads=threads)
    assert [s.get("INFERENCE_NUM_THREADS") for s in seen] == [1, None]


# ---------------------------------------------------------------------- the cache


@pytest.fixture
def counted(monkeypatch):
    """How often a model was compiled."""
    count = []
    original = ov.Core.compile_model
    monkeypatch.setattr(
        ov.Core, "compile_model", lambda self, *rest: count.append(1) or original(self, *rest)
    )
    return count


@pytest.fixture
def empty_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "swinv2" / "openvino"


def test_a_model_is_compiled_once_wherever_it_lies(model, exported, tmp_path, counted, empty_cache):
    x = probe.images(model.record, 1)
    with open_session(exported("fp32"), threads=1) as session:
        first = session.run(x)
    moved = tmp_path / "moved.xml"
    shutil.copy(exported("fp32"), moved)
    shutil.copy(exported("fp32").with_suffix(".bin"), moved.with_suffix(".bin"))
    with open_session(moved, "openvino", threads=1) as session:
        np.testing.assert_array_equal(session.run(x), first)
    assert len(counted) == 1
    assert len(list(empty_cache.iterdir())) == 1
    assert next(empty_cache.iterdir()).stat().st_size < 0.2 * moved.with_suffix(".bin").stat().st_size


def test_another_setting_or_other_weights_are_compiled_anew(exported, tmp_path, counted, empty_cache):
    open_session(exported("fp32"), threads=1)
    open_session(exported("fp32"), threads=2)
    other = write(small_model(seed=1), tmp_path / "other.xml", Options())
    x = probe.images(small_model().record, 1)
    with open_session(other, "openvino", threads=1) as session:
        assert error(session.run(x), exact(small_model(seed=1), x)) < 1e-5
    assert len(counted) == 3


def test_a_damaged_or_foreign_entry_is_compiled_anew(model, exported, counted, empty_cache):
    x = probe.images(model.record, 1)
    open_session(exported("fp32"), threads=1)
    (entry,) = empty_cache.iterdir()
    content = entry.read_bytes()
    foreign = b"not a model"
    for damaged in (content[:100], content[:-1], b"", hashlib.sha256(foreign).digest() + foreign):
        entry.write_bytes(damaged)
        with open_session(exported("fp32"), threads=1) as session:
            assert error(session.run(x), exact(model, x)) < 1e-5
        assert len(entry.read_bytes()) == len(content)
    assert len(counted) == 5


def test_a_cache_that_cannot_be_written_is_no_obstacle(exported, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    open_session(exported("fp32"), threads=1)


def test_what_was_used_longest_ago_makes_room(tmp_path, monkeypatch):
    for i in range(4):
        (tmp_path / f"{i}.blob").write_bytes(bytes(100))
        os.utime(tmp_path / f"{i}.blob", (i, i))
    monkeypatch.setattr(cache, "KEPT", 250)
    cache._make_room(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2.blob", "3.blob"]


def test_a_session_needs_no_torch(exported):
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['onnx'] = None; import numpy as np;"
        "from swinv2.runtimes import open_session;"
        f"s = open_session({str(exported('fp32'))!r}, threads=1);"
        "print(s.run(np.zeros((2, 3, 64, 64), np.float32)).shape)"
    )
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "(2, 7)", done.stderr
