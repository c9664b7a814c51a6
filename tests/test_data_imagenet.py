"""ImageNet from its official archives, in small."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from swinv2.cli import main
from swinv2.data import DataError, read_split, read_training
from swinv2.data.imagenet import Counts, imagenet_1k, imagenet_22k, validation_synsets
from swinv2.images import decode
from swinv2.labels import imagenet as names

SYNSETS = ("n01440764", "n01443537", "n01484850")  # the first three of ImageNet-1k, in their order
SMALL = Counts(classes=3, train=6, val=6)
# What the devkit calls them: its own numbers, in another order, as in the real one.
IDS = {1: "n01484850", 2: "n01440764", 3: "n01443537"}
TRUTH = (2, 1, 3, 3, 2, 1)  # of the validation pictures
EXPECTED = tuple(IDS[i] for i in TRUTH)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SWINV2_HOME", str(tmp_path / "home"))


def jpeg(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (value, value, value)).save(file, "JPEG")
    return file.getvalue()


def tar(contents: dict[str, bytes], mode: str = "w") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def devkit() -> bytes:
    """meta.mat as the official one: 3 classes, then the inner nodes of the tree, which have children."""
    kinds = [("ILSVRC2012_ID", "f8"), ("WNID", "O"), ("words", "O"), ("num_children", "f8")]
    rows = [(i, wnid, "a fish", 0) for i, wnid in IDS.items()] + [(4, "n00001740", "entity", 3)]
    meta = io.BytesIO()
    savemat(meta, {"synsets": np.array(rows, dtype=kinds).reshape(-1, 1)})
    truth = "".join(f"{i}\n" for i in TRUTH).encode()
    folder = "ILSVRC2012_devkit_t12/data"
    files = {f"{folder}/meta.mat": meta.getvalue(), f"{folder}/ILSVRC2012_validation_ground_truth.txt": truth}
    return tar(files, "w:gz")


def synset_tars() -> dict[str, bytes]:
    return {
        f"{wnid}.tar": tar({f"{wnid}_{i}.JPEG": jpeg(10 * k + i) for i in range(2)})
        for k, wnid in enumerate(SYNSETS)
    }


@pytest.fixture
def archives(tmp_path) -> Path:
    folder = tmp_path / "downloads"
    folder.mkdir()
    (folder / "ILSVRC2012_img_train.tar").write_bytes(tar(synset_tars()))
    pictures = {f"ILSVRC2012_val_{i:08d}.JPEG": jpeg(100 + i) for i in (3, 1, 2, 6, 5, 4)}
    (folder / "ILSVRC2012_img_val.tar").write_bytes(tar(pictures))
    (folder / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(devkit())
    return folder


def test_imagenet_becomes_folders_of_synsets(archives, tmp_path):
    made = imagenet_1k(tmp_path / "imagenet", archives, expected=SMALL)
    assert (made.classes, made.images, made.is_new) == (SYNSETS, 12, True)
    train, val = read_training(tmp_path / "imagenet")
    assert (train.counts, val.counts) == ((2, 2, 2), (2, 2, 2))
    for i, name in enumerate(val.names):
        number = int(name[-9:-5])
        assert val.classes[val.labels[i]] == EXPECTED[number - 1]
        assert abs(np.asarray(decode(val.read(i))).mean() - (100 + number)) < 1
    assert not imagenet_1k(tmp_path / "imagenet", archives, expected=SMALL).is_new


TRUTH_FILES = {
    "imagenet_2012_validation_synset_labels.txt": "".join(f"{synset}\n" for synset in EXPECTED),
    "val_map.txt": "".join(
        f"ILSVRC2012_val_{i:08d}.JPEG\t{names(1000).synsets.index(s)}\n" for i, s in enumerate(EXPECTED, 1)
    ),
    "LOC_val_solution.csv": "ImageId,PredictionString\n" + "".join(
        f"ILSVRC2012_val_{i:08d},{s} 1 2 3 4 {s} 5 6 7 8 \n" for i, s in list(enumerate(EXPECTED, 1))[::-1]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TRUTH_FILES)
def test_other_files_say_the_same_classes_as_the_devkit(archives, name):
    assert validation_synsets(archives, SMALL) == EXPECTED
    (archives / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    (archives / name).write_text(TRUTH_FILES[name])
    assert validation_synsets(archives, SMALL) == EXPECTED


def test_an_interrupted_preparation_goes_on_where_it_was(archives, tmp_path):
    root = tmp_path / "imagenet"

    def stop(what: str, done: int, total: int) -> None:
        if (what, done) == ("classes of train", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        imagenet_1k(root, archives, expected=SMALL, on_progress=stop)
    (root / "train" / f".{SYNSETS[2]}.part").mkdir()  # as a kill within the third class leaves it
    (root / "train" / f".{SYNSETS[2]}.part" / "half.JPEG").write_bytes(b"x")
    kept = {p: p.stat().st_mtime_ns for p in root.rglob("*.JPEG") if ".n" not in str(p)}
    assert len(kept) == 4
    imagenet_1k(root, archives, expected=SMALL)
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert read_split(root, "train").counts == (2, 2, 2)
    assert not list(root.rglob(".*"))


BROKEN = {
    "no archives":     ("ILSVRC2012_img_train.tar", None, "has no ILSVRC2012_img_train.tar"),
    "no truth":        ("ILSVRC2012_devkit_t12.tar.gz", None, "nothing that says the classes"),
    "damaged devkit":  ("ILSVRC2012_devkit_t12.tar.gz", -40, "ILSVRC2012_devkit_t12.tar.gz"),
    "train cut off":   ("ILSVRC2012_img_train.tar", 30000, "is damaged in n01484850.tar"),
    "val cut off":     ("ILSVRC2012_img_val.tar", 3000, "is cut off"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_archive_is_named_in_one_sentence(archives, tmp_path, case):
    name, length, said = BROKEN[case]
    file = archives / name
    if length is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(DataError) as error:
        imagenet_1k(tmp_path / "imagenet", archives, expected=SMALL)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "imagenet" / "dataset.json").exists()


def test_what_is_missing_is_counted(archives, tmp_path):
    with pytest.raises(DataError, match=r"has 6 pictures of 3 classes, not 7 of 3"):
        imagenet_1k(tmp_path / "a", archives, expected=Counts(classes=3, train=7, val=6))
    pictures = {f"ILSVRC2012_val_{i:08d}.JPEG": jpeg(i) for i in (1, 2, 3, 4, 6)}
    (archives / "ILSVRC2012_img_val.tar").write_bytes(tar(pictures))
    with pytest.raises(
        DataError, match=r"lacks 1 of the 6 validation pictures, the first is ILSVRC2012_val_00000005"
    ):
        imagenet_1k(tmp_path / "b", archives, expected=SMALL)


@pytest.mark.parametrize("form", ["one tar a synset", "a tar of them"])
def test_imagenet_22k_stays_in_its_tars(tmp_path, form):
    source, root = tmp_path / "downloads", tmp_path / "imagenet22k"
    source.mkdir()
    if form == "a tar of them":
        (source / "fall11_whole.tar").write_bytes(tar(synset_tars()))
    else:
        for name, content in synset_tars().items():
            (source / name).write_bytes(content)
    made = imagenet_22k(root, source)
    assert (made.classes, made.images, made.is_new) == (SYNSETS, 6, True)
    train = read_split(root, "train")
    assert train.names[0] == f"train/{SYNSETS[0]}.tar/{SYNSETS[0]}_0.JPEG"
    assert [round(np.asarray(decode(train.read(i))).mean()) for i in range(6)] == [0, 1, 10, 11, 20, 21]
    assert not imagenet_22k(root, source).is_new


def test_the_command_asks_for_the_archives(tmp_path, capsys):
    assert main(["data", "prepare", "imagenet", str(tmp_path / "x")]) == 2
    assert "needs --source" in capsys.readouterr().err
    assert (
        main(["data", "prepare", "imagenet", str(tmp_path / "x"), "--source", str(tmp_path), "--json"]) == 3
    )
    assert "image-net.org" in json.loads(capsys.readouterr().out)["error"]
