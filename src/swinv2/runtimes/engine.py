"""The engine: our own C++ library (cpp/) through ctypes. It reads the artifact by itself, so no torch is needed.

The library lies inside the package where a C++ compiler was there when swinv2 was installed; the variable
SWINV2_ENGINE names another one. Arrays are handed over as they lie in memory, and other threads of Python run while
the engine computes.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ctypes import (
    CDLL,
    CFUNCTYPE,
    POINTER,
    Structure,
    byref,
    c_char_p,
    c_float,
    c_int,
    c_int64,
    c_size_t,
    c_void_p,
)
from functools import cache, partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from swinv2 import artifact, weights
from swinv2.artifact import ArtifactError
from swinv2.runtimes.base import Session, Unsupported

VARIABLE = "SWINV2_ENGINE"
NAMES = ("libswinv2.so", "libswinv2.dylib", "swinv2.dll", "libswinv2.dll")
INTERFACE = 1  # SWINV2_VERSION of the header

# The negative values of swinv2_status.
BAD_ARGUMENT, NO_FILE, BAD_MODEL, BAD_IMAGE, UNSUPPORTED, NO_MEMORY, INTERNAL = range(-1, -8, -1)
ERRORS: dict[int, type[Exception]] = {
    BAD_ARGUMENT: ValueError, NO_FILE: OSError, BAD_MODEL: ArtifactError, UNSUPPORTED: Unsupported,
    NO_MEMORY: MemoryError,
}  # fmt: skip


class Settings(Structure):
    """swinv2_options."""

    _fields_ = (("version", c_int), ("threads", c_int), ("precision", c_char_p), ("instructions", c_char_p))


class Info(Structure):
    """swinv2_info."""

    _fields_ = (
        ("architecture", c_char_p), ("precision", c_char_p), ("instructions", c_char_p), ("threads", c_int),
        ("classes", c_int), ("channels", c_int), ("height", c_int), ("width", c_int), ("stages", c_int),
        ("weight_bytes", c_size_t),
    )  # fmt: skip


Watcher = CFUNCTYPE(None, c_void_p, c_char_p, POINTER(c_float), POINTER(c_int64), c_int)

PROTOTYPES: dict[str, tuple[Any, ...]] = {  # what is returned, and the arguments
    "swinv2_check":      (c_int, POINTER(Settings)),
    "swinv2_open":       (c_int, c_char_p, POINTER(Settings), POINTER(c_void_p)),
    "swinv2_close":      (None, c_void_p),
    "swinv2_describe":   (POINTER(Info), c_void_p),
    "swinv2_run":        (c_int, c_void_p, c_void_p, c_int64, c_int, c_int, c_void_p),
    "swinv2_trace":      (c_int, c_void_p, c_void_p, c_int, c_int, Watcher, c_void_p),
    "swinv2_last_error": (c_char_p,),
    "swinv2_build":      (c_char_p,),
}  # fmt: skip


class EngineSession(Session):
    """A model file in the engine; images of any size. Several threads may use it, one after the other.

    Args:
        threads: None for the cores of the processor.
        instructions: "avx512", "avx2", "neon", "reference", ...; None for the best that the processor has.

    Attributes:
        threads, instructions: as chosen.
        weight_bytes: held in memory for the weights.
    """

    runtime, device, any_size = "engine", "cpu", True

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        precision: str = "auto",
        threads: int | None = None,
        instructions: str | None = None,
    ):
        self._engine, self._lock = library(), Lock()
        self.record = artifact.read_record(path)
        model = c_void_p()
        settings = _settings(precision, threads, instructions)
        with ThreadPoolExecutor(1) as beside:  # the engine packs the weights while their hash is computed
            try:
                verify = beside.submit(artifact.verify, path).result
            except RuntimeError:  # the system gives no more threads
                verify = partial(artifact.verify, path)
            status = self._engine.swinv2_open(os.fsencode(path), settings, byref(model))
        self._close: Callable[[], Any] = weakref.finalize(self, self._engine.swinv2_close, model)
        verify()
        _check(self._engine, status)
        self._model: c_void_p | None = model
        info = self._engine.swinv2_describe(model).contents
        self.precision, self.instructions = info.precision.decode(), info.instructions.decode()
        self.threads, self.weight_bytes, self._outputs = info.threads, info.weight_bytes, info.classes

    def run(self, images: np.ndarray) -> np.ndarray:
        self.check(images)
        images = np.ascontiguousarray(images, np.float32)
        logits = np.empty((len(images), self._outputs), np.float32)
        batch, _, height, width = images.shape
        with self._lock:  # close() waits for it
            status = self._engine.swinv2_run(
                self._opened(), images.ctypes.data, batch, height, width, logits.ctypes.data
            )
            _check(self._engine, status)
        return logits

    def trace(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Every intermediate of one image by its name: "embed", "stage1.block1", ..., "norm", "pooled", "logits".

        Maps are [rows, columns, channels]; "stage1" is the map after the patch merging of the stage.
        """
        found = {}

        def keep(name: str, values: np.ndarray) -> None:
            found[name] = values.copy()

        self.watch(images, keep)
        return found

    def watch(self, images: np.ndarray, call: Callable[[str, np.ndarray], Any]) -> None:
        """As trace(), calling with each name and its values at once; they are valid during the call only."""
        self.check(images)
        if len(images) != 1:
            raise ValueError(f"images have shape {list(images.shape)}; trace takes one image")
        images = np.ascontiguousarray(images, np.float32)

        def watch(context: Any, name: bytes, values: Any, shape: Any, dims: int) -> None:
            call(name.decode(), np.ctypeslib.as_array(values, tuple(shape[:dims])))

        with self._lock:
            height, width = images.shape[2:]
            status = self._engine.swinv2_trace(
                self._opened(), images.ctypes.data, height, width, Watcher(watch), None
            )
            _check(self._engine, status)

    def close(self) -> None:
        with self._lock:
            self._model = None
            self._close()

    def _opened(self) -> c_void_p:
        if self._model is None:
            raise ValueError("the session is closed; open the model again")
        return self._model


