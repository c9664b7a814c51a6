"""What a figure was measured with: processor, clock, system, versions, commit."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import swinv2
from swinv2 import packages
from swinv2.doctor import processor
from swinv2.runtimes import RUNTIMES

CPUINFO = Path("/proc/cpuinfo")


def machine() -> dict[str, Any]:
    """The processor and what drives it; nothing that names the machine or its user."""
    text = CPUINFO.read_text() if CPUINFO.exists() else ""
    name, features = processor(text)
    clocks = [float(mhz) for mhz in re.findall(r"^cpu MHz\s*: ([\d.]+)$", text, re.MULTILINE)]
    return {
        "cpu": name,
        "features": list(features),
        "cores": usable_cores(),
        "clock_mhz": round(sum(clocks) / len(clocks)) if clocks else None,
        "architecture": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def usable_cores() -> int:
    """Those that this process may use; a container often has fewer than the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load() -> float | None:
    """How many programs wanted a processor in the last minute; None where the system does not say."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def versions(runtimes: Iterable[str]) -> dict[str, str]:
    """Of swinv2 and of what runs the contenders."""
    names = ["swinv2", "numpy", "pillow", *(RUNTIMES[name].package for name in runtimes)]
    found = {name: packages.version(name) for name in dict.fromkeys(names)}
    return {name: version for name, version in found.items() if version is not None}


def commit() -> str | None:
    """Of swinv2, where it runs from a clone."""
    folder = Path(swinv2.__file__).parent
    git = ["git", "-C", str(folder)]
    try:
        inside, revision, changes = (
            subprocess.run([*git, *words], capture_output=True, text=True, check=True).stdout.strip()
            for words in (
                ["ls-files", "__init__.py"],
                ["rev-parse", "--short", "HEAD"],
                ["status", "--porcelain", "."],
            )
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    if not inside:  # an environment inside of another project
        return None
    return f"{revision} and changes" if changes else revision
