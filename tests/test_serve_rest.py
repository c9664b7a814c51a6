"""REST as others speak it: Triton's client against a real server, and plain requests of people.

Every answer is compared with that of the session itself, one picture at a time.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import requests
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from serving import NAMES, answering, picture, pixels, serving, softmax, write_model, write_zoo
from tritonclient.utils import InferenceServerException

from swinv2 import Predictor
from swinv2.images import decode
from swinv2.runtimes import open_session

BATCH = 4
CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # a batch may round its sums in another order


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("rest") / "animals.safetensors")


@pytest.fixture(scope="module")
def server(file):
    """One model, as most people serve one."""
    with serving(file, "--no-grpc", "--max-batch-size", str(BATCH)) as running:
        yield running


@pytest.fixture(scope="module")
def zoo(file, tmp_path_factory):
    """A folder of two models that clients may load and unload."""
    root = write_zoo(tmp_path_factory.mktemp("zoo"))
    with serving(root, "--no-grpc", "--control", "--look", "0", "--worker-threads") as running:
        running.root = root
        yield running


@pytest.fixture(scope="module")
def logits(file):
    with answering(file) as logits:
        yield logits


@pytest.fixture
def client(server):
    with triton.InferenceServerClient(server.http.removeprefix("http://"), concurrency=2) as client:
        yield client


def asked(kind, seeds, *, binary=True):
    """The input of Triton's client: pictures as they are (JSON takes them in base64), or prepared pixels."""
    if kind == "pixels":
        tensor = triton.InferInput("pixels", [len(seeds), 3, 64, 64], "FP32")
        tensor.set_data_from_numpy(pixels(*seeds), binary_data=binary)
        return [tensor]
    encoded = [picture(seed) if binary else base64.b64encode(picture(seed)) for seed in seeds]
    tensor = triton.InferInput("image", [len(seeds)], "BYTES")
    tensor.set_data_from_numpy(np.array(encoded, np.object_), binary_data=binary)
    return [tensor]


def wanted(*names, binary=True, class_count=0):
    return [triton.InferRequestedOutput(name, binary_data=binary, class_count=class_count) for name in names]


def infer_async(server, **options):
    """One request of the client for asyncio."""

    async def main():
        async with triton_aio.InferenceServerClient(server.http.removeprefix("http://")) as client:
            return await client.infer("animals", **options)

    return asyncio.run(main())


