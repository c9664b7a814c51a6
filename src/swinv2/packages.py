"""The packages that swinv2 uses: which are wanted, which are installed, which work.

The list and the lower bounds are read from the metadata of the installed swinv2, so pyproject.toml is their
only place. Whether a package works is found out by importing it in another process: one that crashes on this
processor, or waits for ever, is then an answer and not the end of the program that asks.
"""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Any

# Where the name to import is not the name to install.
_MODULES = {
    "pillow": "PIL", "scikit-learn": "sklearn", "mnn": "MNN", "protobuf": "google.protobuf", "grpcio": "grpc",
    "grpcio-reflection": "grpc_reflection",
}  # fmt: skip
_TOOLS = {"test", "dev"}  # extras of those who develop swinv2
PROBE_SECONDS = 120

_PROBE = """
import importlib, json, os, sys, warnings
warnings.simplefilter("ignore")
report = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # what packages print while they are imported is no part of the report
for name in sys.argv[1:]:
    print(json.dumps({"start": name}), file=report)
    said = {"module": name}
    try:
        module = importlib.import_module(name)
        if name == "torch":
            cuda, mps = module.cuda, getattr(module.backends, "mps", None)
            count = cuda.device_count() if cuda.is_available() else 0
            said["devices"] = {f"cuda:{i}": cuda.get_device_name(i) for i in range(count)}
            said["devices"] |= {"mps": "Apple GPU"} if mps and mps.is_available() else {}
            said["threads"] = module.get_num_threads()
    except BaseException as error:
        said["error"] = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
    print(json.dumps(said), file=report)
"""


@dataclass(frozen=True)
class Package:
    """One package that swinv2 uses.

    Args:
        name: as pip knows it.
        specifier: versions that do, such as >=2.14.
        extra: the smallest extra of swinv2 that brings it; empty for what swinv2 cannot be without.
    """

    name: str
    specifier: str
    extra: str

    @property
    def module(self) -> str:
        """As import knows it."""
        return _MODULES.get(self.name, self.name.replace("-", "_"))

    @property
    def requirement(self) -> str:
        return f"{self.name}{self.specifier}"

    @property
    def cure(self) -> str:
        """The pip command that brings it."""
        return f'pip install "swinv2[{self.extra}]"' if self.extra else f'pip install "{self.requirement}"'


@cache
def wanted() -> dict[str, Package]:
    """What pyproject.toml names, but for the tools of developers; empty where swinv2 is not installed."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    try:
        lines = [Requirement(line) for line in metadata.requires("swinv2") or []]
    except metadata.PackageNotFoundError:
        return {}
    members = {"": [r for r in lines if r.marker is None or r.marker.evaluate({"extra": ""})]}
    for extra in set(metadata.metadata("swinv2").get_all("Provides-Extra") or []) - _TOOLS:
        members[extra] = [r for r in lines if r.marker is not None and r.marker.evaluate({"extra": extra})]
    found: dict[str, Package] = {}
    for extra in sorted(members, key=lambda extra: (extra != "", len(members[extra]), extra)):
        for r in members[extra]:
            name = canonicalize_name(r.name)  # however the one who built the metadata wrote it
            if name != "swinv2":  # an extra that is made of others
                found.setdefault(name, Package(name, str(r.specifier), extra))
    return found


def cure(module: str) -> str:
    """The pip command that brings a module; empty for one that swinv2 does not use."""
    return next((package.cure for package in wanted().values() if package.module == module), "")


def version(name: str) -> str | None:
    """The installed version of a package; None where there is none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def satisfies(version: str, specifier: str) -> bool:
    """Whether a version does; 2.14.1+cpu counts as 2.14.1, and a pre-release as what it precedes."""
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(specifier).contains(version.partition("+")[0], prereleases=True)


def misfit(name: str, other: str) -> str:
    """What an installed package demands of another one that is installed in a version that will not do.

    torchvision names the one torch that it was built for; any other makes its import fail.
    """
    from packaging.requirements import Requirement

    found, requirements = version(other), map(Requirement, metadata.requires(name) or [])
    if found is None:
        return ""
    demands = [str(r.specifier) for r in requirements if r.name == other]
    return next((f"{other}{demand}" for demand in demands if not satisfies(found, demand)), "")


def probe(modules: list[str], processes: int = 1) -> dict[str, dict[str, Any]]:
    """Import modules one after the other in another process, or shares of them in several.

    Returns:
        Per module {} or {"error": what went wrong}; torch adds {"devices": {"cuda:0": name}, "threads": n}.
    """
    shares = [share for i in range(processes) if (share := modules[i::processes])]
    with ThreadPoolExecutor(max(1, len(shares))) as pool:
        return {name: said for found in pool.map(_probe, shares) for name, said in found.items()}


def _probe(modules: list[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    while todo := [module for module in modules if module not in found]:
        command = [sys.executable, "-P", "-c", _PROBE, *todo]  # -P: a torch.py of the user is not torch
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False)
            output, ended = done.stdout, f"ends the process (exit code {done.returncode})"
        except subprocess.TimeoutExpired as late:
            output = late.stdout.decode() if isinstance(late.stdout, bytes) else late.stdout or ""
            ended = f"is not imported after {PROBE_SECONDS} s"
        started = todo[0]
        for said in map(json.loads, output.splitlines()):
            started = said.get("start", started)
            if "module" in said:
                found[said.pop("module")] = said
        if started not in found:  # the one that took the process down; another process does the others
            found[started] = {"error": ended}
    return found
