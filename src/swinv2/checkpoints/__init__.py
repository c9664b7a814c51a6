"""Weights of any library in, a model out, and the other way around.

load() takes an artifact, a checkpoint of another library, the name of a published model or a repository of
the Hugging Face hub. A file is recognised by the keys in it; DIALECTS is the table of what is understood.
Every parameter of the model comes from the file, or is named as new; every tensor of the file goes into the
model, or is known to be no part of it. docs/weights.md has the table for people.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from swinv2 import __version__, artifact, labels, weights
from swinv2.artifact import ArtifactError, Record
from swinv2.checkpoints import adapt, beside, buffers, files, geometry, mmengine
from swinv2.checkpoints.dialect import Dialect, State
from swinv2.checkpoints.microsoft import MICROSOFT
from swinv2.checkpoints.mmpretrain import MMPRETRAIN
from swinv2.checkpoints.paddle import PADDLE
from swinv2.checkpoints.simmim import SIMMIM
from swinv2.checkpoints.timm import TIMM
from swinv2.checkpoints.torchvision import TORCHVISION
from swinv2.checkpoints.transformers import TRANSFORMERS
from swinv2.config import Pair, SwinV2Config
from swinv2.counts import parameter_shapes
from swinv2.download import file_sha256
from swinv2.model import SwinV2
from swinv2.preprocess import Preprocess

if TYPE_CHECKING:
    from swinv2.weights import Weights

__all__ = ["DIALECTS", "Checkpoint", "load", "read", "read_published", "save"]

DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (MICROSOFT, SIMMIM, TIMM, TRANSFORMERS, TORCHVISION, MMPRETRAIN, PADDLE)
}


@dataclass(frozen=True)
class Checkpoint:
    """A file, understood.

    Args:
        dialect: a key of DIALECTS, or "swinv2" for an artifact.
        tensors: by official names; all parameters of record.config but those in missing.
        missing: parameters that the file lacks and that the caller allowed to be new.
        dropped: what was in the file and is no part of the model, in words.
        assumed: what nothing said and had to be taken for granted, in words.
        guessed: what the class names are a guess from, in words; empty where they are none.
    """

    dialect: str
    record: Record
    tensors: State
    missing: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    assumed: str = ""
    guessed: str = ""


def load(
    source: str | os.PathLike[str],
    *,
    num_classes: int | None = None,
    in_chans: int | None = None,
    image_size: int | Pair | None = None,
    window: int | None = None,
    drop_path: float | None = None,
    allow_new: Collection[str] = (),
    architecture: str | SwinV2Config | None = None,
) -> SwinV2:
    """A model with trained weights, and model.record: preprocessing, class names, origin.

    Args:
        source: an artifact, a checkpoint or folder of another library, a published name or alias, or
            "owner/repo" on the Hugging Face hub. A path that exists goes before a name.
        num_classes: a count that the weights do not have starts with a new head, but for 1000 classes of a
            22k model, whose rows are picked by the built-in map; 0 for no head.
        in_chans: 1 sums the stem over the colours, other counts repeat it and share the weight.
        image_size, window: use the weights at another size; the position bias keeps what it was trained with.
        allow_new: parameters, or beginnings of their names, that the file may lack; they start at random.
        architecture: which variant a file is, where it does not say; any name, or a config of your own.

    Raises:
        FileNotFoundError, ArtifactError: what is wrong with the file, and what to do.
        ValueError: a name that is not known, settings that contradict each other.
    """
    try:
        checkpoint = read(source, architecture=architecture, allow_new=allow_new)
    except ImportError as error:
        if error.name != "timm":
            raise
        checkpoint = read(source, architecture=architecture, allow_new=allow_new, classes="none")
        warnings.warn(f"the model has no class names: ImageNet's {error}", stacklevel=2)
    record, tensors, new = adapt.adapt(
        checkpoint.record, checkpoint.tensors, num_classes=num_classes, in_chans=in_chans, image_size=image_size,
        window=window, drop_path=drop_path,
    )  # fmt: skip
    model = _build(record.config, tensors, random=(*new, *checkpoint.missing))
    model.record = record
    return model


def save(model: SwinV2, path: str | os.PathLike[str], record: Record | None = None) -> None:
    """Write a model as an artifact.

    Args:
        record: what to say beside the weights; default: what the model was loaded with, if it was.

    Raises:
        ValueError: a record of another architecture.
        OSError: no space, no permission; an older file under the name is untouched.
    """
    record = record or model.record
    if record is None:
        preprocess = Preprocess.official(model.config.image_size, model.config.in_chans)
        record = Record(model.config, preprocess, provenance={"created_with": f"swinv2 {__version__}"})
    artifact.write(path, replace(record, config=model.config), model.state_dict())


def read(
    source: str | os.PathLike[str],
    *,
    architecture: str | SwinV2Config | None = None,
    image_size: int | Pair | None = None,
    window: int | None = None,
    classes: str = "auto",
    allow_new: Collection[str] = (),
) -> Checkpoint:
    """Weights and record from any source; what load() builds its model from.

    Args:
        source, architecture, allow_new: as in load().
        image_size, window: what the weights were made for, where nothing in the file or beside it says so.
        classes: "auto" takes the names in the file or beside it, else those of ImageNet for 1000 and 21841
            classes, which is a guess where the file is no published weights; "imagenet" and "none" decide;
            anything else is a text file with one name a line.
    """
    path = _find(source)
    if path.is_dir():
        path = files.weight_file(path)
    if artifact.is_artifact(path):
        record, tensors = artifact.read(path, framework="pt")
        return Checkpoint("swinv2", record, tensors)
    content, digest = files.read(path), file_sha256(path)
    dialect, official, dropped = _to_official(content.tensors, str(path))
    is_openmmlab = dialect is MMPRETRAIN
    found = mmengine.read_meta(content.meta) if is_openmmlab else beside.read_beside(path, dialect.name)
    published = weights.find_file(path.name)
    config, assumed = geometry.infer(
        official, str(path),
        architecture=architecture or (published.architecture if published else None),
        described=found.config, names=geometry.names_of(path), image_size=image_size or found.image_size, window=window,
    )  # fmt: skip
    if found.image_size not in (None, config.image_size):
        if architecture is None and image_size is None:
            expected, described = ("x".join(map(str, size)) for size in (config.image_size, found.image_size))
            raise ArtifactError(
                f"{path} is a Swin V2 for {expected} pixels, and the settings in it prepare pictures of {described}; "
                f"give the architecture that it is (--architecture)"
            )
        found = replace(found, preprocess=None)
    tensors, missing = _complete(config, official, str(path), allow_new)
    if derived := sum(buffers.PATTERN.fullmatch(name) is not None for name in official):
        dropped = (*dropped, f"{derived} derived buffers")
    if found.blue_first:
        tensors = adapt.reversed_channels(tensors)
        dropped = (*dropped, "the order of its channels, blue first; the stem now takes red first")
    names, guessed = _labels(classes, config, found, is_published=weights.is_published(path, digest))
    record = _describe(config, found, published, names, str(path))
    provenance = {
        "source": path.name,
        "source_sha256": digest,
        "dialect": dialect.name,
        "converted_with": f"swinv2 {__version__}",
        **({"assumed": assumed} if assumed else {}),
        **({"class_names": f"guessed: {guessed}"} if guessed else {}),
    }
    record = replace(record, provenance=provenance)
    return Checkpoint(dialect.name, record, tensors, missing, dropped, assumed, guessed)


def read_published(path: Path, published: Weights, *, origin: str) -> tuple[Record, State]:
    """A downloaded file of published weights, as artifact.write takes it.

    Raises:
        ArtifactError: it is damaged, or holds other weights than those.
    """
    if artifact.is_artifact(path):  # a mirror may hold what swinv2 has converted
        record, tensors = artifact.read(path, framework="pt")
        if replace(record.config, drop_path=0) != replace(published.config, drop_path=0):
            raise ArtifactError(f"{path} is {record.config.architecture} and not {published.architecture}")
        return record, tensors
    checkpoint = read(path, architecture=published.architecture, classes="imagenet")
    if checkpoint.record.config.num_classes != published.num_classes:
        raise ArtifactError(
            f"{path} has {checkpoint.record.config.num_classes} classes and not {published.num_classes}"
        )
    names = labels.Labels(checkpoint.record.classes, checkpoint.record.synsets)
    record = _describe(published.config, beside.Beside(), published, names, str(path))
    return replace(record, provenance=checkpoint.record.provenance | {"source": origin}), checkpoint.tensors


def _find(source: str | os.PathLike[str]) -> Path:
    """A path that exists, a published name, or a repository of the hub -> a path."""
    path = Path(source)
    if path.exists():
        return path
    text = os.fspath(source)
    try:
        published = weights.find(text)
    except ValueError:
        if path.suffix in (".safetensors", ".pth", ".pt", ".bin", ".pdparams", ".pkl") or text.count("/") > 1:
            raise FileNotFoundError(f"there is no file {text}") from None
        if text.count("/") == 1 and not text.startswith((".", "/", "~")):
            return weights.fetch_repository(text)
        raise
    return weights.fetch(published.name)


def _to_official(state: State, where: str) -> tuple[Dialect, State, tuple[str, ...]]:
    found = [dialect for dialect in DIALECTS.values() if dialect.detect(state)]
    if len(found) != 1:
        if any(name.endswith("relative_position_bias_table") for name in state):
            raise ArtifactError(f"{where} is a Swin Transformer of version 1; this package has version 2")
        raise ArtifactError(
            f"{where} is in no dialect that is known ({', '.join(DIALECTS)}); "
            f"its {len(state)} tensors begin with {', '.join(list(state)[:3])}"
        )
    dialect = found[0]
    kept, dropped = {}, dict.fromkeys(filter(None, [dialect.remark]))
    for name, tensor in state.items():
        if (what := dialect.ignores(name)) is None:
            kept[name] = tensor
        else:
            dropped[what] = None
    try:
        return dialect, dialect.to_official(kept), tuple(dropped)
    except (IndexError, RuntimeError, ValueError) as error:  # of torch, about shapes that do not go together
        reason = " ".join(str(error).split())
        raise ArtifactError(
            f"{where} is damaged: its tensors have not the shapes of {dialect.about} ({reason})"
        ) from None


def _complete(
    config: SwinV2Config, official: Mapping[str, Tensor], where: str, allow_new: Collection[str]
) -> tuple[State, tuple[str, ...]]:
    """The parameters of the config, no more and no fewer, but for those that may be new."""
    shapes = parameter_shapes(config)
    tensors = {name: tensor for name, tensor in official.items() if not buffers.PATTERN.fullmatch(name)}
    starts = tuple(name.rstrip(".") for name in allow_new)
    missing = tuple(
        name
        for name in shapes
        if name not in tensors and any(name == s or name.startswith(f"{s}.") for s in starts)
    )
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    try:
        artifact.check_shapes(config, found | {name: shapes[name] for name in missing}, where)
    except ArtifactError as error:
        hint = "; name it in allow_new to start it at random" if " lacks " in str(error) else ""
        raise ArtifactError(f"{error}{hint}") from None
    return {name: tensors[name] for name in shapes if name in tensors}, missing


def _build(config: SwinV2Config, tensors: State, *, random: tuple[str, ...]) -> SwinV2:
    if random:
        model = SwinV2(config)
        missing = model.load_state_dict(tensors, strict=False).missing_keys
        assert set(missing) == set(random), (missing, random)
        return model
    with torch.device("meta"):  # no random numbers for what is replaced at once
        model = SwinV2(config)
    own = {name: tensors[name].to(p.dtype, copy=True).contiguous() for name, p in model.named_parameters()}
    model.load_state_dict(own, assign=True)
    return model


def _labels(
    classes: str, config: SwinV2Config, found: beside.Beside, *, is_published: bool
) -> tuple[labels.Labels, str]:
    """The class names, and in words what they are a guess from; empty where they are none."""
    count = config.num_classes
    if classes == "none" or not count:
        return labels.Labels(()), ""
    if classes not in ("auto", "imagenet"):
        return labels.read_names(classes), ""
    if classes == "auto" and (found.classes or count not in labels.SUBSETS):
        return labels.Labels(found.classes), ""
    if classes == "imagenet" or is_published:
        return labels.imagenet(count), ""
    return labels.imagenet(count), f"the names of {labels.SUBSETS[count]}, from the number of classes alone"


def _describe(
    config: SwinV2Config, found: beside.Beside, published: Weights | None, names: labels.Labels, where: str
) -> Record:
    if published and replace(published.config, drop_path=config.drop_path) != config:
        published = None  # a file that kept its name and has another head
    preprocess = published.preprocess if published else found.preprocess
    accuracy = published.accuracy if published else ()
    try:
        return Record(
            config,
            preprocess or Preprocess.official(config.image_size, config.in_chans),
            classes=names.names,
            synsets=names.synsets,
            license=published.license if published else "",
            accuracy=dict(zip(("imagenet-1k top-1", "imagenet-1k top-5"), accuracy, strict=False)),
        )
    except ValueError as error:
        raise ArtifactError(f"{where}: {error}") from None
