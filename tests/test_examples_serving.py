"""examples/serving: container files, compose and Kubernetes, read by their own schemas and linters."""

from __future__ import annotations

import copy
import importlib.resources
import json
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from manifests import check_kubernetes, lint_container_file

from swinv2 import cli

FOLDER = Path(__file__).parent.parent / "examples" / "serving"
CONTAINER_FILES = sorted(path for path in FOLDER.glob("Dockerfile*") if path.suffix != ".dockerignore")
SERVERS = [path for path in CONTAINER_FILES if path.name != "Dockerfile.models"]
RESOURCES = [
    (path.name, resource)
    for path in sorted((FOLDER / "kubernetes").glob("*.yaml"))
    if path.name != "kustomization.yaml"
    for resource in yaml.safe_load_all(path.read_text())
]


def instructions(path: Path) -> dict[str, str]:
    """The last instruction of each kind."""
    text = path.read_text().replace("\\\n", " ")
    return dict(line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#"))


def resource(kind: str) -> dict[str, Any]:
    return next(one for _, one in RESOURCES if one["kind"] == kind)


def pod() -> dict[str, Any]:
    return resource("Deployment")["spec"]["template"]["spec"]


def seconds(text: str) -> int:
    return int(text.removesuffix("s"))


# ---------------------------------------------------------------------- container files


def test_there_are_images_for_processors_and_for_gpus():
    assert [path.name for path in CONTAINER_FILES] == ["Dockerfile", "Dockerfile.gpu", "Dockerfile.models"]


@pytest.mark.parametrize("path", CONTAINER_FILES, ids=lambda path: path.name)
def test_hadolint_has_nothing_to_say(path):
    assert lint_container_file(path) == ""


@pytest.mark.parametrize("path", SERVERS, ids=lambda path: path.name)
def test_an_image_runs_as_nobody_and_says_whether_it_is_well(path):
    found = instructions(path)
    assert found["USER"] == "10001:10001"
    assert "/v2/health/ready" in found["HEALTHCHECK"]
    assert found["FROM"] == "python:3.13-slim"


@pytest.mark.parametrize("path", SERVERS, ids=lambda path: path.name)
def test_the_command_of_an_image_can_be_typed(path):
    found = instructions(path)
    words = [*json.loads(found["ENTRYPOINT"]), *json.loads(found["CMD"])]
    _, values = cli.parse(words[1:])
    assert words[0] == "swinv2"
    assert (values["models"], values["host"]) == (["/models"], "0.0.0.0")
    assert values["device"] == ("cuda" if path.suffix == ".gpu" else "auto")
    assert set(found["EXPOSE"].split()) == {str(values["http_port"]), str(values["grpc_port"])}


@pytest.mark.parametrize("path", SERVERS, ids=lambda path: path.name)
def test_what_an_image_copies_is_there_and_let_through(path):
    """The ignore file keeps everything away that it does not name."""
    ignored = path.with_name(f"{path.name}.dockerignore").read_text().splitlines()
    assert "*" in ignored
    for line in path.read_text().splitlines():
        if line.startswith("COPY") and "--from" not in line:
            for name in line.split()[1:-1]:
                assert (FOLDER.parent.parent / name).exists()
                assert f"!{name}" in ignored


# ---------------------------------------------------------------------- compose


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((FOLDER / "compose.yaml").read_text())


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    """Of the Compose specification, as check-jsonschema ships it."""
    schemas = importlib.resources.files("check_jsonschema") / "builtin_schemas" / "vendor"
    return json.loads((schemas / "compose-spec.json").read_text())


def test_compose_is_as_the_specification_has_it(compose, schema):
    jsonschema.validate(compose, schema)


@pytest.mark.parametrize(("name", "value"), [("read_onli", True), ("ports", 8000), ("cap_drop", "ALL")])
def test_the_schema_of_compose_notices_a_wrong_field(compose, schema, name, value):
    wrong = copy.deepcopy(compose)
    wrong["services"]["cpu"][name] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schema)


