"""Several processes on one run: they find each other, and learn and measure what one process would."""

from __future__ import annotations

import json
import os
import signal
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from quick import QUICK, everything
from training import exit_codes, started, write_split

from swinv2 import artifact, config, evaluate, world
from swinv2.config import SwinV2Config
from swinv2.data.split import DataError
from swinv2.train import launch, train
from swinv2.train import run as runs
from swinv2.train.saving.snapshots import Snapshots

# What only the giants have: more norms, as every second block of stage 3 has here. Windows come from pre-training.
GIANT = SwinV2Config(
    architecture="swinv2_tiny_giant", image_size=32, window=4, embed_dim=32, depths=(1, 1, 2, 1), heads=(1, 2, 4, 8),
    pretrained_windows=((4, 4), (4, 4), (2, 2), (1, 1)), extra_norm_period=2, num_classes=3,
)  # fmt: skip
SETTINGS = QUICK | {"batch_size": 12}  # which two processes can divide in three


pytestmark = pytest.mark.usefixtures("quick_runs")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return write_split(tmp_path_factory.mktemp("data") / "photos")


def run(photos: Path, output: Path, changes: dict) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(config.VARIANTS, GIANT.architecture, GIANT)
        train(photos, output=output, **(SETTINGS | changes))


def together(photos: Path, output: Path, function=run, **changes) -> str:
    """A run of two processes; what they said."""
    said = output.with_suffix(".said")
    codes = exit_codes(started(function, photos, output, changes, said=said, ranks=2))
    assert codes == [0, 0], said.read_text()
    return said.read_text()


def rows(output: Path, *, kind: str) -> list[dict]:
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def weights(output: Path) -> dict[str, np.ndarray]:
    return artifact.read(output / "last.safetensors")[1]


def assert_same_but_rounding(output: Path, one: Path) -> None:
    for kind, names in (("step", ("loss", "grad_norm", "lr")), ("epoch", ("train_loss", "loss", "top1"))):
        for found, expected in zip(rows(output, kind=kind), rows(one, kind=kind), strict=True):
            assert [found[name] for name in names] == pytest.approx(
                [expected[name] for name in names], rel=1e-3
            )
    for name, expected in weights(one).items():
        np.testing.assert_allclose(weights(output)[name], expected, atol=2e-4, err_msg=name)


# ---------------------------------------------------------------- the same run


