"""The one model file: complete or not there, and refused with the reason where it is not what it was."""

from __future__ import annotations

import errno
import json
import os
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL, randomized
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from swinv2 import artifact
from swinv2.artifact import FORMAT_VERSION, KEY, ArtifactError, Record
from swinv2.config import SwinV2Config
from swinv2.counts import parameter_shapes
from swinv2.model import SwinV2
from swinv2.preprocess import Preprocess

TINY = replace(SMALL, depths=(1, 1), heads=(1, 2), pretrained_windows=(0, 0), image_size=(32, 32))
RECORD = Record(
    TINY, Preprocess.official(32), classes=("ein Apfel", "Äpfel", "りんご", "d", "e", "f", 'g"\\'),
    synsets=tuple(f"n{i:08}" for i in range(7)), provenance={"source": "test", "epochs": 3, "nested": {"a": [1, None]}},
    license="MIT", accuracy={"imagenet-1k top-1": 81.8},
)  # fmt: skip


def tensors(config: SwinV2Config = TINY) -> dict[str, torch.Tensor]:
    return randomized(SwinV2(config)).state_dict()


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("artifact") / "a.safetensors"
    artifact.write(path, RECORD, tensors())
    return path.read_bytes()


@pytest.fixture
def path(content, tmp_path) -> Path:
    (tmp_path / "a.safetensors").write_bytes(content)
    return tmp_path / "a.safetensors"


def refused(path: Path) -> str:
    with pytest.raises(ArtifactError) as error:
        artifact.read(path, framework="pt")
    assert "\n" not in str(error.value)
    return str(error.value)


# ---------------------------------------------------------------------- round trips


@pytest.mark.parametrize("framework", ["np", "pt"])
def test_what_is_written_comes_back(framework, path):
    record, found = artifact.read(path, framework=framework)
    assert record == RECORD == artifact.read_record(path)
    assert list(parameter_shapes(TINY)) == [name for name in parameter_shapes(TINY) if name in found]
    expected = tensors()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert np.array_equal(np.asarray(found[name]), tensor.numpy())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_every_precision_comes_back_as_it_was(dtype, tmp_path):
    state = {name: tensor.to(dtype) for name, tensor in tensors().items()}
    artifact.write(tmp_path / "a.safetensors", RECORD, state)
    _, found = artifact.read(tmp_path / "a.safetensors", framework="pt")
    assert all(
        found[name].dtype == dtype and torch.equal(found[name], tensor) for name, tensor in state.items()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_file_is_verified_without_making_tensors_of_it(dtype, tmp_path):
    path = tmp_path / "a.safetensors"
    artifact.write(path, RECORD, {name: tensor.to(dtype) for name, tensor in tensors().items()})
    artifact.verify(path)
    damaged = bytearray(path.read_bytes())
    damaged[-3] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ArtifactError, match="is damaged"):
        artifact.verify(path)


def test_bfloat16_for_numpy_is_refused_with_the_way_out(tmp_path):
    state = {name: tensor.to(torch.bfloat16) for name, tensor in tensors().items()}
    artifact.write(tmp_path / "a.safetensors", RECORD, state)
    with pytest.raises(ArtifactError, match='framework="pt"'):
        artifact.read(tmp_path / "a.safetensors")


def test_numpy_and_torch_write_the_same_hash(tmp_path):
    state = tensors()
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    assert artifact.tensors_sha256(state) == artifact.tensors_sha256(arrays)
    artifact.write(tmp_path / "a.safetensors", RECORD, arrays)
    assert artifact.read(tmp_path / "a.safetensors", framework="pt")[0] == RECORD


def test_tensors_that_are_views_or_shared_are_written_whole(tmp_path):
    state = tensors()
    both = torch.arange(64.0)
    state["norm.weight"], state["norm.bias"] = both, both
    name = "layers.0.blocks.0.mlp.fc1.weight"
    state[name] = state[name].T.contiguous().T
    artifact.write(tmp_path / "a.safetensors", RECORD, state)
    _, found = artifact.read(tmp_path / "a.safetensors", framework="pt")
    assert torch.equal(found[name], state[name])
    assert torch.equal(found["norm.bias"], both)


def test_the_same_model_gives_the_same_bytes(content, tmp_path):
    for _ in range(5):
        artifact.write(tmp_path / "a.safetensors", RECORD, tensors())
        assert (tmp_path / "a.safetensors").read_bytes() == content


def test_any_safetensors_reader_opens_it(path):
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == set(parameter_shapes(TINY))
        described = json.loads(file.metadata()[KEY])
    assert described["classes"][1] == "Äpfel"
    assert described["format_version"] == FORMAT_VERSION


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)


