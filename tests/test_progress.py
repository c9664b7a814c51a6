"""What a run shows while it goes on, and where its figures go."""

from __future__ import annotations

import io
import json
import re
import sys

import pytest
from rich.console import Console

from swinv2 import console
from swinv2.train.saving.state import Running
from swinv2.train.shown import progress
from swinv2.train.shown.loggers import Log
from swinv2.train.shown.progress import Progress, fitted

ROW = {"epoch": 1, "step": 20, "loss": 0.5, "train_loss": 0.75, "lr": 1e-3, "images_per_second": 300.0}


def running(steps: int) -> Running:
    images = 64 * steps
    return Running(
        steps=steps, images=images, loss_sum=1.2345 * images, sums={"top1": 57.81 * images}, lr=9.8e-4,
        seconds=images / 384, memory_mb=875.3,
    )  # fmt: skip


@pytest.fixture
def seen(monkeypatch):
    """seen(width, terminal) makes a console for stderr; what was written on it comes back."""

    def open_console(width: int, *, terminal: bool) -> io.StringIO:
        out = io.StringIO()
        made = Console(
            file=out, force_terminal=terminal, width=width, soft_wrap=True, highlight=False, color_system=None
        )
        monkeypatch.setattr(console, "stderr", lambda: made)
        return out

    return open_console


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    return now


def last_line(out: io.StringIO) -> str:
    """What the terminal shows in the end."""
    lines = re.split(r"[\r\n]", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue()))
    return [line for line in lines if line.strip()][-1].rstrip()


def test_a_terminal_shows_loss_accuracy_rate_speed_memory_and_time_left(seen, clock):
    out = seen(140, terminal=True)
    with Progress(3, 469) as shown:
        shown.start_epoch(1)
        shown.step(running(1))
        clock[0] += 119
        shown.step(running(120))
        shown.bar.refresh()
        line = last_line(out)
    for figure in (
        "epoch 1/3",
        "120/469",
        "loss 1.2345",
        "top-1 57.81 %",
        "lr 0.00098",
        "384 images/s",
        "875 MB",
    ):
        assert figure in line
    assert line.endswith("21:16 left")  # 120 steps in 119 seconds, and 3 x 469 - 120 to go


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_the_line_fits_the_terminal_and_keeps_the_time_left(width, seen, clock):
    out = seen(width, terminal=True)
    with Progress(300, 1251) as shown:
        shown.start_epoch(299)
        shown.step(running(1250))
        shown.bar.refresh()
        line = last_line(out)
    assert len(line) <= width
    assert line.endswith(" left")
    assert "\N{HORIZONTAL ELLIPSIS}" not in line
    assert "top-1 57.81 %" in line


def test_figures_give_way_before_the_time_left():
    parts = ["loss 1.0", "top-1 50.00 %", "384 images/s", "875 MB", "0:38 left"]
    assert fitted(parts, 80) == "  ".join(parts)
    assert fitted(parts, 54) == " ".join(parts)
    assert fitted(parts, 33) == "loss 1.0 top-1 50.00 % 0:38 left"


def test_without_a_terminal_there_is_a_plain_line_now_and_then(seen, clock):
    out = seen(80, terminal=False)
    with Progress(2, 100) as shown:
        shown.start_epoch(1)
        for step in range(1, 100):
            clock[0] += 1
            shown.step(running(step))
        clock[0] += 1
        shown.end_epoch(ROW | {"train_top1": 60.0, "top1": 70.0}, is_best=True)
    lines = out.getvalue().splitlines()
    assert len(lines) == 4  # after 30, 60 and 90 seconds, and at the end of the epoch
    assert lines[0] == (
        "epoch 1/2 step 30/100  loss 1.2345  top-1 57.81 %  lr 0.00098  384 images/s  875 MB  2:50 left"
    )
    assert lines[3] == (
        "epoch 1/2  train loss 0.7500 top-1 60.00 %  held out loss 0.5000 top-1 70.00 % *  300 images/s  1:40 left"
    )
    assert "\x1b" not in out.getvalue()


