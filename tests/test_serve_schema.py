"""The OpenAPI document, tried by schemathesis: what it promises is what the server does, for requests that fit it and
for those that do not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from openapi_spec_validator import validate
from serving import serving, write_model

SCHEMATHESIS = shutil.which("schemathesis", path=str(Path(sys.executable).parent))
# A schema cannot say which bytes are a picture, nor how many numbers a shape asks for: these may refuse what fits it.
# Who asks for an answer within a microsecond is told that there was none: 504.
SETTINGS = """
[[operations]]
include-path-regex = "/(infer|predict|explain)$"

[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", "400", "404", "413", "504"]

[operations.checks.not_a_server_error]
expected-statuses = ["2xx", "4xx", "504"]
"""
KNOWN = """
[parameters]
"path.name" = "animals"
"path.version" = "1"
"query.model" = "animals"
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("schema")
    write_model(root / "models" / "animals" / "1" / "model.safetensors")
    return root


@pytest.fixture(scope="module")
def server(root):
    with serving(root / "models", "--no-grpc", "--control", "--look", "0", "--worker-threads") as running:
        yield running


@pytest.fixture(scope="module")
def document(server):
    return requests.get(f"{server.http}/openapi.json", timeout=20).json()


def examined(server, folder, settings, *options):
    """What schemathesis says of a server, after the same requests every time."""
    config = folder / "schemathesis.toml"
    config.write_text(settings)
    done = subprocess.run(
        [SCHEMATHESIS, "--config-file", config, "run", f"{server.http}/openapi.json", "--no-color",
         "--generation-deterministic", "--phases", "examples,coverage,fuzzing", "--request-timeout", "100",
         *options],
        cwd=folder, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_document_is_valid_and_has_every_address(document):
    validate(document)
    assert set(document["paths"]) == {
        "/v2", "/v2/health/live", "/v2/health/ready", "/metrics", "/models", "/predict", "/explain",
        "/v2/models/{name}", "/v2/models/{name}/ready", "/v2/models/{name}/infer",
        "/v2/models/{name}/versions/{version}", "/v2/models/{name}/versions/{version}/ready",
        "/v2/models/{name}/versions/{version}/infer", "/v2/repository/index",
        "/v2/repository/models/{name}/load", "/v2/repository/models/{name}/unload",
    }  # fmt: skip


def test_every_refusal_of_the_document_is_an_error_with_a_sentence(document):
    for path, operations in document["paths"].items():
        for about in operations.values():
            for status, answer in about["responses"].items():
                if status.startswith(("4", "5")) and not (status == "503" and path.endswith("/ready")):
                    shape = answer["content"]["application/json"]["schema"]
                    assert shape["required"] == ["error"], (path, status)


def test_the_example_of_a_request_is_answered(server, document):
    body = document["paths"]["/v2/models/{name}/infer"]["post"]["requestBody"]
    example = body["content"]["application/json"]["schema"]["example"]
    answer = requests.post(f"{server.http}/v2/models/animals/infer", json=example, timeout=20)
    assert answer.status_code == 200
    assert answer.json()["outputs"][0]["shape"] == [1, 5]


def test_names_that_strangers_may_think_of_are_answered_as_the_document_says(server, root):
    said = examined(server, root, SETTINGS, "--max-examples", "40")
    assert "16 selected / 16 total" in said
    assert not [
        line for line in server.lines() if line.get("status") in (500, 501, 504) or "traceback" in line
    ]
    assert requests.get(f"{server.http}/v2/health/ready", timeout=20).status_code == 200


def test_the_model_that_is_there_is_answered_as_the_document_says(root):
    """Without --control, so that nobody unloads it meanwhile; pictures that are none, numbers that are too few."""
    with serving(root / "models", "--no-grpc", "--look", "0", "--worker-threads") as running:
        examined(running, root, KNOWN + SETTINGS, "--max-examples", "100", "--exclude-path-regex", "/explain")
        lines = [line for line in running.lines() if line["message"] == "request"]
    assert (
        {200, 400, 403, 404, 405}
        <= {line["status"] for line in lines}
        <= {200, 400, 403, 404, 405, 413, 415, 504}
    )
    assert {line["path"] for line in lines} >= {
        "/v2/models/animals/infer",
        "/v2/models/animals/versions/1/ready",
    }
