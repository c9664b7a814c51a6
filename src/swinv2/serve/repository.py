"""The models of a server: single files and folders of models, their versions, and how one follows another.

A folder holds <name>/<version>/<one model file>; versions are numbers, the largest one serves. A new version is opened,
warmed up and checked beside the old one, takes over in one step, and the old one ends when the last request that uses
it is answered. What cannot be opened is reported and disturbs nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swinv2 import weights
from swinv2.runtimes import RUNTIMES
from swinv2.serve.errors import Kind, Refused, invalid, short
from swinv2.serve.metrics import BatchObserver, Metrics
from swinv2.serve.settings import Batching, Compute
from swinv2.serve.version import Version

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
# Suffixes of model files; those of companions that no runtime opens by themselves are not among them.
SUFFIXES = tuple(
    dict.fromkeys(suffix for row in RUNTIMES.values() for suffix in row.suffixes if suffix != ".bin")
)

log = logging.getLogger("swinv2.serve")


@dataclass(frozen=True)
class Source:
    """Where a version comes from. stamp: changes when the file does."""

    version: str
    path: str
    stamp: tuple[int, ...] = ()


@dataclass
class Model:
    """One name: the version that answers, and what is known of the others.

    Attributes:
        folder: <root>/<name> where the model is one of a folder of models; None for a single file.
        reasons: version -> why it is not served.
        is_wanted: false once a client has unloaded it.
    """

    name: str
    folder: Path | None
    file: str = ""
    serving: Version | None = None
    observer: BatchObserver | None = None
    loaded: Source | None = None
    failed: Source | None = None
    reasons: dict[str, str] = field(default_factory=dict)
    is_wanted: bool = True
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Repository:
    """All models of a server.

    Args:
        sources: model files, published names, name:file, or folders of models.

    Raises:
        ValueError: two models with one name, a name that cannot stand in an address, a folder without models.
        FileNotFoundError: there is no such file.
    """

    def __init__(self, sources: Sequence[str], *, compute: Compute, batching: Batching, metrics: Metrics):
        self._compute, self._batching, self._metrics = compute, batching, metrics
        self._models: dict[str, Model] = {}
        self._roots: list[Path] = []
        self._ending: set[asyncio.Task[None]] = set()
        for source in sources:
            self._add(source)

    # -- what clients ask -------------------------------------------------------------------------------

    @property
    def is_ready(self) -> bool:
        """Whether every model that is wanted answers."""
        return all(m.serving is not None and m.serving.is_ready for m in self._models.values() if m.is_wanted)

    @property
    def names(self) -> list[str]:
        """Of the models that answer."""
        return [model.name for model in self._models.values() if model.serving is not None]

    @contextmanager
    def use(self, name: str, version: str = "") -> Iterator[Version]:
        """The version that answers; it stays open for as long as it is used.

        Raises:
            Refused: there is no such model or version (NOT_FOUND), or it does not answer now (UNAVAILABLE).
        """
        model = self._models.get(name)
        if model is None:
            there = ", ".join(self._models) or "none"
            raise Refused(Kind.NOT_FOUND, f"there is no model {_quoted(name)}; there are {there}")
        serving = model.serving
        if serving is None:
            why = next(iter(model.reasons.values()), "it is not loaded")
            raise Refused(Kind.UNAVAILABLE, f"model {name} does not answer: {why}")
        if version and version != serving.version:
            raise Refused(
                Kind.NOT_FOUND,
                f"model {name} has no version {_quoted(version)} that answers; version {serving.version} does",
            )
        with serving.used() as used:
            yield used

    def is_model_ready(self, name: str, version: str = "") -> bool:
        """Whether a request would be answered.

        Raises:
            Refused: there is no such model (NOT_FOUND).
        """
        try:
            with self.use(name, version) as used:
                return used.is_ready
        except Refused as why:
            if why.kind is Kind.UNAVAILABLE:
                return False
            raise

    def index(self) -> list[dict[str, str]]:
        """Every version that is known: name, version, state (READY, UNAVAILABLE) and the reason."""
        rows = []
        for model in self._models.values():
            if serving := model.serving:
                state = (
                    ("READY", "") if serving.is_ready else ("UNAVAILABLE", "its workers are being started")
                )
                rows.append(_row(model.name, serving.version, *state))
            for version, why in model.reasons.items():
                rows.append(_row(model.name, version, "UNAVAILABLE", why))
            if not model.serving and not model.reasons:
                rows.append(
                    _row(model.name, "", "UNAVAILABLE", "unloaded" if not model.is_wanted else "not loaded")
                )
        return rows

    # -- what changes them ------------------------------------------------------------------------------

    async def load(self, name: str) -> None:
        """Load the newest version of a model, again where it is loaded.

        Raises:
            Refused: there is no such model, or it cannot be served, and why.
        """
        model = self._models.get(name)
        if model is None:
            self._look_for_models()
            model = self._models.get(name)
        if model is None:
            raise Refused(Kind.NOT_FOUND, f"there is no model {_quoted(name)} in the repository")
        model.is_wanted = True
        try:
            await self._load(model, self._newest(model))
        except (ValueError, OSError, ImportError, RuntimeError) as error:
            raise Refused(Kind.INVALID, f"model {name} cannot be loaded: {error}") from None

    async def unload(self, name: str) -> None:
        """Take a model away; requests that it has begun to answer are answered.

        Raises:
            Refused: there is no such model.
        """
        model = self._models.get(name)
        if model is None:
            raise Refused(Kind.NOT_FOUND, f"there is no model {_quoted(name)}")
        model.is_wanted = False
        async with model.lock:
            model.reasons.clear()
            await self._retire(model)

    async def load_all(self) -> None:
        """Load everything.

        Raises:
            ValueError, ImportError, OSError, child.Died: the first model that cannot be served, and why.
        """
        for model in self._models.values():
            await self._load(model, self._newest(model))

    @asynccontextmanager
    async def watched(self, seconds: float) -> AsyncIterator[None]:
        """Look into the folders of models from time to time, and load what is new there. 0: never."""
        task = asyncio.create_task(self._watch(seconds)) if seconds and self._roots else None
        try:
            yield
        finally:
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def close(self) -> None:
        """Wait for all requests, and end all workers."""
        for model in self._models.values():
            async with model.lock:
                await self._retire(model)
        await asyncio.gather(*self._ending)

    # -- how ------------------------------------------------------------------------------------------------

    async def _watch(self, seconds: float) -> None:
        seen: dict[str, Source] = {}
        while True:
            await asyncio.sleep(seconds)
            self._look_for_models()
            for model in self._models.values():
                if model.folder is None or not model.is_wanted:
                    continue
                try:
                    newest = self._newest(model)
                except (ValueError, OSError) as error:
                    model.reasons[""] = str(error)
                    continue
                if newest in (model.loaded, model.failed):
                    continue
                if (
                    seen.get(model.name) != newest
                ):  # a file that is still being copied changes until the next look
                    seen[model.name] = newest
                    continue
                try:
                    await self._load(model, newest)
                except (ValueError, OSError, ImportError, RuntimeError) as error:
                    log.error("model %s version %s is not served: %s", model.name, newest.version, error)

    async def _load(self, model: Model, source: Source) -> None:
        async with model.lock:
            observer = self._metrics.observer(model.name, source.version)
            try:
                new = await Version.open(
                    model.name, source.version, source.path, compute=self._compute, batching=self._batching,
                    observer=observer,
                )  # fmt: skip
            except (ValueError, OSError, ImportError, RuntimeError) as error:
                model.failed, model.reasons[source.version] = source, str(error)
                raise
            old, old_observer = model.serving, model.observer
            model.serving, model.observer, model.loaded, model.failed = new, observer, source, None
            model.reasons.clear()
            if old is not None:
                self._end(old, old_observer if old.version != new.version else None)
            observer.watch(new.batcher)
            log.info(
                "model %s version %s answers: %s in %s on %s", model.name, new.version, new.opened.runtime,
                new.opened.precision, new.opened.device,
            )  # fmt: skip

    async def _retire(self, model: Model) -> None:
        """Take the serving version away and wait for its requests."""
        if model.serving is not None:
            old, observer = model.serving, model.observer
            model.serving = model.observer = model.loaded = None
            await self._end(old, observer)

    def _end(self, version: Version, observer: BatchObserver | None) -> asyncio.Task[None]:
        """Close a version once nobody uses it."""

        async def end() -> None:
            await version.close()
            if observer is not None:
                observer.forget()
            log.info("model %s version %s ended", version.name, version.version)

        task = asyncio.create_task(end())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return task

    def _add(self, source: str) -> None:
        """One argument of the command line."""
        name, found, path = source.partition(":")
        if not found or len(name) < 2 or Path(source).exists():  # one letter is a drive of Windows
            name, path = "", source
        if Path(path).is_dir() and not _is_model(Path(path)):
            if name:
                raise ValueError(
                    f"{path} is a folder; its models have the names of their folders, not {name!r}"
                )
            self._roots.append(Path(path).resolve())
            if not self._look_for_models():
                raise ValueError(f"{path} has no models; it should hold <name>/<version>/<one model file>")
            return
        if _is_file_name(path) and not Path(path).exists():
            raise FileNotFoundError(
                f"there is no file {path}; give a model file, a published name or a folder"
            )
        if not _is_file_name(path):
            weights.find(path)  # an unknown name is a mistake to be told of now
        self._register(Model(name or _name_of(path), None, path))

    def _register(self, model: Model) -> None:
        if not NAME.fullmatch(model.name):
            raise ValueError(
                f"{model.name!r} cannot be the name of a model; use letters, digits, '.', '_' and '-' (name:file)"
            )
        if model.name in self._models:
            raise ValueError(f"two models are called {model.name}; name one of them: other-name:{model.file}")
        self._models[model.name] = model

    def _look_for_models(self) -> int:
        """Register the folders that are new; returns how many models the folders have."""
        found = 0
        for root in self._roots:
            for folder in sorted(root.iterdir()):
                if folder.is_dir() and NAME.fullmatch(folder.name) and _versions(folder):
                    found += 1
                    if folder.name not in self._models:
                        self._register(Model(folder.name, folder))
        return found

    def _newest(self, model: Model) -> Source:
        """Raises ValueError where a folder has no version, or a version no model file or several."""
        if model.folder is None:
            return Source("1", model.file)
        versions = _versions(model.folder)
        if not versions:
            raise ValueError(f"{model.folder} has no versions; it should hold folders called 1, 2, ...")
        folder = versions[-1]
        root = model.folder.parent
        files = [file for file in sorted(folder.iterdir()) if file.suffix in SUFFIXES]
        if len(files) != 1:
            what = ", ".join(file.name for file in files) or "none"
            raise ValueError(f"{folder} should hold one model file; there is {what}")
        if not files[0].resolve().is_relative_to(root):
            raise ValueError(f"{files[0]} is a link that leaves the folder of models; copy the file")
        about = files[0].stat()
        return Source(folder.name, str(files[0]), (about.st_mtime_ns, about.st_size, about.st_ino))


def check_options(given: Iterable[str], *known: str) -> None:
    """Look at the options with which a client wants a model loaded or unloaded.

    Raises:
        Refused: one would change the model; whoever sent it shall not think that it did.
    """
    for key in given:
        if key not in known:
            raise invalid(f"{short(key)} cannot be given; the model file has all of it")


def _versions(folder: Path) -> list[Path]:
    """The folders of versions, oldest first."""
    if not folder.is_dir():
        return []
    numbered = [path for path in folder.iterdir() if re.fullmatch(r"[1-9][0-9]{0,17}", path.name)]
    return sorted((path for path in numbered if path.is_dir()), key=lambda path: int(path.name))


def _is_model(folder: Path) -> bool:
    """Whether a folder is one model (Core ML's packages are)."""
    return folder.suffix in SUFFIXES


def _is_file_name(path: str) -> bool:
    return Path(path).suffix.lower() in SUFFIXES or os.sep in path


def _name_of(path: str) -> str:
    """What a model is called that nobody named: as its file; best.safetensors of a run as the folder of the run."""
    file = Path(path)
    if file.stem in ("best", "last", "model") and file.resolve().parent.name:
        return file.resolve().parent.name
    return re.sub(r"[^A-Za-z0-9._-]", "-", file.stem if _is_file_name(path) else path)


def _row(name: str, version: str, state: str, reason: str) -> dict[str, str]:
    return {"name": name, "version": version, "state": state, "reason": reason}


def _quoted(text: Any) -> str:
    shown = repr(str(text))
    return shown if len(shown) <= 80 else f"{shown[:80]}..."
