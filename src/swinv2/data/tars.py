"""Pictures in tar files, read in place: any of them at any time, by its offset.

    WebDataset shards             a tar of class folders      one tar per class (ImageNet-22k)
    train-000.tar: 0001.jpg       photos.tar: rose/7.jpg      n01440764.tar: n01440764_18.JPEG
                   0001.cls                   daisy/2.jpg     n01443537.tar: n01443537_2.JPEG

0001.cls is the number or the name of the class; 0001.json may hold "label", or "labels" of a multi-label set.
Names for the numbers are in classes.txt beside the shards. A tar is read through once to find what is in it;
the finding is kept in the cache, by path, size and time of the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tarfile
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from swinv2.data.classes import by_name, index, named_in
from swinv2.data.split import DataError, Split
from swinv2.images import SUFFIXES

if TYPE_CHECKING:
    import numpy as np

_LABELS = (".cls", ".json")
_FORMAT = 1  # of the indexes in the cache


@dataclass(frozen=True, eq=False)
class Tars:
    """Where the pictures of some tar files lie; a row is a picture.

    Args:
        files: the tars.
        file: [pictures] which of them; offset, size: [pictures] where in it.
    """

    files: tuple[Path, ...]
    file: np.ndarray
    offset: np.ndarray
    size: np.ndarray

    def read(self, row: int, name: str) -> bytes:
        with open(
            self.files[self.file[row]], "rb"
        ) as opened:  # no shared file position: any thread or process
            opened.seek(int(self.offset[row]))
            return opened.read(int(self.size[row]))


@dataclass(frozen=True)
class Found:
    """The pictures of one tar, in its order."""

    names: tuple[str, ...]
    labels: tuple[str, ...]  # text of the .cls or .json beside each; "" where there is none
    offset: array[int]
    size: array[int]


def read(root: Path, shards: Sequence[Path], split: str) -> Split:
    """The pictures of some tar files as one part.

    Raises:
        DataError: a tar that is compressed, cut off, empty or without labels, in one sentence.
    """
    import numpy as np

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(_indexed, shards))
    for shard, inside in zip(shards, found, strict=True):
        if not inside.names:
            raise DataError(f"{shard} holds no pictures; it needs files such as .jpg, each with its .cls")
    names = tuple(
        f"{shard.relative_to(root).as_posix()}/{name}"
        for shard, inside in zip(shards, found, strict=True)
        for name in inside.names
    )
    classes, labels = _labels(root, shards, found)
    source = Tars(
        tuple(shards),
        file=np.repeat(np.arange(len(shards), dtype=np.int32), [len(inside.names) for inside in found]),
        offset=np.concatenate([np.array(inside.offset, np.int64) for inside in found]),
        size=np.concatenate([np.array(inside.size, np.int64) for inside in found]),
    )
    return Split(root, split, classes, names, labels, source=source, rows=range(len(names)))


def _labels(
    root: Path, shards: Sequence[Path], found: Sequence[Found]
) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    where = shards[0] if len(shards) == 1 else shards[0].parent
    named = named_in(shards[0].parent) or named_in(root)
    if any(text for inside in found for text in inside.labels):
        values, kinds = [], set()
        for shard, inside in zip(shards, found, strict=True):
            for name, text in zip(inside.names, inside.labels, strict=True):
                value, is_multi_label = _parsed(text, f"{shard}/{name}")
                values.append(value)
                kinds.add(is_multi_label)
        if len(kinds) > 1:
            raise DataError(
                f"{where} has pictures with one label and with a list of labels; give all one form"
            )
        classes, labels = index(values, named, where)
        return classes, tuple(labels if kinds.pop() else (label for (label,) in labels))
    if all("/" in name for inside in found for name in inside.names):
        values = [(PurePosixPath(name).parent.name,) for inside in found for name in inside.names]
    elif len(shards) > 1:
        values = [
            label
            for shard, inside in zip(shards, found, strict=True)
            for label in [(shard.stem,)] * len(inside.names)
        ]
    else:
        raise DataError(
            f"{shards[0]} says nothing about classes; put pictures into class folders inside it, or a .cls "
            f"beside each"
        )
    classes, labels = by_name(values, named, where)
    return classes, tuple(label for (label,) in labels)


def _parsed(text: str, name: str) -> tuple[tuple[str, ...], bool]:
    """The labels in a .cls or .json, and whether they are a list."""
    if not text:
        raise DataError(f"{name} has no label; put a .cls with the number or name of its class beside it")
    if not text.startswith("{"):
        return (text,), False
    try:
        record = json.loads(text)
        label = next(record[key] for key in ("labels", "label", "cls", "class") if key in record)
    except (ValueError, StopIteration):
        raise DataError(
            f'the .json beside {name} has no "label"; give the number or name of its class'
        ) from None
    if isinstance(label, list):
        return tuple(map(str, label)), True
    return (str(label),), False


# ---------------------------------------------------------------------- the index of one tar


def _indexed(tar: Path) -> Found:
    """What is in a tar: from the cache, otherwise by reading through its headers."""
    from swinv2.weights import cache_folder

    about = tar.stat()
    key = f"{_FORMAT} {tar.resolve()} {about.st_size} {about.st_mtime_ns}"
    kept = cache_folder() / "tars" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    try:
        names, labels, offset, size = json.loads(kept.read_text())
        return Found(tuple(names), tuple(labels), array("q", offset), array("q", size))
    except (OSError, ValueError, TypeError):
        pass
    found = _scanned(tar)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = kept.with_suffix(f".{os.getpid()}-{id(found)}.part")
        part.write_text(json.dumps([found.names, found.labels, list(found.offset), list(found.size)]))
        part.replace(kept)
    except OSError:
        pass  # a cache that cannot be written to costs the next start some time, and nothing else
    return found


def _scanned(tar: Path) -> Found:
    names: list[str] = []
    offsets: list[int] = []
    sizes: list[int] = []
    keys: list[str] = []
    texts: dict[str, str] = {}
    for member, archive in _members(tar):
        path = PurePosixPath(member.name.removeprefix("./"))
        if any(part.startswith(".") or part == "__MACOSX" for part in path.parts):
            continue
        base, dot, suffix = path.name.partition(".")  # WebDataset: a key ends at the first dot
        key = (path.parent / base).as_posix()
        if path.suffix.lower() in SUFFIXES:
            names.append(path.as_posix())
            offsets.append(member.offset_data)
            sizes.append(member.size)
            keys.append(key)
        elif (dot + suffix).lower() in _LABELS and member.size < 2**20:
            content = archive.extractfile(member)
            assert content is not None, member.name
            text = content.read().decode("utf-8", "replace").strip()
            if suffix.lower() == "cls" or key not in texts:  # a .cls says it more plainly than a .json
                texts[key] = sys.intern(text)
    return Found(
        tuple(names), tuple(texts.get(key, "") for key in keys), array("q", offsets), array("q", sizes)
    )


def _members(tar: Path) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    """The plain files of a tar.

    Raises:
        DataError: it is compressed, or cut off.
    """
    length = tar.stat().st_size
    count = 0
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in archive:
                if member.isfile() and not member.issparse():
                    if member.offset_data + member.size > length:
                        raise tarfile.ReadError("unexpected end of data")
                    count += 1
                    yield member, archive
    except tarfile.TarError as error:
        with open(tar, "rb") as opened:
            head = opened.read(6)
        if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
            raise DataError(f"{tar} is compressed, so that no picture can be reached by itself; unpack it to a "
                            f"plain .tar (gunzip, unxz, zstd -d)") from None  # fmt: skip
        raise DataError(
            f"{tar} is cut off or damaged after {count:,} files ({error}); get it again"
        ) from None
