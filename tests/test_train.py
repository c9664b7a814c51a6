"""A whole run on generated pictures: its files, its arithmetic, and what stops it."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from training import COLOURS, OPTIONS, SPECK, command, exit_codes, started, write_pictures, write_split

import swinv2
from swinv2 import artifact, config
from swinv2.cli import main
from swinv2.data import DataError, read_training
from swinv2.train import Result, train
from swinv2.train.faults import Diverged
from swinv2.train.recipes import settings as recipes
from swinv2.train.run import Run
from swinv2.train.saving.state import Running
from swinv2.train.shown import describe

QUICK = {"pretrained": False, "augment": "small", "batch_size": 8, "crop_pct": 1.0, "epochs": 2, "lr": 0.05}


@pytest.fixture(autouse=True)
def speck(monkeypatch):
    """A variant of two blocks, by name."""
    monkeypatch.setitem(config.VARIANTS, SPECK.architecture, SPECK)


@pytest.fixture
def photos(tmp_path) -> Path:
    return write_split(tmp_path / "photos")


def run(photos: Path, name: str = "run", **changes) -> Result:
    given = QUICK | changes
    return train(photos, model=given.pop("model", "swinv2_speck"), output=photos.parent / name, **given)


def rows(result: Result) -> list[dict]:
    """The epochs, as metrics.jsonl has them."""
    lines = [json.loads(line) for line in (result.output / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line.pop("kind") == "epoch"]


# ---------------------------------------------------------------- what a run leaves


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(config.VARIANTS, SPECK.architecture, SPECK)
        return run(write_split(tmp_path_factory.mktemp("run") / "photos"), epochs=4)


def test_a_run_leaves_these_files_and_no_others(finished):
    assert sorted(p.name for p in finished.output.iterdir()) == [
        "augmented.png", "best.safetensors", "checkpoints", "confusion.png", "curves.png", "last.safetensors",
        "metrics.jsonl", "predictions.csv", "recipe.yaml", "report.html", "results.csv", "summary.json",
    ]  # fmt: skip


def test_a_run_learns_colours(finished):
    measured = rows(finished)
    assert measured[-1]["train_loss"] < 0.8 * measured[0]["train_loss"]
    assert finished.accuracy == max(row["top1"] for row in measured) > 60


def test_the_model_file_is_complete_for_prediction(finished):
    record = artifact.read_record(finished.best)
    assert record.classes == ("blue", "green", "red")
    assert (record.preprocess.size, record.preprocess.resize_to) == ((32, 32), 32)
    assert record.accuracy["photos/val top-1"] == pytest.approx(finished.accuracy)
    assert record.provenance["recipe"]["lr"] == 0.05
    assert record.provenance["epoch"] == finished.epoch
    red = finished.output.parent / "photos" / "val" / "red" / "0.png"
    assert swinv2.Predictor(finished.best)(red).top.name in COLOURS


def test_evaluate_finds_the_figures_of_the_run(finished):
    result = swinv2.evaluate(finished.best, finished.output.parent / "photos")
    best = rows(finished)[finished.epoch - 1]
    assert (result.measured.images, result.top1) == (9, pytest.approx(finished.accuracy))
    assert result.measured.loss == pytest.approx(best["loss"], rel=1e-4)


def test_last_and_best_are_the_epochs_they_say(finished):
    assert artifact.read_record(finished.last).provenance["epoch"] == finished.epochs == 4
    best = max(rows(finished), key=lambda row: (row["top1"], -row["loss"]))
    assert best["epoch"] == finished.epoch


def test_figures_are_the_same_in_jsonl_csv_and_summary(finished):
    lines = rows(finished)
    with open(finished.output / "results.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["epoch"] for row in lines] == [1, 2, 3, 4]
    assert [row["step"] for row in lines] == [3, 6, 9, 12]
    for line, cells in zip(lines, table, strict=True):
        assert {k: float(v) for k, v in cells.items()} == pytest.approx(line)
        assert all(math.isfinite(value) for value in line.values())
    summary = json.loads((finished.output / "summary.json").read_text())
    assert summary["status"] == "done"
    assert summary["held_out"]["top1"] == pytest.approx(finished.accuracy)
    assert summary["held_out"]["images"] == 9
    assert (summary["train_counts"], summary["held_out_counts"]) == ([8, 8, 8], [3, 3, 3])
    assert (summary["batch"], summary["steps_per_epoch"], summary["steps"]) == (8, 3, 12)
    assert summary["learning_rate"] == pytest.approx(0.05 * 8 / 512)
    assert summary["environment"]["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert summary["environment"]["processes"] == 1
    assert set(summary["files"]) == {p.name for p in finished.output.iterdir()} - {"checkpoints"}


def test_every_held_out_picture_has_its_line_in_predictions(finished):
    with open(finished.output / "predictions.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == ["file", "label", "prediction", "score", "loss", "correct"]
    assert [line["file"] for line in lines] == [f"val/{c}/{i}.png" for c in COLOURS for i in range(3)]
    assert sum(int(line["correct"]) for line in lines) / 9 == pytest.approx(finished.accuracy / 100)
    assert all(Path(line["file"]).parent.name == line["label"] for line in lines)
    losses = [float(line["loss"]) for line in lines]
    best = rows(finished)[finished.epoch - 1]
    assert sum(losses) / 9 == pytest.approx(best["loss"], rel=1e-4)


def test_steps_have_lines_that_split_their_time(photos):
    result = run(photos, log_every=2, epochs=4)
    lines = [json.loads(line) for line in (result.output / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "step"]
    assert [(line["epoch"], line["step"]) for line in steps] == [
        (1, 2),
        (2, 4),
        (2, 6),
        (3, 8),
        (4, 10),
        (4, 12),
    ]
    for line in steps:
        assert list(line) == [
            "kind", "epoch", "step", "loss", "lr", "grad_norm", "images_per_second", "data_seconds",
            "transfer_seconds", "compute_seconds", "memory_mb",
        ]  # fmt: skip
        assert min(line["data_seconds"], line["compute_seconds"], line["memory_mb"], line["grad_norm"]) > 0
    epochs = [line for line in lines if line["kind"] == "epoch"]
    assert all(line["data_seconds"] + line["compute_seconds"] <= line["seconds"] for line in epochs)


def test_a_run_that_waits_for_pictures_says_what_to_change():
    running = Running(
        steps=10, images=80, seconds=20.0, data_seconds=11.0, transfer_seconds=1.0, compute_seconds=8.0
    )
    said = describe.waiting(running, "buy a faster disk")
    assert said == "steps wait for pictures 55 % of the time (5 % transfer, 40 % compute); buy a faster disk"
    running.data_seconds = 5.0
    assert describe.waiting(running, "") is None


def test_top_5_of_three_classes_is_top_3(finished):
    assert all(row["top3"] == 100 for row in rows(finished))


def test_the_saved_recipe_is_the_merged_one_and_repeats_the_run(finished):
    saved = recipes.load(finished.output / "recipe.yaml")
    assert (saved.epochs, saved.lr, saved.augment) == (4, 0.05, "small")
    again = train(
        finished.output.parent / "photos", model="swinv2_speck", recipe=finished.output / "recipe.yaml",
        output=finished.output.parent / "again",
    )  # fmt: skip
    assert artifact.read(again.last)[1].keys() == artifact.read(finished.last)[1].keys()
    assert weights_hash(again.last) == weights_hash(finished.last)


def weights_hash(path: Path) -> str:
    return artifact.tensors_sha256(artifact.read(path)[1])


# ---------------------------------------------------------------- arithmetic


def test_losses_are_those_of_a_plain_loop(photos):
    """AdamW on the smoothed cross entropy, clipped, with the official groups: written again with torch alone."""
    result = run(
        photos, augment="none", warmup_epochs=1, clip_grad=0.5, label_smoothing=0.2, weight_decay=0.3
    )
    folder, recipe = read_training(photos)[0], recipes.load(result.output / "recipe.yaml")
    preprocess = artifact.read_record(result.last).preprocess
    torch.manual_seed(recipe.seed)
    model = swinv2.create_model("swinv2_speck", num_classes=3).train()
    decayed = [
        p for n, p in model.named_parameters() if p.ndim > 1 and "cpb_mlp" not in n and "logit_scale" not in n
    ]
    ids = {id(p) for p in decayed}
    others = [p for p in model.parameters() if id(p) not in ids]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.3}, {"params": others, "weight_decay": 0}], foreach=False
    )
    images = torch.stack([torch.from_numpy(preprocess.load(folder.read(i))) for i in range(len(folder))])
    labels = torch.tensor(folder.labels)
    high, first, low = (rate * 8 / 512 for rate in (0.05, recipe.warmup_lr, recipe.min_lr))
    expected, step = [], 0
    for epoch in range(2):
        order = torch.randperm(24, generator=torch.Generator().manual_seed(epoch))
        losses = []
        for batch in order.split(8):
            if step < 3:
                lr = first + (high - first) * step / 3
            else:
                lr = low + (high - low) * (1 + math.cos(math.pi * (step - 3) / 3)) / 2
            for group in optimizer.param_groups:
                group["lr"] = lr
            log_shares = model(images[batch]).log_softmax(1)
            target = 0.8 * torch.eye(3)[labels[batch]] + 0.2 / 3
            loss = -(target * log_shares).sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
            for p in model.parameters():
                p.grad.mul_(min(1, 0.5 / (norm + 1e-6)))
            optimizer.step()
            losses.append(loss.item())
            step += 1
        expected.append(sum(losses) / len(losses))
    assert [row["train_loss"] for row in rows(result)] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_result_does_not_depend_on_workers(photos, workers, monkeypatch):
    monkeypatch.setattr("swinv2.train.feed.fits_in_memory", lambda _: workers == 0)
    results = [run(photos, f"run{w}", workers=w, drop_path=0.3) for w in (workers, 1)]
    assert weights_hash(results[0].last) == weights_hash(results[1].last)


def test_another_seed_is_another_run(photos):
    assert weights_hash(run(photos, "a").last) != weights_hash(run(photos, "b", seed=1).last)


def test_the_effective_learning_rate_is_printed_before_the_first_step(photos, capsys):
    run(photos, lr=0.064, epochs=2, warmup_epochs=1)
    said = capsys.readouterr().err
    assert said.index("learning rate 0.064 per 512 pictures x batch 8 = 0.001;") < said.index("epoch 1/2")
    assert "2 epochs of 3 steps = 6 steps, batch 8" in said
    assert "in 3 steps, then cosine to" in said


def test_a_batch_larger_than_the_data_counts_as_what_it_is(photos, capsys):
    run(photos, batch_size=512, lr=0.0512)
    said = capsys.readouterr().err
    assert "x batch 24 = 0.0024" in said
    assert "2 epochs of 1 steps" in said


def test_the_optimizer_groups_are_printed(photos, capsys):
    run(photos, epochs=1)
    said = capsys.readouterr().err.splitlines()
    table = [line.split() for line in said if line.startswith(("decay", "no decay"))]
    total = sum(p.numel() for p in swinv2.create_model("swinv2_speck").parameters())
    assert [row[0] for row in table] == ["decay", "no"]
    assert int(table[0][3].replace(",", "")) + int(table[1][4].replace(",", "")) == total


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bf16"},
        {"precision": "bf16_all"},
        {"augment": "photo"},
        {"augment": "none"},
        {"mixup": 0.8, "cutmix": 1.0, "batch_size": 7},
        {"clip_grad": 0.0, "drop_path": 0.5, "batch_size": 1},
    ],
    ids=lambda changes: next(iter(changes.values())),
)
def test_other_settings_train_too(photos, changes):
    result = run(photos, **(changes | {"epochs": 1}))
    (row,) = rows(result)
    assert math.isfinite(row["train_loss"] + row["loss"])
    assert (row["train_top1"] is None) == ("mixup" in changes)
    assert all(np.isfinite(tensor).all() for tensor in artifact.read(result.last)[1].values())


# ---------------------------------------------------------------- starting from weights


def test_training_goes_on_from_a_model_file(finished):
    photos = finished.output.parent / "photos"
    tuned = run(
        photos,
        "tuned",
        model=str(finished.best),
        pretrained=True,
        epochs=1,
        lr=0.0,
        warmup_lr=0.0,
        min_lr=0.0,
    )
    assert weights_hash(tuned.last) == weights_hash(finished.best)
    assert artifact.read_record(tuned.last).provenance["source"] == str(finished.best)


def test_other_classes_get_a_new_head_and_keep_the_body(finished, tmp_path):
    write_pictures(tmp_path / "other", 5, classes=("a", "b", "c"))  # as many classes, and others
    frozen = {"lr": 0.0, "warmup_lr": 0.0, "min_lr": 0.0, "epochs": 1}
    tuned = run(tmp_path / "other", "tuned", model=str(finished.best), pretrained=True, **frozen)
    before, after = artifact.read(finished.best)[1], artifact.read(tuned.last)[1]
    assert {name for name in before if not np.array_equal(before[name], after[name])} == {
        "head.weight",
        "head.bias",
    }
    assert artifact.read_record(tuned.last).classes == ("a", "b", "c")


def test_another_image_size_is_written_into_the_model_file(finished, tmp_path):
    photos = finished.output.parent / "photos"
    tuned = run(
        photos, "larger", model=str(finished.best), pretrained=True, epochs=1, image_size=64, crop_pct=None
    )
    record = artifact.read_record(tuned.last)
    assert (record.config.image_size, record.preprocess.size, record.preprocess.resize_to) == (
        (64, 64),
        (64, 64),
        64,
    )


def test_a_student_that_is_its_teacher_has_nothing_to_learn(finished):
    photos = finished.output.parent / "photos"
    given = {"model": str(finished.best), "pretrained": True, "teacher": str(finished.best), "epochs": 1}
    settings = given | {"augment": "none", "drop_path": 0.0, "lr": 0.0, "warmup_lr": 0.0, "min_lr": 0.0}
    agreed = run(photos, "agreed", distill_weight=1.0, **settings)
    mixed = run(photos, "mixed", distill_weight=0.5, **settings)
    alone = run(photos, "alone", distill_weight=0.0, **settings)
    losses = [rows(result)[0]["train_loss"] for result in (agreed, mixed, alone)]
    assert losses[0] == pytest.approx(0, abs=1e-5)
    assert losses[1] == pytest.approx(losses[2] / 2, rel=1e-4)


def test_a_name_without_published_weights_says_what_to_do(photos, capsys):
    assert main(["train", str(photos), "--model", "swinv2_pico", "--output", str(photos.parent / "r")]) == 2
    said = capsys.readouterr().err
    assert "no weights of swinv2_pico are published" in said
    assert "--pretrained false" in said


# ---------------------------------------------------------------- what stops a run


def test_a_loss_that_is_no_number_stops_before_the_weights_are_touched(photos):
    with pytest.raises(
        Diverged, match=r"step \d+: (loss|gradient norm) is (nan|inf).*learning rate of .*lower --lr"
    ):
        run(photos, lr=1e9, reference_batch=1, warmup_epochs=0, clip_grad=0, epochs=99)
    saved = photos.parent / "run" / "last.safetensors"
    if saved.exists():
        assert all(np.isfinite(tensor).all() for tensor in artifact.read(saved)[1].values())


def test_unreadable_training_pictures_are_listed_and_stop_the_run(photos, capsys):
    broken = [photos / "train" / "red" / "0.png", photos / "train" / "blue" / "3.png"]
    for path in broken:
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(
        DataError, match=r"2 of 24 pictures of photos/train cannot be read.*--skip-unreadable"
    ):
        run(photos)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("unreadable")]
    assert len(said) == 2
    assert all(any(str(path) in line for line in said) for path in broken)


@pytest.mark.parametrize("in_memory", [True, False])
def test_unreadable_training_pictures_can_be_left_out_and_are_listed_once(
    photos, capsys, monkeypatch, in_memory
):
    monkeypatch.setattr("swinv2.train.feed.fits_in_memory", lambda _: in_memory)
    monkeypatch.setattr(
        "swinv2.train.feed.CHECKED", 0
    )  # so that they are met in the first epoch, and in the second
    (photos / "train" / "red" / "0.png").write_bytes(b"no picture")
    result = run(photos, skip_unreadable=True, workers=0, batch_size=1)
    assert len(rows(result)) == 2
    assert capsys.readouterr().err.count("unreadable: ") == 1


def test_a_large_set_stops_at_the_first_unreadable_picture(photos, monkeypatch):
    monkeypatch.setattr("swinv2.train.feed.fits_in_memory", lambda _: False)
    monkeypatch.setattr("swinv2.train.feed.CHECKED", 0)
    (photos / "train" / "red" / "0.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"red/0\.png"):
        run(photos, workers=0)


def test_unreadable_held_out_pictures_always_stop_the_run(photos):
    (photos / "val" / "red" / "0.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1 of 9 pictures in photos/val cannot be read.*never skipped"):
        run(photos, skip_unreadable=True)


def test_an_earlier_run_is_not_overwritten_unless_asked(photos):
    first = run(photos, epochs=1)
    (first.output / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match="already holds a run"):
        run(photos)
    assert len(rows(run(photos, overwrite=True))) == 2
    assert (first.output / "mine.txt").exists()


def own_group(*arguments: str) -> int:
    """The command in a process group of its own, as a shell starts it."""
    os.setpgid(0, 0)
    return command(*arguments)


def test_control_c_keeps_the_last_epoch_and_says_where(photos):
    """A real signal to a real process."""
    output, log = photos.parent / "run", photos.parent / "said"
    model = ("--model", "swinv2_speck", "--output", str(output), *OPTIONS)
    (process,) = started(own_group, "train", str(photos), *model, "--epochs=100000", "--workers=1", said=log)
    deadline = time.monotonic() + 120
    while not (output / "results.csv").exists() and time.monotonic() < deadline and process.is_alive():
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    codes = exit_codes([process])
    said = log.read_text().splitlines()
    assert codes == [130], said
    assert said[-1].startswith("stopped by Ctrl-C in epoch")
    assert "Traceback" not in "".join(said)
    assert f"--resume {output} goes on from there" in said[-1]
    assert artifact.read_record(output / "last.safetensors").provenance["epoch"] >= 1


def test_a_run_that_is_interrupted_has_its_report(photos, monkeypatch):
    def interrupt(self, taken, whole=Run._after_step):
        if taken.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        whole(self, taken)

    monkeypatch.setattr(Run, "_after_step", interrupt)
    with pytest.raises(KeyboardInterrupt, match="stopped by SIGTERM in epoch 2 of 2"):
        run(photos)
    output = photos.parent / "run"
    summary = json.loads((output / "summary.json").read_text())
    assert (summary["status"], summary["epochs"]) == ("interrupted", 1)
    assert {"curves.png", "confusion.png", "predictions.csv"} <= set(summary["files"])


def test_a_plot_that_fails_is_one_line_and_fails_no_run(photos, monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("no ink")

    for name in ("curves", "confusion", "mosaic", "write"):
        monkeypatch.setattr(f"swinv2.report.{name}", fail)
    result = run(photos, epochs=1)
    said = [line for line in capsys.readouterr().err.splitlines() if "no ink" in line]
    assert [line.partition(" could not")[0] for line in said] == [
        "augmented.png", "predictions.csv and confusion.png", "curves.png", "report.html",
    ]  # fmt: skip
    assert json.loads((result.output / "summary.json").read_text())["status"] == "done"
