"""The one model file: a safetensors file whose metadata says everything else that a prediction needs.

Metadata key "swinv2" holds the record as JSON: format version, architecture, preprocessing, class names,
provenance, licence, published accuracy, and the hash of the tensors. Any safetensors reader opens the
weights; this module reads and writes the whole, atomically, and refuses what is corrupt, with the reason.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from swinv2.config import SwinV2Config
from swinv2.counts import parameter_shapes
from swinv2.preprocess import Preprocess

FORMAT_VERSION = 1
KEY = "swinv2"
_OTHERS = "`swinv2 convert` reads the formats of other libraries"


class ArtifactError(ValueError):
    """A model file that cannot be used, and why."""


@dataclass(frozen=True)
class Record:
    """What a model is, beside its weights.

    Args:
        classes: names in the order of the logits; empty where nobody named them.
        synsets: WordNet ids in the same order, for ImageNet models.
        provenance: free text fields: source, source_sha256, dialect, recipe, trained_with, ...
        license: SPDX name or a sentence.
        accuracy: published or measured figures, such as {"imagenet-1k top-1": 81.8}.
    """

    config: SwinV2Config
    preprocess: Preprocess
    classes: tuple[str, ...] = ()
    synsets: tuple[str, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)
    license: str = ""
    accuracy: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "synsets", tuple(self.synsets))
        for kind, names in (("class names", self.classes), ("synsets", self.synsets)):
            if names and len(names) != self.config.num_classes:
                raise ValueError(f"the model has {self.config.num_classes} classes and {len(names)} {kind}")
        if len(self.preprocess.mean) != self.config.in_chans and self.config.in_chans in (1, 3):
            raise ValueError(
                f"the model takes {self.config.in_chans} channels, its preprocessing gives {len(self.preprocess.mean)}"
            )

    def class_name(self, index: int) -> str:
        """The name of a class, or "class 7" where classes have no names."""
        return self.classes[index] if self.classes else f"class {index}"

    def to_dict(self) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
            "architecture": self.config.to_dict(),
            "preprocess": self.preprocess.to_dict(),
            "classes": list(self.classes),
            "synsets": list(self.synsets),
            "provenance": self.provenance,
            "license": self.license,
            "accuracy": self.accuracy,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "the record") -> Record:
        """Raises ArtifactError: an unknown version, or fields that are missing or contradict each other."""
        version = values.get("format_version")
        if version != FORMAT_VERSION:
            raise ArtifactError(
                f"{where} has format version {version!r} and this swinv2 reads {FORMAT_VERSION}; "
                f"run `pip install -U swinv2`, or `swinv2 convert` it with the version that wrote it"
            )
        try:
            return cls(
                config=SwinV2Config.from_dict(values["architecture"]),
                preprocess=Preprocess.from_dict(values["preprocess"]),
                classes=tuple(values.get("classes", ())),
                synsets=tuple(values.get("synsets", ())),
                provenance=dict(values.get("provenance", {})),
                license=str(values.get("license", "")),
                accuracy=dict(values.get("accuracy", {})),
            )
        except (KeyError, TypeError, ValueError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise ArtifactError(f"{where} cannot be used: {reason}") from None


def write(path: str | os.PathLike, record: Record, tensors: Mapping[str, Any]) -> None:
    """Write an artifact: complete under its name, or not at all.

    Args:
        tensors: official names -> numpy arrays or torch tensors (one kind for all).

    Raises:
        ArtifactError: tensors that are not those of record.config.
        OSError: no space, no permission; an older file under the name is untouched.
    """
    path = Path(path)
    check_shapes(record.config, {name: tuple(t.shape) for name, t in tensors.items()}, str(path))
    described = record.to_dict() | {"tensors_sha256": tensors_sha256(tensors)}
    metadata = {
        KEY: json.dumps(described, ensure_ascii=False)
    }  # one key: safetensors orders several at random
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as part:
        try:
            part.write(_save(tensors, metadata))
            part.flush()
            os.fsync(part.fileno())
            os.chmod(part.name, 0o666 & ~_umask())
            os.replace(part.name, path)
        except BaseException:
            os.unlink(part.name)
            raise


def is_artifact(path: str | os.PathLike) -> bool:
    """Whether a file has a record of ours, be it usable or not; false for files of other libraries.

    Raises:
        FileNotFoundError: there is no such file.
    """
    try:
        metadata = _header(Path(path))[0].get("__metadata__")
    except ArtifactError:
        return False
    return isinstance(metadata, dict) and KEY in metadata


def read_record(path: str | os.PathLike) -> Record:
    """The record alone; reads the header, not the weights.

    Raises:
        FileNotFoundError, ArtifactError: what is wrong with the file, and what to do.
    """
    return Record.from_dict(_described(Path(path)), str(path))


def read(path: str | os.PathLike, *, framework: str = "np") -> tuple[Record, dict[str, Any]]:
    """The record and the weights, checked: shapes against the architecture, bytes against their hash.

    Args:
        framework: "np" for numpy arrays, "pt" for torch tensors (bfloat16 needs "pt").

    Raises:
        FileNotFoundError, ArtifactError: what is wrong with the file, and what to do.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    described = _described(path)
    record = Record.from_dict(described, str(path))
    if framework == "np" and "BF16" in {
        t["dtype"] for name, t in _header(path)[0].items() if name != "__metadata__"
    }:
        # Other packages may have taught numpy the type by now; what a file gives must not depend on them.
        raise ArtifactError(f'{path} holds bfloat16, which numpy does not have; use framework="pt"')
    try:
        with safe_open(path, framework=framework) as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- not a dict
    except SafetensorError as error:
        raise ArtifactError(f"{path} cannot be read: {error}; copy or download it again") from None
    check_shapes(record.config, {name: tuple(t.shape) for name, t in tensors.items()}, str(path))
    if described.get("tensors_sha256") != tensors_sha256(tensors):
        raise _damaged(path)
    return record, tensors


