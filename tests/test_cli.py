"""The command line: every right spelling works, every wrong one is refused with the nearest right one."""

from __future__ import annotations

import errno
import importlib
import json
import os
import random
import re
import select
import subprocess
import sys
import types
from pathlib import Path
from typing import Literal

import pytest
from folder import make_folder

from swinv2 import cli, console
from swinv2.artifact import ArtifactError
from swinv2.options import WIDTH, Command, _usage
from swinv2.verbs import Exit, UsageError


def toy(
    model: str,
    inputs: list[str],
    *,
    top_k: int = 5,
    rate: float | None = None,
    image_size: int | tuple[int, int] | None = None,
    runtime: Literal["torch", "onnx"] = "torch",
    output: Path | None = None,
    name: str | None = None,
    allow_new: list[str] = [],  # noqa: B006 -- a signature to read, never called with it
    augment: bool = True,
    json: bool = False,
) -> int:
    """Do nothing, with every kind of option.

    Args:
        model: a model.
        inputs: one or more files.
        top_k: how many.

    Examples:
        swinv2 toy m photo.jpg --top-k 3
    """
    if json:
        console.emit_json({"top_k": top_k})
    return Exit.DONE


TOY = Command.of(toy)


def read(*tokens: str) -> dict:
    return TOY.parse(["m", "a.jpg", *tokens], "swinv2 toy")


@pytest.fixture
def verb(monkeypatch):
    """Make a function the verb `toy`."""

    def install(function) -> None:
        module = types.ModuleType("toy_verb")
        module.command = function
        monkeypatch.setitem(sys.modules, "toy_verb", module)
        monkeypatch.setitem(cli.VERBS, "toy", ("toy_verb", "a toy"))

    return install


# ---------------------------------------------------------------------- what is right


@pytest.mark.parametrize(
    "tokens",
    [["--top-k", "3"], ["--top-k=3"], ["--top_k", "3"], ["--top_k=3"], ["top_k=3"], ["top-k=3"]],
    ids=" ".join,
)
def test_every_spelling_of_an_option_sets_it(tokens):
    assert read(*tokens)["top_k"] == 3
    assert TOY.parse([*tokens, "m", "a.jpg"], "swinv2 toy") == read(*tokens)  # before the arguments as well


@pytest.mark.parametrize(
    ("tokens", "value"),
    [
        (["--json"], True), (["json=true"], True), (["--json=true"], True), (["--json", "true"], True),
        (["--json=false"], False), (["json=false"], False), (["--json", "false"], False), ([], False),
    ],
)  # fmt: skip
def test_flags_need_no_value_and_take_one(tokens, value):
    assert read(*tokens)["json"] is value


@pytest.mark.parametrize(
    ("token", "key", "value"),
    [
        ("rate=1e-3", "rate", 1e-3),
        ("rate=2", "rate", 2.0),
        ("image_size=256", "image_size", 256),
        ("image_size=256,384", "image_size", (256, 384)),
        ("--image-size=[256, 384]", "image_size", (256, 384)),
        ("runtime=onnx", "runtime", "onnx"),
        ("output=a b/c", "output", Path("a b/c")),
        ("name=null", "name", "null"),  # text is taken as typed, whatever YAML would make of it
        ("name=#1", "name", "#1"),
        ("name=007", "name", "007"),
        ("name=a=b", "name", "a=b"),
        ("--augment=false", "augment", False),
        ("model=x", "model", "x"),  # arguments have names too
    ],
)
def test_values_arrive_in_their_type(token, key, value):
    tokens = ["a.jpg", token] if key == "model" else ["m", "a.jpg", token]
    got = TOY.parse(tokens, "swinv2 toy")[key]
    assert got == value
    assert type(got) is type(value)


def test_json_is_in_a_pipe_while_the_program_goes_on():
    """A server says where it listens: who reads that must not wait for its end."""
    code = "import sys; from swinv2.console import emit_json; emit_json({'http': 1}); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        try:
            assert select.select([program.stdout], [], [], 20)[0], "nothing came within 20 seconds"
        finally:
            program.stdin.close()
        assert json.loads(program.stdout.read()) == {"http": 1}


def test_lists_are_arguments_in_a_row_and_options_repeated():
    values = TOY.parse(["m", "a", "--allow-new", "x", "b", "allow_new=y", "-"], "swinv2 toy")
    assert (values["inputs"], values["allow_new"]) == (["a", "b", "-"], ["x", "y"])