@settings(max_examples=50, deadline=None)
@given(
    classes=st.lists(names, min_size=3, max_size=3),
    provenance=st.dictionaries(
        names, st.none() | st.booleans() | st.integers(-(2**53), 2**53) | names, max_size=3
    ),
    accuracy=st.dictionaries(names, st.floats(0, 100), max_size=2),
    channels=st.sampled_from([1, 3]),
    size=st.tuples(st.integers(1, 999), st.integers(1, 999)),
)
def test_any_record_comes_back_from_its_json(classes, provenance, accuracy, channels, size):
    record = Record(
        replace(TINY, num_classes=3, in_chans=channels, image_size=size), Preprocess.official(size, channels),
        classes=tuple(classes), provenance=provenance, license=classes[0], accuracy=accuracy,
    )  # fmt: skip
    assert Record.from_dict(json.loads(json.dumps(record.to_dict(), ensure_ascii=False))) == record


# ---------------------------------------------------------------------- complete or not at all


@pytest.mark.parametrize("step", ["fsync", "replace", "chmod"])
@pytest.mark.parametrize("older", [True, False])
def test_a_failing_disk_leaves_the_older_file_and_nothing_else(step, older, monkeypatch, tmp_path):
    path = tmp_path / "a.safetensors"
    if older:
        path.write_bytes(b"older")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space"):
        artifact.write(path, RECORD, tensors())
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == (
        [("a.safetensors", b"older")] if older else []
    )


def test_an_interruption_leaves_nothing_behind(monkeypatch, tmp_path):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        artifact.write(tmp_path / "a.safetensors", RECORD, tensors())
    assert list(tmp_path.iterdir()) == []


def test_folders_are_made_and_permissions_are_the_usual_ones(tmp_path):
    path = tmp_path / "new" / "folder" / "a.safetensors"
    artifact.write(path, RECORD, tensors())
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_tensors_of_another_architecture_are_not_written(tmp_path):
    state = tensors()
    for change, words in (
        ({"norm.weight": None}, "lacks 1 parameters"),
        ({"extra": torch.zeros(1)}, "holds 1 tensors"),
        ({"head.bias": torch.zeros(8)}, r"head.bias has shape \[8\]"),
    ):
        changed = {name: tensor for name, tensor in (state | change).items() if tensor is not None}
        with pytest.raises(ArtifactError, match=words):
            artifact.write(tmp_path / "a.safetensors", RECORD, changed)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------- damage


def test_one_wrong_bit_of_any_tensor_is_found(content, path):
    header = struct.unpack("<Q", content[:8])[0]
    rng = np.random.default_rng(0)
    for place in rng.integers(8 + header, len(content), 20):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert "does not have the hash" in refused(path) or "do not have the hash" in refused(path)


def test_truncation_at_any_length_is_found(content, path):
    header = struct.unpack("<Q", content[:8])[0]
    edges = [0, 1, 7, 8, 9, 8 + header - 1, 8 + header, 8 + header + 1, len(content) - 1]
    for length in [*edges, *np.linspace(0, len(content) - 1, 60).astype(int)]:
        path.write_bytes(content[:length])
        assert "copy or download it again" in refused(path) or "not a safetensors file" in refused(path)
        with pytest.raises(ArtifactError):
            artifact.read_record(path)


def test_bytes_after_the_end_are_found(content, path):
    path.write_bytes(content + b"more")
    assert "a.safetensors" in refused(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 1 << 20), byte=st.integers(0, 255))
def test_a_wrong_byte_in_the_header_is_found_or_harmless(content, path, place, byte):
    place %= 8 + struct.unpack("<Q", content[:8])[0]
    path.write_bytes(content[:place] + bytes([byte]) + content[place + 1 :])
    try:
        _, found = artifact.read(path, framework="pt")
    except ArtifactError as error:
        assert "\n" not in str(error)
    else:  # a letter of a class name; the weights are as they were
        assert artifact.tensors_sha256(found) == artifact.tensors_sha256(tensors())


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(garbage=st.binary(max_size=200))
def test_garbage_is_refused_in_one_sentence(tmp_path, garbage):
    (tmp_path / "g.safetensors").write_bytes(garbage)
    assert "g.safetensors" in refused(tmp_path / "g.safetensors")
    assert not artifact.is_artifact(tmp_path / "g.safetensors")


@pytest.mark.parametrize(
    "header",
    [
        b"[]", b"null", b"3", b'{"a": 3}', b'{"a": {"data_offsets": [0]}}', b'{"a": {"data_offsets": ["x", "y"]}}',
        b"[" * 9999, b'{"__metadata__": 3}', b'{"__metadata__": {"swinv2": 3}}',
        b'{"__metadata__": {"swinv2": "[1]"}}', b'{"__metadata__": {"swinv2": "{"}}',
    ],
)  # fmt: skip
def test_headers_that_are_no_headers_are_refused(header, tmp_path):
    path = tmp_path / "h.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    assert "h.safetensors" in refused(path)


