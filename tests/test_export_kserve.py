"""What is written for KServe: taken by the types of KServe and Kubernetes, and its model served by `swinv2 serve`."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import jsonschema
import pytest
import yaml
from exports import write_small
from manifests import check_inference_service, lint_container_file

import swinv2
from swinv2 import artifact, cli
from swinv2.deployments.kserve import resource_name
from swinv2.export import Disagreement, export
from swinv2.parity import Comparison
from swinv2.verbs import Exit, UsageError

pytestmark = pytest.mark.usefixtures("one_process")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write_small(tmp_path_factory.mktemp("source") / "Best_One.v2.safetensors")


@pytest.fixture(scope="module")
def exported(source, tmp_path_factory) -> swinv2.export.Exported:
    (one,) = export(source, "kserve", output=tmp_path_factory.mktemp("kserve"))
    return one


@pytest.fixture(scope="module")
def manifest(exported) -> dict:
    return yaml.safe_load((exported.path / "inferenceservice.yaml").read_text())


def instructions(exported) -> list[list[str]]:
    """The container file in lines of words."""
    text = (exported.path / "Dockerfile").read_text().replace("\\\n", " ")
    return [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]


# ---------------------------------------------------------------------- the folder


def test_the_folder_is_complete(exported):
    found = sorted(
        str(file.relative_to(exported.path)) for file in exported.path.rglob("*") if file.is_file()
    )
    assert found == ["Dockerfile", "inferenceservice.yaml", "models/Best_One.v2/1/model.safetensors"]


def test_the_model_inside_is_the_artifact_and_the_engine_was_compared(exported, source):
    inside = exported.path / "models" / "Best_One.v2" / "1" / "model.safetensors"
    assert inside.read_bytes() == source.read_bytes()
    artifact.verify(inside)
    assert (exported.not_run, [c.batch for c in exported.comparisons]) == ("", [1, 2, 7])
    assert all(0 < c.error < 1e-4 for c in exported.comparisons)


def test_an_engine_with_other_answers_stops_it(source, tmp_path, monkeypatch):
    wrong = Comparison(batch=1, size=(64, 64), max_error=1, mean_error=1, largest=1, cosine=0.1, agreement=0)
    monkeypatch.setattr("swinv2.verification.measure", lambda *_, **__: ([wrong], {}))
    with pytest.raises(Disagreement, match="engine does not give the answers of the torch model"):
        export(source, "kserve", output=tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "options", [{"precision": "fp16"}, {"precision": "int8"}, {"opset": 20}, {"dynamic_size": True}]
)
def test_options_of_formats_are_refused(source, tmp_path, options):
    with pytest.raises(ValueError, match="kserve carries the model itself"):
        export(source, "kserve", output=tmp_path, **options)
    assert os.listdir(tmp_path) == []


def test_another_image_size_is_in_the_artifact(source, tmp_path):
    (one,) = export(source, "kserve", output=tmp_path / "wide" / "3", image_size=96)
    record = artifact.read_record(one.path / "models" / "wide" / "3" / "model.safetensors")
    assert record.preprocess.size == (96, 96)
    assert "image: swinv2-wide:3\n" in (one.path / "inferenceservice.yaml").read_text()


def test_a_second_version_goes_beside_the_first(source, tmp_path):
    for version in ("1", "2"):
        (one,) = export(source, "kserve", output=tmp_path / "m" / version)
    assert sorted(os.listdir(one.path / "models" / "m")) == ["1", "2"]


# ---------------------------------------------------------------------- the manifest


def test_kserve_and_kubernetes_know_every_field(manifest):
    check_inference_service(manifest)


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [
        (("spec",), "predictr", {}),
        (("spec", "predictor"), "minReplica", 1),
        (("spec", "predictor"), "minReplicas", "one"),
        (("spec", "predictor", "containers", 0), "imagePull", "Always"),
        (("spec", "predictor", "containers", 0, "readinessProbe"), "periodSeconds", "5 s"),
        (("spec", "predictor", "volumes", 0), "emptydir", {}),
        (("metadata",), "lables", {}),
    ],
)
def test_the_check_notices_a_wrong_field(manifest, path, name, value):
    wrong = copy.deepcopy(manifest)
    place = wrong
    for key in path:
        place = place[key]
    place[name] = value
    with pytest.raises((AssertionError, jsonschema.ValidationError)):
        check_inference_service(wrong)


def test_the_container_can_do_nothing_but_serve(manifest):
    predictor = manifest["spec"]["predictor"]
    (container,) = predictor["containers"]
    assert predictor["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert {"name": "PROTOCOL", "value": "v2"} in container["env"]
    assert predictor["terminationGracePeriodSeconds"] > predictor["timeout"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("best", "best"), ("Best_One.v2", "best-one-v2"), ("7classes", "model-7classes"), ("__", "model"),
        ("a" * 39 + "-b", "a" * 39), ("x" * 80, "x" * 40),
    ],
)  # fmt: skip
def test_resources_are_named_as_kubernetes_asks(name, expected):
    assert resource_name(name) == expected
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", expected)


# ---------------------------------------------------------------------- the container file


def test_hadolint_has_nothing_to_say(exported):
    assert lint_container_file(exported.path / "Dockerfile") == ""


def test_hadolint_would_say_something(tmp_path):
    (tmp_path / "Dockerfile").write_text("FROM debian\nRUN apt-get update && apt-get install python3\n")
    assert "DL3006" in lint_container_file(tmp_path / "Dockerfile")


def test_the_image_runs_as_nobody_and_says_whether_it_is_well(exported, manifest):
    lines = instructions(exported)
    (user,) = (text for word, text in lines if word == "USER")
    predictor = manifest["spec"]["predictor"]["securityContext"]
    assert user == f"{predictor['runAsUser']}:{predictor['runAsGroup']}" == "10001:10001"
    assert [text for word, text in lines if word == "COPY"][-1] == "models /models"
    (health,) = (text for word, text in lines if word == "HEALTHCHECK")
    assert "/v2/health/ready" in health
    assert f"swinv2[serve]=={swinv2.__version__}" in dict(lines)["ARG"]


def test_the_command_of_the_image_can_be_typed_and_serves_the_model(exported, manifest, tmp_path):
    """The words of the container file, in the folder that it copies, on ports that are free."""
    lines = dict(instructions(exported))
    words = [*json.loads(lines["ENTRYPOINT"]), *json.loads(lines["CMD"])]
    assert words[0] == "swinv2"
    cli.parse(words[1:])
    words = [
        word.replace("/models", str(exported.path / "models")).replace("0.0.0.0", "127.0.0.1")
        for word in words
    ]
    command = [sys.executable, "-m", *words, "--http-port", "0", "--grpc-port", "0", "--json"]
    (container,) = manifest["spec"]["predictor"]["containers"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            said = ""
            while not said.endswith("}\n") or said.count("{") != said.count("}"):
                line = server.stdout.readline()
                assert line, server.stderr.read()
                said += line
            address = json.loads(said)["http"]
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                with urlopen(address + container[probe]["httpGet"]["path"], timeout=10) as answer:
                    assert answer.status == 200, probe
            health = re.search(r"CMD (\[.*\])", lines["HEALTHCHECK"])
            code = json.loads(health[1])[2].replace("http://127.0.0.1:8000", address)
            assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
            assert subprocess.run(
                [sys.executable, "-c", code.replace("ready", "raedy")], capture_output=True
            ).returncode
        finally:
            server.terminate()
            server.communicate(timeout=30)
    assert server.returncode == Exit.DONE


def test_a_file_as_output_is_refused(source, tmp_path):
    with pytest.raises(UsageError, match="kserve is a folder"):
        export(source, "kserve", output=tmp_path / "m.safetensors")