def test_two_dashes_end_the_options():
    assert TOY.parse(["m", "--", "--top-k", "top_k=3"], "swinv2 toy")["inputs"] == ["--top-k", "top_k=3"]


def test_a_file_of_that_very_name_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("top_k=3").touch()
    values = read("top_k=3", "top_k=4")
    assert (values["inputs"], values["top_k"]) == (["a.jpg", "top_k=3"], 4)


def test_addresses_with_an_equals_sign_are_inputs():
    assert read("https://example.org/a?top_k=3")["inputs"][1] == "https://example.org/a?top_k=3"


def test_parse_runs_nothing(verb):
    def explode(model: str, *, json: bool = False) -> int:
        raise AssertionError("ran")

    verb(explode)
    command, values = cli.parse(["toy", "m"])
    assert command.function is explode
    assert values == {"model": "m", "json": False}


# ---------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("tokens", "sentence"),
    [
        (["--modle", "x"], "unknown option --modle; did you mean --model? `swinv2 toy --help` lists all"),
        (["modle=x"], "unknown option modle=; did you mean model=? `swinv2 toy --help` lists all"),
        (["--top", "3"], "unknown option --top; did you mean --top-k?"),  # no abbreviations
        (["-top-k", "3"], "unknown option -top-k; did you mean --top-k?"),
        (["\u2013top-k", "3"], "unknown option \u2013top-k; did you mean --top-k?"),  # pasted from a web page
        (["--zzzz"], "unknown option --zzzz; `swinv2 toy --help` lists all"),
        (["--top-k", "x"], "--top-k is 'x'; give a whole number"),
        (["--top-k=3.5"], "--top-k is '3.5'; give a whole number"),
        (["--top-k="], "--top-k is ''; give a whole number"),
        (["--rate=fast"], "--rate is 'fast'; give a number"),
        (["--json=maybe"], "--json is 'maybe'; give true or false"),
        (["--runtime", "onx"], "--runtime is 'onx'; give torch or onnx"),
        (["--image-size", "1,2,3"], "--image-size is '1,2,3'; give a whole number or 2 values with commas"),
        (["--top-k"], "--top-k needs a value: a whole number"),
        (["--top-k", "--json"], "--top-k needs a value"),
        (["--top-k", "3", "top_k=4"], "--top-k is given twice, 3 and 4; give it once"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_in_one_sentence(tokens, sentence):
    with pytest.raises(UsageError) as refusal:
        read(*tokens)
    assert str(refusal.value).startswith(sentence)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("tokens", "sentence"),
    [
        ([], "MODEL is missing"),
        (["m"], "INPUTS is missing"),
        (["model=m", "inputs=a", "b"], "unexpected argument 'b'"),
    ],
    ids=str,
)
def test_arguments_too_few_and_too_many(tokens, sentence):
    with pytest.raises(UsageError, match=sentence):
        TOY.parse(tokens, "swinv2 toy")


def commands() -> dict[str, Command]:
    """Every command there is, by what is typed: "predict", "data prepare"."""
    found = {}
    for name, (module_name, _) in cli.VERBS.items():
        module = importlib.import_module(module_name)
        group = getattr(module, "COMMANDS", None)
        found |= (
            {f"{name} {sub}": Command.of(f) for sub, f in group.items()}
            if group
            else {name: Command.of(module.command)}
        )
    return found


COMMANDS = commands()


# What people have in their scripts. A change here is a change for them: it belongs into CHANGELOG.md.
FROZEN = {
    "predict": """
        IMAGES... --model --top-k --runtime --device --precision --batch-size --threads --private-urls --csv --json
    """,
    "train": """
        DATA --model --recipe --output --overwrite --resume --save-every --processes --shard --plan --device
        --workers --skip-unreadable --deterministic --log-every --tensorboard --wandb --json --pretrained
        --image-size --sizes --crop-pct --epochs --warmup-epochs --batch-size --accumulate --reference-batch
        --lr --warmup-lr --min-lr --schedule --decay-epochs --decay-rate --weight-decay --betas --eps
        --layer-decay --freeze --clip-grad --ema --loss --class-weights --label-smoothing --drop-path
        --precision --compile --checkpointing --augment --crop-scale --auto-augment --color-jitter
        --random-erasing --flip --rotate --shift --zoom --mixup --cutmix --mix-prob --mix-switch-prob
        --teacher --distill-weight --distill-temperature --max-skipped --max-unreadable --seed
    """,
    "pretrain": """
        DATA --model --recipe --output --overwrite --resume --save-every --processes --shard --plan --device
        --workers --skip-unreadable --deterministic --log-every --tensorboard --wandb --json --pretrained
        --image-size --sizes --crop-pct --epochs --warmup-epochs --batch-size --accumulate --reference-batch
        --lr --warmup-lr --min-lr --schedule --decay-epochs --decay-rate --weight-decay --betas --eps
        --layer-decay --freeze --clip-grad --ema --drop-path --precision --compile --checkpointing --augment
        --crop-scale --auto-augment --color-jitter --random-erasing --flip --rotate --shift --zoom
        --mask-patch --mask-ratio --mask-norm --max-skipped --max-unreadable --seed
    """,
    "evaluate": """
        MODEL DATA --split --batch-size --workers --runtime --device --precision --threads --unreadable
        --real-labels --threshold --image-size --window --resize --crop-pct --interpolation --output --parquet --json
    """,
    "explain": """
        IMAGES... --model --method --target --stage --image-size --whole --device --private-urls --output --json
    """,
    "report": "RUN --data --grad-cam --json",
    "export": """
        MODEL --to --output --precision --data --image-size --dynamic-size --opset --device --json
    """,
    "verify": "EXPORTED... --against --runtime --device --json",
    "quantize": """
        MODEL --data --to --output --max-drop --images --judge --activations --image-size --opset --json
    """,
    "benchmark": """
        MODEL [EXPORTS...] --data --images --batch-size --rounds --threads --device --runtime --precision --output
        --csv --markdown --picture --compare --json
    """,
    "serve": """
        MODELS... --host --http-port --grpc-port --no-grpc --runtime --device --precision --workers --threads
        --worker-threads --max-batch-size --max-queue-delay-ms --max-queue --timeout --look --control --reflection
        --token-file --certificate --key --quiet --json
    """,
    "convert": """
        SOURCE RESULT --to --architecture --image-size --window --classes --num-classes --in-chans --allow-new
        --json
    """,
    "data check": "DATA --json",
    "data prepare": "DATASET FOLDER --source --json",
    "data pack": "DATA FOLDER --shard-mb --short-side --json",
    "models": "[NAME] --json",
    "doctor": "--quiet --json",
}


def test_the_command_line_is_what_scripts_rely_on():
    assert list(COMMANDS) == list(FROZEN)
    for name, command in COMMANDS.items():
        found = [_usage(o) if o.positional else o.written for o in command.options]
        assert found == FROZEN[name].split(), f"swinv2 {name}"


def mutations(name: str, known: set[str]) -> set[str]:
    """Names one slip of the finger away from an option's, none of them an option's."""
    chance = random.Random(name)
    i = chance.randrange(1, len(name)) if len(name) > 1 else 0
    letter = chance.choice("abcdefghijklmnopqrstuvwxyz")
    slips = {
        name[:i] + name[i + 1 :],  # dropped
        name[: i + 1] + name[i:],  # doubled
        name[:i] + letter + name[i:],  # added
        name[: i - 1] + name[i] + name[i - 1] + name[i + 1 :],  # swapped
        name[:-1],  # abbreviated
        name + "s",
        name.capitalize(),
        name.replace("-", "") if "-" in name else f"no-{name}",
        f"{name}.{name}",
        f"{name}-",
        f"-{name}",
    }
    return {s for s in slips if s and s.replace("_", "-") not in known}


def mutated() -> list[tuple[str, str]]:
    rows = []
    for name, command in COMMANDS.items():
        known = {o.name for o in command.options} | {"help"}
        for option in command.options:
            rows += [(name, slip) for slip in sorted(mutations(option.name, known))]
    return rows


def test_at_least_fifty_mutated_names_are_tried():
    assert len(mutated()) >= 50


@pytest.mark.parametrize("name", COMMANDS)
def test_mutated_option_names_are_refused_in_every_spelling(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Command, "run", lambda *_: pytest.fail("the command ran"))
    arguments = ["x" for o in COMMANDS[name].options if o.positional and o.required]
    for slip in [slip for command, slip in mutated() if command == name]:
        spellings = [[f"--{slip}", "1"], [f"--{slip}=1"]]
        if not slip.startswith("-"):
            spellings += [[f"-{slip}"], [f"{slip}=1"], [f"{slip.replace('-', '_')}=1"]]
        for tokens in spellings:
            code = cli.main([*name.split(), *arguments, *tokens])
            message = capsys.readouterr().err
            assert (code, message[:21]) == (Exit.USAGE, "error: unknown option"), (tokens, message)
            assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["predcit"], "unknown command predcit; did you mean predict? `swinv2 --help` lists all"),
        (["--json", "models"], "--json has no place before the command"),
        (["data"], "swinv2 data needs one of check, prepare, pack; `swinv2 data --help` explains them"),
        (
            ["data", "perpare"],
            "unknown command perpare; did you mean prepare? `swinv2 data --help` lists all",
        ),
    ],
    ids=" ".join,
)
def test_unknown_commands_are_refused_with_the_nearest(argv, sentence, capsys):
    assert cli.main(argv) == Exit.USAGE
    assert capsys.readouterr().err.startswith(f"error: {sentence}")


