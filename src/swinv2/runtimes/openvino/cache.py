"""Compiled models, kept between processes: opening one again takes a fraction of the time.

One file for each model, device and setting, in the user's cache; it holds what the compiler computed, while the
weights stay where they are. One that is damaged is of no use, and its model is compiled again.
"""

# The cache of OpenVINO itself names its files by path and time, and writes them in place: a model that was moved is
# compiled again, and two processes that start together read each other's half-written files.

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from swinv2.runtimes.openvino.record import graph_of, read_record, weights_of

KEPT = 1 << 30  # bytes in all; what was used longest ago goes
SEAL = 32  # bytes of SHA-256 in front of every file


def folder() -> Path:
    """Where the files lie."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "swinv2", "openvino")


def compiled(core: Any, path: Path, device: str, settings: dict[str, Any]) -> Any:
    """The model at path, compiled for a device.

    An .onnx file is compiled every time: OpenVINO can leave the weights out of the cache for an IR only.

    Raises:
        RuntimeError: OpenVINO cannot read or compile it.
        ArtifactError: its weights are not there, or cut off.
    """
    if path.suffix.lower() == ".onnx":
        return core.compile_model(core.read_model(str(path)), device, settings)
    weights = weights_of(path)
    settings = settings | {"CACHE_MODE": "OPTIMIZE_SIZE"}
    if "EXPORT_IMPORT" not in core.get_property(device, "OPTIMIZATION_CAPABILITIES"):
        return core.compile_model(core.read_model(str(path)), device, settings)
    file = folder() / f"{_key(core, path, device, settings)}.blob"
    if (blob := _read(file)) is not None:
        with contextlib.suppress(RuntimeError):  # of another build of OpenVINO, say
            return core.import_model(blob, device, settings | {"WEIGHTS_PATH": str(weights)})
    model = core.compile_model(core.read_model(str(path)), device, settings)
    with contextlib.suppress(OSError):  # no space, no permission: then there is no cache
        _write(file, model.export_model().getvalue())
    return model


def _key(core: Any, path: Path, device: str, settings: dict[str, Any]) -> str:
    """Of everything that the compiled model depends on; the hash of the weights is in the record."""
    device_name = core.get_property(device, "FULL_DEVICE_NAME")
    version = core.get_versions(device)[device.partition(".")[0]].build_number
    written = read_record(path).provenance.get("export", {}).get("sha256")
    described = json.dumps([version, device, device_name, settings, written], sort_keys=True)
    return hashlib.sha256(described.encode() + graph_of(path)).hexdigest()[:40]


def _read(file: Path) -> bytes | None:
    """What a file holds; None where there is none, or it is damaged."""
    try:
        content = file.read_bytes()
        os.utime(file)
    except OSError:
        return None
    return content[SEAL:] if hashlib.sha256(content[SEAL:]).digest() == content[:SEAL] else None


def _write(file: Path, blob: bytes) -> None:
    """Write a file at once, whoever else does."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix=".", delete=False) as part:
        try:
            part.write(hashlib.sha256(blob).digest() + blob)
            part.close()
            os.replace(part.name, file)
        except BaseException:
            os.unlink(part.name)
            raise
    _make_room(file.parent)


def _make_room(place: Path) -> None:
    """Delete what was used longest ago, until the rest is small enough."""
    size = 0
    for stat, file in sorted(
        ((file.stat(), file) for file in place.glob("*.blob")), key=lambda f: -f[0].st_mtime
    ):
        size += stat.st_size
        if size > KEPT:
            file.unlink(missing_ok=True)
