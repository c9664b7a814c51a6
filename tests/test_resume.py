"""A run that ends in any way and goes on is the run that never ended; what stops it, and what it keeps."""

from __future__ import annotations

import json
import os
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from training import OPTIONS, SPECK, command, exit_codes, started, write_split

from swinv2 import artifact, config, report
from swinv2.data.split import DataError
from swinv2.train import Result, begin, results, snapshots, train
from swinv2.train import run as runs
from swinv2.train.classify import Classification
from swinv2.train.faults import Diverged, OutOfMemory
from swinv2.train.snapshots import Snapshots, Unsaved

STEPS = 6  # two epochs of three
# Everything that draws random numbers or keeps averages.
QUICK = {
    "model": "swinv2_speck", "pretrained": False, "augment": "small", "batch_size": 8, "crop_pct": 1.0, "epochs": 2,
    "lr": 0.05, "drop_path": 0.3, "mixup": 0.5, "ema": 0.9, "save_every": "1", "log_every": 1,
}  # fmt: skip


class Killed(BaseException):
    """As kill -9: nothing in the package catches it."""


@pytest.fixture(scope="module", autouse=True)
def single_thread():
    """Two of them wait for each other longer than these small products take, where others use the processors."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A variant of two blocks, and no pictures."""
    monkeypatch.setitem(config.VARIANTS, SPECK.architecture, SPECK)
    monkeypatch.setattr(results, "write", lambda *_: None)
    monkeypatch.setattr(report, "save", lambda *_: None)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return write_split(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="module")
def straight(photos, tmp_path_factory) -> Path:
    """The folder of a run that nothing has stopped."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(config.VARIANTS, SPECK.architecture, SPECK)
        patch.setattr(results, "write", lambda *_: None)
        patch.setattr(report, "save", lambda *_: None)
        return run(photos, tmp_path_factory.mktemp("straight") / "run").output


def run(photos: Path, output: Path, **changes) -> Result:
    return train(photos, output=output, **(QUICK | changes))


@contextmanager
def replaced(owner: object, name: str, value: object) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, value)
        yield


def killed_after(step: int) -> AbstractContextManager:
    """Inside, a run ends after this step, before it can be saved."""

    def die(self, taken, whole=runs.Run._after_step):
        if taken.step == step:
            raise Killed
        whole(self, taken)

    return replaced(runs.Run, "_after_step", die)


def everything(output: Path) -> dict[str, np.ndarray]:
    """All tensors of the last checkpoint: weights, averages, moments, generators."""
    with safe_open(Snapshots(output).all()[-1] / snapshots.TENSORS, framework="np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def figures(output: Path) -> list[dict]:
    """The lines of metrics.jsonl without what depends on the time of day."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "second" not in k and k != "memory_mb"} for line in lines]


def assert_same(output: Path, straight: Path) -> None:
    expected, found = everything(straight), everything(output)
    assert found.keys() == expected.keys()
    assert [name for name in expected if not np.array_equal(expected[name], found[name])] == []
    for name in ("best.safetensors", "last.safetensors"):
        assert weights_hash(output / name) == weights_hash(straight / name)
    assert figures(output) == figures(straight)


def weights_hash(path: Path) -> str:
    return artifact.tensors_sha256(artifact.read(path)[1])


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
