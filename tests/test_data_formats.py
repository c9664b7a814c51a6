"""Every form in which people have data sets is the same data set."""

from __future__ import annotations

import csv
import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from training import write_pictures, write_split

from swinv2.cli import main
from swinv2.data import DataError, Split, divide, read_split, read_training, tars
from swinv2.images import decode


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SWINV2_HOME", str(tmp_path / "home"))


@pytest.fixture
def photos(tmp_path) -> Path:
    """The data set as image folders: train/ and val/ of blue, green, red."""
    return write_split(tmp_path / "photos", train=4, held_out=2)


def pixels(split: Split) -> list[tuple[str, bytes]]:
    """What a split is made of, whatever it lies in: class and pixels of every picture."""
    found = [(split.classes[split.labels[i]], decode(split.read(i)).tobytes()) for i in range(len(split))]
    assert len(set(split.names)) == len(split)
    return sorted(found)


def same(data: Path | str, photos: Path) -> tuple[Split, Split]:
    """The parts of data, which must be those of photos."""
    got = read_training(data)
    for ours, theirs in zip(got, read_training(photos), strict=True):
        assert pixels(ours) == pixels(theirs)
    assert got[0].classes == got[1].classes
    assert pixels(read_split(data)) == pixels(got[1])
    return got


def rows(photos: Path, part: str) -> list[tuple[str, str]]:
    """Path below photos and class of each picture."""
    return [(p.relative_to(photos).as_posix(), p.parent.name) for p in sorted((photos / part).rglob("*.png"))]


CLASSES = ("blue", "green", "red")


# ---------------------------------------------------------------- lists


def test_lists_of_paddleclas(photos):
    """Beside train/ and val/, which a list goes before."""
    for part, name in (("train", "train_list.txt"), ("val", "val_list.txt")):
        lines = [f"{path} {CLASSES.index(label)}" for path, label in rows(photos, part)]
        (photos / name).write_text("\n".join(lines[::-1]) + "\n")
    train, _ = read_training(photos)
    assert train.classes == ("0", "1", "2")
    (photos / "label_list.txt").write_text("0 blue\n1 green\n2 red\n")
    train, held_out = read_training(photos)
    assert (train.classes, train.split, held_out.split) == (CLASSES, "train", "val")
    assert train.names == tuple(path for path, _ in rows(photos, "train"))[::-1]  # in the order of the list
    assert (train.counts, held_out.counts) == ((4, 4, 4), (2, 2, 2))


def test_a_list_of_the_official_scripts_with_tabs_and_spaces_in_names(tmp_path):
    write_pictures(tmp_path / "my photos", 5, classes=("red", "blue"))
    lines = [f"{path}\t{label}" for path, label in rows(tmp_path, "my photos")]
    (tmp_path / "all.txt").write_text("\n".join(lines))
    whole = read_split(tmp_path / "all.txt")
    assert (whole.classes, whole.counts, whole.names[0]) == (("blue", "red"), (5, 5), "my photos/blue/0.png")
    train, held_out = read_training(tmp_path / "all.txt")
    assert (len(train), len(held_out), held_out.is_divided) == (8, 2, True)