def test_compose_builds_files_that_are_there_and_opens_nothing_to_strangers(compose):
    for service in compose["services"].values():
        context = FOLDER / service["build"]["context"]
        assert (context / service["build"]["dockerfile"]).is_file()
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])


def test_a_server_has_longer_to_end_than_a_request_may_take(compose):
    values = cli.parse(["serve", "/models"])[1]
    for service in compose["services"].values():
        assert seconds(service["stop_grace_period"]) > values["timeout"]
    (container,) = pod()["containers"]
    values = cli.parse(["serve", *container["args"]])[1]
    pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod()["terminationGracePeriodSeconds"] > pause + values["timeout"]


# ---------------------------------------------------------------------- Kubernetes


@pytest.mark.parametrize(
    ("file", "described"), RESOURCES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_kubernetes_knows_every_field(file, described):
    check_kubernetes(described)


def test_the_check_notices_a_wrong_field():
    wrong = copy.deepcopy(resource("Deployment"))
    wrong["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        check_kubernetes(wrong)


def test_names_fit_together():
    labels = resource("Deployment")["spec"]["template"]["metadata"]["labels"]
    (container,) = pod()["containers"]
    ports = {port["name"] for port in container["ports"]}
    assert resource("Deployment")["spec"]["selector"]["matchLabels"] == labels
    assert resource("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    services = [one for _, one in RESOURCES if one["kind"] == "Service"]
    assert len(services) == 2
    for service in services:
        assert service["spec"]["selector"] == labels
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    scaled = resource("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert (scaled["kind"], scaled["name"]) == ("Deployment", resource("Deployment")["metadata"]["name"])
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod()["volumes"]
    }


def test_ports_are_those_of_the_command():
    (container,) = pod()["containers"]
    values = cli.parse(["serve", *container["args"]])[1]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": values["http_port"], "grpc": values["grpc_port"]}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] == "http"


def test_a_pod_can_do_nothing_but_serve():
    (container,) = pod()["containers"]
    assert pod()["securityContext"]["runAsNonRoot"] is True
    assert pod()["automountServiceAccountToken"] is False
    rights = container["securityContext"]
    assert (rights["readOnlyRootFilesystem"], rights["allowPrivilegeEscalation"]) == (True, False)
    assert rights["capabilities"] == {"drop": ["ALL"]}
    assert container["resources"].keys() == {"requests", "limits"}


def test_kustomizations_name_files_that_are_there():
    for folder in ("kubernetes", "kubernetes-gpu"):
        described = yaml.safe_load((FOLDER / folder / "kustomization.yaml").read_text())
        patches = [patch["path"] for patch in described.get("patches", [])]
        for name in (*described["resources"], *patches):
            assert (FOLDER / folder / name).exists(), name
        images = {image["name"] for image in described["images"]}
        assert pod()["containers"][0]["image"] in images


def test_the_patch_for_gpus_gives_a_deployment():
    """Merged as kustomize does: containers by their name, everything else by key."""
    patch = yaml.safe_load((FOLDER / "kubernetes-gpu" / "deployment.yaml").read_text())
    merged = merge(resource("Deployment"), patch)
    check_kubernetes(merged)
    (container,) = merged["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"cpu": "2", "memory": "8Gi", "nvidia.com/gpu": "1"}
    assert cli.parse(["serve", *container["args"]])[1]["device"] == "cuda"


def merge(into: Any, patch: Any) -> Any:
    if isinstance(patch, dict):
        return into | {key: merge(into[key], value) if key in into else value for key, value in patch.items()}
    if isinstance(patch, list) and all(isinstance(one, dict) and "name" in one for one in patch):
        changes = {one["name"]: one for one in patch}
        assert changes.keys() <= {one["name"] for one in into}
        return [merge(one, changes.get(one["name"], {})) for one in into]
    return patch
