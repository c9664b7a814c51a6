"""The verb `swinv2 doctor`: what works on this machine, what is missing, what is broken and what cures it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import swinv2
from swinv2 import console, packages, weights
from swinv2.runtimes import RUNTIMES
from swinv2.verbs import Exit, make_callable

# What the kernels of the runtimes look for, by the names of Linux.
CPU_FEATURES = (
    "sse4_2", "avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni",
    "amx_bf16", "amx_int8", "asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve", "sve2", "sme",
)  # fmt: skip

# On where they are 1; shown where they are set.
SWITCHES = ("SWINV2_TRITON", "SWINV2_CUDA_GRAPHS", "SWINV2_DEBUG")
# The same for where weights come from.
NETWORK = (
    "SWINV2_HOME", "SWINV2_MIRROR", "SWINV2_OFFLINE", "HF_HUB_OFFLINE", "HF_ENDPOINT", "HF_HOME",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Args:
        status: "missing" is something optional that is not there; "broken" is something that must be cured.
        cure: the command or the sentence that repairs it.
    """

    topic: str
    name: str
    status: Literal["ok", "missing", "broken"]
    detail: str
    cure: str = ""


def command(*, quiet: bool = False, json: bool = False) -> int:
    """Say what works on this machine, and what to do about the rest.

    Looks at the processor, the memory, every package (by importing it), the runtimes and devices, the cache
    folder and the network settings. The exit code is 1 where something is broken; an optional package that is
    not installed is no fault.

    Args:
        quiet: print only what is broken; nothing where all is well.

    Examples:
        swinv2 doctor
        swinv2 doctor --json > doctor.json
    """
    findings = doctor()
    broken = any(f.status == "broken" for f in findings)
    if json:
        console.emit_json(
            {"swinv2": swinv2.__version__, "ok": not broken, "findings": [asdict(f) for f in findings]}
        )
    elif not quiet:
        print(_report(findings))
    elif broken:
        print(_report([f for f in findings if f.status == "broken"]))
    return Exit.FAILED if broken else Exit.DONE


def doctor() -> list[Finding]:
    """Every finding, in the order of the report. Takes some seconds: packages are imported."""
    modules = [package.module for package in packages.wanted().values() if packages.version(package.name)]
    modules += [row.package for row in RUNTIMES.values() if find_spec(row.package)]
    probed = packages.probe(list(dict.fromkeys(modules)), processes=min(4, _cores()))
    checked = [*installed(probed)]
    broken = {f.name for f in checked if f.status == "broken"}
    return [*machine(), *checked, *runtimes(broken), *switches(), *devices(probed), *files(), *network()]


def machine() -> Iterator[Finding]:
    """Python, platform, processor, memory."""
    yield Finding("machine", "python", "ok", f"{platform.python_version()} ({sys.executable})")
    yield Finding("machine", "platform", "ok", platform.platform())
    name, features = processor(_read("/proc/cpuinfo"))
    yield Finding("machine", "processor", "ok", f"{name}, {_cores()} cores")
    yield Finding("machine", "instructions", "ok", " ".join(features) or "unknown")
    total, free = _memory()
    yield Finding("machine", "memory", "ok", f"{_size(total)}, {_size(free)} free" if total else "unknown")


def installed(probed: dict[str, dict[str, Any]]) -> Iterator[Finding]:
    """One finding per package: its version, or what is wrong with it."""
    if not packages.wanted():
        detail = "runs from its source folder without being installed"
        yield Finding("packages", "swinv2", "broken", detail, "pip install -e .")
    for package in packages.wanted().values():
        version = packages.version(package.name)
        if version is None:
            status: Literal["missing", "broken"] = "missing" if package.extra else "broken"
            yield Finding("packages", package.name, status, "not installed", package.cure)
        elif error := probed.get(package.module, {}).get("error"):
            yield _unimportable(package, version, error)
        elif not packages.satisfies(version, package.specifier):
            detail = f"{version}, and swinv2 needs {package.specifier}"
            yield Finding("packages", package.name, "broken", detail, _upgrade(package.name))
        else:
            yield Finding("packages", package.name, "ok", version)


def _unimportable(package: packages.Package, version: str, error: str) -> Finding:
    name, misfit = package.name, "torchvision::" in error  # an operator that is missing in this torch
    demand = packages.misfit(name, "torch") if name == "torchvision" else ""
    if name == "torchvision" and (demand or misfit):  # name the exact pair
        torch = f"torch {packages.version('torch')}"
        reason = (
            f"needs {demand} and finds {torch}" if demand else f"was built for another torch than {torch}"
        )
        detail = f"torchvision {version} {reason} ({error})"
        return Finding("packages", name, "broken", detail, _upgrade("torch", "torchvision"))
    if misfit:
        return Finding("packages", name, "broken", f"{version} does not import, because torchvision does not")
    cure = f'pip install --force-reinstall "{package.requirement}"'
    return Finding("packages", name, "broken", f"{version} does not import: {error}", cure)


def _upgrade(*names: str) -> str:
    return "pip install --upgrade " + " ".join(f'"{packages.wanted()[name].requirement}"' for name in names)


