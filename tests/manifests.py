"""Readers of what clusters and containers are told, none of them ours.

Kubernetes: the schemas of its API as kubernetes-validate ships them, in the strict form, which refuses unknown fields.
KServe: the types of its own SDK, read from its files without importing them. Container files: hadolint.
"""

from __future__ import annotations

import ast
import functools
import importlib.resources
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
from peers import peer
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

PLAIN: dict[str, type] = {"str": str, "int": int, "bool": bool, "float": float, "object": object}


def lint_container_file(path: Path) -> str:
    """What hadolint says of a container file, of every severity; nothing where all is well."""
    command = [Path(sys.executable).parent / "hadolint", "--no-color", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr or ("" if done.returncode == 0 else f"exit code {done.returncode}")


def check_kubernetes(resource: dict[str, Any]) -> None:
    """Raises kubernetes_validate.ValidationError at what the newest API server would not take."""
    kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)


def check_inference_service(resource: dict[str, Any]) -> None:
    """Raises AssertionError or jsonschema.ValidationError at a field that KServe or Kubernetes does not know."""
    assert (resource["apiVersion"], resource["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    _check_value(resource, "V1beta1InferenceService", "")


@functools.cache
def _kserve_types(name: str) -> dict[str, str]:
    """JSON name -> type, as in "list[V1Container]", of one model of the SDK."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    tree = ast.parse(peer(f"kserve/models/{words}.py").read_text())
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = node.value
    types, names = (ast.literal_eval(found[key]) for key in ("openapi_types", "attribute_map"))
    return {names[attribute]: kind for attribute, kind in types.items()}


@functools.cache
def _kubernetes_schema(file: str) -> Resource:
    """One file of the schemas, which all refer to _definitions.json."""
    version = kubernetes_validate.latest_version()
    folder = (
        importlib.resources.files("kubernetes_validate")
        / "kubernetes-json-schema"
        / f"v{version}-local-strict"
    )
    return Resource.from_contents(json.loads((folder / file).read_text()), default_specification=DRAFT202012)


def _check_value(value: Any, kind: str, where: str) -> None:
    if inner := re.fullmatch(r"list\[(.*)\]", kind):
        assert isinstance(value, list), f"{where} is no list"
        for i, element in enumerate(value):
            _check_value(element, inner[1], f"{where}[{i}]")
    elif inner := re.fullmatch(r"dict\(str, (.*)\)", kind):
        assert isinstance(value, dict), f"{where} has no names"
        for key, element in value.items():
            _check_value(element, inner[1], f"{where}.{key}")
    elif kind in PLAIN:
        assert isinstance(value, PLAIN[kind]), f"{where} is {value!r}, not {kind}"
    elif kind.startswith("V1beta1"):
        types = _kserve_types(kind)
        assert value.keys() <= types.keys(), (
            f"{where} has unknown fields: {sorted(value.keys() - types.keys())}"
        )
        for key, element in value.items():
            _check_value(element, types[key], f"{where}.{key}")
    else:
        # V1Container and V1ObjectMeta have files of their own, container-v1.json and objectmeta-meta-v1.json.
        name = kind.removeprefix("V1").lower() + ("-meta" if kind == "V1ObjectMeta" else "")
        registry = _kubernetes_schema("_definitions.json") @ Registry()
        jsonschema.validate(value, _kubernetes_schema(f"{name}-v1.json").contents, registry=registry)
