"""ImageNet from the archives that its owners hand out, into what training and evaluation read.

    ILSVRC2012_img_train.tar         a tar of 1,000 tars, n01440764.tar ...     -> train/n01440764/*.JPEG
    ILSVRC2012_img_val.tar           50,000 pictures, ILSVRC2012_val_00000001.JPEG ...  -> val/n01440764/*.JPEG
    ILSVRC2012_devkit_t12.tar.gz     which class each of those is

Nothing is downloaded: the archives are given to those who registered. Instead of the devkit, one of these files
beside the archives says the classes of the validation pictures: lines of synsets in the order of the pictures
(imagenet_2012_validation_synset_labels.txt), lines `picture class` with the position among the sorted synsets
(val_map.txt, val_list.txt, val.txt), or the table of Kaggle (LOC_val_solution.csv).

ImageNet-22k is handed out as one tar per synset, or as one tar of those; it stays in these tars, which are read in
place: fourteen million files are a burden to any file system.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from swinv2.data.parts import some
from swinv2.data.prepared import NOTE, Prepared, holds
from swinv2.data.split import DataError
from swinv2.extras import require

TRAIN_TAR, VAL_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
DEVKITS = ("ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_devkit_t12.tar")
TRUTHS = (
    "imagenet_2012_validation_synset_labels.txt",
    "LOC_val_solution.csv",
    "val_map.txt",
    "val_list.txt",
    "val.txt",
)
WHOLE = ("fall11_whole.tar", "winter21_whole.tar.gz", "winter21_whole.tar")  # of 22k
_VAL_NAME = "ILSVRC2012_val_{:08d}.JPEG"

Progress = Callable[[str, int, int], None]  # what, how many are done, of how many


@dataclass(frozen=True)
class Counts:
    """How much a complete data set has."""

    classes: int
    train: int
    val: int


ILSVRC2012 = Counts(classes=1000, train=1_281_167, val=50_000)


def imagenet_1k(
    folder: str | os.PathLike,
    source: str | os.PathLike,
    *,
    expected: Counts = ILSVRC2012,
    on_progress: Progress = lambda what, done, total: None,
) -> Prepared:
    """Unpack ImageNet-1k into train/ and val/ with one folder per synset. Interrupted, it goes on where it was.

    Args:
        source: folder of the archives.
        expected: what must come out.

    Raises:
        DataError: an archive is missing, damaged or not complete, in one sentence.
    """
    root, archives = Path(folder), Path(source)
    note = {"dataset": "imagenet", "train": expected.train, "val": expected.val}
    if holds(root, note):
        return _described(root, expected, is_new=False)
    train_tar, val_tar = archives / TRAIN_TAR, archives / VAL_TAR
    if missing := [tar.name for tar in (train_tar, val_tar) if not tar.is_file()]:
        raise DataError(
            f"{archives} has no {' and no '.join(missing)}; they come from image-net.org to those who register"
        )
    truth = validation_synsets(
        archives, expected
    )  # before hours of unpacking: without it they are for nothing
    _refuse_full(root, train_tar.stat().st_size + val_tar.stat().st_size)
    _unpack_train(train_tar, root / "train", expected, on_progress)
    if strange := sorted(set(truth) ^ {p.name for p in (root / "train").iterdir()}):
        raise DataError(
            f"{val_tar.name} and {train_tar.name} have different classes: {some(strange)}; get both again"
        )
    _unpack_val(val_tar, root / "val", truth, on_progress)
    (root / NOTE).write_text(json.dumps(note, indent=2) + "\n")
    return _described(root, expected, is_new=True)


def imagenet_22k(
    folder: str | os.PathLike,
    source: str | os.PathLike,
    *,
    on_progress: Progress = lambda what, done, total: None,
) -> Prepared:
    """Lay out ImageNet-22k as one tar per synset in train/, from such tars or from the tar of all of them.

    Tars that lie on the same file system are linked, not copied. Interrupted, it goes on where it was.

    Raises:
        DataError: there are no such tars, or one is cut off.
    """
    root, archives = Path(folder), Path(source)
    if archives.is_dir():
        whole = next((archives / name for name in WHOLE if (archives / name).is_file()), None)
    else:
        whole = archives
    train = root / "train"
    train.mkdir(parents=True, exist_ok=True)
    before = len(list(train.glob("n*.tar")))
    if whole is not None:
        _refuse_full(root, whole.stat().st_size)
        with _archive(whole) as outer:
            for done, member in enumerate(_files(outer, whole), 1):
                _extract(outer, member, train / PurePosixPath(member.name).name, whole)
                on_progress("synsets", done, 0)
    else:
        tars = sorted(archives.rglob("n[0-9]*.tar"))
        if not tars:
            raise DataError(f"{archives} has no {WHOLE[0]} and no n*.tar; give the folder that has them")
        for done, tar in enumerate(tars, 1):
            _link(tar, train / tar.name)
            on_progress("synsets", done, len(tars))
    from swinv2.data.tars import read

    tars = sorted(train.glob("n*.tar"))
    split = read(root, tars, "train")  # reads through every tar, and says which one is cut off
    is_new = before < len(tars)
    return Prepared(root, len(split), split.classes, is_new)


# ---------------------------------------------------------------------- which class a validation picture is


def validation_synsets(archives: Path, expected: Counts = ILSVRC2012) -> tuple[str, ...]:
    """The synset of each validation picture, in the order of their numbers.

    Raises:
        DataError: nothing there says it, or says it of another number of pictures.
    """
    truth = next((archives / name for name in TRUTHS if (archives / name).is_file()), None)
    devkit = next((archives / name for name in DEVKITS if (archives / name).is_file()), None)
    if devkit is not None:
        found, where = _from_devkit(devkit), devkit
    elif truth is not None:
        found, where = _from_file(truth), truth
    else:
        raise DataError(
            f"{archives} has nothing that says the classes of the validation pictures; put {DEVKITS[0]} or {TRUTHS[0]} "
            f"there"
        )
    classes = Counter(found)
    if len(found) != expected.val or len(classes) != expected.classes or len(set(classes.values())) != 1:
        raise DataError(
            f"{where} names {len(found):,} pictures of {len(classes):,} classes, not {expected.val:,} of "
            f"{expected.classes:,}, equally many of each; get it again"
        )
    return tuple(found)


def _from_devkit(devkit: Path) -> list[str]:
    """Its numbers are not those of the sorted synsets; meta.mat says which is which."""
    scipy = require("scipy.io", extra="train")
    wanted = {"meta.mat": b"", "ILSVRC2012_validation_ground_truth.txt": b""}
    with _archive(devkit) as archive:
        for member in _files(archive, devkit):
            name = PurePosixPath(member.name).name
            if name in wanted:
                wanted[name] = _open(archive, member).read()
    if not all(wanted.values()):
        raise DataError(f"{devkit} has no {next(n for n, c in wanted.items() if not c)}; get it again")
    table = scipy.loadmat(io.BytesIO(wanted["meta.mat"]), squeeze_me=True)["synsets"]
    synsets = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in table if not int(row["num_children"])}
    return [synsets[int(line)] for line in wanted["ILSVRC2012_validation_ground_truth.txt"].split()]


def _from_file(truth: Path) -> list[str]:
    lines = [line for line in truth.read_text("utf-8-sig").splitlines() if line.strip()]
    if truth.suffix == ".csv":
        table = {row["ImageId"]: row["PredictionString"].split()[0] for row in csv.DictReader(lines)}
        return [table[name] for name in sorted(table)]  # the names end in the number
    if all(len(line.split()) == 1 for line in lines):
        return [line.strip() for line in lines]
    from swinv2.labels import imagenet

    synsets = imagenet(1000).synsets
    numbers = {
        PurePosixPath(name).name: int(label) for name, label in (line.rsplit(None, 1) for line in lines)
    }
    if bad := next((label for label in numbers.values() if not 0 <= label < len(synsets)), None):
        raise DataError(
            f"{truth} has the class {bad}; classes are 0 to {len(synsets) - 1}, in the order of the synsets"
        )
    return [synsets[numbers[name]] for name in sorted(numbers)]


# ---------------------------------------------------------------------- unpacking


def _unpack_train(tar: Path, train: Path, expected: Counts, on_progress: Progress) -> None:
    """A class is complete when its folder is there without ".part"."""
    train.mkdir(parents=True, exist_ok=True)
    images = done = 0
    with _archive(tar) as outer:
        for member in _files(outer, tar):
            synset = PurePosixPath(member.name).stem
            folder = train / synset
            if not folder.is_dir():
                _unpack_class(outer, member, folder, tar)
            images += sum(1 for _ in os.scandir(folder))
            done += 1
            on_progress("classes of train", done, expected.classes)
    if (done, images) != (expected.classes, expected.train):
        raise DataError(
            f"{tar} has {images:,} pictures of {done:,} classes, not {expected.train:,} of {expected.classes:,}; "
            f"get it again"
        )


def _unpack_class(outer: tarfile.TarFile, member: tarfile.TarInfo, folder: Path, tar: Path) -> None:
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        with tarfile.open(fileobj=_open(outer, member), mode="r:") as inner:
            for picture in _files(inner, tar):
                _extract(inner, picture, part / PurePosixPath(picture.name).name, tar)
    except tarfile.TarError as error:
        raise DataError(f"{tar} is damaged in {member.name} ({error}); get it again") from None
    part.rename(folder)


def _unpack_val(tar: Path, val: Path, truth: tuple[str, ...], on_progress: Progress) -> None:
    for synset in set(truth):
        (val / synset).mkdir(parents=True, exist_ok=True)
    place = {_VAL_NAME.format(i): synset for i, synset in enumerate(truth, 1)}
    done = 0
    with _archive(tar) as archive:
        for member in _files(archive, tar):
            name = PurePosixPath(member.name).name
            if name not in place:
                raise DataError(
                    f"{tar} has {name}, which is none of the {len(truth):,} validation pictures; get it again"
                )
            _extract(archive, member, val / place.pop(name) / name, tar)
            done += 1
            if done % 1000 == 0 or not place:
                on_progress("pictures of val", done, len(truth))
    if place:
        raise DataError(f"{tar} lacks {len(place):,} of the {len(truth):,} validation pictures, the first is "
                        f"{min(place)}; get it again")  # fmt: skip


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path, tar: Path) -> None:
    """Write one file, whole or not at all; one of the same size is there from an earlier try."""
    if target.is_file() and target.stat().st_size == member.size:
        return
    part = target.with_name(f".{target.name}.part")
    try:
        with open(part, "wb") as file:
            shutil.copyfileobj(_open(archive, member), file, 2**20)
    except (tarfile.TarError, EOFError):
        raise DataError(f"{tar} is cut off in {member.name}; get it again") from None
    part.replace(target)


def _files(archive: tarfile.TarFile, tar: Path) -> Iterator[tarfile.TarInfo]:
    """The plain files in it, but for hidden ones."""
    count = 0
    try:
        for member in archive:
            if member.isfile() and not PurePosixPath(member.name).name.startswith("."):
                count += 1
                yield member
    except (tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # a full disk
        raise DataError(
            f"{tar} is cut off or damaged after {count:,} files ({error}); get it again"
        ) from None


def _archive(tar: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(tar)
    except (tarfile.TarError, EOFError):  # its sentence has a line for each way that it tried
        raise DataError(f"{tar} is cut off or no tar archive; get it again") from None


def _open(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(member)
    assert file is not None, member.name  # a plain file has content
    return file


def _link(tar: Path, target: Path) -> None:
    if target.exists() and target.stat().st_size == tar.stat().st_size:
        return
    try:
        os.link(tar, target)
    except OSError:
        part = target.with_name(f".{target.name}.part")
        shutil.copyfile(tar, part)
        part.replace(target)


def _refuse_full(root: Path, size: int) -> None:
    root.mkdir(parents=True, exist_ok=True)
    there = sum(entry.stat().st_size for entry in root.rglob("*") if entry.is_file())
    if (free := shutil.disk_usage(root).free) + there < size:
        raise DataError(
            f"{root} has {free / 1e9:,.0f} GB free and needs {(size - there) / 1e9:,.0f} GB; free some first"
        )


def _described(root: Path, expected: Counts, *, is_new: bool) -> Prepared:
    classes = tuple(sorted(p.name for p in (root / "train").iterdir()))
    return Prepared(root, expected.train + expected.val, classes, is_new)