# ---------------------------------------------------------------------- errors and exit codes


class CudaOutOfMemory(RuntimeError):
    pass


CudaOutOfMemory.__name__ = "OutOfMemoryError"  # as torch calls its own


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (ValueError("top_k is 0; give at least 1"), Exit.USAGE, "top_k is 0; give at least 1"),
        (ArtifactError("m was cut off"), Exit.MODEL, "m was cut off"),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "m"),
            Exit.MODEL,
            "m: no such file or directory",
        ),
        (FileNotFoundError("no weights; fetch them"), Exit.MODEL, "no weights; fetch them"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "d"), Exit.MODEL, "d: is a directory"),
        (PermissionError(errno.EACCES, "Permission denied", "m"), Exit.MODEL, "m: permission denied"),
        (OSError(errno.ENOSPC, "No space left on device", "m"), Exit.FAILED, "m: no space left; free some"),
        (
            ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
            Exit.FAILED,
            "connection reset by peer",
        ),
        (
            ImportError('needs onnxruntime -- pip install "swinv2[onnx]"'),
            Exit.EXTRA,
            "needs onnxruntime -- pip install",
        ),
        (
            ModuleNotFoundError("No module named 'torch'", name="torch"),
            Exit.EXTRA,
            'needs torch -- pip install "swinv2[torch]"',
        ),
        (
            RuntimeError("operator torchvision::nms does not exist"),
            Exit.EXTRA,
            "torch and torchvision do not fit together",
        ),
        (MemoryError(), Exit.FAILED, "not enough memory"),
        (CudaOutOfMemory("CUDA out of memory. Tried to allocate"), Exit.FAILED, "not enough memory"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
            Exit.FAILED,
            "not enough memory",
        ),
        (KeyError("a\nb"), Exit.FAILED, "this should not happen: KeyError: 'a\\nb'; please report it"),
        (
            ImportError("cannot import name 'x'", name="swinv2.model"),
            Exit.FAILED,
            "this should not happen: ImportError",
        ),
        (ValueError("two\nlines"), Exit.USAGE, "two lines"),
        (KeyboardInterrupt(), Exit.INTERRUPTED, "interrupted"),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, BaseException) else "",
)
@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_an_error_is_one_line_and_its_code(error, code, sentence, as_json, verb, capsys):
    def fail(*, json: bool = False) -> int:
        raise error

    verb(fail)
    assert cli.main(["toy", "--json"] if as_json else ["toy"]) == code
    out, err = capsys.readouterr()
    assert err.startswith(f"error: {sentence}")
    assert err.count("\n") == 1
    assert out == "" if not as_json else json.loads(out) == {"error": err[7:-1], "code": code}


