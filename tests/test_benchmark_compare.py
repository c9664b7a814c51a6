"""Two runs of a benchmark: what stands out of the noise has changed, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from swinv2 import cli
from swinv2.artifact import ArtifactError
from swinv2.benchmark import compare_runs
from swinv2.verbs import Exit


def run(label: str = "onnx fp32", ms: float = 10.0, spread: float = 0.01, **changed) -> dict:
    """The figures of a run with one contender, as --output writes them."""
    contender = {
        "label": label, "path": "m.onnx", "runtime": "onnx", "device": "cpu", "precision": "fp32", "sha256": "1",
        "bytes": 100, "load_ms": 1.0, "first_ms": 1.0, "compared": {"error": 1e-6}, "data": None,
        "batches": {"1": {"p50_ms": ms, "p50_low_ms": ms * (1 - spread), "p50_high_ms": ms * (1 + spread)}},
    }  # fmt: skip
    found = {
        "benchmark": 1, "commit": "a", "machine": {"cpu": "x", "cores": 2},
        "settings": {"threads": 2, "rounds": 20, "device": "auto"},
        "versions": {"onnxruntime": "1", "swinv2": "1"}, "contenders": [contender],
    }  # fmt: skip
    for key, value in changed.items():
        (found if key in found else contender)[key] = value
    return found


def verdicts(old: dict, new: dict) -> list[str]:
    found = compare_runs(old, new)
    return [change.verdict(found.noise) for change in found.changes]


def test_what_stands_out_of_both_intervals_has_changed():
    assert verdicts(run(ms=10), run(ms=8, sha256="2")) == ["1.25 x as fast"]
    assert verdicts(run(ms=10), run(ms=12.5, sha256="2")) == ["1.25 x as slow"]


def test_what_lies_within_the_intervals_is_noise():
    assert verdicts(run(ms=10), run(ms=10.1, sha256="2")) == ["inside the noise"]
    assert verdicts(run(ms=10, spread=0.2), run(ms=12, spread=0.2, sha256="2")) == ["inside the noise"]


def test_intervals_of_two_runs_add_up_by_their_squares():
    (change,) = compare_runs(run(spread=0.03), run(spread=0.04, sha256="2")).changes
    assert change.high / change.ratio - 1 == pytest.approx(0.05, abs=0.002)


def test_what_is_the_same_in_both_runs_shows_the_noise_between_them():
    old, new = run(ms=10), run(ms=11)
    old["contenders"] += run("torch fp32", ms=10, sha256="3")["contenders"]
    new["contenders"] += run("torch fp32", ms=10.5, sha256="4")["contenders"]
    found = compare_runs(old, new)
    assert found.noise == pytest.approx(1.1)
    assert [change.verdict(found.noise) for change in found.changes] == [
        "the same: noise",
        "inside the noise",
    ]
    new["contenders"][1] = run("torch fp32", ms=15, sha256="4")["contenders"][0]
    assert verdicts(old, new)[1] == "1.50 x as slow"


@pytest.mark.parametrize(
    ("changed", "note"),
    [
        ({"versions": {"onnxruntime": "2", "swinv2": "1"}}, "onnxruntime: 1 before, 2 now"),
        ({"machine": {"cpu": "y", "cores": 2}}, "cpu: x before, y now"),
        ({"settings": {"threads": 4, "rounds": 20, "device": "auto"}}, "threads: 2 before, 4 now"),
    ],
)
def test_another_version_machine_or_setting_is_said_and_is_another_contender(changed, note):
    found = compare_runs(run(), run(**changed))
    assert note in found.notes
    assert found.noise is None
    assert any("no contender is the same in both runs" in n for n in found.notes)


def test_our_commit_matters_where_the_network_is_code_of_ours():
    assert verdicts(run(), run(commit="b")) == ["the same: noise"]
    assert verdicts(run(runtime="torch"), run(runtime="torch", commit="b")) == ["inside the noise"]


def test_other_figures_that_changed_are_said():
    new = run(bytes=50, compared={"error": 2e-3}, data={"accuracy": 91.0, "agreement": 99.0})
    notes = compare_runs(run(data={"accuracy": 92.0, "agreement": 99.0}), new).notes
    assert "onnx fp32: size 100 before, 50 now" in notes
    assert "onnx fp32: error 1e-06 before, 0.002 now" in notes
    assert "onnx fp32: accuracy 92 before, 91 now" in notes
    assert not any("agreement" in note for note in notes)


def test_too_few_rounds_have_no_verdict():
    old = run()
    old["contenders"][0]["batches"]["1"] |= {"p50_low_ms": None, "p50_high_ms": None}
    assert verdicts(old, run(ms=20, sha256="2")) == ["too few rounds to say"]


def test_runs_without_anything_in_common_are_refused():
    with pytest.raises(ArtifactError, match="no contender and batch in common"):
        compare_runs(run(), run("torch fp32"))


def test_two_files_are_compared_on_the_command_line(tmp_path, capsys):
    for name, one in (("old", run(ms=10)), ("new", run(ms=5, sha256="2"))):
        (tmp_path / f"{name}.json").write_text(json.dumps(one))
    old, new = str(tmp_path / "old.json"), str(tmp_path / "new.json")
    assert (
        cli.main(["benchmark", "--compare", old, new, "--markdown", str(tmp_path / "changes.md")])
        == Exit.DONE
    )
    assert "2.00 x as fast" in capsys.readouterr().out
    assert "| onnx fp32 | 1 | 10.00 | 5.00 | 0.500 |" in (tmp_path / "changes.md").read_text()


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("--compare old.json", Exit.USAGE, "takes two files"),
        (
            "--compare old.json old.json --csv x.csv",
            Exit.USAGE,
            "of the other options it takes --markdown and --json",
        ),
        ("--compare text.json old.json", Exit.MODEL, "text.json holds no figures of `swinv2 benchmark`"),
        ("--compare old.json missing.json", Exit.MODEL, "missing.json: no such file"),
    ],
)
def test_what_cannot_be_compared_is_refused(line, code, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("old.json").write_text(json.dumps(run()))
    Path("text.json").write_text("no figures")
    assert cli.main(["benchmark", *line.split()]) == code
    assert words in capsys.readouterr().err
