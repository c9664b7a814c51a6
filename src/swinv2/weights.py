"""The published weights: where they are, what they are, and how to get them here.

fetch(name) gives the path of an artifact. It looks in the cache first, then at files that someone put there, then
at the mirrors of SWINV2_MIRROR, the Hugging Face hub and the official address, in this order; what it gets is
checked, converted once, and kept. With SWINV2_OFFLINE=1 (or HF_HUB_OFFLINE=1) no connection is opened.

docs/weights.md has the environment variables and the ways to bring a file to a machine without a network.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swinv2 import config
from swinv2.artifact import ArtifactError, Record, read_record, write
from swinv2.config import VARIANTS, SwinV2Config
from swinv2.counts import parameters
from swinv2.download import DownloadError, check_first_use, download, file_sha256, locked
from swinv2.extras import require
from swinv2.preprocess import Preprocess

TORCHVISION_NAMES = {
    "swin_v2_t": "swinv2_tiny_window8_256",
    "swin_v2_s": "swinv2_small_window8_256",
    "swin_v2_b": "swinv2_base_window8_256",
}


@dataclass(frozen=True)
class Weights:
    """One published set of weights.

    Args:
        tag: who trained it and on what, as timm writes it.
        file: what it is called at the official address.
        preprocess: how the published accuracy was measured.
        accuracy: published top-1 and top-5 on ImageNet-1k, in percent; empty for 22k models.
    """

    architecture: str
    tag: str
    file: str
    preprocess: Preprocess
    accuracy: tuple[float, ...]

    @property
    def name(self) -> str:
        return f"{self.architecture}.{self.tag}"

    @property
    def publisher(self) -> Publisher:
        return PUBLISHERS[self.tag.partition("_")[0]]

    @property
    def url(self) -> str:
        """The official address."""
        return self.publisher.address + self.file

    @property
    def repositories(self) -> tuple[tuple[str, str], ...]:
        """On the Hugging Face hub: (repository, file), the best one first."""
        if self.publisher is not PUBLISHERS["ms"]:
            return ()
        official = "microsoft/" + self.file.removesuffix(".pth").replace("_", "-")  # as transformers has it
        return (
            (f"timm/{self.name}", "model.safetensors"),
            (official, "model.safetensors"),
            (official, "pytorch_model.bin"),
        )

    @property
    def license(self) -> str:
        return self.publisher.license

    @property
    def sha256(self) -> str:
        """The beginning of the file's hash, where it is known beforehand; torchvision writes it in the name."""
        return self.file.partition("-")[2].removesuffix(".pth")

    @property
    def config(self) -> SwinV2Config:
        return VARIANTS[self.architecture]

    @property
    def num_classes(self) -> int:
        return self.config.num_classes

    @property
    def size(self) -> int:
        """Of the file in bytes, about: the parameters in float32."""
        return 4 * parameters(self.config)


@dataclass(frozen=True)
class Publisher:
    """Who trained or converted weights; the terms are those of their repository.

    Args:
        file: what they call a file.
        endings: what the changing part of it ends in, by what the weights were trained on.
    """

    name: str
    address: str
    file: str
    endings: Mapping[str, str]
    license: str


PUBLISHERS = {
    "ms": Publisher(
        "Microsoft", "https://github.com/SwinTransformer/storage/releases/download/v2.0.0/",
        "swinv2_{}.pth", {"in22k": "_22k", "in22k_ft_in1k": "_22kto1k_ft"}, "MIT",
    ),
    "tv": Publisher("torchvision", "https://download.pytorch.org/models/", "swin_v2_{}.pth", {}, "BSD-3-Clause"),
    "pd": Publisher(
        "PaddleClas", "https://paddle-imagenet-models-name.bj.bcebos.com/dygraph/",
        "SwinTransformerV2_{}_pretrained.pdparams", {"in22k_ft_in1k": "_22kto1k"}, "Apache-2.0",
    ),
}  # fmt: skip

_256, _384, _192 = Preprocess.official(256), Preprocess.official(384), Preprocess.official(192)
_260, _272 = Preprocess(resize_to=260), Preprocess(resize_to=272)
_CROP = Preprocess(size=(384, 384), resize_to=384)  # not squashed: why PaddleClas has 87.47 and not 87.6