def verify(path: str | os.PathLike) -> None:
    """Check a whole artifact, as read() does, without making tensors of it; any precision, no torch.

    Raises:
        FileNotFoundError, ArtifactError: what is wrong with the file, and what to do.
    """
    path = Path(path)
    described, (header, size, _) = _described(path), _header(path)
    record = Record.from_dict(described, str(path))
    tensors = {name: row for name, row in header.items() if name != "__metadata__"}
    check_shapes(record.config, {name: tuple(row["shape"]) for name, row in tensors.items()}, str(path))
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for name in sorted(tensors):
            start, end = tensors[name]["data_offsets"]
            file.seek(8 + size + start)
            digest.update(name.encode())
            digest.update(file.read(end - start))
    if described.get("tensors_sha256") != digest.hexdigest():
        raise _damaged(path)


def check_shapes(config: SwinV2Config, shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Raises ArtifactError where shapes are not exactly those of the architecture; names the first difference."""
    if (blocks := sum(config.depths)) > len(shapes):  # a damaged record may say a billion
        raise ArtifactError(f"{where} lacks blocks: {len(shapes)} tensors are too few for {blocks:,}")
    expected = parameter_shapes(config)
    missing, unknown = sorted(expected.keys() - shapes.keys()), sorted(shapes.keys() - expected.keys())
    wrong = [name for name in expected if name in shapes and shapes[name] != expected[name]]
    if missing:
        raise ArtifactError(
            f"{where} lacks {len(missing)} parameters of {config.architecture}, the first is {missing[0]}"
        )
    if unknown:
        raise ArtifactError(
            f"{where} holds {len(unknown)} tensors that {config.architecture} does not have, the first is {unknown[0]}"
        )
    if wrong:
        name = wrong[0]
        raise ArtifactError(
            f"{where}: {name} has shape {list(shapes[name])}, {config.architecture} wants {list(expected[name])}"
        )


def tensors_sha256(tensors: Mapping[str, Any]) -> str:
    """One hash over all tensors: names in sorted order, each followed by its little-endian bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(memoryview(_as_bytes(tensors[name])))
    return digest.hexdigest()


def with_provenance(record: Record, **fields: Any) -> Record:
    """The record with provenance fields added."""
    return replace(record, provenance={**record.provenance, **fields})


def _as_bytes(tensor: Any) -> Any:
    import numpy as np

    if not isinstance(tensor, np.ndarray):  # a torch tensor; numpy has no bfloat16, so look at its bytes
        import torch

        tensor = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return np.ascontiguousarray(tensor).reshape(-1).view(np.uint8)


def _save(tensors: Mapping[str, Any], metadata: dict[str, str]) -> bytes:
    import numpy as np

    if all(isinstance(t, np.ndarray) for t in tensors.values()):
        from safetensors.numpy import save

        return save({name: np.ascontiguousarray(t) for name, t in tensors.items()}, metadata=metadata)
    from safetensors.torch import save as save_torch

    return save_torch(
        {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}, metadata=metadata
    )


def _described(path: Path) -> dict[str, Any]:
    """The JSON of the record; reads a few kilobytes."""
    header, size, body = _header(path)
    try:
        needed = max(
            (t["data_offsets"][1] for name, t in header.items() if name != "__metadata__"), default=0
        )
        record = (header.get("__metadata__") or {}).get(KEY)
        short = size + needed > body
    except (KeyError, TypeError, AttributeError, IndexError):
        raise ArtifactError(f"{path} is not a safetensors file; {_OTHERS}") from None
    if short:
        raise ArtifactError(
            f"{path} was cut off: {body - size:,} of {needed:,} bytes of weights; copy or download it again"
        )
    if record is None:
        raise ArtifactError(
            f"{path} holds weights without a swinv2 record (preprocessing, class names); "
            f"run `swinv2 convert {path} model.safetensors` once and use its result"
        )
    try:
        described = json.loads(record)
    except (TypeError, ValueError, RecursionError):
        described = None
    if not isinstance(described, dict):
        raise ArtifactError(f"{path} has a record that is not JSON; copy or download it again")
    return described


def _header(path: Path) -> tuple[dict[str, Any], int, int]:
    """The header of a safetensors file, its size, and the bytes from where it starts to the end of the file."""
    if path.is_dir():
        raise ArtifactError(f"{path} is a folder; give the model file inside it")
    with open(path, "rb") as file:  # FileNotFoundError names the file by itself
        start = file.read(8)
        size = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        body = os.fstat(file.fileno()).st_size - 8
        if not 0 < size <= 100_000_000 or size > body:
            raise ArtifactError(f"{path} is not a safetensors file, or was cut off; {_OTHERS}")
        try:
            header = json.loads(file.read(size))
        except (ValueError, RecursionError):
            header = None
    if not isinstance(header, dict):
        raise ArtifactError(f"{path} is not a safetensors file; {_OTHERS}")
    return header, size, body


def _damaged(path: Path) -> ArtifactError:
    return ArtifactError(
        f"{path} is damaged: its weights do not have the hash it records; copy or download it again"
    )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