def open(
    source: str | os.PathLike[str], *, device: str, precision: str, threads: int | None = None
) -> EngineSession:
    """Open an artifact, or a published model by name.

    Raises:
        Unsupported: weights of another library, or of an architecture that is not computed here.
    """
    if device.partition(":")[0] not in ("auto", "cpu"):
        raise ValueError(f"engine runs on cpu, not on {device!r}")
    return EngineSession(_find(source), precision=precision, threads=threads)


def unsupported(device: str, precision: str) -> str | None:
    """Why the engine cannot compute here: it was not built, or the processor lacks what the precision needs."""
    try:
        engine = library()
        _check(engine, engine.swinv2_check(_settings(precision, None, None)))
    except ValueError as why:
        return str(why)
    return None


@cache
def library() -> CDLL:
    """The library, loaded and ready to be called.

    Raises:
        Unsupported: it is not there, or cannot be loaded, and what to do.
    """
    path = next((place for place in _places() if place.is_file()), None)
    if named := os.environ.get(VARIABLE):
        if path is None:
            raise Unsupported(
                f"{VARIABLE} is {named}, and there is no such file; give the library or unset it"
            )
    elif path is None:
        raise Unsupported(
            "the engine was not built when swinv2 was installed: it needs a C++17 compiler (Debian: apt-get install "
            "g++); then run `pip install --force-reinstall --no-deps .` in the clone of swinv2"
        )
    try:
        engine = CDLL(os.fspath(path))
        for name, (result, *arguments) in PROTOTYPES.items():
            function = getattr(engine, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:  # AttributeError: a function that an older library lacks
        raise Unsupported(f"the engine {path} cannot be used ({error}); install swinv2 again") from None
    return engine


def _places() -> list[Path]:
    import swinv2

    if named := os.environ.get(VARIABLE):
        return [Path(named)]
    # An installation that points to a clone has two folders, and what was built is in the other one.
    return [Path(folder, name) for folder in swinv2.__path__ for name in NAMES]


def _find(source: str | os.PathLike[str]) -> Path:
    """The model file that is meant; a path that exists goes before a name."""
    path, text = Path(source), os.fspath(source)
    if path.exists():
        if not artifact.is_artifact(path):
            raise Unsupported(
                f"engine opens the model files of swinv2, and {path} is none; `swinv2 convert` makes one of it"
            )
        return path
    if path.suffix.lower() == ".safetensors":
        raise FileNotFoundError(f"there is no file {text}")
    if text.count("/") == 1 and not text.startswith((".", "/", "~")):
        raise Unsupported(f"engine opens model files and published names, not {text} of the hub")
    return weights.fetch(weights.find(text).name)


def _settings(precision: str, threads: int | None, instructions: str | None) -> Settings:
    return Settings(
        INTERFACE,
        threads or 0,
        b"" if precision == "auto" else precision.encode(),
        (instructions or "").encode(),
    )


def _check(engine: CDLL, status: int) -> None:
    """Raises what a status means, with the sentence of the engine."""
    if status < 0:
        sentence = engine.swinv2_last_error().decode(errors="replace")
        raise ERRORS.get(status, RuntimeError)(sentence)
