"""What is written for Triton: read by protobuf against Triton's own model_config.proto, and served by Triton itself."""

from __future__ import annotations

import json
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import tritonclient.grpc
import tritonclient.http
from conftest import SMALL
from exports import small_model, write_small
from folder import make_folder
from google.protobuf import text_format
from peers import tritonserver
from tritonclient.grpc import model_config_pb2 as proto

import swinv2
from swinv2 import artifact, cli
from swinv2.artifact import Record
from swinv2.deployments import DEPLOYMENTS, Place, triton
from swinv2.export import export
from swinv2.preprocess import Preprocess
from swinv2.runtimes import beside, open_session
from swinv2.verbs import Exit, UsageError

pytestmark = pytest.mark.usefixtures("one_process")

PHOTOGRAPH = Path(swinv2.__file__).parent / "probe" / "portrait.png"


def read(folder: Path) -> proto.ModelConfig:
    """Fails at a field that Triton does not know."""
    return text_format.Parse((folder / "config.pbtxt").read_text(), proto.ModelConfig())


def sides(value: onnx.ValueInfoProto) -> list[int]:
    """As config.pbtxt has them: without the batch, -1 where any is taken."""
    return [dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim][1:]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write_small(tmp_path_factory.mktemp("source") / "model.safetensors")


@pytest.fixture(scope="module")
def exported(source, tmp_path_factory) -> swinv2.export.Exported:
    (one,) = export(source, "triton", output=tmp_path_factory.mktemp("repository"))
    return one


# ---------------------------------------------------------------------- what is written


def test_the_folder_is_complete(exported):
    found = sorted(
        str(file.relative_to(exported.path)) for file in exported.path.rglob("*") if file.is_file()
    )
    assert found == ["1/model.json", "1/model.onnx", "config.pbtxt", "labels.txt"]
    assert sorted(os.listdir(exported.path.parent)) == ["model"]  # nothing of the work is left
    assert exported.size == sum((exported.path / file).stat().st_size for file in found)


def test_the_model_inside_is_compared_as_every_export_is(exported):
    assert [c.batch for c in exported.comparisons] == [1, 2, 7]
    assert max(c.error for c in exported.comparisons) < 1e-4
    assert swinv2.verify(exported.path / "1" / "model.onnx").problems == ()


def test_names_types_and_shapes_are_those_of_the_graph(exported):
    config, graph = read(exported.path), onnx.load(exported.path / "1" / "model.onnx").graph
    types = {onnx.TensorProto.FLOAT: proto.TYPE_FP32}
    for described, values in ((config.input, graph.input), (config.output, graph.output)):
        assert [(one.name, one.data_type, list(one.dims)) for one in described] == [
            (value.name, types[value.type.tensor_type.elem_type], sides(value)) for value in values
        ]
        assert [value.type.tensor_type.shape.dim[0].dim_param for value in values] == ["batch"]  # any batch
    assert config.max_batch_size > 1


def test_any_size_is_said(source, tmp_path):
    (one,) = export(source, "triton", output=tmp_path, dynamic_size=True)
    config, graph = read(one.path), onnx.load(one.path / "1" / "model.onnx").graph
    assert list(config.input[0].dims) == sides(graph.input[0]) == [3, -1, -1]
    assert {tuple(warm.inputs["images"].dims) for warm in config.model_warmup} == {(3, 64, 64)}


def test_labels_are_the_classes_in_order(exported):
    config = read(exported.path)
    assert config.output[0].label_filename == "labels.txt"
    labels = (exported.path / "labels.txt").read_text().splitlines()
    assert labels == list("abcdefg")
    assert len(labels) == config.output[0].dims[0]


@pytest.mark.parametrize(
    ("classes", "expected"),
    [((), ["class 0", "class 1"]), (("two\nlines", "élan: vital"), ["two lines", "élan: vital"])],
)
def test_a_label_is_one_line(classes, expected):
    record = Record(replace(SMALL, num_classes=2), Preprocess.official(64), classes)
    assert triton.labels(record).splitlines() == expected


def test_a_network_without_classes_has_no_labels():
    record = Record(
        replace(SMALL, num_classes=0), Preprocess.official(64), provenance={"export": {"dynamic": ["batch"]}}
    )
    config = text_format.Parse(triton.config(record), proto.ModelConfig())
    assert (list(config.output[0].dims), config.output[0].label_filename) == ([SMALL.num_features], "")


def test_the_record_is_beside_the_model_and_the_preprocessing_in_the_configuration(exported, source):
    wanted = artifact.read_record(source).preprocess
    written = beside.from_json((exported.path / "1" / "model.json").read_text(), "model.json")
    assert (written.preprocess, written.classes) == (wanted, tuple("abcdefg"))
    text = read(exported.path).parameters[triton.PREPROCESS].string_value
    assert Preprocess.from_dict(json.loads(text)) == wanted


