"""Shared by the tests of the engine: what `make engine` has built, in build/engine or where SWINV2_BUILD says."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("SWINV2_BUILD") or Path(__file__).parents[1] / "build" / "engine")
LIBRARY = "libswinv2.dylib" if sys.platform == "darwin" else "libswinv2.so"


def built(name: str) -> Path:
    """A file of the build; a module that asks for one where nothing was built is skipped with the cure.

    Where SWINV2_BUILD names a build, as the Makefile does, everything has to be in it.
    """
    path = FOLDER / name
    if not path.exists():
        assert "SWINV2_BUILD" not in os.environ, f"{path} was not built"
        pytest.skip(f"{path} is not there; run `make engine`", allow_module_level=True)
    return path
