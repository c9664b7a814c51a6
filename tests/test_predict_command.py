"""`swinv2 predict`: what is printed where, what it exits with, and that names cannot do harm."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import pytest
from answers import CLASSES, Colours, picture, save_photos

from swinv2.predict import command
from swinv2.verbs import Exit


@pytest.fixture
def photos(tmp_path):
    return save_photos(tmp_path / "photos")


@pytest.fixture
def colours(monkeypatch):
    session = Colours()
    monkeypatch.setattr("swinv2.predict.open_session", lambda *args, **options: session)
    return session


def test_text_shows_file_name_and_percent(colours, photos, capsys):
    assert command([str(photos / "9.png")], top_k=2) == Exit.DONE
    out = capsys.readouterr().out.splitlines()
    assert out[0] == str(photos / "9.png")
    percent, name = out[1].split(" %  ")
    assert (name, float(percent) > 40) == ("cat", True)
    assert len(out) == 3


def test_failures_are_one_line_each_on_stderr_and_the_others_are_answered(colours, photos, capsys):
    assert command([str(photos), str(photos / "no.png")]) == Exit.PARTIAL
    out, err = capsys.readouterr()
    assert [line for line in out.splitlines() if not line.startswith("  ")] == [
        str(photos / f"{i}.png") for i in range(10) if i != 5
    ]
    cut, missing = err.splitlines()
    assert "5.png is cut off" in cut
    assert "no.png: no such file" in missing


def test_json_is_one_document_with_failures_in_their_place(colours, photos, capsys):
    assert command([str(photos)], json=True, top_k=1) == Exit.PARTIAL
    document = json.loads(capsys.readouterr().out)
    assert [entry["file"] for entry in document] == [str(photos / f"{i}.png") for i in range(10)]
    assert set(document[5]) == {"file", "error"}
    assert document[9]["predictions"][0]["name"] == "cat"


def test_csv_has_a_row_per_class(colours, photos, capsys):
    assert command([str(photos / "9.png"), str(photos / "0.png")], csv=True, top_k=3) == Exit.DONE
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert list(rows[0]) == ["file", "rank", "class_id", "name", "score"]
    assert [(row["rank"], row["class_id"]) for row in rows[:3]] == [("1", "0"), ("2", "1"), ("3", "2")]
    assert float(rows[0]["score"]) > float(rows[1]["score"])


def test_csv_leaves_failures_out_and_counts_them(colours, photos, capsys):
    assert command([str(photos)], csv=True, top_k=1) == Exit.PARTIAL
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1 + 9
    assert "5.png is cut off" in err


def test_private_addresses_are_reached_only_where_it_is_asked_for(colours, monkeypatch):
    asked = []
    monkeypatch.setattr("swinv2.web.fetch", lambda url, *, private: asked.append(private) or b"")
    command(["http://intranet/a.png"])
    command(["http://intranet/a.png"], private_urls=True)
    assert asked == [False, True]


def test_names_are_printed_as_they_are(colours, photos, capsys):
    command([str(photos / "9.png")], top_k=7)
    out = capsys.readouterr().out
    assert all(f"%  {name}\n" in out for name in CLASSES)


def test_names_cannot_move_the_cursor(colours, tmp_path, capsys):
    colours.record = replace(colours.record, classes=("cat\x1b[1A", *CLASSES[1:]))
    evil = tmp_path / "a\x1b[2Jb\nc.png"
    picture(9).save(evil)
    command([str(evil), str(tmp_path / "no\x07.png")])
    out, err = capsys.readouterr()
    assert "a\\x1b[2Jb\\nc.png" in out
    assert "cat\\x1b[1A" in out
    assert "no\\x07.png" in err


def test_what_pillow_grumbles_about_is_not_shown(colours, tmp_path, capsys):
    picture(9).save(tmp_path / "odd.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert command([str(tmp_path / "odd.jpg")]) == Exit.DONE
    assert capsys.readouterr().err == ""


def test_csv_and_json_together_are_refused(colours):
    with pytest.raises(ValueError, match="choose one"):
        command(["a.png"], csv=True, json=True)


def test_options_reach_the_session(monkeypatch, photos):
    asked = {}
    monkeypatch.setattr(
        "swinv2.predict.open_session", lambda *args, **options: asked.update(options, args=args) or Colours()
    )
    command([str(photos / "1.png")], model="m", runtime="torch", device="cpu", precision="bf16", threads=2)
    assert asked == {"args": ("m", "torch"), "device": "cpu", "precision": "bf16", "threads": 2}


def test_a_progress_bar_is_shown_to_people_who_wait(colours, photos, monkeypatch, capsys):
    from rich.console import Console

    screen = io.StringIO()
    monkeypatch.setattr("swinv2.console.stderr", lambda: Console(file=screen, force_terminal=True, width=80))
    command([str(photos)], json=True)
    assert "10/10" in screen.getvalue()
    assert len(json.loads(capsys.readouterr().out)) == 10