def test_warm_up_covers_one_image_and_a_full_batch(exported):
    config = read(exported.path)
    assert [warm.batch_size for warm in config.model_warmup] == [1, config.max_batch_size]
    for warm in config.model_warmup:
        (name, given), (wanted,) = *warm.inputs.items(), config.input
        assert (name, given.data_type, list(given.dims)) == (wanted.name, wanted.data_type, list(wanted.dims))


def test_requests_are_gathered_and_the_queue_ends(exported):
    config = read(exported.path)
    assert config.HasField("dynamic_batching")
    assert config.dynamic_batching.default_queue_policy.max_queue_size > config.max_batch_size
    assert [group.kind for group in config.instance_group] == [proto.ModelInstanceGroup.KIND_AUTO]


# ---------------------------------------------------------------------- where it is written


def test_output_may_name_model_and_version(source, tmp_path):
    first = export(source, "triton", output=tmp_path / "classifier" / "1")[0]
    second = export(source, "triton", output=tmp_path / "classifier" / "2")[0]
    assert first.path == second.path == tmp_path / "classifier"
    assert sorted(os.listdir(first.path)) == ["1", "2", "config.pbtxt", "labels.txt"]


def test_the_same_version_is_replaced(source, tmp_path):
    first = export(source, "triton", output=tmp_path)[0]
    (first.path / "1" / "model.onnx").write_bytes(b"damaged")
    export(source, "triton", output=tmp_path)
    assert swinv2.verify(first.path / "1" / "model.onnx").problems == ()


def test_versions_that_do_not_fit_each_other_are_refused(source, tmp_path):
    export(source, "triton", output=tmp_path / "classifier" / "1")
    with pytest.raises(
        UsageError, match=r"holds other versions, and its config.pbtxt is not that of this model"
    ):
        export(source, "triton", output=tmp_path / "classifier" / "2", image_size=96)
    assert sorted(os.listdir(tmp_path / "classifier")) == ["1", "config.pbtxt", "labels.txt"]
    assert list(read(tmp_path / "classifier").input[0].dims) == [3, 64, 64]


def test_without_output_it_stands_beside_the_model(tmp_path):
    (one,) = export(write_small(tmp_path / "best.v2.safetensors"), "triton")
    assert one.path == tmp_path / "triton" / "best.v2"


def test_several_kinds_in_one_folder_do_not_meet(source, tmp_path, capsys):
    line = ["export", str(source), "--to", "onnx", "triton", "--output", str(tmp_path / "out"), "--json"]
    assert cli.main(line) == Exit.DONE
    shown = json.loads(capsys.readouterr().out)
    assert [(one["format"], one["path"]) for one in shown] == [
        ("onnx", str(tmp_path / "out" / "model.onnx")), ("triton", str(tmp_path / "out" / "triton" / "model")),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (
            "model.onnx",
            r"--output is .*model\.onnx; triton is a folder: give one for models, or folder/name/version",
        ),
        ("with space/1", r"cannot be called 'with space'; give a name of letters, digits"),
    ],
)
def test_impossible_places_are_a_sentence(source, tmp_path, output, words):
    with pytest.raises(UsageError, match=words):
        export(source, "triton", output=tmp_path / output)
    assert os.listdir(tmp_path) == []


def test_a_name_that_is_no_part_of_an_address_is_refused():
    with pytest.raises(ValueError, match=r"cannot be called '\.\.'"):
        Place(Path(), "..")


def test_what_triton_cannot_take_is_refused_before_anything_is_written(source, tmp_path):
    with pytest.raises(ValueError, match="onnx is written in fp32, fp16, int8, not in 'bf16'"):
        export(source, "triton", output=tmp_path, precision="bf16")
    assert os.listdir(tmp_path) == []


