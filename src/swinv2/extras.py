"""Optional dependencies: asked for where they are used, refused with the cure."""

from __future__ import annotations

import importlib
import os
from importlib.util import find_spec
from types import ModuleType


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional module.

    Raises:
        ImportError: it is missing; the message names the pip command that brings it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise  # it is there and itself broken: its own message is the better one
        raise _missing(module, extra) from None


def require_later(module: str, *, extra: str) -> None:
    """The same for a module that is imported later, which takes long: only whether it is installed.

    Raises:
        ImportError: as require() does.
    """
    if find_spec(module) is None:
        raise _missing(module, extra)


def _missing(module: str, extra: str) -> ImportError:
    package = module.partition(".")[0]
    return ImportError(f'needs {package} -- pip install "swinv2[{extra}]"', name=package)


def share_processors() -> None:
    """Call before torch is loaded, where a long computation shares the machine with other programs.

    OpenMP threads that spin while they wait take processors from the very threads they wait for: on two busy
    cores a training step of swinv2_pico took 0.5 to 7 s. Threads that sleep took 0.25 s there, and as long as
    spinning ones on idle cores (0.1 s).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
