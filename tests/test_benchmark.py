"""A benchmark says what is so: figures of many runs, contenders side by side, reasons for what does not run."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from exports import small_model, write_small
from PIL import Image

import swinv2
from swinv2 import child, cli, probe, verification
from swinv2.artifact import with_provenance
from swinv2.benchmark import RuntimeName, command, contest, printing
from swinv2.benchmark.contenders import contenders
from swinv2.benchmark.latency import Latency, interval, percentile, ratio, rounds_for
from swinv2.benchmark.measuring import Running, open_contender, take_turns
from swinv2.benchmark.pictures import SIZE, Pictures, photographs
from swinv2.benchmark.process import Process
from swinv2.benchmark.result import Benchmark, Row, give_labels
from swinv2.options import Command
from swinv2.runtimes import RUNTIMES, Options
from swinv2.runtimes.torch import TorchSession
from swinv2.verbs import Exit, UsageError

ONE_THREAD = {"threads": 1, "device": "auto"}


def write_onnx(path: Path, seed: int = 0) -> Path:
    """The small model as ONNX, with the answers of the torch model in its record as export writes them."""
    model, row = small_model(seed), RUNTIMES["onnx"]
    notes = row.load().export(model, path, Options(), None)
    images = probe.images(model.record, 3)
    reference = verification.Reference(1, {(64, 64): TorchSession(model, device="cpu").run(images)})
    about = {
        "format": "onnx",
        "precision": "fp32",
        "dynamic": ["batch"],
        "reference": reference.to_dict(),
        **notes,
    }
    verification.write_record(row, path, with_provenance(model.record, export=about))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """model.safetensors, model.onnx, other.onnx (other weights), broken.onnx, and data/ with the classes a to g."""
    folder = tmp_path_factory.mktemp("benchmark")
    write_small(folder / "model.safetensors")
    write_onnx(folder / "model.onnx")
    write_onnx(folder / "other.onnx", seed=1)
    (folder / "broken.onnx").write_bytes((folder / "model.onnx").read_bytes()[:5000])
    noise = np.random.default_rng(0)
    for name in "abcdefg":
        (folder / "data" / "val" / name).mkdir(parents=True)
        for i in range(3):
            pixels = noise.integers(0, 256, (40, 50 + i, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "data" / "val" / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def measured(folder) -> Benchmark:
    """All of them once, with pictures."""
    return swinv2.benchmark(
        folder / "model.safetensors",
        [folder / name for name in ("model.onnx", "other.onnx", "broken.onnx")],
        data=folder / "data", batch_sizes=(3, 1), rounds=7, threads=1, precisions=("auto", "bf16"),
    )  # fmt: skip


def row_of(result: Benchmark, name: str, precision: str = "fp32") -> Row:
    (found,) = [r for r in result.rows if Path(r.path).name == name and r.precision == precision]
    return found


# ---------------------------------------------------------------------- figures of many runs


def test_percentiles_are_those_of_numpy():
    values = list(np.random.default_rng(0).lognormal(size=37))
    for share in (0.0, 0.5, 0.9, 0.99, 1.0):
        assert percentile(values, share) == pytest.approx(np.percentile(values, 100 * share), rel=1e-12)


@pytest.mark.parametrize(("runs", "p90", "p99"), [(9, False, False), (10, True, False), (100, True, True)])
def test_a_percentile_needs_as_many_runs_as_its_name_says(runs, p90, p99):
    latency = Latency(1, tuple((float(i),) for i in range(runs)))
    assert (latency.p90 is not None, latency.p99 is not None) == (p90, p99)


def test_throughput_counts_slow_runs_too():
    assert Latency(8, ((10.0, 10.0), (10.0, 50.0))).images_per_second == pytest.approx(8 * 4 / 0.080)


@pytest.mark.parametrize(("rounds", "k"), [(6, 1), (8, 1), (9, 2), (20, 6), (100, 40)])
def test_the_interval_is_that_of_the_sign_test(rounds, k):
    """Ranks from tables of the sign test at 95 %."""
    assert interval(list(range(rounds, 0, -1))) == (k, rounds + 1 - k)


def test_five_rounds_have_no_interval():
    assert interval([1.0] * 5) is None
    assert Latency(1, ((1.0,),) * 5).uncertainty is None


def test_the_interval_holds_the_median_as_often_as_it_says():
    chance = random.Random(0)
    held = 0
    for _ in range(2000):
        low, high = interval([chance.lognormvariate(0, 1) for _ in range(20)])
        held += low <= 1.0 <= high  # the median of that distribution
    assert 0.95 <= held / 2000 <= 0.975


def test_a_disturbance_of_some_rounds_does_not_move_the_median():
    chance = random.Random(1)
    quiet = [(chance.gauss(10, 0.1),) for _ in range(20)]
    disturbed = [(5 * ms,) if i % 4 == 0 else (ms,) for i, (ms,) in enumerate(quiet)]
    assert Latency(1, tuple(disturbed)).p50 == pytest.approx(Latency(1, tuple(quiet)).p50, rel=0.01)


def test_a_ratio_is_taken_round_by_round():
    """A machine that becomes ten times as slow in between changes both, and their ratio not at all."""
    slow = [1.0] * 10 + [10.0] * 10
    assert ratio([2 * s for s in slow], slow) == (2.0, (2.0, 2.0))


def test_half_the_uncertainty_takes_four_times_the_rounds():
    assert rounds_for(0.01, 20, 0.02) == 80
    assert rounds_for(0.01, 20, 0.001) == 6


# ---------------------------------------------------------------------- what was asked for


def test_every_file_in_every_precision_once(folder):
    model, exported = str(folder / "model.safetensors"), str(folder / "model.onnx")
    found = contenders(model, [exported, exported], [], ["auto", "bf16", "auto"])
    assert [(c.path, c.runtime, c.precision, c.is_model) for c in found] == [
        (model, "torch", "auto", True), (model, "torch", "bf16", True),
        (exported, "onnx", "auto", False), (exported, "onnx", "bf16", False),
    ]  # fmt: skip


def test_named_runtimes_take_the_files_that_they_open(folder):
    files = [str(folder / "model.onnx")]
    found = contenders(str(folder / "model.safetensors"), files, ["onnx", "openvino"], ["auto"])
    assert [(Path(c.path).suffix, c.runtime) for c in found] == [(".onnx", "onnx"), (".onnx", "openvino")]


def test_a_folder_stands_for_the_exports_in_it(folder):
    found = contenders("swinv2_pico", [str(folder)], [], ["auto"])
    assert [Path(c.path).name for c in found] == ["swinv2_pico", "broken.onnx", "model.onnx", "other.onnx"]


def test_a_contender_knows_its_files_by_size_and_hash(folder):
    one, other = contenders(str(folder / "model.onnx"), [str(folder / "other.onnx")], [], ["auto"])
    assert one.size == (folder / "model.onnx").stat().st_size
    assert one.sha256 != other.sha256
    (name,) = contenders("swinv2_pico", [], [], ["auto"])
    assert (name.size, name.sha256) == (None, None)


@pytest.mark.parametrize(
    ("exports", "options", "words"),
    [
        (["missing.onnx"], {}, "No such file"),
        (["data"], {}, "data holds no exported model"),
        (["data/val/a/0.png"], {}, "0.png is no model; exported ones end in .onnx"),
        (["model.onnx"], {"runtimes": ["litert"]}, "none of litert opens model.onnx; its runtime is onnx"),
        ([], {"runtimes": ["tensorflow"]}, "there is no runtime 'tensorflow'"),
        ([], {"precisions": ["fp6"]}, "there is no precision 'fp6'; choose from auto, fp32"),
        ([], {"rounds": 0}, "rounds is 0; give at least 1"),
        ([], {"batch_sizes": [8, 0]}, "batch_size is 0; give at least 1"),
        ([], {"threads": 0}, "threads is 0; give at least 1"),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused_before_anything_runs(exports, options, words, folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(contest, "open_contender", lambda *_: pytest.fail("it began"))
    with pytest.raises((UsageError, FileNotFoundError), match=words):
        swinv2.benchmark("model.safetensors", exports, **options)


@pytest.mark.parametrize("written", [["--batch-size", "1", "8"], ["--batch-size", "1,8"], ["batch_size=1,8"]])
def test_batch_sizes_are_written_after_one_another(written):
    parsed = Command.of(command).parse(["model.onnx", *written, "--rounds", "3"], "swinv2 benchmark")
    assert (parsed["model"], parsed["batch_size"], parsed["rounds"]) == ("model.onnx", (1, 8), 3)


def test_the_runtimes_of_the_command_are_those_of_the_table():
    """Without paddle, whose files torch reads."""
    assert set(get_args(RuntimeName)) == {"auto", *RUNTIMES} - {"paddle"}


# ---------------------------------------------------------------------- side by side


def test_every_contender_has_its_row(measured):
    found = [(Path(row.path).name, row.runtime, row.precision, bool(row.latency)) for row in measured.rows]
    assert found == [
        ("model.safetensors", "torch", "fp32", True), ("model.safetensors", "torch", "bf16", True),
        ("model.onnx", "onnx", "fp32", True), ("model.onnx", "onnx", "bf16", False),
        ("other.onnx", "onnx", "fp32", True), ("other.onnx", "onnx", "bf16", False),
        ("broken.onnx", "onnx", "auto", False), ("broken.onnx", "onnx", "bf16", False),
    ]  # fmt: skip
    assert len({row.label for row in measured.rows}) == len(measured.rows)


def test_what_cannot_run_says_why(measured):
    assert "not in 'bf16'" in row_of(measured, "model.onnx", "bf16").not_run
    assert "broken.onnx" in row_of(measured, "broken.onnx", "auto").not_run
    assert [line for line in printing.reasons(measured) if "broken.onnx" in line]


def test_every_round_has_its_turn_at_every_batch(measured):
    for row in measured.ran:
        assert list(row.latency) == [1, 3]
        for batch, latency in row.latency.items():
            assert (latency.batch, len(latency.rounds)) == (batch, 7)
            assert latency.interval[0] <= latency.p50 <= latency.interval[1]
            assert row.whole[batch].p50 > 0


def test_speed_is_that_against_the_model(measured):
    row, model = row_of(measured, "model.onnx"), measured.ran[0]
    times, (low, high) = measured.speed(row, 1)
    assert low <= times <= high
    assert times == pytest.approx(
        np.median(np.divide(model.latency[1].medians, row.latency[1].medians)), rel=1e-9
    )
    assert measured.speed(model, 1) is None


def test_loading_and_memory_are_of_each_contender_alone(measured):
    torch, onnx = row_of(measured, "model.safetensors"), row_of(measured, "model.onnx")
    for row in (torch, onnx):
        assert min(row.import_ms, row.load_ms, row.first_ms) > 0
        assert row.memory[3] >= row.memory[1] > row.bare_memory > 10e6
    assert onnx.peak_memory < torch.peak_memory / 2  # it does not carry torch along


def test_answers_are_compared_with_the_model(measured):
    assert measured.reference == "the model in torch, fp32"
    assert row_of(measured, "model.safetensors").comparison.error == 0
    assert row_of(measured, "model.onnx").comparison.error < 1e-4
    assert 1e-4 < row_of(measured, "model.safetensors", "bf16").comparison.error < 8e-2
    assert row_of(measured, "other.onnx").comparison.error > 0.1  # other weights, other answers


def test_accuracy_and_agreement_are_those_of_the_pictures(measured, folder):
    model = small_model()
    pictures, session = Pictures.of(folder / "data", model.record, 1000), TorchSession(model, device="cpu")
    own = np.concatenate([session.run(x).argmax(1) for x, _ in pictures.batches(model.record, 5)])
    others = TorchSession(small_model(seed=1), device="cpu")
    theirs = np.concatenate([others.run(x).argmax(1) for x, _ in pictures.batches(model.record, 5)])
    assert len(own) == len(pictures) > 5
    for name, expected in (("model.safetensors", own), ("model.onnx", own), ("other.onnx", theirs)):
        found = row_of(measured, name).answers
        assert found.images == len(pictures)
        assert found.correct == sum(expected == pictures.labels)
        assert found.agreeing == sum(expected == own)


def test_the_table_has_a_line_per_contender_and_batch(measured):
    head, *lines = printing.table(measured)
    assert len(lines) == 2 * len(measured.ran)
    assert {len(line) for line in lines} == {len(head)}
    first = dict(zip(head, lines[0], strict=True))
    assert (first["contender"], first["batch"], first["speed"]) == (measured.rows[0].label, "1", "1")
    assert float(first["ms"].replace(",", "")) > 0
    widths = {
        len(line) for line in printing.aligned([("a", "b"), ("1,000", "2"), ("3", "4,000")]).splitlines()
    }
    assert widths == {12}


def test_the_files_hold_the_same_figures(measured, tmp_path):
    printing.write_csv(tmp_path / "run.csv", measured)
    rows = list(csv.DictReader((tmp_path / "run.csv").read_text().splitlines()))
    assert len(rows) == 2 * len(measured.ran) + sum(not row.latency for row in measured.rows)
    assert float(rows[0]["p50_ms"]) == measured.rows[0].latency[1].p50
    assert [row for row in rows if row["not_run"] and row["p50_ms"] == ""]
    printing.write_markdown(tmp_path / "run.md", measured)
    lines = (tmp_path / "run.md").read_text().splitlines()
    assert sum(line.startswith("|") for line in lines) == 2 + 2 * len(measured.ran)
    assert sum("did not run" in line for line in lines) == sum(not row.latency for row in measured.rows)
    found = json.loads(json.dumps(measured.to_dict()))
    assert found["contenders"][0]["batches"]["1"]["p50_ms"] == measured.rows[0].latency[1].p50
    assert found["machine"]["cores"] >= 1
    assert found["versions"]["torch"]


def test_nothing_in_the_files_names_this_machine_or_its_user(measured, folder):
    text = json.dumps(measured.to_dict()).replace(str(folder), "")
    assert os.uname().nodename not in text
    assert str(Path.home()) not in text
    assert sys.prefix not in text


def test_the_picture_shows_every_contender(measured):
    from matplotlib.text import Text

    from swinv2.benchmark.drawing import picture

    figure = picture(measured)
    figure.draw_without_rendering()
    said = [text.get_text() for text in figure.findobj(Text)]
    for i, row in enumerate(sorted(measured.ran, key=lambda row: row.latency[1].p50), 1):
        assert f"{row.label}  {i}" in said
        assert str(i) in said  # its point
    assert "accuracy (%)" in said


def test_labels_tell_contenders_apart():
    rows = [
        Row("a.onnx", "onnx", "fp32", "cpu"),
        Row("b.onnx", "onnx", "fp32", "cpu"),
        Row("a.onnx", "onnx", "fp32", "cuda"),
    ]
    give_labels(rows)
    assert [row.label for row in rows] == ["onnx fp32 (a.onnx)", "onnx fp32 (b.onnx)", "onnx fp32 cuda"]


def test_auto_and_the_precision_that_it_means_are_one_contender(folder):
    result = swinv2.benchmark(
        folder / "model.onnx", batch_sizes=[1], rounds=1, threads=1, precisions=["auto", "fp32"]
    )
    assert [row.precision for row in result.rows] == ["fp32"]
    assert result.notes[0].startswith("too few rounds")


def test_exports_alone_are_compared_with_what_their_record_says(folder):
    result = swinv2.benchmark(
        folder / "model.onnx", [folder / "other.onnx"], batch_sizes=[1], rounds=1, threads=1
    )
    assert result.reference.startswith("what the model in torch answered when")
    errors = [row.comparison.error for row in result.rows]
    assert errors[0] < 1e-4
    assert errors[1] > 0.1
    assert "torch" not in result.versions


def test_a_model_in_memory_can_be_measured():
    result = swinv2.benchmark(small_model(), batch_sizes=[2], rounds=1, threads=1)
    assert [row.label for row in result.ran] == ["torch fp32"]


def test_the_model_itself_must_be_there(folder):
    with pytest.raises(FileNotFoundError):
        swinv2.benchmark(folder / "missing.safetensors", threads=1)


def test_photographs_are_decoded_at_the_size_that_is_documented():
    import io

    assert {Image.open(io.BytesIO(jpeg)).size for jpeg in photographs()} == {SIZE}


# ---------------------------------------------------------------------- processes


@pytest.fixture
def two(folder):
    """Two contenders that are ready for turns."""
    found = []
    for contender in contenders(str(folder / "model.onnx"), [str(folder / "other.onnx")], [], ["auto"]):
        row, running = open_contender(contender, ONE_THREAD | {"batch_sizes": [1]})
        assert running is not None, row.not_run
        found.append(running)
    give_labels([one.row for one in found])
    yield found
    for one in found:
        one.process.close()


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_the_death_of_one_is_not_the_end_of_the_others(two):
    first, second = two

    def kill(what, share):
        if share > 0.4 and not first.row.not_run:
            os.kill(first.process.pid, signal.SIGKILL)

    take_turns(two, [1], 8, kill)
    assert "ended with signal SIGKILL" in first.row.not_run
    assert 0 < len(first.row.latency[1].rounds) < 8
    assert len(second.row.latency[1].rounds) == 8


def test_turns_are_in_another_order_every_round(two, monkeypatch):
    order = []
    monkeypatch.setattr(Running, "turn", lambda self, batch: order.append(self.row.path))
    take_turns(two, [1], 20, lambda what, share: None)
    firsts = order[::2]
    assert len(order) == 40
    assert 5 <= firsts.count(two[0].row.path) <= 15


def test_nothing_is_left_behind_when_it_is_interrupted(folder):
    pids = []
    started = Process.__init__

    def remember(self, name):
        started(self, name)
        pids.append(self.pid)

    def interrupt(what, share):
        if what.startswith("batch"):
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Process, "__init__", remember)
        with pytest.raises(KeyboardInterrupt):
            swinv2.benchmark(
                folder / "model.onnx", [folder / "other.onnx"], threads=1, batch_sizes=[1], tell=interrupt
            )
    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_an_error_over_there_is_a_sentence_here_and_the_process_lives(folder):
    with Process("it") as process:
        with pytest.raises(FileNotFoundError):
            process.ask("open", path="missing.onnx", runtime="onnx", precision="auto", **ONE_THREAD)
        with pytest.raises(child.Died, match="running it failed: AttributeError"):
            process.ask("no_such_method")
        assert process.ask(
            "open", path=str(folder / "model.onnx"), runtime="onnx", precision="auto", **ONE_THREAD
        )


def test_a_contender_without_torch_needs_none(folder):
    """Its process never imports it: its memory and its start are those of its runtime."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from swinv2.benchmark.turns import Turns\n"
        f"turns = Turns(); turns.open({str(folder / 'model.onnx')!r}, 'onnx', 'auto', 'auto', 1)\n"
        "turns.warm(1, 0.01); print(len(turns.turn(1, 4)['ms']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "4\n"), done.stderr


# ---------------------------------------------------------------------- the command


def test_the_command_writes_what_it_was_asked_for(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    files = "--output run.json --csv run.csv --markdown run.md --picture run.png"
    line = (
        f"benchmark {folder}/model.onnx {folder}/broken.onnx --batch-size 1 2 --rounds 6 --threads 1 {files}"
    )
    assert cli.main(line.split()) == Exit.PARTIAL
    out = capsys.readouterr().out
    assert "two_stages_for_tests, 64 x 64 pixels" in out
    assert "broken.onnx) did not run: " in out
    assert "medians are known to within" in out
    assert json.loads(Path("run.json").read_text())["settings"]["batch_sizes"] == [1, 2]
    with Image.open("run.png") as picture:
        assert picture.width > 500
    assert Path("run.csv").exists()
    assert Path("run.md").exists()


def test_nothing_that_runs_is_a_failure(folder, capsys):
    line = f"benchmark {folder}/model.onnx --precision bf16 --threads 1 --rounds 1"
    assert cli.main(line.split()) == Exit.FAILED
    assert "did not run: onnx computes in" in capsys.readouterr().out
