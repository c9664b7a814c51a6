"""Files from a network: resumed where they broke off, checked, complete under their name or not at all.

What has no published hash is remembered by the hash it had at first; another file under the same name is
refused from then on.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swinv2.artifact import ArtifactError

if TYPE_CHECKING:
    from filelock import BaseFileLock

ATTEMPTS = 5  # of one address, as long as each brings something
TIMEOUT_S = 30
CHUNK = 1 << 20


class DownloadError(OSError):
    """What an address did not give, and why. The next address may."""


def download(url: str, path: Path, *, sha256: str = "") -> None:
    """Get a file; what an earlier call brought of it is not asked for again.

    Args:
        sha256: beginning of the hash that the file must have; empty where it is not known.

    Raises:
        DownloadError: the address cannot be reached, or gives something else.
        OSError: no space, no permission.
    """
    if not url.startswith(("http://", "https://")):
        raise DownloadError(f"{url} is no address (http:// or https://)")
    part = path.with_name(f"{path.name}.part")
    with locked(path):  # two processes that want the same file: the second finds it here
        if not path.exists():
            _fill(url, part)
            found = file_sha256(part)
            if not found.startswith(sha256):
                part.unlink()
                raise DownloadError(
                    f"{url} has the SHA-256 {found[: len(sha256)]}... and should have {sha256}..."
                )
            os.replace(part, path)
            _notes(part).unlink(missing_ok=True)


def locked(path: Path) -> BaseFileLock:
    """A context that one process at a time is in; its folder is made."""
    from filelock import FileLock  # huggingface_hub brings it

    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{path}.lock")


def file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_first_use(records: Path, name: str, path: Path) -> str:
    """The file's SHA-256, which must be the one that the name had at first (kept in the JSON file records).

    Raises:
        ArtifactError: it is another file than before.
    """
    found = file_sha256(path)
    with locked(records):
        known: dict[str, str] = {}
        with suppress(FileNotFoundError, ValueError):
            known = json.loads(records.read_text("utf-8"))
        if known.get(name, found) != found:
            raise ArtifactError(
                f"{path} is another file than the {name} of the first time (SHA-256 {found[:12]}..., then "
                f"{known[name][:12]}...); find out why, and take the line {name!r} out of {records} to accept it"
            )
        if name not in known:
            part = records.with_name(f"{records.name}.part")
            part.write_text(json.dumps(known | {name: found}, indent=1, sort_keys=True), "utf-8")
            os.replace(part, records)
    return found


def _fill(url: str, part: Path) -> None:
    """Fill part to the last byte; tries again as long as there is progress."""
    for attempt in range(ATTEMPTS):
        before = part.stat().st_size if part.exists() else 0
        try:
            return _continue(url, part)
        except urllib.error.HTTPError as error:
            raise DownloadError(f"{url}: {error.code} {error.reason}") from None
        except _BROKEN as error:
            after = part.stat().st_size if part.exists() else 0
            if attempt + 1 == ATTEMPTS or after <= before:
                reason = getattr(error, "reason", None) or error or type(error).__name__
                raise DownloadError(f"{url}: {reason}") from None
            time.sleep(0.2 * attempt)
    raise AssertionError("unreachable")


class _CutOff(Exception):
    """An answer that ended before its length."""


_BROKEN = (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, _CutOff)


def _continue(url: str, part: Path) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "swinv2"})
    have, notes = (part.stat().st_size if part.exists() else 0), _read_notes(part)
    if have and notes.get("url") == url and notes.get("validator"):
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", notes["validator"])  # a file that changed meanwhile comes whole
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        continues = answer.status == 206
        total = int(answer.headers.get("Content-Length") or 0) + (have if continues else 0)
        validator = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        if validator.startswith("W/"):  # a weak one does not promise the same bytes
            validator = ""
        _notes(part).write_text(json.dumps({"url": url, "validator": validator}), "utf-8")
        with open(part, "ab" if continues else "wb") as file:
            _copy(answer, file, have if continues else 0, total, part.name.removesuffix(".part"))
    if total and part.stat().st_size != total:
        raise _CutOff(f"broke off after {part.stat().st_size:,} of {total:,} bytes")


def _copy(answer: Any, file: Any, done: int, total: int, name: str) -> None:
    from rich import progress as rich

    from swinv2 import console

    columns = (
        rich.TextColumn("{task.description}"), rich.BarColumn(), rich.DownloadColumn(), rich.TransferSpeedColumn(),
        rich.TimeRemainingColumn(),
    )  # fmt: skip
    with rich.Progress(*columns, console=console.stderr(), transient=True) as progress:
        task = progress.add_task(name, total=total or None, completed=done)
        while chunk := answer.read(CHUNK):
            file.write(chunk)
            progress.advance(task, len(chunk))


def _notes(part: Path) -> Path:
    """Where part came from: without it nothing can be resumed."""
    return part.with_name(f"{part.name}.json")


def _read_notes(part: Path) -> dict[str, str]:
    try:
        return json.loads(_notes(part).read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
