"""A run that ends in any way and goes on is the run that never ended: killed, on a full disk, by a signal."""

from __future__ import annotations

import os
import resource
import signal
import time
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch
from quick import QUICK, assert_same, everything, replaced, run
from safetensors import SafetensorError
from safetensors.torch import save_file
from training import OPTIONS, command, exit_codes, started, write_split

from swinv2 import artifact
from swinv2.train import run as runs
from swinv2.train import train
from swinv2.train.classify import Classification
from swinv2.train.saving import snapshots
from swinv2.train.saving.snapshots import Snapshots, Unsaved
from swinv2.train.shown import results

STEPS = 6  # two epochs of three
pytestmark = pytest.mark.usefixtures("quick_runs")


class Killed(BaseException):
    """As kill -9: nothing in the package catches it."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return write_split(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="module")
def straight(quick_runs, photos, tmp_path_factory) -> Path:
    """The folder of a run that nothing has stopped."""
    return run(photos, tmp_path_factory.mktemp("straight") / "run").output


def killed_after(step: int) -> AbstractContextManager:
    """Inside, a run ends after this step, before it can be saved."""

    def die(self, taken, whole=runs.Run._after_step):
        if taken.step == step:
            raise Killed
        whole(self, taken)

    return replaced(runs.Run, "_after_step", die)


# ---------------------------------------------------------------- exact resume


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_a_run_killed_after_any_step_goes_on_bit_for_bit(photos, straight, tmp_path, step):
    with killed_after(step), pytest.raises(Killed):
        run(photos, tmp_path / "run")
    run(photos, tmp_path / "run", resume=True)
    assert_same(tmp_path / "run", straight)


@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_a_run_killed_inside_a_save_goes_on_bit_for_bit(photos, straight, tmp_path, call):
    """Before the tensors, the facts, the folder are on the disk; and after the new name, before that is."""
    calls = []

    def flush(path):
        calls.append(path)
        if len(calls) == 12 + call:  # the fourth save
            raise Killed

    with replaced(snapshots, "_flush", flush), pytest.raises(Killed):
        run(photos, tmp_path / "run")
    names = [path.name for path in Snapshots(tmp_path / "run").all()]
    assert names[-1] == ("step-00000004" if call == 4 else "step-00000003")
    run(photos, tmp_path / "run", resume=True)
    assert_same(tmp_path / "run", straight)
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))


def test_a_run_killed_while_measuring_measures_again(photos, straight, tmp_path):
    def die(*_):
        raise Killed

    with replaced(Classification, "measure", die), pytest.raises(Killed):
        run(photos, tmp_path / "run")
    run(photos, tmp_path / "run", resume=True)
    assert_same(tmp_path / "run", straight)


def test_a_run_that_saves_seldom_goes_back_to_its_last_checkpoint(
    photos, straight, tmp_path, monkeypatch, capsys
):
    with killed_after(5), pytest.raises(Killed):
        run(photos, tmp_path / "run", save_every="2")
    run(photos, tmp_path / "run", save_every="2", resume=True)
    assert "step-00000004: step 4, 1 epochs done" in capsys.readouterr().err
    assert_same(tmp_path / "run", straight)


def run_until_killed(photos: Path, output: Path, step: int, changes: dict) -> None:
    """In a process of its own: kill -9 after a step and its checkpoint."""
    after = runs.Run._after_step

    def die(self, taken):
        after(self, taken)
        if taken.step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    runs.Run._after_step = die  # type: ignore[method-assign]
    run(photos, output, **changes)


def test_a_real_kill_9_and_the_command_line(photos, straight, tmp_path):
    said, output = tmp_path / "said", tmp_path / "run"
    assert exit_codes(started(run_until_killed, photos, output, 4, {}, said=said)) == [-signal.SIGKILL]
    again = started(command, "train", str(photos), "--log-every=1", "--resume", str(output), said=said)
    assert exit_codes(again) == [0], said.read_text()
    assert "step-00000004" in said.read_text()
    assert_same(output, straight)


def test_the_whole_of_a_run_is_resumed_by_its_folder_alone(photos, straight, tmp_path, monkeypatch):
    """Recipe and model are those of the run, and not the defaults of the command."""
    with killed_after(4), pytest.raises(Killed):
        run(photos, tmp_path / "run")
    result = train(photos, resume=tmp_path / "run", log_every=1)
    assert (result.output, result.epochs) == (tmp_path / "run", 2)
    assert_same(tmp_path / "run", straight)


def test_the_newest_run_of_the_data_is_found(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = train(photos, **(QUICK | {"epochs": 1}))
    second = train(photos, **(QUICK | {"epochs": 1, "seed": 3}))
    assert train(photos, resume=True).output == second.output != first.output


def test_without_a_checkpoint_a_run_starts_and_says_so(photos, straight, tmp_path, capsys):
    run(photos, tmp_path / "run", resume=True)
    assert "no checkpoint to go on from; the run starts" in capsys.readouterr().err
    assert_same(tmp_path / "run", straight)


def test_a_run_that_is_named_must_exist(photos, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no run"):
        train(photos, resume=tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="has no checkpoint to go on from"):
        train(photos, resume=tmp_path / "empty")


# ---------------------------------------------------------------- what is refused


@pytest.fixture
def ended(photos, tmp_path, monkeypatch) -> Path:
    with killed_after(5), pytest.raises(Killed):
        run(photos, tmp_path / "run")
    return tmp_path / "run"


def test_another_recipe_is_refused_with_the_differences(photos, ended):
    with pytest.raises(
        ValueError, match=r"another run: epochs is 3 and was 2; .*lr is 0\.1 and was 0\.05"
    ) as error:
        run(photos, ended, resume=True, lr=0.1, epochs=3, accumulate=2)
    assert "accumulate" not in str(error.value)


def test_other_pictures_are_refused(photos, ended, tmp_path):
    other = write_split(tmp_path / "photos", train=9)
    with pytest.raises(ValueError, match="the training pictures are not those") as error:
        run(other, ended, resume=True)
    assert "held-out" not in str(error.value)


def test_a_finished_run_only_gets_its_report_again(photos, straight, monkeypatch):
    written = []
    monkeypatch.setattr(results, "write", lambda run, status, files: written.append(status))
    before = everything(straight)
    run(photos, straight, resume=True)
    assert written == ["done"]
    assert all(np.array_equal(before[name], value) for name, value in everything(straight).items())


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(photos, ended, straight, capsys):
    newest = Snapshots(ended).all()[-1] / snapshots.TENSORS
    newest.write_bytes(newest.read_bytes()[:1000])
    run(photos, ended, resume=True)
    said = capsys.readouterr().err
    assert f"{newest} is damaged" in said
    assert "step-00000003: step 3" in said
    assert_same(ended, straight)


def test_checkpoints_are_rotated_and_the_best_is_kept(tmp_path):
    kept = Snapshots(tmp_path)
    for step in range(1, 8):
        kept.write(step, {"is_best": step in (2, 3)}, {"x": torch.tensor([step])})
    assert [path.name[-1] for path in kept.all()] == ["3", "6", "7"]


# ---------------------------------------------------------------- a full disk


def too_large(tensors: dict, path: Path) -> None:
    """The kernel refuses in the middle of the file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        save_file(tensors, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def full(tensors: dict, path: Path) -> None:
    """As safetensors says it."""
    path.write_bytes(bytes(1000))
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize(
    ("fault", "said"), [(full, "no space is left on the disk"), (too_large, "too large")]
)
def test_a_full_disk_ends_the_run_in_one_sentence_and_the_checkpoint_before_is_good(
    photos, straight, tmp_path, monkeypatch, fault, said
):
    saves = []

    def save(tensors, path):
        saves.append(path)
        (fault if len(saves) == 4 else save_file)(tensors, path)

    monkeypatch.setattr(snapshots, "save_file", save)
    with pytest.raises(
        Unsaved, match=rf"(?i){said}.*, so step 4 is not saved; .*step-00000003 is whole"
    ) as error:
        run(photos, tmp_path / "run")
    assert "\n" not in str(error.value)
    names = [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert sorted(names) == ["step-00000002", "step-00000003"]
    run(photos, tmp_path / "run", resume=True)
    assert_same(tmp_path / "run", straight)


def run_on_a_disk_that_fills(photos: Path, output: Path) -> int:
    save = Classification.save

    def limited(self, weights, path, measured, epoch):
        if epoch == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        save(self, weights, path, measured, epoch)

    Classification.save = limited  # type: ignore[method-assign]
    model = ("--model", "swinv2_speck", "--output", str(output), *OPTIONS)
    return command("train", str(photos), *model, "--epochs=3", "--save-every=3")


def test_a_model_file_that_cannot_be_written_leaves_the_one_before(photos, tmp_path):
    output = tmp_path / "run"
    codes = exit_codes(started(run_on_a_disk_that_fills, photos, output, said=tmp_path / "said"))
    said = (tmp_path / "said").read_text()
    assert codes == [1], said
    assert said.splitlines()[-1].startswith(f"error: {output}: ")
    assert "step-00000006 is whole" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert artifact.read_record(output / "last.safetensors").provenance["epoch"] == 1


# ---------------------------------------------------------------- signals


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_ends_and_the_run_goes_on_bit_for_bit(photos, straight, tmp_path, number, code):
    output = tmp_path / "run"

    def send(self, taken, whole=runs.Run._after_step):
        if taken.step == 2:
            os.kill(os.getpid(), number)  # noted at once, looked at after step 3
        whole(self, taken)

    with replaced(runs.Run, "_after_step", send), pytest.raises(KeyboardInterrupt) as stop:
        run(photos, output, save_every="100")
    assert stop.value.code == code
    assert "in epoch 1 of 2" in str(stop.value)
    assert f"step 3 is saved, and the same command with --resume {output} goes on" in str(stop.value)
    run(photos, output, resume=True, save_every="100")
    assert_same(output, straight)


def test_a_signal_while_measuring_breaks_it_off(photos, straight, tmp_path):
    def send(self, *given, whole=Classification.measure):
        os.kill(os.getpid(), signal.SIGTERM)
        return whole(self, *given)

    with (
        replaced(Classification, "measure", send),
        pytest.raises(KeyboardInterrupt, match="step 3 is saved"),
    ):
        run(photos, tmp_path / "run", save_every="100")
    assert not (tmp_path / "run" / "last.safetensors").exists()
    run(photos, tmp_path / "run", resume=True, save_every="100")
    assert_same(tmp_path / "run", straight)


def test_sigterm_ends_the_command_with_143(photos, tmp_path):
    output, said = tmp_path / "run", tmp_path / "said"
    model = ("--model", "swinv2_speck", "--output", str(output), *OPTIONS)
    (process,) = started(
        command, "train", str(photos), *model, "--epochs=100000", "--workers=1", "--json", said=said
    )
    deadline = time.monotonic() + 120
    while not (output / "results.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.terminate()
    assert exit_codes([process]) == [143], said.read_text()
    assert "stopped by SIGTERM" in said.read_text()
    assert '"code": 143' in said.read_text()
    assert Snapshots(output).all()