def runtimes(broken: Collection[str]) -> Iterator[Finding]:
    """Which rows of RUNTIMES can run a model here, and why others cannot; broken packages are left alone."""
    for row in RUNTIMES.values():
        if row.package in broken:
            yield Finding("runtimes", row.name, "broken", f"{row.package} is broken, see packages")
            continue
        try:
            why = row.unsupported()
        except (
            Exception
        ) as error:  # whatever a runtime does at import: it shall not keep the doctor from his work
            detail = f"{type(error).__name__}: {error}"
            yield Finding(
                "runtimes", row.name, "broken", detail, "report it; SWINV2_DEBUG=1 with predict shows more"
            )
            continue
        ready = f"{row.about}: {', '.join(row.devices)}; {', '.join(row.precisions)}"
        yield Finding("runtimes", row.name, "missing" if why else "ok", why or ready)


def devices(probed: dict[str, dict[str, Any]]) -> Iterator[Finding]:
    """What torch can compute on."""
    torch = probed.get("torch", {})
    yield Finding(
        "devices", "cpu", "ok", f"{torch['threads']} threads in torch" if "threads" in torch else ""
    )
    for device, name in torch.get("devices", {}).items():
        yield Finding("devices", device, "ok", name)
    if torch.get("devices") == {} and shutil.which("nvidia-smi"):
        detail = f"an NVIDIA driver is installed, but torch {packages.version('torch')} cannot use it"
        yield Finding(
            "devices", "cuda", "missing", detail, "install a CUDA build of torch, or update the driver"
        )


def files() -> Iterator[Finding]:
    """The cache of published weights, and whether this folder and the temporary one can be written to."""
    cache = weights.cache_folder()
    used = sum(f.lstat().st_size for f in cache.rglob("*") if f.is_file() and not f.is_symlink())
    for name, folder in (
        ("cache", cache),
        ("this folder", Path.cwd()),
        ("temporary", Path(tempfile.gettempdir())),
    ):
        if why := unwritable(folder):
            cure = "give yourself permission to write there, or choose another folder"
            yield Finding("files", name, "broken", f"{folder} {why}", cure)
        else:
            note = f", {_size(used)} used" if folder == cache else ""
            free = shutil.disk_usage(_nearest(folder)).free
            yield Finding("files", name, "ok", f"{folder}{note}, {_size(free)} free")
    if engine := os.environ.get("SWINV2_ENGINE"):
        yield Finding("files", "SWINV2_ENGINE", "ok", f"{engine} is the engine, and not that of the package")


def switches() -> Iterator[Finding]:
    """What the environment switches on."""
    for name in SWITCHES:
        if value := os.environ.get(name):
            yield Finding(
                "runtimes", name, "ok", "on" if value == "1" else f"off, since it is {value!r} and not 1"
            )


def network() -> Iterator[Finding]:
    """Offline mode, mirrors and proxies, as the environment sets them."""
    offline = "on: nothing is downloaded" if weights.is_offline() else "off"
    yield Finding("network", "offline", "ok", offline)
    for name in NETWORK:
        if value := os.environ.get(name):
            yield Finding("network", name, "ok", _without_password(value))


def processor(cpuinfo: str) -> tuple[str, tuple[str, ...]]:
    """The name of the processor, and those of CPU_FEATURES it has, from Linux's /proc/cpuinfo."""
    fields = dict(re.findall(r"^([^\t:]+?)\s*: (.*)$", cpuinfo, re.MULTILINE))
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    name = fields.get("model name") or platform.processor() or platform.machine()
    return name, tuple(f for f in CPU_FEATURES if f in flags)


def unwritable(folder: Path) -> str:
    """Why nothing can be written there; empty where it can. Makes nothing that stays."""
    place = _nearest(folder)
    if not place.is_dir():
        return f"cannot be made: {place} is a file"
    try:
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        return f"cannot be written to: {(error.strerror or str(error)).lower()}"
    return ""


def _without_password(text: str) -> str:
    """Proxies and mirrors may be written with one, and reports are sent to others."""
    return re.sub(r"(?<=://)[^/@\s]*@", "***@", text)


def _nearest(folder: Path) -> Path:
    """The folder itself, or the first of its parents that exists."""
    return next(p for p in (folder, *folder.parents) if p.exists())


def _cores() -> int:
    """Those that this process may use; a container often has fewer than the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> tuple[int, int]:
    """(total, free) bytes, 0 where unknown; a container's limit counts as total."""
    kib = {
        name: int(n) for name, n in re.findall(r"^(\w+):\s+(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    }
    total, free = kib.get("MemTotal", 0) * 1024, kib.get("MemAvailable", 0) * 1024
    if not total and "SC_PHYS_PAGES" in getattr(os, "sysconf_names", ()):
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    return (min(total, int(limit)), min(free, int(limit))) if limit.isdigit() else (total, free)


def _read(path: str) -> str:
    """A file of the Linux kernel; empty on other systems."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _size(n: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024:
            return f"{n:.0f} {unit}" if unit in ("B", "KiB") else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.1f} TiB"


def _report(findings: list[Finding]) -> str:
    """The report as people read it: a block per topic, a line per finding, the cure behind two dashes."""
    lines = [f"swinv2 {swinv2.__version__}"]
    width = max(len(f.name) for f in findings)
    for before, f in zip([None, *findings], findings, strict=False):
        if before is None or before.topic != f.topic:
            lines += ["", f.topic]
        status = "BROKEN" if f.status == "broken" else f.status
        lines.append(
            f"  {status:<8}{f.name:<{width}}  {f.detail}".rstrip() + (f" -- {f.cure}" if f.cure else "")
        )
    broken = dict.fromkeys(f.name for f in findings if f.status == "broken")
    lines += ["", f"broken: {', '.join(broken)}" if broken else "nothing is broken"]
    return "\n".join(lines)


make_callable(__name__)