# Accuracies: MODELHUB.md of microsoft/Swin-Transformer; the weight enums of torchvision; SwinTransformerV2.md of
# PaddleClas, whose weights are conversions of Microsoft's; 22k models have none. The first columns give the tag.
_ROWS: tuple[tuple[str, str, str, Preprocess, float, float], ...] = (
    # by   architecture                          changing part of the file name       preprocess top-1 top-5
    ("ms", "swinv2_tiny_window8_256",            "tiny_patch4_window8_256",           _256,  81.8,   95.9),
    ("ms", "swinv2_tiny_window16_256",           "tiny_patch4_window16_256",          _256,  82.8,   96.2),
    ("ms", "swinv2_small_window8_256",           "small_patch4_window8_256",          _256,  83.7,   96.6),
    ("ms", "swinv2_small_window16_256",          "small_patch4_window16_256",         _256,  84.1,   96.8),
    ("ms", "swinv2_base_window8_256",            "base_patch4_window8_256",           _256,  84.2,   96.9),
    ("ms", "swinv2_base_window16_256",           "base_patch4_window16_256",          _256,  84.6,   97.0),
    ("ms", "swinv2_base_window12_192",           "base_patch4_window12_192",          _192,   0.0,    0.0),
    ("ms", "swinv2_base_window12to16_192to256",  "base_patch4_window12to16_192to256", _256,  86.2,   97.9),
    ("ms", "swinv2_base_window12to24_192to384",  "base_patch4_window12to24_192to384", _384,  87.1,   98.2),
    ("ms", "swinv2_large_window12_192",          "large_patch4_window12_192",         _192,   0.0,    0.0),
    ("ms", "swinv2_large_window12to16_192to256", "large_patch4_window12to16_192to256", _256, 86.9,   98.0),
    ("ms", "swinv2_large_window12to24_192to384", "large_patch4_window12to24_192to384", _384, 87.6,   98.3),
    ("tv", "swinv2_tiny_window8_256",            "t-b137f0e2",                        _260,  82.072, 96.132),
    ("tv", "swinv2_small_window8_256",           "s-637d8ceb",                        _260,  83.712, 96.816),
    ("tv", "swinv2_base_window8_256",            "b-781e5279",                        _272,  84.112, 96.864),
    ("pd", "swinv2_tiny_window8_256",            "tiny_patch4_window8_256",           _256,  81.77,  95.88),
    ("pd", "swinv2_tiny_window16_256",           "tiny_patch4_window16_256",          _256,  82.83,  96.23),
    ("pd", "swinv2_small_window8_256",           "small_patch4_window8_256",          _256,  83.73,  96.62),
    ("pd", "swinv2_small_window16_256",          "small_patch4_window16_256",         _256,  84.14,  96.81),
    ("pd", "swinv2_base_window8_256",            "base_patch4_window8_256",           _256,  84.19,  96.87),
    ("pd", "swinv2_base_window16_256",           "base_patch4_window16_256",          _256,  84.58,  97.06),
    ("pd", "swinv2_base_window12to24_192to384",  "base_patch4_window24_384",          _CROP, 87.14,  98.24),
    ("pd", "swinv2_large_window12to16_192to256", "large_patch4_window16_256",         _256,  86.89,  98.04),
    ("pd", "swinv2_large_window12to24_192to384", "large_patch4_window24_384",         _CROP, 87.47,  98.27),
)  # fmt: skip


def _weights(
    by: str, architecture: str, stem: str, preprocess: Preprocess, top1: float, top5: float
) -> Weights:
    trained = config.tag(architecture).removeprefix("ms_")  # in1k, in22k, in22k_ft_in1k
    publisher = PUBLISHERS[by]
    file = publisher.file.format(stem + publisher.endings.get(trained, ""))
    return Weights(architecture, f"{by}_{trained}", file, preprocess, (top1, top5) if top1 else ())


WEIGHTS: dict[str, Weights] = {weights.name: weights for weights in (_weights(*row) for row in _ROWS)}


