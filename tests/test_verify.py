"""swinv2 verify: what was exported is still what it was, on this machine, with and without the model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from exports import write_small

from swinv2 import cli, verification
from swinv2.export import export
from swinv2.runtimes import beside
from swinv2.verbs import Exit
from swinv2.verify import verify


@pytest.fixture
def exported(pretend, tmp_path) -> Path:
    (one,) = export(write_small(tmp_path / "model.safetensors"), "pretend")
    return one.path


def corrupt(path: Path, by: float) -> None:
    """Change one weight of the exported model."""
    state = torch.load(path)
    state["layers.1.blocks.0.mlp.fc1.weight"][3, 4] += by
    torch.save(state, path)


def test_what_was_exported_is_found_as_it_was(exported):
    found = verify(exported)
    assert found.problems == ()
    assert [c.batch for c in found.comparisons] == [1, 2, 7]


def test_the_model_itself_answers_again(exported):
    assert verify(exported, against=exported.with_name("model.safetensors")).problems == ()


def test_a_corrupted_weight_is_caught_by_its_hash(exported):
    corrupt(exported, 1e-7)
    assert verify(exported).problems == (
        "it was changed or damaged after it was written; copy it again, or export again",
    )


def test_a_corrupted_weight_is_caught_by_the_answers(exported):
    corrupt(exported, 5.0)
    record = beside.read_record(exported)
    about = record.provenance["export"]  # whoever corrupted it made the hash right again
    about["sha256"] = verification.digest(verification.row_of(exported), exported)
    beside.write_record(exported, replace(record, provenance={**record.provenance, "export": about}))
    (problem,) = verify(exported).problems
    assert problem.startswith("at batch 1 and 64 x 64 pixels logits differ by")
    (problem,) = verify(exported, against=exported.with_name("model.safetensors")).problems
    assert "logits differ" in problem


def test_another_model_is_not_the_one_it_was_made_from(exported, tmp_path):
    other = write_small(tmp_path / "other.safetensors", seed=1)
    (problem,) = verify(exported, against=other).problems
    assert "logits differ" in problem


def test_a_runtime_that_computes_otherwise_here_is_caught(exported, pretend):
    pretend.gain = 0.99
    (problem,) = verify(exported).problems
    assert "logits differ by 0.01 of the largest, and fp32 allows 0.0001" in problem


def test_the_command_prints_figures_and_exit_codes(exported, capsys):
    assert cli.main(["verify", str(exported)]) == Exit.DONE
    assert "same first class 100%" in capsys.readouterr().out
    corrupt(exported, 5.0)
    assert cli.main(["verify", str(exported), "--json"]) == Exit.MODEL
    said = capsys.readouterr()
    (found,) = json.loads(said.out)
    assert len(found["problems"]) == 2
    assert "was changed or damaged" in said.err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing.pretend", "no such file"),
        ("model.safetensors", "is no exported model; exports end in .onnx"),
        ("alone.pretend", "has no alone.pretend.json beside it"),
        ("other.pretend", "does not say what it should answer; export it again"),
    ],
)
def test_what_cannot_be_verified_is_a_sentence(exported, name, words, tmp_path, capsys):
    (tmp_path / "alone.pretend").write_bytes(exported.read_bytes())
    (tmp_path / "other.pretend").write_bytes(exported.read_bytes())
    record = beside.read_record(exported)
    beside.write_record(tmp_path / "other.pretend", replace(record, provenance={}))
    assert cli.main(["verify", str(tmp_path / name)]) in (Exit.MODEL, Exit.USAGE)
    assert words in capsys.readouterr().err


def test_the_reference_of_many_classes_is_a_thousand_of_them_at_most():
    assert [verification.step_of(n) for n in (7, 1000, 1001, 21841)] == [1, 1, 2, 22]
    assert len(range(0, 21841, verification.step_of(21841))) <= 1000


def test_a_reference_survives_its_text():
    import numpy as np

    cases = {
        (64, 64): np.arange(14, dtype=np.float32).reshape(2, 7) / 3,
        (96, 80): np.ones((1, 7), np.float32),
    }
    again = verification.Reference.from_dict(
        json.loads(json.dumps(verification.Reference(3, cases).to_dict()))
    )
    assert again.step == 3
    assert all(np.array_equal(again.cases[size], logits) for size, logits in cases.items())


def test_five_sizes_where_a_file_takes_any():
    assert verification.sizes((256, 256), dynamic=False) == [(256, 256)]
    assert verification.sizes((256, 256), dynamic=True) == [
        (256, 256),
        (384, 320),
        (512, 512),
        (288, 352),
        (300, 420),
    ]
