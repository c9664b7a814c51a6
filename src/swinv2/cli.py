"""The command line: one subcommand per verb; a verb is imported when it is called.

What goes wrong on a user's side is one line on stderr and an exit code that says which kind; with --json it
is also the one JSON document on stdout. A traceback is shown only where SWINV2_DEBUG=1 asks for it.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import importlib
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import swinv2
from swinv2 import world
from swinv2.verbs import Exit, UsageError

if TYPE_CHECKING:
    from swinv2.options import Command

VERBS: dict[str, tuple[str, str]] = {
    # verb      module              what it does
    "predict":  ("swinv2.predict",  "say what pictures show"),
    "train":    ("swinv2.train",    "train or fine-tune on a folder of pictures"),
    "pretrain": ("swinv2.pretrain", "learn from pictures without labels, before training"),
    "evaluate": ("swinv2.evaluate", "measure a model on labelled pictures"),
    "explain":  ("swinv2.explain",  "show where in a picture a model looks"),
    "report":   ("swinv2.report",   "make a page about a run: curves, mistakes, calibration"),
    "export":   ("swinv2.export",   "write a model in the formats of other runtimes, and compare"),
    "verify":   ("swinv2.verify",   "check exported models on this machine"),
    "quantize": ("swinv2.quantize", "write a model in int8, and say what it costs"),
    "benchmark": ("swinv2.benchmark", "compare speed, memory and answers of a model in all its formats"),
    "serve":    ("swinv2.serve",    "answer over HTTP and gRPC, with a page to try a model on"),
    "convert":  ("swinv2.convert",  "move weights between libraries"),
    "data":     ("swinv2.data",     "look into data sets, make them ready, pack them"),
    "models":   ("swinv2.models",   "list the models: size, cost, accuracy, licence"),
    "doctor":   ("swinv2.doctor",   "say what works on this machine, and what to do about the rest"),
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns its exit code (verbs.Exit)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(argv)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `swinv2 models | head`: the reader has seen enough
        _silence_stdout()
        return Exit.DONE
    except KeyboardInterrupt as stop:
        return _refuse(argv, Exit.INTERRUPTED, str(stop) or "interrupted")
    except Exception as error:
        if os.environ.get("SWINV2_DEBUG") == "1":
            import traceback

            traceback.print_exc()
        return _refuse(argv, *explain(error))


def parse(argv: Sequence[str]) -> tuple[Command, dict[str, Any]]:
    """What a command line would run: the command and the values of its parameters. Runs nothing.

    Raises:
        UsageError: as the command line would, in one sentence.
    """
    program, command, rest = _find(list(argv))
    return command, command.parse(rest, program)


def help_text() -> str:
    """The help screen of swinv2 itself."""
    rows = "\n".join(f"  {verb:<10} {summary}" for verb, (_, summary) in VERBS.items())
    about = (swinv2.__doc__ or "").partition("\n")[0]
    return (
        f"usage: swinv2 COMMAND [arguments] [options]\n\n{about}\n\ncommands:\n{rows}\n\n"
        "options:\n  -h, --help  show this help; `swinv2 COMMAND --help` explains one command\n"
        "  --version   show the version\n\n"
        "Options are written --top-k 3, --top-k=3 or top_k=3. Every command takes --json.\n"
    )


def explain(error: Exception) -> tuple[Exit, str]:
    """An exception -> the exit code and the one line that a user sees."""
    from swinv2.artifact import ArtifactError
    from swinv2.child import Died
    from swinv2.data import DataError

    text = " ".join(str(error).split())
    match error:
        case UsageError():
            return Exit.USAGE, text
        case ArtifactError() | DataError():
            return Exit.MODEL, text
        case Died():
            return Exit.FAILED, text
        case ImportError() if (error.name or "").split(".")[0] == "swinv2":
            pass  # a defect of ours
        case ImportError():
            return Exit.EXTRA, _import_cure(error, text)
        case ValueError() if not isinstance(error, UnicodeError):
            return Exit.USAGE, text
        case OSError() if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return (
                Exit.FAILED,
                f"{error.filename or 'the disk'}: no space left; free some and run the command again",
            )
        case FileNotFoundError() | IsADirectoryError() | NotADirectoryError() | PermissionError():
            return Exit.MODEL, _file_text(error, text)
        case OSError():
            return Exit.FAILED, _file_text(error, text)
        case _ if isinstance(error, MemoryError) or _is_out_of_memory(error, text):
            # Training says itself what would help.
            ours = text if type(error).__module__.startswith("swinv2.") else ""
            return Exit.FAILED, ours or "not enough memory; try a smaller batch, image or model"
    if "torchvision::" in text:  # a RuntimeError of torch on importing the torchvision of another torch
        return (
            Exit.EXTRA,
            "torch and torchvision do not fit together; `swinv2 doctor` names the pair and the cure",
        )
    return Exit.FAILED, (
        f"this should not happen: {type(error).__name__}: {text}; please report it with the output of "
        "`swinv2 doctor` (SWINV2_DEBUG=1 shows where it happened)"
    )


def _run(argv: list[str]) -> int:
    if not argv:
        sys.stderr.write(help_text())
        return Exit.USAGE
    if argv[0] in ("-h", "--help"):
        sys.stdout.write(help_text())
        return Exit.DONE
    if argv[0] == "--version":
        sys.stdout.write(f"swinv2 {swinv2.__version__}\n")
        return Exit.DONE
    if _asks_help(argv) and (group := _group(argv)):
        sys.stdout.write(_group_help(argv[0], group))
        return Exit.DONE
    program, command, rest = _find(argv)
    if _asks_help(rest):
        sys.stdout.write(command.help(program))
        return Exit.DONE
    return command.run(command.parse(rest, program))


def _find(argv: list[str]) -> tuple[str, Command, list[str]]:
    """(what the command is called, the command, its arguments)"""
    verb, rest = argv[0] if argv else "", argv[1:]
    module = _module(verb)
    program, function = f"swinv2 {verb}", getattr(module, "command", None)
    if commands := getattr(module, "COMMANDS", None):
        if not rest:
            raise UsageError(
                f"{program} needs one of {', '.join(commands)}; `{program} --help` explains them"
            )
        if rest[0] not in commands:
            raise _unknown(rest[0], commands, program)
        program, function, rest = f"{program} {rest[0]}", commands[rest[0]], rest[1:]
    assert function is not None, f"{module.__name__} has neither command nor COMMANDS"
    from swinv2.options import Command  # with jsonargparse: not for a verb that does not exist

    return program, Command.of(function), rest


def _module(verb: str) -> Any:
    if verb not in VERBS:
        raise _unknown(verb, VERBS, "swinv2")
    return importlib.import_module(VERBS[verb][0])


def _unknown(name: str, names: Iterable[str], program: str) -> UsageError:
    if name.startswith("-"):
        return UsageError(f"{name} has no place before the command; `{program} --help` shows the order")
    near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    return UsageError(f"unknown command {name}; {hint}`{program} --help` lists all")


def _group(argv: list[str]) -> dict[str, Any] | None:
    """The commands of a group, where argv stops at the group: swinv2 data --help."""
    commands = getattr(_module(argv[0]), "COMMANDS", None)
    return commands if commands and argv[1] in ("-h", "--help") else None


def _group_help(verb: str, commands: dict[str, Any]) -> str:
    from swinv2.options import Command

    rows = "\n".join(f"  {name:<10} {Command.of(function).summary}" for name, function in commands.items())
    return (
        f"usage: swinv2 {verb} COMMAND [arguments] [options]\n\n{VERBS[verb][1]}\n\ncommands:\n{rows}\n\n"
        f"options:\n  -h, --help  show this help; `swinv2 {verb} COMMAND --help` explains one command\n"
    )


def _before_dashes(argv: list[str]) -> list[str]:
    return argv[: argv.index("--")] if "--" in argv else argv


def _asks_help(argv: list[str]) -> bool:
    return any(token in ("-h", "--help") for token in _before_dashes(argv))


def _asks_json(argv: list[str]) -> bool:
    return any(token in ("--json", "--json=true", "json=true") for token in _before_dashes(argv))


def _refuse(argv: list[str], code: Exit, text: str) -> int:
    """Say why nothing came of it: to people, and with --json to programs.

    Of several processes that work together, the first speaks for all but where one has a defect of its own.
    """
    me = world.current()
    if me.is_first or code == Exit.FAILED:
        print(f"error: {text}", file=sys.stderr)
    if me.is_first and _asks_json(argv):
        from swinv2.console import emit_json

        emit_json({"error": text, "code": int(code)})
    return code


def _file_text(error: OSError, text: str) -> str:
    if error.errno is None or error.strerror is None:
        return text  # raised by us, with a sentence
    return f"{error.filename}: {error.strerror.lower()}" if error.filename else error.strerror.lower()


def _import_cure(error: ImportError, text: str) -> str:
    from swinv2.packages import cure

    if "pip install" in text or error.name is None or not (how := cure(error.name.split(".")[0])):
        return text
    return f"needs {error.name} -- {how}" if isinstance(error, ModuleNotFoundError) else f"{text} -- {how}"


def _is_out_of_memory(error: Exception, text: str) -> bool:
    """torch says it with a class of its own on a GPU and with a RuntimeError on a CPU."""
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text


def _silence_stdout() -> None:
    """Python flushes stdout once more at exit; give it a place where that cannot fail."""
    with contextlib.suppress(OSError):  # stdout is not a file: nothing to flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