def find(name: str) -> Weights:
    """The weights behind a name: with a tag those, without one Microsoft's; torchvision's names mean torchvision's.

    Raises:
        ValueError: an unknown name (with the nearest ones), or a variant whose weights nobody published.
    """
    name = name.removeprefix("timm/").removeprefix("torchvision/")
    if name in WEIGHTS:
        return WEIGHTS[name]
    if name in TORCHVISION_NAMES:
        return WEIGHTS[f"{TORCHVISION_NAMES[name]}.tv_in1k"]
    architecture, _, tag = name.partition(".")
    if tag and architecture in VARIANTS:
        known = [w.tag for w in WEIGHTS.values() if w.architecture == architecture]
        raise ValueError(
            f"there are no weights {name}; of {architecture} there are {', '.join(known) or 'none'}"
        )
    architecture = config.resolve(name)
    if not config.published(architecture):
        raise ValueError(
            f"no weights of {architecture} were published; train it (swinv2 train), or make one with fresh weights: "
            f"swinv2.create_model({architecture!r})"
        )
    return WEIGHTS[f"{architecture}.{config.tag(architecture)}"]


def find_file(file_name: str) -> Weights | None:
    """The weights that are called so at their official address; a file of that name is them."""
    return next((w for w in WEIGHTS.values() if w.file == file_name), None)


def is_published(path: Path, sha256: str) -> bool:
    """Whether a file is published weights, by its official name, its place in the hub's cache, or a known hash."""
    folders = {f"models--{place.replace('/', '--')}" for w in WEIGHTS.values() for place, _ in w.repositories}
    known = [w.sha256 for w in WEIGHTS.values() if w.sha256]
    return (
        find_file(path.name) is not None
        or not folders.isdisjoint(path.absolute().parts)
        or sha256.startswith(tuple(known))
    )


def cache_folder() -> Path:
    """Where artifacts and downloads are kept: SWINV2_HOME, else ~/.cache/swinv2."""
    return Path(os.environ.get("SWINV2_HOME") or Path.home() / ".cache" / "swinv2")


def cached(name: str) -> bool:
    """Whether fetch(name) has nothing to do."""
    return _is_artifact(_artifact_path(find(name)))


def fetch(name: str, *, offline: bool | None = None) -> Path:
    """The artifact of published weights; got, checked and converted the first time.

    Args:
        name: any name of a variant, with or without a tag.
        offline: True opens no connection; None asks SWINV2_OFFLINE and HF_HUB_OFFLINE.

    Raises:
        ValueError: an unknown name.
        ArtifactError: it is not here and cannot be got: what, from where, and what to do.
        ImportError: the conversion needs a package; the message has the pip command.
    """
    weights = find(name)
    path = _artifact_path(weights)
    if _is_artifact(path):
        return path
    require("torch", extra="convert")  # before anything is downloaded for nothing
    require("timm", extra="convert")
    with locked(path):
        if not _is_artifact(path):  # another process may have made it meanwhile
            source, record, tensors = _obtain(weights, is_offline(offline))
            check_first_use(cache_folder() / "sha256.json", f"{weights.name}/{source.name}", source)
            write(path, record, tensors)
            if source.parent == _downloads():
                source.unlink()  # the artifact holds all of it
    return path


def fetch_repository(repository: str, *, offline: bool | None = None) -> Path:
    """A model file of any repository on the Hugging Face hub, with its config.json beside it.

    Raises:
        ArtifactError: there is no such repository or file, or no connection, and what to do.
    """
    reasons: list[str] = []
    for file in ("model.safetensors", "pytorch_model.bin"):
        try:
            path = _hub_file(repository, file, is_offline(offline))
            with suppress(DownloadError):
                _hub_file(repository, "config.json", is_offline(offline))
            return path
        except DownloadError as error:
            reasons.append(str(error))
    raise ArtifactError(
        f"no model in the hub repository {repository} ({'; '.join(reasons)}); "
        f"give its files as a folder, with config.json"
    )


def is_offline(offline: bool | None = None) -> bool:
    """What is said, or else what the environment says."""
    if offline is not None:
        return offline
    said = (os.environ.get(name, "").strip().lower() for name in ("SWINV2_OFFLINE", "HF_HUB_OFFLINE"))
    return any(value not in ("", "0", "false", "no", "off") for value in said)


def _artifact_path(weights: Weights) -> Path:
    return cache_folder() / f"{weights.name}.safetensors"


def _downloads() -> Path:
    return cache_folder() / "downloads"


def _is_artifact(path: Path) -> bool:
    try:
        read_record(path)
    except (FileNotFoundError, ArtifactError):
        return False
    return True