def figures(server):
    """The samples of /metrics: (name, labels of interest) -> value."""
    text = requests.get(f"{server.http}/metrics", timeout=20).text
    return {
        (sample.name, *(v for k, v in sorted(sample.labels.items()) if k != "le")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_bucket")
    }


def post(server, path, body=b"", **headers):
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return requests.post(server.http + path, data=body, headers=fields, timeout=30)


def tensors(*inputs, **more):
    return json.dumps({"inputs": list(inputs), **more}).encode()


def refused(answer, status, sentence=""):
    """An answer that refuses in one sentence, as the protocol has it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    told = answer.json()
    assert list(told) == ["error"]
    assert sentence in told["error"]
    assert "\n" not in told["error"]
    assert len(told["error"]) < 500
    return told["error"]


# -- metadata and health --------------------------------------------------------------------------------


def test_metadata_and_readiness_are_those_of_the_protocol(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("animals")
    assert client.is_model_ready("animals", "1")
    about = client.get_server_metadata()
    assert about["name"] == "swinv2"
    assert set(about["extensions"]) == {"binary_tensor_data", "classification"}  # control is off
    model = client.get_model_metadata("animals")
    assert model == client.get_model_metadata("animals", "1")
    assert model["name"] == "animals"
    assert model["versions"] == ["1"]
    assert model["inputs"] == [
        {"name": "image", "datatype": "BYTES", "shape": [-1]},
        {"name": "pixels", "datatype": "FP32", "shape": [-1, 3, -1, -1]},  # the engine takes every size
    ]
    assert [(out["name"], out["datatype"], out["shape"]) for out in model["outputs"]] == [
        ("logits", "FP32", [-1, 7]), ("scores", "FP32", [-1, 7]),
    ]  # fmt: skip


def test_the_client_for_asyncio_reads_the_same(server, client):
    async def main():
        async with triton_aio.InferenceServerClient(server.http.removeprefix("http://")) as other:
            assert await other.is_server_live()
            assert await other.is_server_ready()
            assert await other.is_model_ready("animals")
            assert await other.get_server_metadata() == client.get_server_metadata()
            assert await other.get_model_metadata("animals") == client.get_model_metadata("animals")

    asyncio.run(main())


@pytest.mark.parametrize(
    ("name", "version", "sentence"),
    [
        ("cow", "", "there is no model 'cow'; there are animals"),
        ("cow", "1", "there is no model 'cow'; there are animals"),
        ("animals", "2", "model animals has no version '2' that answers; version 1 does"),
        ("animals", "01", "model animals has no version '01' that answers; version 1 does"),
    ],
)
def test_a_model_or_version_that_is_not_there_is_404_everywhere(client, name, version, sentence):
    for call in (
        lambda: client.get_model_metadata(name, version),
        lambda: client.infer(name, asked("image", [0]), version),
    ):
        with pytest.raises(InferenceServerException) as why:
            call()
        assert why.value.status() == "404"
        assert why.value.message() == sentence
    assert not client.is_model_ready(name, version)


# -- infer ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["sync", "asyncio"])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("kind", ["image", "pixels"])
def test_an_answer_is_that_of_the_session(server, client, logits, kind, binary_in, binary_out, how):
    seeds = [3, 1, 2]
    options = {
        "inputs": asked(kind, seeds, binary=binary_in),
        "outputs": wanted("scores", "logits", binary=binary_out),
        "request_id": f"{kind} 17",
    }
    found = client.infer("animals", **options) if how == "sync" else infer_async(server, **options)
    np.testing.assert_allclose(found.as_numpy("logits"), logits(*seeds), **CLOSE)
    np.testing.assert_allclose(found.as_numpy("scores"), softmax(logits(*seeds)), **CLOSE)
    about = found.get_response()
    assert about["id"] == f"{kind} 17"
    assert (about["model_name"], about["model_version"]) == ("animals", "1")
    assert [out["name"] for out in about["outputs"]] == ["scores", "logits"]  # in the order asked for
    assert [out["shape"] for out in about["outputs"]] == [[3, 7]] * 2
    assert all(("data" in out) != binary_out for out in about["outputs"])


@pytest.mark.parametrize("answer", [None, "gzip", "deflate"])
@pytest.mark.parametrize("request_", [None, "gzip", "deflate"])
def test_requests_are_unpacked_and_answers_can_be_read_by_those_who_would_unpack_them(
    server, client, logits, request_, answer
):
    options = {
        "inputs": asked("pixels", [5, 6]),
        "request_compression_algorithm": request_,
        "response_compression_algorithm": answer,
    }
    for found in (client.infer("animals", **options), infer_async(server, **options)):
        np.testing.assert_allclose(found.as_numpy("logits"), logits(5, 6), **CLOSE)


def test_without_named_outputs_all_are_answered_and_a_named_one_alone(client, logits):
    every = client.infer("animals", asked("image", [4]))
    assert [out["name"] for out in every.get_response()["outputs"]] == ["logits", "scores"]
    one = client.infer("animals", asked("image", [4]), outputs=wanted("scores"))
    assert [out["name"] for out in one.get_response()["outputs"]] == ["scores"]
    np.testing.assert_allclose(one.as_numpy("scores"), softmax(logits(4)), **CLOSE)
    assert one.as_numpy("logits") is None


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("count", [1, 3, 100])
def test_classes_come_named_and_best_first(client, logits, count, binary):
    found = client.infer(
        "animals", asked("image", [0, 1]), outputs=wanted("logits", binary=binary, class_count=count)
    )
    rows = found.as_numpy("logits")
    assert rows.shape == (2, min(count, 7))
    for row, values in zip(rows, logits(0, 1), strict=True):
        order = np.argsort(-values)[:count]
        for text, index in zip(row, order, strict=True):
            score, number, label = (text.decode() if isinstance(text, bytes) else text).split(":")
            assert (int(number), label) == (index, NAMES[index])
            assert float(score) == pytest.approx(values[index], abs=1e-4)


def test_images_of_other_sizes_are_those_that_the_session_takes(client, file):
    images = np.random.default_rng(0).normal(size=(3, 3, 50, 83)).astype(np.float32)
    tensor = triton.InferInput("pixels", images.shape, "FP32")
    tensor.set_data_from_numpy(images)
    found = client.infer("animals", [tensor]).as_numpy("logits")
    with open_session(file, threads=1) as session:
        np.testing.assert_allclose(found, np.concatenate([session.run(one[None]) for one in images]), **CLOSE)


def test_the_version_may_stand_in_the_address(client, logits):
    found = client.infer("animals", asked("image", [2]), "1")
    np.testing.assert_allclose(found.as_numpy("logits"), logits(2), **CLOSE)


def test_a_request_larger_than_a_batch_is_split(server, client, logits):
    seeds = list(range(2 * BATCH + 3))
    before = figures(server)
    found = client.infer("animals", asked("image", seeds))
    np.testing.assert_allclose(found.as_numpy("logits"), logits(*seeds), **CLOSE)
    after = figures(server)
    key = ("animals", "1")
    assert after["swinv2_images_total", *key] - before["swinv2_images_total", *key] == len(seeds)
    assert after["swinv2_batches_total", *key] - before["swinv2_batches_total", *key] == 3


def test_requests_that_share_batches_never_share_answers(server, logits):
    """Two dozen clients at once, each with pictures of its own."""

    def ask(seed):
        body = tensors(
            {"name": "image", "datatype": "BYTES", "shape": [2],
             "data": [base64.b64encode(picture(s)).decode() for s in (seed, seed + 1)]},
        )  # fmt: skip
        told = post(server, "/v2/models/animals/infer", body, content_type="application/json").json()
        return np.reshape(told["outputs"][0]["data"], told["outputs"][0]["shape"])

    with ThreadPoolExecutor(24) as pool:
        found = list(pool.map(ask, range(72)))
    every = logits(*range(73))
    for seed, rows in enumerate(found):
        np.testing.assert_allclose(rows, every[seed : seed + 2], **CLOSE)


def test_a_deadline_that_passes_is_504(client, server):
    with pytest.raises(InferenceServerException) as why:
        client.infer("animals", asked("image", list(range(40))), timeout=1)
    assert why.value.status() == "504"
    assert why.value.message().startswith("there is no answer after 1e-06 s")
    assert figures(server)["swinv2_waiting_images", "animals", "1"] == 0  # nothing of it is left


def test_numbers_in_json_may_stand_in_rows(server, logits):
    for data in (pixels(1).tolist(), pixels(1).ravel().tolist()):
        body = tensors({"name": "pixels", "datatype": "FP32", "shape": [1, 3, 64, 64], "data": data})
        told = post(server, "/v2/models/animals/infer", body).json()
        np.testing.assert_allclose([told["outputs"][0]["data"]], logits(1), **CLOSE)


# -- what cannot be meant -------------------------------------------------------------------------------

IMAGE = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(picture()).decode()]}
PIXELS = {"name": "pixels", "datatype": "FP32", "shape": [1, 3, 64, 64]}
HUGE = 10**5000  # Python refuses to write such numbers down


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "the request is not JSON"),
        (b"[1]", "it must be a JSON object"),
        (b"{" * 100_000, "the request is not JSON"),
        (b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "the request is not JSON"),
        (b"{}", "inputs is missing; it must be a list of objects"),
        (tensors(), "the inputs are none; give one"),
        (tensors(IMAGE, IMAGE), "the inputs are image, image; give one"),
        (tensors(*[IMAGE | {"name": "x" * 5000}] * 9), "it must be a string of at most 256 characters"),
        (tensors(*[IMAGE] * 5000), "the inputs are image, image, image, ...; give one"),
        (tensors(IMAGE | {"name": "picture"}), "the inputs are picture; give one"),
        (tensors(IMAGE | {"datatype": "FP32"}), "input image has data that are not all numbers"),
        (tensors(IMAGE | {"datatype": "STRING"}), "image is BYTES and pixels is FP32"),
        (tensors(IMAGE | {"shape": 1}), "input image has shape 1; it must be a list of sizes"),
        (tensors(IMAGE | {"shape": [2]}), "input image has 1 elements, and its shape says 2"),
        (tensors(IMAGE | {"shape": [-1]}), "input image has shape [-1]; give at most 8 sizes from 1 on"),
        (tensors(IMAGE | {"shape": [True]}), "input image has shape [true]; give at most 8 sizes"),
        (tensors(IMAGE | {"shape": [1.0]}), "input image has shape [1.0]; give at most 8 sizes"),
        (tensors(IMAGE | {"shape": [1] * 9}), "give at most 8 sizes"),
        (tensors(IMAGE | {"shape": [1, 1, 1]}), "input image has shape [1, 1, 1]; it must be [images]"),
        (tensors(IMAGE | {"shape": []}), "input image has shape []; it must be [images]"),
        (tensors(IMAGE | {"shape": [0], "data": []}), "give at most 8 sizes from 1 on"),
        (tensors(IMAGE | {"data": ["no base64!"]}), "input image must hold base64 strings"),
        (tensors(IMAGE | {"data": [7]}), "input image must hold base64 strings"),
        (tensors(IMAGE | {"data": ["AAAA"]}), "the image is not an image of a kind that is read"),
        (tensors(IMAGE | {"data": [""]}), "the image"),
        (tensors(IMAGE | {"data": None}), "input image has no data"),
        (tensors(PIXELS | {"data": [0.5]}), "input pixels of shape [1, 3, 64, 64] has 1 values"),
        (tensors(PIXELS | {"data": [[1, 2], [3]]}), "not all numbers in even rows"),
        (tensors(PIXELS | {"data": [None] * 12288}), "not all numbers"),
        (tensors(PIXELS | {"data": ["0.5"] * 12288}), "not all numbers"),
        (tensors(PIXELS | {"data": [True] * 12288}), "not all numbers"),
        (tensors(PIXELS | {"data": [1e300] * 12288}), "input pixels has values that are no finite float32"),
        (tensors(PIXELS | {"data": [10**400] * 12288}), "not all numbers"),
        (tensors(PIXELS | {"shape": [1, 2, 8, 8], "data": [0] * 128}), "animals takes [images, 3, height, width]"),
        (tensors(PIXELS | {"shape": [12288], "data": [0] * 12288}), "[images, channels, height, width]"),
        (tensors(PIXELS | {"shape": [0, 3, 64, 64], "data": []}), "give at most 8 sizes from 1 on"),
        (tensors(PIXELS | {"shape": [0, 2**70, 1, 1], "data": []}), "give at most 8 sizes from 1 on"),
        (tensors(PIXELS | {"shape": [0, 2**62, 2**62, 1], "data": []}), "give at most 8 sizes from 1 on"),
        (tensors(PIXELS | {"shape": [2**40] * 8, "data": []}), "give at most 8 sizes from 1 on"),
        (b'{"inputs": [{"name": "pixels", "datatype": "FP32", "shape": [1%s]}]}' % (b"0" * 5000), ""),
        (b'{"inputs": [], "parameters": {"timeout": 1%s}}' % (b"0" * 5000), ""),
        (b'{"inputs": [], "parameters": {"timeout": 1%s}}' % (b"0" * 400), "timeout is"),
        (tensors(IMAGE, parameters={"timeout": -1}), "timeout is -1; give microseconds"),
        (tensors(IMAGE, parameters={"timeout": "1"}), "timeout is 1; it must be an integer"),
        (tensors(IMAGE, parameters=[]), "parameters is []; it must be an object"),
        (tensors(IMAGE, id=7), "id is 7; it must be a string"),
        (tensors(IMAGE, outputs=[{"name": "labels"}]), "there are logits, scores"),
        (tensors(IMAGE, outputs=[{"name": "logits"}] * 5000), "output logits is asked for 5000 times"),
        (tensors(IMAGE, outputs=[{"name": "logits", "parameters": {"classification": -1}}]), "classification is -1"),
        (tensors(IMAGE, outputs="logits"), "outputs is logits; it must be a list of objects"),
        (tensors(IMAGE | {"parameters": {"binary_data_size": 4}}), "has data and binary_data_size"),
        (b'{"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["\\ud800"]}]}', ""),
        (b'{"inputs": NaN}', "the request is not JSON"),
        (b'\xff\xfe{"inputs": []}', "the request is not JSON"),
    ],
)  # fmt: skip
def test_a_request_that_cannot_be_meant_is_400_and_a_sentence(server, body, sentence):
    refused(post(server, "/v2/models/animals/infer", body, content_type="application/json"), 400, sentence)


def binary(described, tail, length=None):
    head = json.dumps(described).encode()
    return head + tail, str(len(head) if length is None else length)


def sized(size, **more):
    return {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], **more,
                        "parameters": {"binary_data_size": size}}]}  # fmt: skip


@pytest.mark.parametrize(
    ("body", "length", "sentence"),
    [
        (*binary(sized(8), b"\4\0\0\0abc"), "says 8 bytes of binary data, and 7 follow the header"),
        (*binary(sized(-1), b""), "says -1 bytes of binary data"),
        (*binary(sized(7), b"\4\0\0\0abc"), "has an element of 4 bytes, and 3 are left"),
        (*binary(sized(3), b"\4\0\0"), "ends inside the length of an element"),
        (*binary(sized(8), b"\0\0\0\0\0\0\0\0"), "has 2 elements, and its shape says 1"),
        (*binary(sized(4), b"\0\0\0\0more"), "4 bytes follow the last tensor"),
        (*binary(sized(8), b"\xff\xff\xff\xffabcd"), "has an element of 4294967295 bytes, and 4 are left"),
        (*binary(sized(8, name="pixels", datatype="FP32"), b"\0" * 8), "of shape [1] has 8 bytes; it must have 4"),
        (*binary(sized(8, name="pixels", datatype="FP64"), b"\0" * 8), "image is BYTES and pixels is FP32"),
        (*binary(sized(0), b"", length=10**6), "Inference-Header-Content-Length is 1000000; the body has"),
        (*binary(sized(0), b"", length=-1), "Inference-Header-Content-Length is -1"),
        (*binary(sized(0), b"", length="0x10"), "Inference-Header-Content-Length is 0x10"),
        (*binary(sized(0), b"", length=10), "the request is not JSON"),
    ],
)  # fmt: skip
def test_binary_tensors_whose_sizes_do_not_fit_are_400(server, body, length, sentence):
    answer = post(
        server, "/v2/models/animals/infer", body,
        content_type="application/octet-stream", inference_header_content_length=length,
    )  # fmt: skip
    refused(answer, 400, sentence)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pixels_that_are_no_numbers_are_the_mistake_of_the_client(client, value):
    tensor = triton.InferInput("pixels", [1, 3, 64, 64], "FP32")
    tensor.set_data_from_numpy(np.full((1, 3, 64, 64), value, np.float32))
    with pytest.raises(InferenceServerException, match="no finite float32") as why:
        client.infer("animals", [tensor])
    assert why.value.status() == "400"


def test_more_images_than_one_request_may_have_are_413(client):
    with pytest.raises(InferenceServerException, match="has 257 images and 256 may be") as why:
        client.infer("animals", asked("image", [0] * 257))
    assert why.value.status() == "413"


@pytest.mark.parametrize(
    ("method", "path", "status", "sentence"),
    [
        ("GET", "/nowhere", 404, "there is nothing at /nowhere"),
        ("GET", "/v2/models", 404, "there is nothing at /v2/models"),
        ("GET", "/v2/models/../../etc/passwd", 404, "there is no"),
        ("GET", "/v2/models/animals/infer", 405, "/v2/models/animals/infer does not take GET"),
        ("DELETE", "/v2", 405, "/v2 does not take DELETE"),
        ("GET", "/page/..%2f__init__.py", 404, "there is"),
        ("GET", "/page/index.html", 404, "there is no file 'index.html' of the page"),
        ("POST", "/predict", 400, "the request has no picture"),
        ("POST", "/predict?top_k=0", 400, "top_k cannot be '0'"),
        ("POST", "/predict?top_k=many", 400, "top_k cannot be 'many'"),
        ("POST", "/v2/models/animals/generate", 404, "there is nothing at /v2/models/animals/generate"),
    ],
)
def test_addresses_that_are_none_and_methods_that_do_not_fit(server, method, path, status, sentence):
    answer = requests.request(method, server.http + path, timeout=20)
    assert sentence in refused(answer, status)
    assert ("allow" in answer.headers) == (status == 405)


def test_a_type_of_body_that_is_not_read_is_415(server):
    answer = post(
        server, "/v2/models/animals/infer", b"a=b", content_type="application/x-www-form-urlencoded"
    )
    refused(answer, 415, "the body is 'application/x-www-form-urlencoded'; send application/json or")


# -- the repository of models -----------------------------------------------------------------------------


def test_models_are_not_loaded_by_clients_unless_the_server_says_so(client):
    for call in (
        client.get_model_repository_index,
        lambda: client.load_model("animals"),
        lambda: client.unload_model("animals"),
    ):
        with pytest.raises(InferenceServerException, match="start the server with --control") as why:
            call()
        assert why.value.status() == "403"
    assert client.is_model_ready("animals")


def test_models_are_listed_unloaded_and_loaded(zoo):
    with triton.InferenceServerClient(zoo.http.removeprefix("http://")) as client:
        extensions = client.get_server_metadata()["extensions"]
        assert {"model_repository", "model_repository(unload_dependents)"} <= set(extensions)
        ready = {"state": "READY", "reason": ""}
        both = [{"name": "birds", "version": "3"} | ready, {"name": "cats", "version": "1"} | ready]
        assert client.get_model_repository_index() == both
        client.unload_model("birds", unload_dependents=True)
        assert not client.is_model_ready("birds")
        assert client.is_server_ready()  # nobody wants birds: the others answer
        assert [row["state"] for row in client.get_model_repository_index()] == ["UNAVAILABLE", "READY"]
        only = post(zoo, "/v2/repository/index", b'{"ready": true}').json()
        assert [row["name"] for row in only] == ["cats"]
        with pytest.raises(InferenceServerException, match="model birds does not answer") as why:
            client.infer("birds", asked("image", [0]))
        assert why.value.status() == "503"
        shutil.copytree(zoo.root / "birds" / "3", zoo.root / "birds" / "4")
        client.load_model("birds")
        assert client.get_model_metadata("birds")["versions"] == ["4"]
        found = client.infer("birds", asked("image", [0])).as_numpy("logits")
        with open_session(zoo.root / "birds" / "4" / "model.safetensors") as session:
            np.testing.assert_allclose(found, session.run(pixels(0)), **CLOSE)


def test_a_model_that_is_not_in_the_repository_is_not_loaded(zoo):
    for name in ("cow", "..", "%2e%2e%2fcats", "cats%2f1", "%2fetc%2fpasswd", "birds%00"):
        for verb in ("load", "unload"):
            refused(post(zoo, f"/v2/repository/models/{name}/{verb}"), 404, "there is no")


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"[]", "it must be a JSON object"),
        (b'{"parameters": 1}', "parameters is 1; it must be an object"),
        (b'{"parameters": {"config": "{}"}}', "config cannot be given; the model file has all of it"),
        (b'{"parameters": {"file:1/model.onnx": "AAAA"}}', "file:1/model.onnx cannot be given"),
    ],
)
def test_a_model_is_loaded_as_its_file_says_or_not_at_all(zoo, body, sentence):
    refused(post(zoo, "/v2/repository/models/cats/load", body), 400, sentence)


def test_index_takes_only_what_it_understands(zoo):
    refused(
        post(zoo, "/v2/repository/index", b'{"ready": "no"}'), 400, "ready is no; it must be true or false"
    )
    assert len(post(zoo, "/v2/repository/index", b"{}").json()) == 2


# -- people -----------------------------------------------------------------------------------------------


def test_predict_says_what_swinv2_predict_says(server, file, tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(picture(8, (200, 140)))
    with Predictor(file, top_k=3, threads=1) as predictor:
        expected = predictor(path).to_dict()["predictions"]
    told = post(server, "/predict?top_k=3&model=animals", path.read_bytes(), content_type="image/png").json()
    assert (told["model"], told["version"]) == ("animals", "1")
    assert set(told["timing"]) == {"decode_ms", "queue_ms", "compute_ms"}
    (row,) = told["results"]
    assert [(one["class_id"], one["name"]) for one in row["predictions"]] == [
        (one["class_id"], one["name"]) for one in expected
    ]
    for one, other in zip(row["predictions"], expected, strict=True):
        assert one["score"] == pytest.approx(other["score"], rel=1e-4)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
def test_a_body_without_a_type_is_a_picture_whatever_its_format(server, kind):
    (row,) = post(server, "/predict", picture(2, kind=kind)).json()["results"]
    assert len(row["predictions"]) == 5


def test_of_several_files_a_broken_one_fails_alone(server, logits):
    files = [
        ("image", ("one.png", picture(1), "image/png")),
        ("image", ("broken.png", picture(2)[:200], "image/png")),
        ("other", ("three.png", picture(3), "image/png")),
        ("note", (None, "a field that is no file")),
    ]
    answer = requests.post(f"{server.http}/predict", files=files, timeout=30)
    assert answer.status_code == 200
    one, broken, three = answer.json()["results"]
    assert [one["file"], broken["file"], three["file"]] == ["one.png", "broken.png", "three.png"]
    assert broken["error"].startswith("broken.png is cut off or damaged")
    assert "predictions" not in broken
    for row, seed in ((one, 1), (three, 3)):
        found = {score["name"]: score["score"] for score in row["predictions"]}
        every = dict(zip(NAMES, softmax(logits(seed))[0], strict=True))
        assert found == pytest.approx({name: every[name] for name in found}, rel=1e-4)
        assert [score["score"] for score in row["predictions"]] == sorted(found.values(), reverse=True)


def test_a_picture_of_more_pixels_than_a_server_takes_is_refused_before_it_is_decoded(server):
    data = io.BytesIO()
    Image.new("1", (8000, 8001)).save(data, "PNG")  # 9 kB; `predict` takes it
    refused(post(server, "/predict", data.getvalue()), 400, "the image has more than 64,000,000 pixels")


def test_one_broken_picture_is_the_answer(server):
    answer = requests.post(f"{server.http}/predict", files={"image": ("a.png", b"no picture")}, timeout=30)
    refused(answer, 400, "a.png is not an image of a kind that is read")
    refused(post(server, "/predict", picture()[:300]), 400, "the image is cut off or damaged")


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b"--x\r\n"),
        ("multipart/form-data; boundary=x", b"nothing of it"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--\r\n"),
        ("multipart/form-data; boundary=x; charset=klingon",
         b'--x\r\nContent-Disposition: form-data; name="a"; filename="b"\r\n\r\n1\r\n--x--\r\n'),
        ("multipart/form-data; boundary=" + "x" * 5000, b"--x\r\n"),
        ("multipart/form-data; boundary=x", b""),
    ],
)  # fmt: skip
def test_a_form_that_is_none_is_400(server, kind, body):
    refused(post(server, "/predict", body, content_type=kind), 400)


def test_a_form_with_more_files_than_images_may_be_is_refused(server):
    files = [("image", (f"{i}.png", b"x")) for i in range(257)]
    refused(
        requests.post(f"{server.http}/predict", files=files, timeout=30),
        400,
        "Too many files. Maximum number of files is 256.",
    )


def test_of_several_models_one_has_to_be_named(zoo):
    refused(post(zoo, "/predict", picture()), 400, "say which: ?model=")
    assert post(zoo, "/predict?model=cats", picture()).json()["model"] == "cats"
    refused(post(zoo, "/predict?model=cow", picture()), 404, "there is no model 'cow'")


def test_models_are_described_for_people(server):
    told = requests.get(f"{server.http}/models", timeout=20).json()
    (row,) = told["models"]
    assert (row["name"], row["classes"], row["input"]) == ("animals", 7, [3, 64, 64])
    assert told["limits"] == {"body_bytes": 64 << 20}


# -- figures ----------------------------------------------------------------------------------------------


def test_figures_count_what_was_asked(server):
    before = figures(server)
    post(server, "/predict", picture())
    post(server, "/predict", b"no picture")
    requests.get(f"{server.http}/nowhere", timeout=20)
    after = figures(server)

    def more(*key):
        return after.get(key, 0) - before.get(key, 0)

    assert more("swinv2_requests_total", "http", "200") == 2  # the figures themselves, and one picture
    assert more("swinv2_requests_total", "http", "400") == 1
    assert more("swinv2_requests_total", "http", "404") == 1
    assert more("swinv2_images_total", "animals", "1") == 1
    assert more("swinv2_batch_seconds_count", "animals", "1") == 1
    assert more("swinv2_request_seconds_count", "http") == 4
    assert after["swinv2_waiting_images", "animals", "1"] == 0
    assert after["swinv2_worker_deaths_total", "animals", "1"] == 0
    head = requests.get(f"{server.http}/metrics", timeout=20)
    assert head.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


def test_the_first_frame_of_an_animation_is_what_is_seen(server, logits):
    frames = [decode(picture(seed)) for seed in (6, 7)]
    data = io.BytesIO()
    frames[0].save(data, "WEBP", lossless=True, save_all=True, append_images=frames[1:])
    (row,) = post(server, "/predict?top_k=7", data.getvalue()).json()["results"]
    found = {score["name"]: score["score"] for score in row["predictions"]}
    assert found == pytest.approx(dict(zip(NAMES, softmax(logits(6))[0], strict=True)), rel=1e-3)