def test_a_resumed_run_counts_its_own_steps_only(seen, clock):
    out = seen(140, terminal=True)
    with Progress(10, 100) as shown:
        shown.start_epoch(9)  # eight epochs and a half were done by another process
        for step in range(51, 61):
            clock[0] += 2
            shown.step(running(step))
        shown.bar.refresh()
        assert last_line(out).endswith("4:40 left")  # 140 steps of 2 seconds


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        (
            {"train_top1": None, "top1": 70.0},
            "train loss 0.7500  held out loss 0.5000 top-1 70.00 %",
        ),  # mixed
        ({"map": 70.0}, "train loss 0.7500  held out loss 0.5000 mAP 70.00 %"),  # several labels
        ({}, "train loss 0.7500  held out loss 0.5000"),  # pre-training
    ],
)
def test_an_epoch_shows_the_figures_that_it_has(figures, said, seen):
    out = seen(80, terminal=False)
    Progress(1, 20).end_epoch(ROW | figures, is_best=False)
    assert said in out.getvalue()


# ---------------------------------------------------------------------- loggers


def test_every_row_is_a_line_at_once(tmp_path):
    log = Log(tmp_path)
    log.step({"epoch": 1, "step": 10, "loss": 2.0})
    log.epoch({"epoch": 1, "step": 20, "loss": 1.0})
    written = [
        json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ]  # before close()
    log.close()
    assert [(row["kind"], row["step"]) for row in written] == [("step", 10), ("epoch", 20)]


def test_a_resumed_run_drops_the_rows_that_come_again_and_a_cut_line(tmp_path):
    log = Log(tmp_path)
    for step in (10, 20, 30):
        log.step({"epoch": 1, "step": step})
    log.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"kind": "st')
    log = Log(tmp_path, step=20)
    log.step({"epoch": 1, "step": 30, "again": True})
    log.close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row.get("again", False)) for row in rows] == [(10, False), (20, False), (30, True)]


def test_a_new_run_begins_a_new_file(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"kind": "epoch", "epoch": 9, "step": 90}\n')
    Log(tmp_path).close()
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_tensorboard_gets_the_numbers_of_every_row(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = Log(tmp_path, tensorboard=True)
    log.step({"epoch": 1, "step": 10, "loss": 2.0, "grad_norm": None})
    log.step({"epoch": 1, "step": 20, "loss": 1.0, "grad_norm": 3.0})
    log.epoch({"epoch": 1, "step": 20, "top1": 75.0})
    log.close()
    found = events.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    values = {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}
    assert values == {
        "step/loss": [(10, 2.0), (20, 1.0)],
        "step/grad_norm": [(20, 3.0)],
        "epoch/top1": [(20, 75.0)],
    }


def test_weights_and_biases_gets_the_same(tmp_path, monkeypatch):
    """A stand-in for the package, which talks to a server."""
    sent, opened = [], {}

    class Run:
        def log(self, values, step):
            sent.append((step, values))

        def finish(self):
            sent.append("finished")

    class Module:
        def init(self, **given):
            opened.update(given)
            return Run()

    monkeypatch.setitem(sys.modules, "wandb", Module())
    log = Log(tmp_path, wandb=True, title="pico on digits", settings={"lr": 0.1})
    log.step({"epoch": 1, "step": 10, "loss": 2.0, "grad_norm": None})
    log.close()
    assert sent == [(10, {"step/loss": 2.0}), "finished"]
    assert (opened["name"], opened["config"], opened["resume"]) == ("pico on digits", {"lr": 0.1}, None)


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_logger_that_is_not_installed_names_the_cure(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf'needs {name} -- pip install "swinv2\[{name}\]"'):
        Log(tmp_path, **{name: True})
    assert not list(tmp_path.iterdir())
