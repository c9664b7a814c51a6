"""A data set -> tar shards in WebDataset layout: few large files, which network disks and copies like.

    train-00000.tar    rose/7.jpg, rose/7.cls, ...
    val-00000.tar
    classes.txt        the names of the numbers in the .cls files

Pictures keep their bytes, unless those to learn from are asked to be made smaller. Their order is that of the
hash of their names: mixed, as programs that read shards from front to back need it, and the same every time.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from swinv2.data.classes import named_in
from swinv2.data.formats import aligned, find, read_training
from swinv2.data.split import DataError, Split, every
from swinv2.images import decode

SHARD_MB = 256


@dataclass(frozen=True)
class Packed:
    """What was written: pictures per part, and the shards."""

    root: Path
    images: dict[str, int]
    shards: tuple[Path, ...]


def pack(
    path: str | os.PathLike,
    folder: str | os.PathLike,
    *,
    shard_mb: int = SHARD_MB,
    short_side: int | None = None,
    on_picture: Callable[[int, int], None] = lambda done, total: None,
) -> Packed:
    """Write the parts of a data set as shards; one that is interrupted goes on where it was.

    Args:
        shard_mb: size from which a new shard is begun.
        short_side: pixels that larger training pictures are scaled down to, and saved as JPEG; a crop from them
            is a little softer, and is decoded in a fraction of the time. Held-out pictures stay as they are, and
            so do the figures.

    Raises:
        DataError: the data set cannot be read, or the folder holds something else.
    """
    if shard_mb < 1:
        raise ValueError(f"shard_mb is {shard_mb}; give at least 1")
    if short_side is not None and short_side < 32:
        raise ValueError(f"short_side is {short_side}; give at least 32 pixels")
    root = Path(folder)
    splits = _parts(path)
    classes = splits[0].classes
    note = {
        "packed": {split.split: split.fingerprint for split in splits},
        "shard_mb": shard_mb,
        "short_side": short_side,
    }
    _begin(root, note)
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in classes), "utf-8")
    if named_in(root) != classes:  # with line breaks in them, or numbered
        raise DataError(
            f"{path} has class names that cannot stand in a list, such as {classes[0]!r}; rename them"
        )
    total, done, shards = sum(map(len, splits)), 0, []
    for split in splits:
        for number, members in enumerate(_shards(split, shard_mb * 2**20)):
            shard = root / f"{split.split}-{number:05d}.tar"
            if not shard.exists():
                _write(shard, split, members, short_side if split is splits[0] else None)
            shards.append(shard)
            done += len(members)
            on_picture(done, total)
    return Packed(root, {split.split: len(split) for split in splits}, tuple(shards))


def _parts(path: str | os.PathLike) -> list[Split]:
    """Every part, with the classes of the training part."""
    layout = find(path)
    if layout.whole is not None or not layout.held_outs or not layout.trains:
        return list(read_training(path))
    train = layout.parts[layout.trains[0]]()
    others = (layout.parts[name]() for name in layout.parts if name != train.split)
    return [train, *(aligned(split, train) for split in others)]


def _begin(root: Path, note: dict) -> None:
    """Take a folder that is empty, or that this very packing began."""
    told = root / "packed.json"
    if root.is_file() or (root.is_dir() and any(root.iterdir())):
        try:
            same = json.loads(told.read_text()) == note
        except (OSError, ValueError):
            same = False
        if not same:
            raise DataError(f"{root} holds something else; give a folder that is empty or does not exist yet")
    root.mkdir(parents=True, exist_ok=True)
    told.write_text(json.dumps(note, indent=2) + "\n")


def _shards(split: Split, limit: int) -> Iterator[list[tuple[int, str]]]:
    """Lists of (position, key in the shard), each of about so many bytes."""
    order = sorted(range(len(split)), key=lambda i: hashlib.sha256(split.names[i].encode()).digest())
    taken: set[str] = set()
    members: list[tuple[int, str]] = []
    size = 0
    for i in order:
        members.append((i, _key(split, i, taken)))
        source = split.read(i)
        size += source.stat().st_size if isinstance(source, Path) else len(source)
        if size >= limit:
            yield members
            members, size = [], 0
    if members:
        yield members


def _key(split: Split, i: int, taken: set[str]) -> str:
    """What a picture is called in its shard: class and name; the first dot of a name would end it."""
    path = PurePosixPath(split.names[i].replace("[", "/").replace("]", ""))
    labels = every(split.labels[i])
    group = split.classes[labels[0]] if len(labels) == 1 else "pictures"
    stem = (path.stem if path.suffix else path.name).replace(".", "_")
    key, number = f"{group.replace('/', '_')}/{stem}", 1
    while key in taken:
        number += 1
        key = f"{group.replace('/', '_')}/{stem}-{number}"
    taken.add(key)
    return key


def _write(shard: Path, split: Split, members: list[tuple[int, str]], short_side: int | None) -> None:
    part = shard.with_suffix(".part")
    with tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as archive:
        for i, key in members:
            source = split.read(i)
            try:
                content = source.read_bytes() if isinstance(source, Path) else source
            except OSError as error:
                raise DataError(f"{split.where(i)}: {(error.strerror or str(error)).lower()}; nothing is packed "
                                f"without it: repair it or remove it") from None  # fmt: skip
            if short_side is not None:
                content = _smaller(content, short_side, split.where(i))
            _add(archive, f"{key}{_suffix(content)}", content)
            if split.is_multi_label:
                _add(archive, f"{key}.json", json.dumps({"labels": list(split.labels[i])}).encode())
            else:
                _add(archive, f"{key}.cls", str(split.labels[i]).encode())
    part.replace(shard)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _smaller(content: bytes, short_side: int, name: str) -> bytes:
    """A picture of at least so many pixels on its short side, upright; one that is no larger stays as it is."""
    from PIL import Image

    try:
        image = decode(content, name=name)
    except (OSError, ValueError):
        return content  # a damaged one is packed as it is; `swinv2 data check` finds it
    share = short_side / min(image.size)
    if share >= 1:
        return content
    width, height = (max(short_side, round(side * share)) for side in image.size)
    file = io.BytesIO()
    image.resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()


def _suffix(content: bytes) -> str:
    """By what it is: names lie, and rows of a table have none."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            return {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif"}.get(
                image.format or "", f".{image.format}".lower()
            )
    except (OSError, ValueError, Image.DecompressionBombError):
        return ".jpg"  # a damaged one is packed as it is; `swinv2 data check` finds it
