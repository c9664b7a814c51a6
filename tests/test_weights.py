"""The published weights: the table against the libraries that published it, and every way to get a file.

Only a server on this machine is asked (mirror.py).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
import timm
import torch
import torchvision.models as torchvision_models
from conftest import randomized
from mirror import Mirror, serving

from swinv2 import artifact, checkpoints, download, weights
from swinv2.artifact import ArtifactError
from swinv2.checkpoints import DIALECTS, files
from swinv2.config import ALIASES, VARIANTS
from swinv2.counts import parameters
from swinv2.download import DownloadError
from swinv2.model import create_model
from swinv2.preprocess import Preprocess
from swinv2.weights import WEIGHTS, Weights

PICO = "swinv2_pico_window8_256"  # plays a published model: it is small

# ---------------------------------------------------------------------- the table


def test_the_table_has_what_was_published():
    assert len(WEIGHTS) == 12 + 3 + 9
    assert all(name == w.name and w.architecture in VARIANTS for name, w in WEIGHTS.items())
    assert {w.license for w in WEIGHTS.values()} == {"MIT", "BSD-3-Clause", "Apache-2.0"}


def test_microsofts_rows_are_those_of_timm():
    published = [name for name in timm.list_pretrained("swinv2_*") if "_cr_" not in name]
    assert sorted(published) == sorted(name for name, w in WEIGHTS.items() if w.tag.startswith("ms_"))
    for name in published:
        theirs, ours = timm.get_pretrained_cfg(name), WEIGHTS[name]
        assert (theirs.url, theirs.hf_hub_id) == (ours.url, ours.repositories[0][0])
        assert (theirs.num_classes, theirs.input_size[1:]) == (ours.num_classes, ours.preprocess.size)
        assert (theirs.license, theirs.mean, theirs.std) == ("mit", ours.preprocess.mean, ours.preprocess.std)


@pytest.mark.parametrize("size", ["T", "S", "B"])
def test_torchvisions_rows_are_those_of_torchvision(size):
    theirs = getattr(torchvision_models, f"Swin_V2_{size}_Weights").IMAGENET1K_V1
    ours = weights.find(f"swin_v2_{size.lower()}")
    assert ours.url == theirs.url
    assert dict(zip(("acc@1", "acc@5"), ours.accuracy, strict=True)) == theirs.meta["_metrics"]["ImageNet-1K"]
    expected = theirs.transforms()
    assert [ours.preprocess.resize_to] == expected.resize_size
    assert list(ours.preprocess.size) == expected.crop_size * 2
    assert ours.preprocess.interpolation == expected.interpolation.value
    assert (list(ours.preprocess.mean), list(ours.preprocess.std)) == (expected.mean, expected.std)
    k_bias = sum(
        3 * d * w for d, w in zip(ours.config.depths, (32, 64, 128, 256), strict=True)
    )  # embed 96 = 3 x 32
    assert theirs.meta["num_params"] - parameters(ours.config) == k_bias * ours.config.embed_dim // 96
    assert ours.file.startswith(f"swin_v2_{size.lower()}-{ours.sha256}")


def test_the_official_protocol_is_with_microsofts_weights():
    for w in WEIGHTS.values():
        if w.tag.startswith("ms_"):
            assert w.preprocess == Preprocess.official(w.config.image_size)
    assert WEIGHTS["swinv2_large_window12to24_192to384.pd_in22k_ft_in1k"].preprocess.resize == "shorter"


def test_every_alias_of_a_published_variant_finds_weights():
    for alias, architecture in ALIASES.items():
        if weights.config.published(architecture):
            assert weights.find(alias).architecture == architecture
    assert weights.find("microsoft/swinv2-tiny-patch4-window8-256").name == "swinv2_tiny_window8_256.ms_in1k"
    assert weights.find("timm/swinv2_base_window12_192.ms_in22k").num_classes == 21841
    assert weights.find("SwinTransformerV2_tiny_patch4_window8_256").tag == "ms_in1k"
    assert weights.find("swinv2_tiny_window8_256.pd_in1k").file.endswith("window8_256_pretrained.pdparams")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("swinv2_tiny_window8_255", "did you mean swinv2_tiny_window8_256"),
        ("swinv2_tiny_window8_256.in1k", "there are ms_in1k, tv_in1k, pd_in1k"),
        ("swinv2_nano", "no weights of swinv2_nano_window8_256 were published"),
        ("swinv2_giant_window12_192", "no weights of swinv2_giant_window12_192 were published"),
    ],
)
def test_a_name_without_weights_says_what_there_is(name, words):
    with pytest.raises(ValueError, match=words):
        weights.find(name)


# ---------------------------------------------------------------------- from a mirror


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with serving() as found:
        yield found


@pytest.fixture(scope="module")
def pico() -> dict[str, torch.Tensor]:
    """The weights of what plays a published model."""
    return randomized(create_model(PICO)).state_dict()


@pytest.fixture(scope="module")
def pico_pth(pico, tmp_path_factory) -> bytes:
    """Its official file."""
    path = tmp_path_factory.mktemp("pico") / "pico.pth"
    state = DIALECTS["microsoft"].from_official(pico, VARIANTS[PICO])
    files.write_tensors(
        path, {n: t for n, t in state.items() if not n.endswith("attn_mask")}, container="model"
    )
    return path.read_bytes()


@pytest.fixture
def published(pico_pth, monkeypatch, tmp_path) -> Weights:
    """A row for it with a known hash, as torchvision's have one, and a cache of its own."""
    sha256 = hashlib.sha256(pico_pth).hexdigest()[:8]
    row = Weights(PICO, "tv_in1k", f"swin_v2_p-{sha256}.pth", Preprocess.official(256), (50.0, 70.0))
    monkeypatch.setitem(WEIGHTS, row.name, row)
    isolated(monkeypatch, tmp_path)
    return row


def isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SWINV2_HOME", str(tmp_path / "cache"))
    for name in ("SWINV2_MIRROR", "SWINV2_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def nowhere(url: str, path: Path, *, sha256: str = "") -> None:
        if not url.startswith("http://127.0.0.1"):
            raise DownloadError(f"{url}: not in a test")
        download.download(url, path, sha256=sha256)

    monkeypatch.setattr(weights, "download", nowhere)


@pytest.fixture
def no_sockets(monkeypatch) -> None:
    def blocked(*_: object, **__: object) -> socket.socket:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", blocked)
    monkeypatch.setattr(socket, "create_connection", blocked)


def test_a_mirror_gives_a_converted_artifact_that_stays(published, pico, pico_pth, mirror, monkeypatch):
    mirror.files[published.file] = pico_pth
    monkeypatch.setenv("SWINV2_MIRROR", mirror.address)
    assert not weights.cached(published.name)
    path = weights.fetch(published.name)
    assert path == weights.cache_folder() / f"{published.name}.safetensors"
    assert weights.cached(published.name)
    record, tensors = artifact.read(path, framework="pt")
    assert record.config == VARIANTS[PICO]
    assert (record.preprocess, record.license) == (published.preprocess, "BSD-3-Clause")
    assert record.accuracy == {"imagenet-1k top-1": 50.0, "imagenet-1k top-5": 70.0}
    assert record.classes[0] == "tench, Tinca tinca"
    assert record.provenance["source"] == f"{mirror.address}/{published.file}"
    assert record.provenance["source_sha256"] == hashlib.sha256(pico_pth).hexdigest()
    assert all(torch.equal(tensor, pico[name]) for name, tensor in tensors.items())
    assert list((weights.cache_folder() / "downloads").glob("*.pth")) == []  # the artifact holds all of it
    asked = len(mirror.asked)
    assert weights.fetch(published.name) == path
    assert len(mirror.asked) == asked


def test_a_published_name_loads(published, pico_pth, mirror, monkeypatch):
    mirror.files[published.file] = pico_pth
    monkeypatch.setenv("SWINV2_MIRROR", mirror.address)
    model = checkpoints.load(published.name, num_classes=3)
    assert model.config.num_classes == 3
    assert model.record.preprocess == published.preprocess


def test_a_mirror_may_hold_what_is_converted(published, pico_pth, mirror, monkeypatch, tmp_path):
    mirror.files[published.file] = pico_pth
    monkeypatch.setenv("SWINV2_MIRROR", mirror.address)
    first = weights.fetch(published.name).read_bytes()
    shutil.rmtree(weights.cache_folder())
    mirror.files = {f"{published.name}.safetensors": first}
    assert weights.fetch(published.name).read_bytes() == first


def test_a_broken_connection_is_resumed_where_it_broke(published, pico_pth, mirror, monkeypatch):
    mirror.files[published.file] = pico_pth
    mirror.cut_after = [1000, 50_000]
    monkeypatch.setenv("SWINV2_MIRROR", mirror.address)
    weights.fetch(published.name)
    asked = [range_ for path, range_ in mirror.asked if path == published.file]
    assert asked == [None, "bytes=1000-", "bytes=50000-"]


def test_a_wrong_hash_is_refused_and_the_next_mirror_asked(published, pico_pth, mirror, monkeypatch):
    mirror.files |= {f"bad/{published.file}": pico_pth[:-1] + b"x", f"good/{published.file}": pico_pth}
    monkeypatch.setenv("SWINV2_MIRROR", f"{mirror.address}/bad, {mirror.address}/good/")
    weights.fetch(published.name)
    assert [path for path, _ in mirror.asked if path.endswith(".pth")] == [
        f"bad/{published.file}",
        f"good/{published.file}",
    ]


def test_only_a_wrong_hash_says_so(published, pico_pth, mirror, monkeypatch):
    mirror.files[published.file] = pico_pth[:-1] + b"x"
    monkeypatch.setenv("SWINV2_MIRROR", mirror.address)
    with pytest.raises(ArtifactError, match=f"SHA-256 .* should have {published.sha256}"):
        weights.fetch(published.name)
    assert list((weights.cache_folder() / "downloads").glob("*.pth*.part")) == []


def test_a_dead_mirror_is_passed_over(published, pico_pth, mirror, monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{probe.getsockname()[1]}"
    mirror.files[published.file] = pico_pth
    monkeypatch.setenv("SWINV2_MIRROR", f"{dead},{mirror.address}")
    assert weights.fetch(published.name).exists()


def test_a_login_page_instead_of_the_file_is_passed_over(monkeypatch, pico_pth, mirror, tmp_path):
    row = Weights(PICO, "pd_in1k", "pico.pdparams", Preprocess.official(256), ())  # no hash is known
    monkeypatch.setitem(WEIGHTS, row.name, row)
    isolated(monkeypatch, tmp_path)
    mirror.files["a/pico.pdparams"] = b"<html>please log in</html>" + bytes(100)
    monkeypatch.setenv("SWINV2_MIRROR", f"{mirror.address}/a")
    with pytest.raises(ArtifactError, match="a web page"):
        weights.fetch(row.name)
    mirror.files["b/pico.pdparams"] = pico_pth
    monkeypatch.setenv("SWINV2_MIRROR", f"{mirror.address}/a,{mirror.address}/b")
    assert (
        artifact.read_record(weights.fetch(row.name)).provenance["source"]
        == f"{mirror.address}/b/pico.pdparams"
    )


def test_weights_of_another_model_are_not_taken(published):
    with torch.device("meta"):
        shapes = create_model("swinv2_nano").state_dict()
    path = weights.cache_folder() / published.name / "model.safetensors"
    files.write_tensors(path, {name: torch.zeros(tensor.shape) for name, tensor in shapes.items()})
    with pytest.raises(ArtifactError, match="embed_dim 64"):
        weights.fetch(published.name)
    assert not weights.cached(published.name)


def test_another_file_under_the_same_name_is_refused(monkeypatch, pico, pico_pth, mirror, tmp_path):
    row = Weights(PICO, "pd_in1k", "pico.pdparams", Preprocess.official(256), ())  # no hash is known
    monkeypatch.setitem(WEIGHTS, row.name, row)
    isolated(monkeypatch, tmp_path)
    monkeypatch.setenv("SWINV2_MIRROR", mirror.address)
    mirror.files[row.file] = pico_pth
    path = weights.fetch(row.name)
    records = weights.cache_folder() / "sha256.json"
    assert json.loads(records.read_text()) == {f"{row.name}/{row.file}": hashlib.sha256(pico_pth).hexdigest()}
    path.unlink()
    other = {name: tensor * 2 for name, tensor in pico.items()}
    files.write_tensors(tmp_path / "other.pth", other, container="model")
    mirror.files[row.file] = (tmp_path / "other.pth").read_bytes()
    with pytest.raises(ArtifactError, match="another file than") as error:
        weights.fetch(row.name)
    assert str(records) in str(error.value)
    assert not path.exists()
    records.unlink()
    assert weights.fetch(row.name).exists()


# ---------------------------------------------------------------------- without a network


@pytest.mark.parametrize("how", ["SWINV2_OFFLINE", "HF_HUB_OFFLINE", "offline"])
def test_offline_and_missing_says_what_where_and_how(how, published, no_sockets, monkeypatch):
    monkeypatch.setenv("SWINV2_MIRROR", "http://mirror.invalid")
    if how != "offline":
        monkeypatch.setenv(how, "1")
    with pytest.raises(ArtifactError) as error:
        weights.fetch(published.name, offline=True if how == "offline" else None)
    message = str(error.value)
    assert "\n" not in message
    for words in (
        published.name, published.file, published.url, f"SHA-256 {published.sha256}", "MB", "SWINV2_OFFLINE",
        f"weights.fetch('{published.name}')", str(weights.cache_folder()),
    ):  # fmt: skip
        assert words in message


def test_offline_is_what_is_said_and_then_the_environment(monkeypatch):
    for name in ("SWINV2_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    assert not weights.is_offline()
    for value, expected in {
        "1": True,
        "true": True,
        "0": False,
        "": False,
        "no": False,
        "False": False,
    }.items():
        monkeypatch.setenv("SWINV2_OFFLINE", value)
        assert weights.is_offline() is expected
    assert weights.is_offline(True)
    monkeypatch.setenv("SWINV2_OFFLINE", "1")
    assert not weights.is_offline(False)


PLACES: dict[str, Callable[[Weights, Path], Path]] = {
    "official name": lambda w, cache: cache / w.file,
    "downloads": lambda w, cache: cache / "downloads" / w.file,
    "name": lambda w, cache: cache / f"{w.name}.safetensors",
    "folder": lambda w, cache: cache / w.name / "model.safetensors",
    "mirror folder": lambda w, cache: cache.parent / "share" / w.file,
}


@pytest.mark.parametrize("place", PLACES)
def test_a_file_put_there_is_used_without_a_network(
    place, published, pico, pico_pth, no_sockets, monkeypatch
):
    monkeypatch.setenv("SWINV2_OFFLINE", "1")
    monkeypatch.setenv("SWINV2_MIRROR", str(weights.cache_folder().parent / "share"))
    path = PLACES[place](published, weights.cache_folder())
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":  # as timm has it on the hub
        state = DIALECTS["timm"].from_official(pico, VARIANTS[PICO])
        files.write_tensors(path, state)
    else:
        path.write_bytes(pico_pth)
    record, tensors = artifact.read(weights.fetch(published.name), framework="pt")
    assert record.accuracy["imagenet-1k top-1"] == 50.0
    assert all(torch.equal(tensor, pico[name]) for name, tensor in tensors.items())


def test_a_damaged_file_that_someone_put_there_is_named(published, pico_pth, no_sockets):
    path = weights.cache_folder() / published.file
    path.parent.mkdir()
    path.write_bytes(pico_pth[:-100])
    with pytest.raises(ArtifactError, match=f"has not the SHA-256 {published.sha256}.* delete {path}"):
        weights.fetch(published.name, offline=True)


@pytest.mark.parametrize("damaged", [False, True])
def test_the_cache_of_the_hub_is_used_without_a_network(damaged, pico, monkeypatch, no_sockets, tmp_path):
    """Laid out as huggingface_hub does it: the snapshot points at a file that is named by its hash."""
    row = Weights(PICO, "ms_in1k", "swinv2_pico.pth", Preprocess.official(256), (50.0, 70.0))
    monkeypatch.setitem(WEIGHTS, row.name, row)
    isolated(monkeypatch, tmp_path)
    state = DIALECTS["timm"].from_official(pico, VARIANTS[PICO])
    files.write_tensors(tmp_path / "model.safetensors", state)
    content = (tmp_path / "model.safetensors").read_bytes()
    folder = tmp_path / "hub" / f"models--timm--{row.name}"
    blob = folder / "blobs" / hashlib.sha256(content).hexdigest()
    snapshot = folder / "snapshots" / ("0" * 40)
    for made in (blob.parent, snapshot, folder / "refs"):
        made.mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    blob.write_bytes(content[:-4] + b"fail" if damaged else content)
    (snapshot / "model.safetensors").symlink_to(blob)
    if damaged:
        with pytest.raises(ArtifactError, match=f"{blob} is damaged"):
            weights.fetch(row.name, offline=True)
        return
    record = artifact.read_record(weights.fetch(row.name, offline=True))
    assert record.provenance["source"] == f"hf://timm/{row.name}/model.safetensors"
    assert record.license == "MIT"
    assert blob.exists()


def test_the_hub_is_asked_first_then_the_official_address_then_the_other_repository(monkeypatch, tmp_path):
    row = Weights(PICO, "ms_in1k", "swinv2_pico_patch4_window8_256.pth", Preprocess.official(256), ())
    monkeypatch.setitem(WEIGHTS, row.name, row)
    isolated(monkeypatch, tmp_path)
    asked: list[str] = []

    def refuse(*what: object, **_: object) -> Path:
        asked.append("/".join(map(str, what[:2])) if len(what) > 2 else str(what[0]))
        raise DownloadError(f"no {asked[-1]}")

    monkeypatch.setattr(weights, "_hub_file", refuse)
    monkeypatch.setattr(weights, "download", refuse)
    with pytest.raises(ArtifactError, match="no timm/swinv2_pico"):
        weights.fetch(row.name)
    assert asked == [
        f"timm/{row.name}/model.safetensors",
        row.url,
        "microsoft/swinv2-pico-patch4-window8-256/model.safetensors",
        "microsoft/swinv2-pico-patch4-window8-256/pytorch_model.bin",
    ]


def test_a_repository_of_the_hub_that_is_not_there_says_so(monkeypatch, no_sockets, tmp_path):
    isolated(monkeypatch, tmp_path)
    with pytest.raises(ArtifactError, match="no model in the hub repository some/body"):
        weights.fetch_repository("some/body", offline=True)


def test_what_the_hub_has_not_is_a_download_error(monkeypatch, tmp_path):
    isolated(monkeypatch, tmp_path)

    def unreachable(*_: object, **__: object) -> str:
        raise ConnectionError("no route to\nhost")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(DownloadError, match="some/body on the hub: no route to host"):
        weights._hub_file("some/body", "model.safetensors", False)


def test_the_document_has_the_table():
    text = (Path(__file__).parent.parent / "docs" / "weights.md").read_text("utf-8")
    for w in WEIGHTS.values():
        accuracy = f"{w.accuracy[0]} / {w.accuracy[1]}" if w.accuracy else "-"
        assert f"| `{w.name}` | {accuracy} | {w.license} | `{w.file}` |" in text
    for variable in ("SWINV2_HOME", "SWINV2_MIRROR", "SWINV2_OFFLINE", "HF_HUB_OFFLINE"):
        assert f"`{variable}" in text