def test_other_safetensors_files_are_named_for_what_they_lack(tmp_path):
    save_file(tensors(), tmp_path / "timm.safetensors", metadata={"format": "pt"})
    assert "without a swinv2 record" in refused(tmp_path / "timm.safetensors")
    assert "swinv2 convert" in refused(tmp_path / "timm.safetensors")
    save_file(tensors(), tmp_path / "bare.safetensors")
    assert "without a swinv2 record" in refused(tmp_path / "bare.safetensors")
    (tmp_path / "c.pth").write_bytes(b"PK\x03\x04" + bytes(100))
    assert "not a safetensors file" in refused(tmp_path / "c.pth")
    assert "is a folder" in refused(tmp_path)
    with pytest.raises(FileNotFoundError):
        artifact.read(tmp_path / "absent.safetensors")


def test_what_is_an_artifact(path, tmp_path):
    save_file(tensors(), tmp_path / "timm.safetensors", metadata={"format": "pt"})
    assert artifact.is_artifact(path)
    assert not artifact.is_artifact(tmp_path / "timm.safetensors")
    assert not artifact.is_artifact(tmp_path)
    with pytest.raises(FileNotFoundError):
        artifact.is_artifact(tmp_path / "absent.safetensors")


# ---------------------------------------------------------------------- records


def with_record(path: Path, change: dict) -> Path:
    """The same file, its record changed."""
    described = json.loads(
        json.dumps(RECORD.to_dict() | {"tensors_sha256": artifact.tensors_sha256(tensors())})
    )
    described = {key: value for key, value in (described | change).items() if value is not ...}
    save_file(tensors(), path, metadata={KEY: json.dumps(described)})
    return path


@pytest.mark.parametrize("version", [0, 2, 99, None, "1", ...])
def test_an_unknown_version_names_the_command(version, tmp_path):
    message = refused(with_record(tmp_path / "v.safetensors", {"format_version": version}))
    assert "format version" in message
    assert "pip install -U swinv2" in message
    assert "swinv2 convert" in message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architecture": ...}, "'architecture' is missing"),
        ({"preprocess": ...}, "'preprocess' is missing"),
        ({"architecture": 3}, "cannot be used"),
        (
            {"architecture": RECORD.config.to_dict() | {"colour": 1}},
            "colour, which this version does not know",
        ),
        ({"architecture": RECORD.config.to_dict() | {"depths": [1]}}, "cannot be used"),
        (
            {"preprocess": RECORD.preprocess.to_dict() | {"rotate": 1}},
            "rotate, which this version does not know",
        ),
        (
            {"preprocess": RECORD.preprocess.to_dict() | {"interpolation": "nearest"}},
            "interpolation is 'nearest'",
        ),
        ({"classes": ["a", "b"]}, "7 classes and 2 class names"),
        ({"classes": 3}, "cannot be used"),
        ({"synsets": ["a"]}, "7 classes and 1 synsets"),
        ({"provenance": 3}, "cannot be used"),
        ({"accuracy": [1]}, "cannot be used"),
        ({"tensors_sha256": ...}, "hash"),
        ({"tensors_sha256": "0" * 64}, "hash"),
        (
            {"architecture": RECORD.config.to_dict() | {"num_classes": 8}, "classes": [], "synsets": []},
            "head.weight has shape",
        ),
        (
            {"architecture": RECORD.config.to_dict() | {"num_classes": 0}, "classes": [], "synsets": []},
            "holds 2 tensors",
        ),
        ({"architecture": RECORD.config.to_dict() | {"depths": [2, 1]}}, "lacks"),
        ({"architecture": RECORD.config.to_dict() | {"depths": [10**9, 1]}}, "a.safetensors"),
    ],
    ids=lambda value: "" if isinstance(value, str) else ",".join(value),
)
def test_a_record_that_cannot_be_true_is_refused(change, words, tmp_path):
    assert words in refused(with_record(tmp_path / "a.safetensors", change))


def test_unnamed_classes_have_numbers():
    assert RECORD.class_name(1) == "Äpfel"
    assert replace(RECORD, classes=()).class_name(1) == "class 1"


def test_provenance_is_added_to():
    record = artifact.with_provenance(RECORD, epochs=4, host="x")
    assert record.provenance == {"source": "test", "epochs": 4, "nested": {"a": [1, None]}, "host": "x"}
    assert RECORD.provenance["epochs"] == 3