def test_a_traceback_is_shown_where_it_is_asked_for(verb, capsys, monkeypatch):
    def fail(*, json: bool = False) -> int:
        raise KeyError("x")

    verb(fail)
    monkeypatch.setenv("SWINV2_DEBUG", "1")
    assert cli.main(["toy"]) == Exit.FAILED
    assert "Traceback" in capsys.readouterr().err


def test_the_code_that_a_command_returns_is_the_exit_code(verb):
    def partial(*, json: bool = False) -> int:
        return Exit.PARTIAL

    verb(partial)
    assert cli.main(["toy"]) == 5


def test_a_reader_that_has_gone_is_no_error():
    """`swinv2 models | head -1`, with a pipe that closes before anything is written."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(
        [sys.executable, "-m", "swinv2", "models"], stdout=write_end, stderr=subprocess.PIPE, check=False
    )
    os.close(write_end)
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_exit_codes_are_those_of_the_documentation():
    text = (Path(__file__).parent.parent / "docs" / "cli.md").read_text().partition("## Exit codes")[2]
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)] == list(Exit)


# ---------------------------------------------------------------------- --json


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("cli"))


JSON_LINES = [
    ("predict photo.jpg photos --model model.safetensors", Exit.DONE),
    ("predict photo.jpg missing.jpg --model model.safetensors", Exit.PARTIAL),
    (
        "train data --model swinv2_pico --recipe scratch_small --epochs 1 --image-size 32 --output run",
        Exit.DONE,
    ),
    ("pretrain photos --model swinv2_pico --epochs 1 --image-size 64 --batch-size 1 --output pre", Exit.DONE),
    ("report run", Exit.DONE),
    ("report missing", Exit.MODEL),
    ("evaluate model.safetensors data", Exit.DONE),
    ("evaluate model.safetensors missing", Exit.MODEL),
    ("explain photo.jpg --model model.safetensors --output maps", Exit.DONE),
    ("explain photo.jpg missing.jpg --model model.safetensors --output maps", Exit.PARTIAL),
    ("export model.safetensors --to torchscript", Exit.DONE),
    ("export missing.safetensors --to onnx", Exit.MODEL),
    ("verify model.torchscript", Exit.DONE),
    ("verify missing.onnx", Exit.MODEL),
    ("quantize model.safetensors --data data --to onnx --max-drop 50", Exit.DONE),
    ("quantize model.safetensors --data missing --to onnx", Exit.MODEL),
    ("benchmark model.safetensors --rounds 1 --batch-size 1 --threads 1 --output run.json", Exit.DONE),
    ("benchmark missing.safetensors", Exit.MODEL),
    ("benchmark --compare run.json run.json", Exit.DONE),
    ("serve missing.onnx", Exit.MODEL),
    ("convert model.safetensors model.pth", Exit.DONE),
    ("convert missing.pth model.safetensors", Exit.MODEL),
    ("data check data", Exit.DONE),
    ("data prepare digits digits", Exit.DONE),
    ("data pack data packed", Exit.DONE),
    ("models", Exit.DONE),
    ("models tiny", Exit.DONE),
    ("models swinv2_tiny_window8_256", Exit.DONE),
]


@pytest.mark.parametrize(("line", "code"), JSON_LINES)
def test_json_is_one_document_and_nothing_else_is_on_stdout(line, code, folder, monkeypatch, capfd):
    monkeypatch.chdir(folder)
    assert cli.main([*line.split(), "--json"]) == code, capfd.readouterr().err
    json.loads(capfd.readouterr().out)


def test_every_command_is_tried_with_json():
    tried = {cli.parse(line.split())[0].function for line, _ in JSON_LINES}
    assert [name for name, c in COMMANDS.items() if c.function not in tried] == ["doctor"]  # test_doctor.py


# ---------------------------------------------------------------------- help


HELP = [[], *([name] for name in cli.VERBS), *(name.split() for name in COMMANDS if " " in name)]


@pytest.mark.parametrize("argv", HELP, ids=lambda argv: " ".join(argv) or "swinv2")
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_fits_a_terminal_and_is_plain(argv, flag, capsys):
    assert cli.main([*argv, flag]) == Exit.DONE
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert out.startswith("usage: swinv2")
    assert err == ""
    assert [line for line in lines if len(line) > WIDTH or line != line.rstrip()] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained_and_every_command_has_json(name):
    command = COMMANDS[name]
    assert command.summary
    assert [o.name for o in command.options if not o.help] == []
    assert [o.default for o in command.options if o.name == "json"] == [False]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_in_the_help_can_be_typed(name):
    lines = [
        line.partition("  #")[0].split() for line in COMMANDS[name].examples.splitlines() if line.strip()
    ]
    assert lines, "no examples"
    for words in lines:
        words = words[words.index("swinv2") + 1 :]  # `cat photo.jpg | swinv2 predict -`
        words = words[: next((i for i, word in enumerate(words) if word in (">", "|")), len(words))]
        assert cli.parse(words)[0].function is COMMANDS[name].function


def test_no_command_at_all_shows_the_help(capsys):
    assert cli.main([]) == Exit.USAGE
    assert capsys.readouterr().err == cli.help_text()


def test_version(capsys):
    import swinv2

    assert cli.main(["--version"]) == Exit.DONE
    assert capsys.readouterr().out == f"swinv2 {swinv2.__version__}\n"


def test_help_of_the_toy(capsys):
    shown = TOY.help("swinv2 toy")
    assert "usage: swinv2 toy MODEL INPUTS... [options]" in shown
    assert "  --top-k N               how many (default: 5)" in shown
    assert "  --runtime {torch,onnx}  (default: torch)" in shown
    assert "  --image-size N|N,N" in shown
    assert "  --augment={true,false}  (default: true)" in shown
    assert shown.endswith("examples:\n  swinv2 toy m photo.jpg --top-k 3\n")
