"""A command's signature as its command line: what may be written, what it means, what is refused.

Command.of(function) reads a function once: parameters without a default are positional arguments, the
others options, the docstring is the help. Options are written --top-k 3, --top-k=3 or top_k=3; nothing is
abbreviated and nothing unknown passes. Types are checked by jsonargparse, which is imported with this file:
the top-level help of swinv2 does without both.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import os
import re
import textwrap
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from docstring_parser import DocstringStyle
from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentParser

from swinv2.verbs import UsageError

WIDTH = 80  # columns of a help screen
_COLUMN = 26  # where the explanations start
_DASHES = ("-", "\u2010", "\u2013", "\u2014", "\u2212")  # web pages turn "--" into these; no file starts so
_NUMBER = re.compile(r"-\.?\d")
_KEY_VALUE = re.compile(r"([^\W\d][\w.-]*)=(.*)", re.DOTALL)
_COMMON_HELP = {"json": "print the result as one JSON document; notes go to stderr"}


@dataclass(frozen=True)
class Option:
    """One parameter of a command. Its name has dashes, the parameter behind it (dest) underscores."""

    dest: str
    type: Any
    default: Any
    help: str
    positional: bool

    @property
    def name(self) -> str:
        return self.dest.replace("_", "-")

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty

    @property
    def is_flag(self) -> bool:
        return self.type is bool

    @property
    def is_switch(self) -> bool:
        """A flag that also takes a value: bool | str."""
        return bool in get_args(self.type)

    @property
    def many(self) -> bool:
        """Several values: one after the other as an argument, the option repeated otherwise."""
        return get_origin(self.type) is list

    @property
    def element(self) -> Any:
        """The type of one value."""
        return get_args(self.type)[0] if self.many else self.type

    @property
    def written(self) -> str:
        """As the help screen and messages show it."""
        return self.dest.upper() if self.positional else f"--{self.name}"

    @property
    def metavar(self) -> str:
        return _metavar(self.element, self.dest.upper())


@dataclass(frozen=True)
class Command:
    """A function that a command line can call."""

    function: Callable[..., int]
    summary: str
    description: str
    examples: str
    options: tuple[Option, ...]

    @classmethod
    def of(cls, function: Callable[..., int]) -> Command:
        """Read the signature, the type hints and the Google-style docstring of a function."""
        doc = parse_docstring(inspect.cleandoc(function.__doc__ or ""), style=DocstringStyle.GOOGLE)
        described = {p.arg_name: _phrase(p.description or "") for p in doc.params}
        hints = get_type_hints(function)
        options = tuple(
            Option(
                dest=name,
                type=_without_none(hints[name], p.default),
                default=p.default,
                help=described.get(name) or _COMMON_HELP.get(name, ""),
                # models(name=None, /): an argument that may be left out; *, to: an option that must be given
                positional=p.kind is p.POSITIONAL_ONLY
                or (p.default is p.empty and p.kind is not p.KEYWORD_ONLY),
            )
            for name, p in inspect.signature(function).parameters.items()
        )
        assert sum(o.positional and o.many for o in options) <= 1, (
            "two arguments of many values cannot be told apart"
        )
        examples = "\n".join(e.description or "" for e in doc.examples)
        return cls(function, doc.short_description or "", doc.long_description or "", examples, options)

    def run(self, values: dict[str, Any]) -> int:
        """Call the function with what parse() returned."""
        bound = inspect.signature(self.function).bind_partial()
        bound.arguments.update(values)
        return self.function(*bound.args, **bound.kwargs)

    # ------------------------------------------------------------------ reading

    def parse(self, tokens: Sequence[str], program: str) -> dict[str, Any]:
        """Parameter names -> values, defaults included.

        Raises:
            UsageError: an unknown option, an impossible value, an argument too few or too many.
        """
        given, loose = self._split(list(tokens), program)
        self._place(loose, given, program)
        parser = self._parser()
        values = {}
        for option in self.options:
            if option.dest in given:
                read = [_value(parser, option, text) for text in given[option.dest]]
                values[option.dest] = read if option.many else read[0]
            elif option.required:
                raise UsageError(f"--{option.name} is missing; give {_allowed(option.type)}")
            else:
                values[option.dest] = list(option.default) if option.many else option.default
        return values

    def _split(self, tokens: list[str], program: str) -> tuple[dict[str, list[str]], list[str]]:
        """Tokens -> texts by parameter, and the tokens that are no options."""
        given: dict[str, list[str]] = {}
        loose: list[str] = []
        while tokens:
            token = tokens.pop(0)
            if token == "--":
                loose += tokens
                break
            key_value = _KEY_VALUE.fullmatch(token)
            if key_value and not os.path.exists(token):
                option = self._find(key_value[1], "{}=", program)
                text: str | None = key_value[2]
            elif token != "-" and token.startswith(_DASHES) and not _NUMBER.match(token):
                name, equals, after = token.partition("=")
                option = self._find(name, "--{}", program)
                text = after if equals else self._following(option, tokens)
                if _is_series(option) and not equals:  # --batch-size 1 8, --batch-size 1,8
                    text = ",".join([text, *_numbers(tokens)])
                if _is_choice(option):  # --to onnx openvino, --to onnx,openvino
                    given.setdefault(option.dest, []).extend(self._choices(option, text, tokens))
                    continue
            else:
                loose.append(token)
                continue
            assert text is not None
            if option.dest in given and not option.many:
                raise UsageError(
                    f"{option.written} is given twice, {given[option.dest][0]} and {text}; give it once"
                )
            given.setdefault(option.dest, []).append(text)
        return given, loose

    def _following(self, option: Option, tokens: list[str]) -> str:
        """The value in the next token; a flag needs none."""
        if option.is_flag:
            return tokens.pop(0) if tokens and tokens[0] in ("true", "false") else "true"
        if not tokens or (tokens[0].startswith("--") and len(tokens[0]) > 2):
            if option.is_switch:
                return "true"
            raise UsageError(f"--{option.name} needs a value: {_allowed(option.type)}")
        return tokens.pop(0)

    def _choices(self, option: Option, text: str, tokens: list[str]) -> list[str]:
        """Several of a fixed set of names, after one another; what is no such name is not taken."""
        found, names = text.split(","), set(map(str, get_args(option.element)))
        while tokens and set(tokens[0].split(",")) <= names:
            found += tokens.pop(0).split(",")
        return found

    def _find(self, written: str, form: str, program: str) -> Option:
        """The option of this name; form is how the user spells options, for the suggestion."""
        dashes = len(written) - len(written.lstrip("".join(_DASHES)))
        name = written[dashes:].replace("_", "-")
        for option in self.options:
            if option.name == name and written[:dashes] in ("", "--"):
                return option
        near = difflib.get_close_matches(
            name.lower(), [o.name for o in self.options] + ["help"], n=1, cutoff=0.5
        )
        said = form.format(written) if form.endswith("=") else written
        hint = f"; did you mean {form.format(near[0])}?" if near else ";"
        raise UsageError(f"unknown option {said}{hint} `{program} --help` lists all")

    def _place(self, loose: list[str], given: dict[str, list[str]], program: str) -> None:
        """Hand loose tokens to the arguments that were not given by name."""
        free = [o for o in self.options if o.positional and o.dest not in given]
        for i, option in enumerate(free):
            take = len(loose) - sum(o.required for o in free[i + 1 :]) if option.many else 1
            taken, loose = loose[: max(take, 0)], loose[max(take, 0) :]
            if taken:
                given[option.dest] = taken
            elif option.required:
                raise UsageError(f"{option.written} is missing; `{program} --help` shows what to give")
        if loose:
            raise UsageError(f"unexpected argument {loose[0]!r}; `{program} --help` shows what to give")

    def _parser(self) -> ArgumentParser:
        parser = ArgumentParser(exit_on_error=False, add_help=False, allow_abbrev=False)
        for option in self.options:
            parser.add_argument(f"--{option.name}", dest=option.dest, type=option.element)
        return parser

    # ------------------------------------------------------------------ help

    def help(self, program: str) -> str:
        """The help screen."""
        arguments = [o for o in self.options if o.positional]
        options = [o for o in self.options if not o.positional]
        asked = [_invocation(o) for o in options if o.required]
        usage = " ".join([f"usage: {program}", *map(_usage, arguments), *asked, "[options]"])
        parts = [textwrap.fill(usage, WIDTH, subsequent_indent=" " * 8), textwrap.fill(self.summary, WIDTH)]
        parts += [textwrap.fill(p, WIDTH) for p in re.split(r"\n\s*\n", self.description) if p]
        if arguments:
            parts.append("arguments:\n" + "\n".join(_row(o.written, _explained(o)) for o in arguments))
        rows = [_row(_invocation(o), _explained(o)) for o in options]
        parts.append("options:\n" + "\n".join([*rows, _row("-h, --help", "show this help")]))
        if self.examples:
            parts.append("examples:\n" + "\n".join(map(_example, self.examples.splitlines())))
        return "\n\n".join(parts) + "\n"


def _phrase(text: str) -> str:
    """In one line; a single sentence loses its full stop, since the default may follow it."""
    text = " ".join(text.split())
    return text if ". " in text else text.removesuffix(".")


def _row(left: str, right: str) -> str:
    """One entry of a help screen; a long left side has a line of its own."""
    lines = textwrap.wrap(right, WIDTH - _COLUMN) or [""]
    if len(left) > _COLUMN - 4 and right:
        lines.insert(0, "")
    rows = [f"  {left}".ljust(_COLUMN) + lines[0], *(" " * _COLUMN + line for line in lines[1:])]
    return "\n".join(row.rstrip() for row in rows)


def _example(line: str) -> str:
    """Indented; a long one is continued on further lines, in the way that a shell reads."""
    lines = [" "]
    for part in re.split(r" (?=--|[|>])", line):  # an option stays with its value
        if lines[-1].strip() and len(lines[-1]) + len(part) > WIDTH - 3:
            lines[-1] += " \\"
            lines.append("     ")
        lines[-1] += f" {part}"
    return "\n".join(lines).rstrip()


def _is_choice(option: Option) -> bool:
    """Several of a fixed set of names: written after one another."""
    return option.many and get_origin(option.element) is Literal


def _is_series(option: Option) -> bool:
    """Any number of values that are one: tuple[int, ...]."""
    return get_origin(option.element) is tuple and ... in get_args(option.element)


def _numbers(tokens: list[str]) -> list[str]:
    """Those that follow; a file that is called by a number is none."""
    found = []
    while tokens and re.fullmatch(r"[\d.]+(,[\d.]+)*", tokens[0]) and not os.path.exists(tokens[0]):
        found.append(tokens.pop(0))
    return found


def _usage(option: Option) -> str:
    written = option.written + ("..." if option.many else "")
    return written if option.required else f"[{written}]"


def _invocation(option: Option) -> str:
    if option.is_flag:
        return f"--{option.name}" + ("" if option.default is False else "={true,false}")
    if option.is_switch:
        return f"--{option.name} [{option.dest.upper()}]"
    if _is_choice(option):
        return f"--{option.name} {option.dest.upper()}..."
    return f"--{option.name} {option.metavar}"


def _explained(option: Option) -> str:
    """The help of an option with its default, where there is one to tell."""
    notes = ["may be repeated"] if option.many and not option.positional and not _is_choice(option) else []
    if (option.positional or option.many) and get_origin(option.element) is Literal:
        notes.append(_allowed(option.element))
    if option.default not in (inspect.Parameter.empty, None, False, "", (), []):
        several = option.many or _is_series(option)
        shown = ", ".join(map(str, option.default)) if several else option.default
        shown = str(shown).lower() if option.is_flag else shown
        notes.append(f"default: {shown}")
    return f"{option.help} ({'; '.join(notes)})".strip() if notes else option.help


def _metavar(kind: Any, name: str) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return "{" + ",".join(map(str, inner)) + "}"
    if origin is tuple:
        return ",".join("..." if k is ... else _metavar(k, name) for k in inner)
    if origin is dict:
        return f"{{{':'.join(_metavar(k, name) for k in inner)},...}}"
    if origin in (Union, types.UnionType):
        return "|".join(dict.fromkeys(_metavar(k, name) for k in inner))
    return {int: "N", float: "X", bool: "{true,false}", Path: "PATH", types.NoneType: "null"}.get(kind, name)


def _without_none(hint: Any, default: Any) -> Any:
    """str | None = None: None is said by leaving the option out, so "none" can be a text."""
    if get_origin(hint) in (Union, types.UnionType) and default is None:
        hint = Union[tuple(t for t in get_args(hint) if t is not types.NoneType)]  # noqa: UP007 -- built, not written
    return hint


def _is_text(kind: Any) -> bool:
    return kind is str or (
        get_origin(kind) in (Union, types.UnionType) and all(map(_is_text, get_args(kind)))
    )


def _value(parser: ArgumentParser, option: Option, text: str) -> Any:
    """The text of one value -> the value in its type."""
    if _is_text(option.element):
        return text  # as typed: YAML would read "null" and "#1" as nothing
    if option.element is Path:
        return Path(text)
    kinds = [get_origin(kind) for kind in (option.element, *get_args(option.element))]
    several = r"[\w.+-]+(,[\w.+-]+)*" if ... in get_args(option.element) else r"[\w.+-]+(,[\w.+-]+)+"
    in_yaml = f"[{text}]" if tuple in kinds and re.fullmatch(several, text) else text
    try:
        return getattr(parser.parse_args([f"--{option.name}={in_yaml}"]), option.dest)
    except argparse.ArgumentError:
        raise UsageError(f"{option.written} is {text!r}; give {_allowed(option.type)}") from None


def _allowed(kind: Any) -> str:
    """What an option takes, in words."""
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", Path: "a path"}
    origin, inner = get_origin(kind), get_args(kind)
    if kind is types.NoneType:
        return "null"
    if origin is Literal:
        names = [str(name) for name in inner]
        return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
    if origin is list:
        return _allowed(inner[0])
    if origin is tuple:
        count = "" if inner[-1] is ... else f"{len(inner)} "
        return f"{count}values with commas, each {_allowed(inner[0])}"
    if origin is dict:
        return f"pairs such as {{0: 1, 2: 3}}, of {_allowed(inner[0])} and {_allowed(inner[1])}"
    if origin in (Union, types.UnionType):
        return " or ".join(map(_allowed, inner))
    return words.get(kind, getattr(kind, "__name__", str(kind)))
