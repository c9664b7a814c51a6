"""The verbs: one module, one function and one subcommand of the same name each.

swinv2.train(...) calls the function train of the module swinv2.train; both stay reachable under the one
name because the module itself can be called. The command line calls the module's command(...), whose
signature and docstring are its options and its help, and which returns an exit code.
"""

from __future__ import annotations

import sys
from enum import IntEnum
from types import ModuleType
from typing import Any


class Exit(IntEnum):
    """Exit codes of every command; documented in docs/cli.md."""

    DONE = 0
    FAILED = 1  # something that should not happen: a defect, a full disk
    USAGE = 2  # unknown option, impossible value
    MODEL = 3  # the model or data named is missing, damaged or does not fit
    EXTRA = 4  # an optional package is missing; the message names the pip command
    PARTIAL = 5  # some inputs could not be read; the others were done
    INTERRUPTED = 130
    TERMINATED = 143  # by SIGTERM, after everything was saved


class UsageError(ValueError):
    """A command line that cannot be meant, in one sentence."""


class _Verb(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self, self.__name__.rpartition(".")[2])(*args, **kwargs)


def make_callable(module_name: str) -> None:
    """Called with its __name__ by a module whose function of the same name is public in swinv2."""
    sys.modules[module_name].__class__ = _Verb