@pytest.fixture(scope="module")
def one(quick_runs, photos, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("one") / "run"
    run(photos, output, {})
    return output


@pytest.fixture(scope="module")
def two(quick_runs, photos, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("two") / "run"
    together(photos, output)
    return output


def test_two_processes_learn_what_one_does(one, two):
    """With mixed pictures, dropped branches and averages of the weights."""
    assert_same_but_rounding(two, one)


def test_two_processes_in_parts_learn_what_one_does(photos, one, tmp_path):
    said = together(photos, tmp_path / "run", accumulate=3)
    assert "batch 12 = 2 processes x 3 parts x 2 pictures" in said
    assert said.count("epoch 2/2") == 1
    assert_same_but_rounding(tmp_path / "run", one)


def test_two_processes_measure_every_picture_once(photos, two):
    """Nine pictures are no multiple of two."""
    measured = evaluate(two / "last.safetensors", photos)
    last = rows(two, kind="epoch")[-1]
    assert (measured.measured.images, measured.top1) == (9, pytest.approx(last["top1"]))
    assert measured.measured.loss == pytest.approx(last["loss"], rel=1e-4)


@pytest.mark.parametrize(
    "changes", [{}, {"checkpointing": True, "accumulate": 3}], ids=["plain", "saving memory"]
)
def test_a_tiny_giant_learns_in_shares_what_it_learns_whole(photos, tmp_path, changes):
    settings = {"model": GIANT.architecture}
    run(photos, tmp_path / "whole", settings)
    said = together(photos, tmp_path / "shares", shard=True, **settings, **changes)
    assert "2 processes that share the model" in said
    assert_same_but_rounding(tmp_path / "shares", tmp_path / "whole")


# ---------------------------------------------------------------- saved and resumed


def assert_same(output: Path, straight: Path) -> None:
    expected, found = everything(straight), everything(output)
    assert found.keys() == expected.keys()
    assert [name for name in expected if not np.array_equal(expected[name], found[name])] == []


def run_until_killed(photos: Path, output: Path, changes: dict) -> None:
    """kill -9 of both processes: one in a step, while the other waits for it."""
    after = runs.Run._after_step

    def die(self, taken):
        after(self, taken)
        if taken.step == 3:
            if not self.world.is_first:
                os.kill(os.getpid(), signal.SIGKILL)
            world.gather(None)

    runs.Run._after_step = die  # type: ignore[method-assign]
    run(photos, output, changes)


@pytest.mark.parametrize("changes", [{}, {"shard": True}], ids=["copies", "shares"])
def test_two_killed_processes_go_on_bit_for_bit(photos, two, tmp_path, changes):
    straight, output, said = two, tmp_path / "run", tmp_path / "said"
    if changes:
        straight = tmp_path / "straight"
        together(photos, straight, **changes)
    codes = exit_codes(started(run_until_killed, photos, output, changes, said=said, ranks=2))
    assert codes[1] == -signal.SIGKILL
    assert codes[0] != 0
    assert "rank 0 of 2 has lost another process" in said.read_text()
    together(photos, output, resume=True, **changes)
    assert_same(output, straight)


def run_until_signal(photos: Path, output: Path, changes: dict) -> int:
    """One process alone gets a signal."""
    after = runs.Run._after_step

    def send(self, taken):
        if taken.step == 1 and not self.world.is_first:
            os.kill(os.getpid(), signal.SIGTERM)
        after(self, taken)

    runs.Run._after_step = send  # type: ignore[method-assign]
    try:
        run(photos, output, changes)
    except KeyboardInterrupt as stop:
        return stop.code  # type: ignore[attr-defined]
    return 0


def test_a_signal_to_one_process_stops_all_at_the_same_step(photos, two, tmp_path):
    output, said = tmp_path / "run", tmp_path / "said"
    changes = {"save_every": "100"}
    codes = exit_codes(started(run_until_signal, photos, output, changes, said=said, ranks=2))
    assert codes == [143, 143], said.read_text()
    assert Snapshots(output).all()[-1].name == "step-00000002"
    together(photos, output, resume=True, **changes)
    assert_same(output, two)


def test_one_process_goes_on_where_two_have_stopped(photos, one, two, tmp_path, capsys):
    output = tmp_path / "run"
    exit_codes(started(run_until_killed, photos, output, {}, said=tmp_path / "said", ranks=2))
    run(photos, output, {"resume": True})
    assert "2 processes wrote it, and these are 1" in capsys.readouterr().err
    assert_same_but_rounding(output, one)


# ---------------------------------------------------------------- what all processes agree on


def run_on_damaged_pictures(photos: Path, output: Path, changes: dict) -> int:
    """Met in the loop, by the process whose part they are in."""
    from swinv2.train import feed

    feed.fits_in_memory, feed.CHECKED = lambda _: False, 0  # type: ignore[assignment]
    try:
        run(photos, output, changes | {"workers": 0, "mixup": 0.0, "ema": 0.0})
    except DataError:
        return 7
    return 0


def test_unreadable_pictures_stop_all_processes_or_weigh_nothing(photos, tmp_path):
    damaged = write_split(tmp_path / "photos")
    for i in range(4):
        (damaged / "train" / "red" / f"{i}.png").write_bytes(b"no picture")
    said = tmp_path / "said"
    codes = exit_codes(started(run_on_damaged_pictures, damaged, tmp_path / "a", {}, said=said, ranks=2))
    assert codes == [7, 7]
    assert said.read_text().count("unreadable: ") in range(1, 5)
    parts = {"max_unreadable": 0.2, "accumulate": 3}  # of two pictures: some have none left
    together(damaged, tmp_path / "b", run_on_damaged_pictures, **parts)
    assert run_on_damaged_pictures(damaged, tmp_path / "c", {"max_unreadable": 0.2}) == 0
    steps = [[row["loss"] for row in rows(tmp_path / name, kind="step")] for name in "bc"]
    assert steps[0] == pytest.approx(steps[1], rel=1e-3)


def fail_in_one(error: str) -> int:
    me = world.start()
    try:
        with world.together():
            if me.rank == 1:
                raise ValueError(error)
    except ValueError as found:
        return 5 if str(found) == error else 6
    return 0


def test_an_error_of_one_process_is_raised_in_all(tmp_path):
    assert exit_codes(started(fail_in_one, "rank 1 is tired", said=tmp_path / "said", ranks=2)) == [5, 5]


def exchange(_: str) -> int:
    me = world.start()
    assert world.gather({"rank": me.rank}) == [{"rank": 0}, {"rank": 1}]
    assert world.same(me.rank == 1)
    assert not world.same(False)
    assert world.total([me.rank + 1, 0.5, float("nan") if me.rank else 0])[:2] == [3, 1]
    return 9


def test_processes_exchange_what_they_know(tmp_path):
    codes = exit_codes(started(exchange, "", said=tmp_path / "said", ranks=2))
    assert codes == [9, 9], (tmp_path / "said").read_text()


# ---------------------------------------------------------------- meeting


def test_a_process_alone_is_rank_0_of_1(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert world.start() == world.World(0, 1, 0, 1)
    assert world.gather("x") == ["x"]
    assert (world.same(True), world.same(False), world.total([2, 3])) == (True, False, [2.0, 3.0])


@pytest.fixture
def place(monkeypatch):
    for name, value in {"WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29653"}.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_processes_that_do_not_come_are_named(place):
    place.setenv("RANK", "0")
    with pytest.raises(
        world.Lost, match=r"rank 1, rank 2 of 3 did not come to 127\.0\.0\.1 port 29653 in 1 s"
    ):
        world.start(timeout=timedelta(seconds=1))


def test_a_process_that_finds_nobody_names_where_it_looked(place):
    place.setenv("RANK", "2")
    with pytest.raises(
        world.Lost, match=r"rank 2 of 3 on .* did not reach rank 0 at 127\.0\.0\.1 port 29653"
    ):
        world.start(timeout=timedelta(seconds=1))


def test_a_model_is_not_shared_by_one_process(photos, tmp_path):
    with pytest.raises(ValueError, match="--processes 2"):
        run(photos, tmp_path / "run", {"shard": True})


def test_options_are_handed_on_as_they_were_given():
    options = {
        "lr": 1e-3, "betas": (0.8, 0.9), "flip": False, "json": True, "resume": None, "sizes": {0: 32}, "model": "a b"
    }  # fmt: skip
    assert launch.written(options) == [
        "--lr=0.001", "--betas=0.8,0.9", "--flip=false", "--json=true", "--sizes={0: 32}", "--model=a b",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_command_starts_its_processes_by_itself(photos, tmp_path, capfd):
    """Through torch.distributed.run's launcher: two fresh interpreters."""
    from swinv2.cli import main

    options = [
        "--recipe=scratch_small",
        "--model=swinv2_pico",
        "--image-size=32",
        "--batch-size=8",
        "--epochs=1",
    ]
    assert (
        main(["train", str(photos), *options, "--output", str(tmp_path / "run"), "--processes=2", "--json"])
        == 0
    )
    printed = capfd.readouterr()
    assert json.loads(printed.out)["epochs"] == 1
    assert printed.err.count("batch 8 = 2 processes x 4 pictures") == 1
    assert main(["train", str(tmp_path / "nothing"), "--processes=2"]) == 3
    assert capfd.readouterr().err.count("error: there is no folder") == 1