def test_a_disk_that_fills_up_leaves_nothing(source, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(triton, "surround", full)
    with pytest.raises(OSError, match="No space left"):
        export(source, "triton", output=tmp_path)
    assert os.listdir(tmp_path) == []


def test_half_precision_is_called_so_and_still_takes_float32(source, tmp_path):
    (one,) = export(source, "triton", output=tmp_path, precision="fp16")
    assert one.path == tmp_path / "model_fp16"
    assert read(one.path).input[0].data_type == proto.TYPE_FP32


def test_int8_is_judged_as_always(tmp_path):
    folder = make_folder(tmp_path / "folder")
    one, plain = export(
        folder / "model.safetensors",
        ["triton", "onnx"],
        output=tmp_path / "out",
        precision="int8",
        data=folder / "data",
    )
    assert (one.format, one.path) == ("triton", tmp_path / "out" / "triton" / "model_int8")
    assert (plain.format, plain.path) == ("onnx", tmp_path / "out" / "model.int8.onnx")
    assert (one.precision, [c.batch for c in one.comparisons]) == ("int8", [1, 2, 7])
    assert (one.path / "1" / "model.onnx").stat().st_size < 1.1 * plain.path.stat().st_size
    assert read(one.path).output[0].dims == [2]


def test_every_deployment_carries_a_runtime_that_opens_its_file():
    from swinv2.runtimes import RUNTIMES

    for row in DEPLOYMENTS.values():
        assert row.model_file(Place(Path(), "m", 3)).suffix in RUNTIMES[row.carries].suffixes
        assert callable(row.load().surround)


# ---------------------------------------------------------------------- served by Triton


@pytest.fixture(scope="module")
def served(exported, tmp_path_factory):
    """Triton with two versions, and an unlike name of the folder."""
    repository = tmp_path_factory.mktemp("served")
    shutil.copytree(exported.path, repository / "classifier")
    with tritonserver(repository, tmp_path_factory.mktemp("triton")) as (http, grpc, log):
        yield http, grpc, log


def test_triton_serves_it_with_the_answers_of_the_model(served, source):
    _, grpc, log = served
    with tritonclient.grpc.InferenceServerClient(grpc) as client:
        described = client.get_model_config("classifier", as_json=True)["config"]
        preprocess = Preprocess.from_dict(
            json.loads(described["parameters"][triton.PREPROCESS]["string_value"])
        )
        photographs = [np.rot90(np.asarray(preprocess.load(PHOTOGRAPH)), k, axes=(1, 2)) for k in range(4)]

        def ask(image: np.ndarray) -> np.ndarray:
            wanted = tritonclient.grpc.InferInput("images", [1, *image.shape], "FP32")
            wanted.set_data_from_numpy(np.ascontiguousarray(image[None]))
            return client.infer("classifier", [wanted]).as_numpy("logits")[0]

        with ThreadPoolExecutor(8) as pool:
            found = np.stack(list(pool.map(ask, photographs * 8)))
    with open_session(source, "torch", device="cpu") as session:
        exact = np.tile(session.run(np.ascontiguousarray(photographs)), (8, 1))
    assert np.abs(found - exact).max() < 1e-4 * np.abs(exact).max()
    batches = [
        int(line.rpartition(" ")[2]) for line in log.read_text().splitlines() if line.startswith("batch of")
    ]
    assert batches[:2] == [1, 8]  # the warm-up
    assert sum(batches[2:]) == 32
    assert max(batches[2:]) > 1  # gathered


def test_triton_names_the_classes(served, source):
    http, _, _ = served
    image = artifact.read_record(source).preprocess.load(PHOTOGRAPH)[None]
    with tritonclient.http.InferenceServerClient(http) as client:
        wanted = tritonclient.http.InferInput("images", list(image.shape), "FP32")
        wanted.set_data_from_numpy(image)
        asked = [tritonclient.http.InferRequestedOutput("logits", class_count=3)]
        answer = client.infer("classifier", [wanted], outputs=asked).as_numpy("logits")[0]
    with open_session(source, "torch", device="cpu") as session:
        logits = session.run(image)[0]
    best = np.argsort(-logits)[:3]
    for text, index in zip(answer, best, strict=True):
        score, place, name = text.decode().split(":")
        assert (int(place), name) == (index, "abcdefg"[index])
        assert float(score) == pytest.approx(logits[index], abs=1e-4)


def test_the_client_of_the_document_gets_names(served, tmp_path, monkeypatch, capsys):
    http, _, _ = served
    document = Path(__file__).parent.parent / "docs" / "deploy.md"
    (block,) = re.findall(r"```python\n(.*?)```", document.read_text(), re.DOTALL)
    assert block.count("127.0.0.1:8000") == 1
    monkeypatch.chdir(tmp_path)
    shutil.copy(PHOTOGRAPH, "photo.jpg")
    exec(compile(block.replace("127.0.0.1:8000", http), "deploy.md", "exec"), {"__name__": "__main__"})
    names = [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert len(set(names)) == 3
    assert set(names) <= set("abcdefg")


def test_triton_refuses_another_shape(served):
    http, _, _ = served
    with tritonclient.http.InferenceServerClient(http) as client:
        wanted = tritonclient.http.InferInput("images", [1, 3, 32, 32], "FP32")
        wanted.set_data_from_numpy(np.zeros((1, 3, 32, 32), np.float32))
        with pytest.raises(Exception, match=r"unexpected shape for input 'images'"):
            client.infer("classifier", [wanted])


def test_the_model_in_memory_is_exported_too(tmp_path):
    (one,) = export(small_model(), "triton", output=tmp_path)
    assert one.path == tmp_path / "model"
