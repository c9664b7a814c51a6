"""Steps that go wrong, and batches that are divided: what is skipped, what ends a run, what changes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from quick import everything, figures, run, weights_hash
from training import write_split

from swinv2.data.split import DataError
from swinv2.train import begin
from swinv2.train import run as runs
from swinv2.train.classify import Classification
from swinv2.train.faults import Diverged, OutOfMemory
from swinv2.train.saving.snapshots import Snapshots

pytestmark = pytest.mark.usefixtures("quick_runs")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return write_split(tmp_path_factory.mktemp("data") / "photos")


# ---------------------------------------------------------------- no numbers


def poison(monkeypatch, steps: set[int], value: float = float("nan")) -> None:
    """Make the activations of the first block no numbers in some steps (from 0)."""
    loss = Classification.loss

    def broken(self, model, batch, step):
        block = next(self.network.blocks())
        handle = block.attn.proj.register_forward_hook(
            lambda *given: given[-1] * (value if step in steps else 1)
        )
        try:
            return loss(self, model, batch, step)
        finally:
            handle.remove()

    monkeypatch.setattr(Classification, "loss", broken)


def test_a_step_that_is_no_number_is_skipped_and_counted(photos, tmp_path, monkeypatch, capsys):
    poison(monkeypatch, {1})
    result = run(photos, tmp_path / "run", epochs=1)
    assert "step 2 is skipped: loss nan" in capsys.readouterr().err
    lines = figures(result.output)
    assert [line["skipped"] for line in lines if line["kind"] == "epoch"] == [1]
    assert [line["loss"] is None for line in lines if line["kind"] == "step"] == [False, True, False]
    assert all(np.isfinite(tensor).all() for tensor in everything(result.output).values())


def test_a_skipped_step_leaves_weights_and_moments_as_they_were(photos, tmp_path, monkeypatch):
    seen = []

    def look(self, taken, whole=runs.Run._after_step):
        state = self.state
        seen.append(
            [t.detach().clone() for t in (*self.network.parameters(), *state.ema.averages.values())]
            + [t.clone() for memory in state.optimizer.state.values() for t in memory.values()]
        )
        whole(self, taken)

    monkeypatch.setattr(runs.Run, "_after_step", look)
    poison(monkeypatch, {1})
    run(photos, tmp_path / "run", epochs=1)
    before, after, later = seen
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(after, later, strict=True))


def test_too_many_skipped_steps_stop_the_run_and_name_step_files_and_module(photos, tmp_path, monkeypatch):
    poison(monkeypatch, {1, 2, 4}, value=float("inf"))
    with pytest.raises(Diverged) as error:
        run(photos, tmp_path / "run", max_skipped=2, save_every="100")
    said = str(error.value)
    assert said.startswith("step 5: loss is nan at a learning rate of")
    assert "after 2 such steps that were skipped" in said
    assert "layers.0.blocks.0.attn is the first module" in said
    assert "lower --lr" in said
    assert len(error.value.files) == 8
    assert all((photos / name).exists() for name in error.value.files)
    assert error.value.files[0] in said


def test_weights_that_are_no_numbers_are_never_saved(photos, tmp_path, monkeypatch):
    def spoil(self, taken, whole=runs.Run._after_step):
        if taken.step == 2:
            with torch.no_grad():
                self.network.norm.bias[3] = float("inf")
        whole(self, taken)

    monkeypatch.setattr(runs.Run, "_after_step", spoil)
    with pytest.raises(Diverged, match=r"step 2: model/norm\.bias holds values that are no numbers"):
        run(photos, tmp_path / "run")
    assert [path.name for path in Snapshots(tmp_path / "run").all()] == ["step-00000001"]


def test_fp16_finds_its_scale_without_skips_that_count(photos, tmp_path):
    """The first scale is far too large on purpose."""
    scaler = torch.amp.GradScaler

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.amp, "GradScaler", lambda kind, enabled: scaler(kind, 2.0**32, enabled=enabled))
        result = run(
            photos, tmp_path / "run", precision="fp16", epochs=12, lr=0.02, max_skipped=0, ema=0.0, mixup=0.0
        )
    lines = [line for line in figures(result.output) if line["kind"] == "step"]
    assert [line["grad_norm"] is None for line in lines].count(True) > 3
    assert lines[-1]["grad_norm"] > 0


def test_memory_that_does_not_suffice_is_said_with_a_cure(photos, tmp_path, monkeypatch):
    def allocate(*_):
        torch.empty(2**50)  # the allocator's own error

    monkeypatch.setattr(Classification, "loss", allocate)
    with pytest.raises(OutOfMemory, match=r"step 1: .*(batch|accumulate|checkpointing)"):
        run(photos, tmp_path / "run")


# ---------------------------------------------------------------- repeatable, divided


def test_deterministic_runs_have_the_same_weights(photos, tmp_path):
    try:
        hashes = {weights_hash(run(photos, tmp_path / name, deterministic=True).last) for name in "ab"}
    finally:
        torch.use_deterministic_algorithms(False)
    assert len(hashes) == 1


@pytest.mark.parametrize("changes", [{}, {"ema": 0.9}, {"precision": "bf16"}], ids=str)
def test_a_batch_in_parts_learns_what_the_whole_batch_does(photos, tmp_path, changes):
    settings = {"ema": 0.0, "batch_size": 12} | changes
    whole = figures(run(photos, tmp_path / "whole", **settings).output)
    parts = figures(run(photos, tmp_path / "parts", accumulate=3, **settings).output)
    loose = 2e-2 if "precision" in changes else 1e-4
    for one, other in zip(whole, parts, strict=True):
        assert one["lr"] == other["lr"]
        name = "grad_norm" if one["kind"] == "step" else "train_loss"
        assert other["loss"] == pytest.approx(one["loss"], rel=loose)
        assert other[name] == pytest.approx(one[name], rel=10 * loose)


def test_a_batch_that_has_no_parts_in_pairs_is_refused(photos, tmp_path):
    with pytest.raises(ValueError, match="give a batch size that is a multiple of 6"):
        run(photos, tmp_path / "run", accumulate=3)


def test_checkpoints_are_due_by_steps_or_minutes():
    every = begin.Every
    assert [every.of("3").is_due(step, 0.0) for step in (2, 3, 6, 7)] == [False, True, True, False]
    assert [every.of("1.5m").is_due(3, seconds) for seconds in (89, 90)] == [False, True]
    for text in ("0", "m", "fast", "2.5", "-1"):
        with pytest.raises(ValueError, match="give steps, as in 500, or minutes"):
            every.of(text)


def test_unreadable_pictures_weigh_nothing(photos, tmp_path, monkeypatch):
    """Met in the loop: the rest of the batch learns as it would have beside them."""
    damaged = write_split(tmp_path / "photos")
    (damaged / "train" / "red" / "2.png").write_bytes(b"no picture")
    monkeypatch.setattr("swinv2.train.feed.fits_in_memory", lambda _: False)
    monkeypatch.setattr("swinv2.train.feed.CHECKED", 0)
    settings = {"workers": 0, "mixup": 0.0, "epochs": 1, "batch_size": 12}
    with pytest.raises(DataError, match=r"1 of 24 .* cannot be read"):
        run(damaged, tmp_path / "refused", **settings)
    whole = figures(run(damaged, tmp_path / "whole", max_unreadable=0.05, **settings).output)
    parts = figures(run(damaged, tmp_path / "parts", max_unreadable=0.05, accumulate=3, **settings).output)
    assert [line["loss"] for line in parts] == pytest.approx([line["loss"] for line in whole], rel=1e-4)
