"""Whether torch would compute on a GPU here; asked without importing torch where nothing looks like one."""

from __future__ import annotations

import platform
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from swinv2.runtimes.base import Runtime

# What a driver leaves behind: NVIDIA, any below WSL, AMD, NVIDIA on Windows.
SIGNS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd", "C:/Windows/System32/nvcuda.dll")


def usable(torch: Runtime) -> bool:
    """Importing torch takes seconds, so it is asked only where there is a sign of a GPU."""
    return signs() and find_spec(torch.package) is not None and torch.load().fastest_device() != "cpu"


def signs() -> bool:
    is_apple = sys.platform == "darwin" and platform.machine() == "arm64"
    return is_apple or any(Path(sign).exists() for sign in SIGNS)
