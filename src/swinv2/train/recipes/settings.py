"""Recipes as people give them: by name, as a YAML file, and setting by setting on the command line.

A file states only what it decides; everything else is as in Recipe. Unknown names and impossible values are
refused in one sentence that names the nearest known one.
"""

from __future__ import annotations

import difflib
import inspect
import os
from argparse import ArgumentError
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from swinv2.train.recipes.recipe import Pair, Recipe, Sizes

Verb = Callable[..., int]


def names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(p.name.removesuffix(".yaml") for p in _shipped().iterdir() if p.name.endswith(".yaml"))


def load(source: str | os.PathLike | Recipe, **overrides: Any) -> Recipe:
    """A recipe by name or path, with single settings replaced; None leaves a setting as it is.

    Where only epochs is replaced, the warm-up keeps its share of the run, and a staircase its steps.

    Raises:
        ValueError: an unknown recipe, setting or value, with the nearest known one.
        FileNotFoundError: a path to a YAML file that is not there.
    """
    changes = {name: value for name, value in overrides.items() if value is not None}
    changes = _typed(changes, "train")
    if isinstance(source, Recipe):
        recipe = source
    else:
        text, where = _text(source)
        recipe = Recipe(**_typed(_settings(text, where), where))
    if "epochs" in changes and "warmup_epochs" not in changes and recipe.epochs and recipe.warmup_epochs:
        changes["warmup_epochs"] = recipe.warmup_epochs * changes["epochs"] / recipe.epochs
    if "epochs" in changes and "decay_epochs" not in changes and recipe.epochs:
        share = changes["epochs"] / recipe.epochs
        changes["decay_epochs"] = tuple(sorted({max(round(e * share), 1) for e in recipe.decay_epochs}))
    return replace(recipe, **changes)


def takes_recipe(command: Verb | None = None, *, without: Collection[str] = ()) -> Any:
    """Give a command every setting of Recipe as an option that is None where not given.

    The command takes them as **overrides; its signature and help are completed from the dataclass, so that a
    setting is described in one place.

    Args:
        without: settings that mean nothing to this command.
    """

    def complete(command: Verb) -> Verb:
        plain = inspect.signature(command)
        kept = [p for p in plain.parameters.values() if p.kind is not p.VAR_KEYWORD]
        left_out = {"name", *without}
        hints = {name: kind for name, kind in get_type_hints(Recipe).items() if name not in left_out}
        added = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind | None)
            for name, kind in hints.items()
        ]
        command.__signature__ = plain.replace(parameters=kept + added)  # type: ignore[attr-defined]
        command.__annotations__ |= {p.name: p.annotation for p in added}
        documented = inspect.cleandoc(Recipe.__doc__ or "").partition("Args:\n")[2]
        command.__doc__ = f"{inspect.cleandoc(command.__doc__ or '')}\n{documented}"
        return command

    return complete if command is None else complete(command)


def _text(source: str | os.PathLike) -> tuple[str, str]:
    name = os.fspath(source)
    if name in names():
        return (_shipped() / f"{name}.yaml").read_text(), f"recipe {name}"
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return path.read_text(), str(path)  # FileNotFoundError names the file by itself
    near = difflib.get_close_matches(name, names(), n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ValueError(
        f"no recipe is called {name!r}; {hint}There are {', '.join(names())}, or give a .yaml file"
    )


def _settings(text: str, where: str) -> dict[str, Any]:
    import yaml

    try:
        settings = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{where} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(settings, dict):
        raise ValueError(f"{where} holds no settings; write lines such as `epochs: 30`")
    return settings


def _typed(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Settings with the types of the fields; unknown names and other types are refused."""
    from jsonargparse import ArgumentParser

    hints = get_type_hints(Recipe)
    typed = {}
    for name, value in settings.items():
        if name not in hints:
            near = difflib.get_close_matches(str(name), hints, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(hints)}"
            raise ValueError(f"{where} has no setting {name!r}; {hint}")
        # One at a time, so that the message can name it. Plain YAML does not read 1e-3 as a number.
        parser = ArgumentParser(exit_on_error=False)
        parser.add_argument(f"--{name}", type=hints[name])
        try:
            typed[name] = parser.parse_object({name: value})[name]
            if typed[name] is None and NoneType not in get_args(hints[name]):
                raise TypeError
        except (ArgumentError, TypeError):
            raise ValueError(f"{where}: {name} is {value!r}; give {_said(hints[name])}") from None
    return typed


def _said(kind: Any) -> str:
    kinds = [k for k in get_args(kind) if k is not NoneType] if NoneType in get_args(kind) else [kind]
    if get_origin(kinds[0]) is Literal:
        return " or ".join(get_args(kinds[0]))
    return {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        Pair: "two numbers, as in [0.1, 1.0]",
        tuple[int, ...]: "whole numbers, as in [60, 80]",
        Sizes: "sizes by epoch, as in {0: 128, 20: 192}",
    }.get(kinds[0], "a text")


def _shipped() -> Any:
    return resources.files("swinv2.train.recipes")
