"""What a user names -> the pictures meant: paths, folders, globs, URLs, stdin, bytes, images, arrays.

Nothing is opened here. A name that leads nowhere becomes an input that says so when it is opened, so that one
bad name does not keep the others from being looked at.
"""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from swinv2.images import SUFFIXES, ImageError

Urls = Literal["public", "any", "none"]  # which URLs are fetched; "any" reaches private addresses as well


@dataclass(frozen=True)
class Input:
    """One picture to look at.

    Args:
        file: what outputs and messages call it; can be printed whatever bytes the name has.
        open: called when the picture is needed, perhaps in another thread; returns what
            Preprocess.load takes, or raises ImageError.
    """

    file: str
    open: Callable[[], Any]


@dataclass(frozen=True)
class Failure:
    """A picture that could not be answered; error is one sentence that names it."""

    file: str
    error: str

    def to_dict(self) -> dict[str, Any]:
        return {"file": self.file, "error": self.error}


def find(given: Any, *, urls: Urls = "public") -> Iterator[Input]:
    """The pictures meant by one input or by an iterable of them, in order.

    Folders are searched below, sorted by path; links are followed, hidden files left out.
    """
    if urls not in ("public", "any", "none"):
        raise ValueError(f"urls is {urls!r}; give public, any or none")
    if _is_iterable(given):
        for position, one in enumerate(given):
            yield from _meant(one, f"images[{position}]", urls)
    else:
        yield from _meant(given, "image", urls)


def is_one(given: Any) -> bool:
    """Whether one picture is meant by nature of the input: not by lists, folders and globs of one file."""
    if isinstance(given, (str, os.PathLike)):
        return _is_url(given) or not (os.path.isdir(given) or _is_glob(given))
    return not _is_iterable(given)


def images_in(folder: str | os.PathLike[str]) -> list[Path]:
    """Pictures below a folder, by suffix, sorted by path; links are followed, hidden files left out."""
    found, seen = [], set()
    for where, below, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:  # a link that leads back up
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(name for name in below if not _is_hidden(name))
        found += [Path(where, name) for name in files if not _is_hidden(name) and _has_suffix(name)]
    return sorted(found)


def _meant(one: Any, name: str, urls: Urls) -> Iterator[Input]:
    if isinstance(one, Input):
        yield one
    elif isinstance(one, str) and one == "-":
        yield Input("stdin", _read_stdin)
    elif _is_url(one):
        yield _url(one, urls)
    elif isinstance(one, (str, os.PathLike)):
        yield from _path(one)
    else:
        yield Input(_printable(getattr(one, "filename", "") or name), lambda: one)


def _path(path: str | os.PathLike[str]) -> Iterator[Input]:
    name = _printable(path)
    if os.path.isdir(path):
        files = images_in(path)
        if not files:
            yield _refusal(name, f"{name} is a folder without images (.jpg, .png, .webp and so on)")
        yield from map(_file, files)
    elif _is_glob(path):
        matches = sorted(glob.glob(os.fspath(path), recursive=True))
        if not matches:
            yield _refusal(name, f"{name} matches no file")
        for match in matches:
            yield from map(_file, images_in(match)) if os.path.isdir(match) else [_file(match)]
    else:
        yield _file(path)


def _file(path: str | os.PathLike[str]) -> Input:
    return Input(_printable(path), lambda: path)


def _url(url: str, urls: Urls) -> Input:
    scheme = url.partition("://")[0].lower()
    if scheme not in ("http", "https"):
        return _refusal(url, f"{url} is no address that is fetched; http and https are, and files by path")
    if urls == "none":
        return _refusal(url, f"{url} is not fetched, because URLs are switched off here")

    def fetch() -> bytes:
        from swinv2.web import fetch

        return fetch(url, private=urls == "any")

    return Input(url, fetch)


def _refusal(name: str, reason: str) -> Input:
    def refuse() -> None:
        raise ImageError(reason)

    return Input(name, refuse)


def _read_stdin() -> bytes:
    if sys.stdin.isatty():
        raise ImageError("stdin is a terminal; pipe a picture into it, or give a path")
    return sys.stdin.buffer.read()


def _is_iterable(given: Any) -> bool:
    single = isinstance(given, (str, os.PathLike, bytes, bytearray, memoryview))
    return isinstance(given, Iterable) and not single and not hasattr(given, "__array__")


def _is_url(one: Any) -> bool:
    return isinstance(one, str) and "://" in one


def _is_glob(path: str | os.PathLike[str]) -> bool:
    return isinstance(path, str) and glob.has_magic(path) and not os.path.lexists(path)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _has_suffix(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def _printable(path: str | os.PathLike[str]) -> str:
    """File names are bytes to some systems; those that are no UTF-8 are shown with \\x escapes."""
    return os.fspath(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
