"""Class names and the 22k -> 1k map, checked against the synset lists that timm carries."""

from __future__ import annotations

import subprocess
import sys

import pytest
from timm.data import ImageNetInfo

from swinv2 import labels


def synsets(subset: str) -> list[str]:
    return ImageNetInfo(subset).label_names()


def test_the_map_has_a_row_of_its_own_for_every_class():
    rows = labels.map_22k_to_1k()
    assert len(rows) == len(set(rows)) == 1000
    assert (rows[0], rows[850], rows[999]) == (359, 5564, 21817)
    assert all(0 <= row < 21841 for row in rows)
    others = rows[:850] + rows[851:]
    assert list(others) == sorted(others)


def test_the_map_is_where_timm_finds_the_synsets_in_the_list_of_21843():
    position = {synset: i for i, synset in enumerate(synsets("imagenet-21k-goog"))}
    found = [position.get(synset) for synset in synsets("imagenet-1k")]
    assert [i for i, row in enumerate(found) if row is None] == [850]
    assert [row for row in found if row is not None] == [
        r for i, r in enumerate(labels.map_22k_to_1k()) if i != 850
    ]


def test_teddy_bear_goes_by_the_word():
    """n04399382 is in no 22k list, so the official map takes the only synset that is called teddy."""
    info = ImageNetInfo("imagenet-21k-goog")
    called = [
        i
        for i, text in enumerate(info.label_descriptions())
        if "teddy" in [word.strip() for word in text.split(",")]
    ]
    assert called == [labels.map_22k_to_1k()[850]]
    assert info.label_names()[called[0]] == "n03013580"


@pytest.mark.parametrize(("classes", "subset"), [(1000, "imagenet-1k"), (21841, "imagenet-22k")])
def test_names_and_synsets_are_those_of_timm(classes, subset):
    found = labels.imagenet(classes)
    assert list(found.synsets) == synsets(subset)
    assert len(found.names) == classes
    assert found.names[found.synsets.index("n01440764")] == "tench, Tinca tinca"


def test_other_counts_have_no_names():
    with pytest.raises(ValueError, match="1000 or 21841"):
        labels.imagenet(10)


def test_names_are_read_from_a_text_file(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("cat\n dog \nÄpfel\n", "utf-8")
    assert labels.read_names(path) == (("cat", "dog", "Äpfel"), ())


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "no lines"), (b"cat\n\ndog\n", "an empty line"), (b"\xff\xfe\x00", "not a text file")],
)
def test_a_damaged_list_of_names_is_refused(content, words, tmp_path):
    (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        labels.read_names(tmp_path / "names.txt")


def test_the_map_needs_neither_torch_nor_timm():
    code = (
        "import sys; from swinv2 import labels, weights, download, pdparams; labels.map_22k_to_1k(); "
        "print(sorted({'torch', 'timm', 'rich', 'huggingface_hub', 'PIL'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