def test_tables_of_each_part(photos):
    for part in ("train", "val"):
        with open(photos / f"{part}.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("Label", "Image Path"), *((b, a) for a, b in rows(photos, part))])
    same(photos, photos_alone(photos))


def photos_alone(photos: Path) -> Path:
    """The image folders of photos without the lists beside them."""
    alone = photos.with_name("alone")
    alone.mkdir()
    for part in ("train", "val"):
        (alone / part).symlink_to(photos / part)
    return alone


def test_one_table_with_a_column_of_parts(photos):
    table = photos / "everything.csv"
    lines = [
        f"{path},{label},{part.upper()}" for part in ("val", "train") for path, label in rows(photos, part)
    ]
    table.write_text("\n".join(["filename,class,split", *lines]))
    train, _ = same(table, photos_alone(photos))
    assert train.split == "TRAIN"


def test_a_table_of_kaggle_without_folders_and_suffixes(photos):
    flat = photos.with_name("kaggle") / "train"
    flat.mkdir(parents=True)
    lines = []
    for i, (path, label) in enumerate(rows(photos, "train")):
        (photos / path).rename(flat / f"{i}.png")
        lines.append(f"{i},{label}")
    (flat.parent / "labels.csv").write_text("id,breed\n" + "\n".join(lines))
    whole = read_split(flat.parent)
    assert (whole.classes, whole.counts, whole.names[3]) == (CLASSES, (4, 4, 4), "train/3.png")
    assert whole.read(3) == flat / "3.png"


SEVERAL = {
    "a column of labels": ("labels.csv", 'file,labels\n0.png,red;blue\n1.png,\n2.png,green|red\n3.png,"blue,green"\n'),
    "a column per class": ("labels.csv", "file,red,blue,green\n0.png,1,1,0\n1.png,0,0,0\n2.png,1,0,1\n3.png,0,1,1\n"),
    "flags of PaddleClas": ("labels.txt", "0.png\t1,1,0\n1.png\t0,0,0\n2.png\t1,0,1\n3.png\t0,1,1\n"),
}  # fmt: skip


@pytest.mark.parametrize("case", SEVERAL)
def test_several_labels_a_picture(tmp_path, case):
    name, text = SEVERAL[case]
    for i in range(4):
        Image.new("RGB", (4, 4), (i, 0, 0)).save(tmp_path / f"{i}.png")
    (tmp_path / name).write_text(text)
    if name.endswith(".txt"):
        (tmp_path / "classes.txt").write_text("red\nblue\ngreen\n")
    split = read_split(tmp_path / name)
    assert split.is_multi_label
    expected = [{"red", "blue"}, set(), {"green", "red"}, {"blue", "green"}]
    assert [{split.classes[label] for label in labels} for labels in split.labels] == expected
    assert dict(zip(split.classes, split.counts, strict=True)) == {"red": 2, "blue": 2, "green": 2}


def test_a_multi_label_set_is_divided_so_that_rare_classes_are_on_both_sides():
    labels = tuple((0, 1) if i % 20 == 0 else (0,) for i in range(200))
    whole = Split(Path("x"), "all", ("often", "rare"), tuple(f"{i}.jpg" for i in range(200)), labels)
    train, held_out = divide(whole)
    assert (train.counts, held_out.counts) == ((160, 8), (40, 2))


# ---------------------------------------------------------------- tars


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def shards(photos: Path, folder: Path, label) -> Path:
    """WebDataset shards of at most 5 pictures; label writes what stands beside a picture."""
    folder.mkdir()
    for part in ("train", "val"):
        found = rows(photos, part)
        for start in range(0, len(found), 5):
            with tarfile.open(folder / f"{part}-{start // 5:04d}.tar", "w") as archive:
                for i, (path, name) in enumerate(found[start : start + 5], start):
                    add(archive, f"{i:06d}.png", (photos / path).read_bytes())
                    suffix, text = label(name)
                    add(archive, f"{i:06d}.{suffix}", text.encode())
    return folder


LABELS = {
    "numbers": lambda name: ("cls", str(CLASSES.index(name))),
    "names": lambda name: ("cls", name),
    "records": lambda name: ("json", json.dumps({"label": CLASSES.index(name), "width": 24})),
}


@pytest.mark.parametrize("kind", LABELS)
def test_shards_of_webdataset(photos, kind):
    folder = shards(photos, photos.with_name("shards"), LABELS[kind])
    (folder / "classes.txt").write_text("blue\ngreen\nred\n")
    train, held_out = same(folder, photos)
    assert (train.names[0], held_out.split) == ("train-0000.tar/000000.png", "val")
    assert len({name.partition("/")[0] for name in train.names}) == 3


def test_shards_in_folders_of_parts_and_numbers_without_names(photos):
    folder = shards(photos, photos.with_name("shards"), LABELS["numbers"])
    for part in ("train", "val"):
        (folder / part).mkdir()
        for shard in folder.glob(f"{part}-*.tar"):
            shard.rename(folder / part / shard.name)
    train, held_out = read_training(folder)
    assert (train.classes, train.counts, held_out.counts) == (("0", "1", "2"), (4, 4, 4), (2, 2, 2))


def test_a_tar_of_class_folders_and_one_tar_a_class(photos):
    with tarfile.open(photos / "photos.tar", "w") as archive:
        archive.add(photos / "train", "./pictures")
    whole = read_split(photos / "photos.tar")
    assert pixels(whole) == pixels(read_split(photos, "train"))
    synsets = photos.with_name("synsets")
    synsets.mkdir()
    for name in CLASSES:
        with tarfile.open(synsets / f"{name}.tar", "w") as archive:
            for path in (photos / "train" / name).iterdir():
                archive.add(path, path.name)
    assert pixels(read_split(synsets)) == pixels(whole)


def test_a_tar_is_read_through_once(photos, monkeypatch):
    folder = shards(photos, photos.with_name("shards"), LABELS["names"])
    first = read_training(folder)
    with monkeypatch.context() as patch:
        patch.setattr(tars, "_scanned", lambda tar: pytest.fail("read again"))
        second = read_training(folder)
    assert [pixels(a) == pixels(b) for a, b in zip(first, second, strict=True)] == [True, True]
    with tarfile.open(folder / "val-0000.tar", "a") as archive:  # another file under the old name
        add(archive, "more.png", (photos / "val/red/0.png").read_bytes())
        add(archive, "more.cls", b"blue")
    assert len(read_split(folder)) == len(first[1]) + 1


# ---------------------------------------------------------------- tables


@pytest.fixture
def parquet(photos, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", photos.with_name("cache"))

    def table(part: str, label):
        found = rows(photos, part)
        features = datasets.Features({"image": datasets.Image(), "label": label})
        pictures = [{"path": path, "bytes": (photos / path).read_bytes()} for path, _ in found]
        names = [name if label.dtype == "string" else CLASSES.index(name) for _, name in found]
        return datasets.Dataset.from_dict({"image": pictures, "label": names}, features=features)

    return table


def test_parquet_files_of_a_hub(photos, parquet):
    import datasets

    folder = photos.with_name("hub") / "data"
    folder.mkdir(parents=True)
    for part, name in (("train", "train"), ("val", "validation")):
        table = parquet(part, datasets.ClassLabel(names=list(CLASSES)))
        for k in range(2):
            table.shard(2, k).to_parquet(folder / f"{name}-{k:05d}-of-00002.parquet")
    train, held_out = same(folder.parent, photos)
    assert (train.names[6], held_out.split) == ("data/train-00001-of-00002.parquet[0]", "validation")
    one = folder / "validation-00000-of-00002.parquet"
    assert read_split(one).names[2] == "validation-00000-of-00002.parquet[2]"


def test_data_sets_that_were_saved_by_datasets(photos, parquet):
    import datasets

    text = datasets.Value("string")
    saved = photos.with_name("saved")
    datasets.DatasetDict({"train": parquet("train", text), "test": parquet("val", text)}).save_to_disk(saved)
    train, held_out = same(saved, photos)
    assert (train.names[2], held_out.split) == ("train[2]", "test")


def test_a_part_without_labels_is_no_hindrance_until_it_is_asked_for(photos, parquet):
    """Hubs keep the labels of test parts to themselves: -1."""
    import datasets

    numbers = datasets.Value("int64")
    parts = {
        name: parquet(part, numbers)
        for name, part in (("train", "train"), ("validation", "val"), ("test", "val"))
    }
    parts["test"] = parts["test"].map(lambda row: {"label": -1}, load_from_cache_file=False)
    datasets.DatasetDict(parts).save_to_disk(photos.with_name("saved"))
    train, held_out = read_training(photos.with_name("saved"))
    assert (train.counts, held_out.split) == ((4, 4, 4), "validation")
    with pytest.raises(DataError, match="hides its labels"):
        read_split(photos.with_name("saved"), "test")


def test_columns_that_nobody_can_know_are_named(photos, parquet):
    import datasets

    table = parquet("train", datasets.ClassLabel(names=list(CLASSES)))
    file = photos.with_name("x.parquet")
    table.rename_column("label", "colour").cast_column("colour", datasets.Value("int64")).to_parquet(file)
    with pytest.raises(DataError, match=r"no column of labels \(it has image, colour\); call it label"):
        read_split(file)
    table.remove_columns("image").to_parquet(file)
    with pytest.raises(DataError, match="no column of pictures"):
        read_split(file)


def test_worker_processes_read_tars_and_tables_like_files(photos, parquet):
    import datasets
    import torch

    from swinv2.data.loader import AsPredicted, Pictures, loader
    from swinv2.data.order import Order
    from swinv2.preprocess import Preprocess

    parquet("train", datasets.ClassLabel(names=list(CLASSES))).to_parquet(photos.with_name("x.parquet"))
    shards(photos, photos.with_name("shards"), LABELS["names"])
    found = []
    for data, workers in ((photos, 0), (photos.with_name("shards"), 2), (photos.with_name("x.parquet"), 2)):
        split = read_split(data, "all" if data.suffix else "train")
        pictures = Pictures(split, 3, AsPredicted(Preprocess(size=(32, 32))))
        found.append(list(loader(pictures, Order(len(split), 5), workers=workers)))
    for files, *others in zip(*found, strict=True):
        assert all(torch.equal(files.images, batch.images) for batch in others)
        assert all(torch.equal(files.labels, batch.labels) for batch in others)


# ---------------------------------------------------------------- packing


def test_packing_changes_nothing_but_the_place(photos, capsys):
    packed = photos.with_name("packed")
    assert main(["data", "pack", str(photos), str(packed), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == {"train": 12, "val": 6}
    same(packed, photos)
    stamp = os.stat(packed / "train-00000.tar").st_mtime_ns
    assert main(["data", "pack", str(photos), str(packed)]) == 0
    assert os.stat(packed / "train-00000.tar").st_mtime_ns == stamp
    assert main(["data", "pack", str(photos / "train"), str(packed)]) == 3
    assert "holds something else" in capsys.readouterr().err


def test_shards_are_read_by_the_library_datasets_as_well(photos):
    datasets = pytest.importorskip("datasets")
    packed = photos.with_name("packed")
    assert main(["data", "pack", str(photos), str(packed)]) == 0
    files = {"train": str(packed / "train-*.tar")}
    rows = datasets.load_dataset("webdataset", data_files=files, cache_dir=str(photos.with_name("cache")))[
        "train"
    ]
    theirs = sorted((CLASSES[row["cls"]], row["png"].convert("RGB").tobytes()) for row in rows)
    assert theirs == pixels(read_split(photos, "train"))


def test_packing_makes_pictures_to_learn_from_smaller_and_no_others(photos):
    for part, size in (("train", (90, 60)), ("val", (90, 60))):
        for path in (photos / part).rglob("*.png"):
            Image.open(path).resize(size).save(path)
    Image.new("RGB", (40, 30)).save(photos / "train/red/0.png")
    packed = photos.with_name("packed")
    assert main(["data", "pack", str(photos), str(packed), "--short-side", "32"]) == 0
    train, held_out = read_training(packed)
    sizes = [decode(train.read(i)).size for i in range(len(train))]
    assert sorted(sizes) == [(40, 30)] + [(48, 32)] * 11
    assert pixels(held_out) == pixels(read_split(photos))


def test_a_packing_that_was_interrupted_goes_on(photos, monkeypatch):
    for path in photos.rglob("*.png"):  # large enough for several shards
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8)).save(path)
    packed = photos.with_name("packed")
    from swinv2.data import pack as packing

    written = []

    def fail_at_the_third(shard, *rest):
        if len(written) == 2:
            raise OSError("disk full")
        written.append(shard)
        return write(shard, *rest)

    write = packing._write
    monkeypatch.setattr(packing, "_write", fail_at_the_third)
    with pytest.raises(OSError, match="disk full"):
        packing.pack(photos, packed, shard_mb=1)
    stamps = {shard: shard.stat().st_mtime_ns for shard in written}
    monkeypatch.setattr(packing, "_write", write)
    assert len(packing.pack(photos, packed, shard_mb=1).shards) > 3
    assert {shard: shard.stat().st_mtime_ns for shard in written} == stamps
    same(packed, photos)


# ---------------------------------------------------------------- what cannot be used

BROKEN_FILES = {
    "label missing": ({"train.txt": "a.png\n"}, "train.txt", "write a path, a space and a label"),
    "row too short": ({"x.csv": "file,label,split\na.png,red\n"}, "x.csv", "row 2 of"),
    "row without label": ({"x.csv": "file,label\na.png,red\na.png,\n"}, "x.csv", "row 3 of"),
    "no picture column": ({"x.csv": "name,label\nx,red\n"}, "x.csv", "no column of pictures"),
    "no label column": ({"x.csv": "file,width\na.png,3\n"}, "x.csv", "no column of labels"),
    "several in one": ({"x.csv": "file,label\na.png,red;blue\n"}, "x.csv", "call it labels"),
    "no such picture": ({"x.txt": "b.png 0\n"}, "x.txt", "lists b.png, but there is no such file"),
    "label beyond names": ({"x.txt": "a.png 2\n", "classes.txt": "red\nblue\n"}, "x.txt", "label 2, but only 2"),
    "unknown name": ({"x.txt": "a.png pink\n", "classes.txt": "red\nblue\n"}, "x.txt", "label 'pink'"),
    "numbers far apart": ({"x.txt": "a.png 123456789\n"}, "x.txt", "number classes 0, 1, 2"),
    "class twice": ({"x.txt": "a.png 0\n", "classes.txt": "red\nred\n"}, "x.txt", "names the class 'red' twice"),
    "empty list": ({"x.txt": "\n"}, "x.txt", "lists no pictures"),
    "not text": ({"x.txt": b"\xff\xfe\x00a"}, "x.txt", "not a text in UTF-8"),
    "cut off tar": ({"x.tar": None}, "x.tar", "cut off or damaged after 1 files"),
    "compressed tar": ({"x.tar": b"\x1f\x8b" + bytes(600)}, "x.tar", "is compressed"),
    "empty tar": ({"x.tar": bytes(10240)}, "x.tar", "holds no pictures"),
    "shard without part": ({"train-0.tar": bytes(1024), "more.tar": bytes(1024)}, "", "does not say which part"),
    "two lists": ({"train.txt": "a.png 0\n", "train_list.txt": "a.png 0\n"}, "", "two lists of train"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN_FILES)
def test_a_broken_file_is_refused_in_one_sentence(tmp_path, case):
    contents, given, said = BROKEN_FILES[case]
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    for name, content in contents.items():
        if content is None:
            with tarfile.open(tmp_path / name, "w") as archive:
                for key in ("r/1.png", "r/2.png"):
                    add(archive, key, bytes(3000))
            (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:5000])
        else:
            (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as error:
        read_split(tmp_path / given)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_parts_of_different_forms_are_refused(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "train.csv").write_text("file,labels\na.png,red;blue\nb.png,blue\n")
    (tmp_path / "val.csv").write_text("file,label\na.png,red\n")
    with pytest.raises(DataError, match="several labels a picture; give both one form"):
        read_training(tmp_path)


def test_a_hub_data_set_asks_for_known_things():
    pytest.importorskip("datasets")
    with pytest.raises(DataError, match="asks for 'lable'; known are config, image, label, revision"):
        read_training("hub:cifar100?lable=coarse_label")