def _obtain(weights: Weights, offline: bool) -> tuple[Path, Record, dict[str, Any]]:
    """A file of any dialect with these weights, and what is in it."""
    from swinv2.checkpoints import read_published

    for place in filter(Path.is_file, _places(weights)):
        try:
            if place.name == weights.file and not file_sha256(place).startswith(weights.sha256):
                raise ArtifactError(f"{place} has not the SHA-256 {weights.sha256}... that its name says")
            return place, *read_published(place, weights, origin=place.name)
        except ArtifactError as error:
            raise ArtifactError(f"{error}; or delete {place} to have it downloaded") from None
    reasons = []
    for origin, get in _sources(weights, offline):
        try:
            source = get()
        except DownloadError as error:
            reasons.append(str(error))
            continue
        try:
            return source, *read_published(source, weights, origin=origin)
        except ArtifactError as error:  # a login page instead of the file, a file of other weights
            reasons.append(f"{origin} gave no such model: {error}")
            if source.parent == _downloads():
                source.unlink()
    raise ArtifactError(_missing(weights, offline, reasons))


def _places(weights: Weights) -> list[Path]:
    """Where someone may have put a file: in the cache under a name that it has at its source, or on a mirror."""
    names = [weights.file, *(f"{repository}/{file}" for repository, file in weights.repositories)]
    names += [f"{weights.name}.safetensors", f"{weights.name}/model.safetensors"]
    folders = [cache_folder(), _downloads(), *(Path(mirror) for mirror in _mirrors() if "://" not in mirror)]
    return [folder / name for folder in folders for name in names]


def _sources(weights: Weights, offline: bool) -> Iterator[tuple[str, Callable[[], Path]]]:
    def from_url(url: str, file: str) -> Callable[[], Path]:
        def get() -> Path:
            download(url, _downloads() / file, sha256=weights.sha256 if file == weights.file else "")
            return _downloads() / file

        return get

    def from_hub(repository: str, file: str) -> tuple[str, Callable[[], Path]]:
        return f"hf://{repository}/{file}", lambda: _hub_file(repository, file, offline)

    if not offline:
        for mirror in (m.rstrip("/") for m in _mirrors() if "://" in m):
            for file in (f"{weights.name}.safetensors", weights.file):
                yield f"{mirror}/{file}", from_url(f"{mirror}/{file}", file)
    for repository, file in weights.repositories[:1]:
        yield from_hub(repository, file)
    if not offline:
        yield weights.url, from_url(weights.url, weights.file)
    for repository, file in weights.repositories[1:]:
        yield from_hub(repository, file)


def _mirrors() -> list[str]:
    return [mirror.strip() for mirror in os.environ.get("SWINV2_MIRROR", "").split(",") if mirror.strip()]


def _hub_file(repository: str, file: str, offline: bool) -> Path:
    """From the hub's own cache, or from the hub."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    found = try_to_load_from_cache(repository, file)
    if not isinstance(found, str):
        if offline:
            raise DownloadError(f"{repository} is not in the cache of the Hugging Face hub")
        try:
            found = hf_hub_download(repository, file)
        except Exception as error:  # httpx', the hub's own, OSError: each says that it is not there
            raise DownloadError(f"{repository} on the hub: {' '.join(str(error).split())[:160]}") from None
    blob = Path(found).resolve()  # the hub names large files by their hash
    if re.fullmatch("[0-9a-f]{64}", blob.name) and file_sha256(blob) != blob.name:
        raise DownloadError(f"{blob} is damaged (its SHA-256 is not its name); delete it")
    return Path(found)


def _missing(weights: Weights, offline: bool, reasons: list[str]) -> str:
    places = [f"hf.co/{repository}" for repository, _ in weights.repositories[:1]] + [weights.url]
    artifact = _artifact_path(weights)
    asked = ["SWINV2_OFFLINE, HF_HUB_OFFLINE or the caller says offline"] if offline else []
    why = "; ".join([*asked, *reasons])
    hash_ = f", SHA-256 {weights.sha256}..." if weights.sha256 else ""
    return (
        f"{weights.name} is not here and no connection gave it ({why}). It is about {weights.size / 1e6:,.0f} MB, at "
        f"{' and '.join(places)}{hash_}. On a machine with a network run "
        f"`python -c \"from swinv2 import weights; print(weights.fetch('{weights.name}'))\"` and copy the file that it "
        f"names to {artifact}; or put {weights.file} in {artifact.parent}"
    )
