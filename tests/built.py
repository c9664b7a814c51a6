"""Shared by the tests of the engine: what `make engine` has built, in build/engine or where SWINV2_BUILD says."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("SWINV2_BUILD") or Path(__file__).parents[1] / "build" / "engine")
LIBRARY = "libswinv2.dylib" if sys.platform == "darwin" else "libswinv2.so"


def built(name: str) -> Path:
    """A file of the build; a module that asks for one that is not there is skipped with the cure."""
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"{path} is not there; run `make engine`", allow_module_level=True)
    return path
