"""What users name is found: files, folders, globs, stdin, things in memory; what leads nowhere says so."""

from __future__ import annotations

import io
import os
import sys

import numpy as np
import pytest
from PIL import Image

from swinv2.images import ImageError
from swinv2.inputs import find, images_in, is_one


@pytest.fixture
def photos(tmp_path):
    """Names in an order that no file system gives by itself, and what does not belong among pictures."""
    for name in (
        "photos/b.jpg", "photos/a/2.PNG", "photos/a/10.webp", "photos/c d.jpeg", "photos/notes.txt",
        "photos/.hidden.jpg", "photos/__MACOSX/x.jpg", "photos/.git/y.jpg", "photos/z/deep/er/1.tiff",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path / "photos"


ALL = ["a/10.webp", "a/2.PNG", "b.jpg", "c d.jpeg", "z/deep/er/1.tiff"]


def files(given, folder, **options):
    return [os.path.relpath(one.file, folder) for one in find(given, **options)]


def refusal(given, **options):
    (one,) = find(given, **options)
    with pytest.raises(ImageError) as caught:
        one.open()
    return str(caught.value)


def test_folder_gives_its_pictures_sorted_without_hidden_ones(photos):
    assert files(photos, photos) == ALL
    assert files(str(photos), photos) == ALL


def test_list_keeps_its_order(photos):
    names = [str(photos / "c d.jpeg"), str(photos / "a"), str(photos / "b.jpg")]
    assert files(names, photos) == ["c d.jpeg", "a/10.webp", "a/2.PNG", "b.jpg"]


def test_glob_is_expanded_and_sorted(photos):
    assert files(str(photos / "*.jp*g"), photos) == ["b.jpg", "c d.jpeg"]


def test_glob_with_two_stars_looks_below(photos):
    assert files(str(photos / "**" / "*.tiff"), photos) == ["z/deep/er/1.tiff"]


def test_glob_that_meets_a_folder_looks_into_it(photos):
    assert files(str(photos / "?"), photos) == ["a/10.webp", "a/2.PNG", "z/deep/er/1.tiff"]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(photos):
    (photos / "[1].jpg").write_bytes(b"")
    (one,) = find(str(photos / "[1].jpg"))
    assert one.open() == str(photos / "[1].jpg")


def test_a_generator_is_not_read_ahead(photos):
    def names():
        yield str(photos / "b.jpg")
        raise AssertionError("read ahead")

    assert next(find(names())).file == str(photos / "b.jpg")


def test_links_are_followed_and_circles_end(photos, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "linked.jpg").write_bytes(b"")
    (photos / "a" / "away").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (photos / "a" / "up").symlink_to(photos, target_is_directory=True)
    assert sorted(p.name for p in images_in(photos)) == sorted(
        [os.path.basename(p) for p in ALL] + ["linked.jpg"]
    )


def test_folder_without_pictures_says_so(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    assert refusal(tmp_path) == f"{tmp_path} is a folder without images (.jpg, .png, .webp and so on)"


def test_glob_without_match_says_so(tmp_path):
    assert refusal(f"{tmp_path}/*.jpg") == f"{tmp_path}/*.jpg matches no file"


def test_missing_file_is_an_input_that_fails_when_it_is_opened(tmp_path):
    from swinv2.images import decode

    (one,) = find(tmp_path / "missing.jpg")
    with pytest.raises(FileNotFoundError):
        decode(one.open())


def test_stdin_is_read_as_bytes(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xd8picture")))
    (one,) = find("-")
    assert (one.file, one.open()) == ("stdin", b"\xff\xd8picture")


def test_stdin_that_is_a_terminal_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "stdin", type("Terminal", (), {"isatty": lambda self: True})())
    assert "pipe a picture into it" in refusal("-")


def test_things_in_memory_are_named_by_their_place():
    array, image = np.zeros((2, 2, 3), np.uint8), Image.new("RGB", (2, 2))
    assert [one.file for one in find([array, image, b"bytes"])] == ["images[0]", "images[1]", "images[2]"]
    assert [one.file for one in find(array)] == ["image"]
    assert next(find(array)).open() is array


def test_an_opened_pillow_image_is_named_by_its_file(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert [one.file for one in find([image])] == [str(tmp_path / "a.png")]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not allow such names")
def test_a_name_that_is_no_utf_8_can_be_printed_and_opened(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.jpg"
    with open(path, "wb") as file:
        file.write(b"x")
    (one,) = find(tmp_path)
    assert one.file == f"{tmp_path}/caf\\xe9.jpg"
    assert os.path.exists(one.open())


@pytest.mark.parametrize("url", ["ftp://example.org/a.jpg", "s3://bucket/a.jpg", "file:///etc/passwd"])
def test_other_schemes_are_refused(url):
    assert "http and https are" in refusal(url)


def test_urls_can_be_switched_off():
    assert "switched off" in refusal("https://example.org/a.jpg", urls="none")


@pytest.mark.parametrize(
    ("given", "one"),
    [
        ("a.jpg", True), ("https://example.org/?a=[1]", True), ("-", True), (b"", True),
        (np.zeros((4, 4)), True), (Image.new("L", (1, 1)), True),
        (["a.jpg"], False), (("a.jpg",), False), ("*.jpg", False), (".", False),
    ],
)  # fmt: skip
def test_one_picture_is_told_from_many(given, one):
    assert is_one(given) is one
