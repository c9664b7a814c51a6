"""Shared by the tests of `swinv2 serve`: small models on disk, and real server processes in front of them."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from conftest import SMALL, randomized
from PIL import Image

from swinv2 import artifact
from swinv2.artifact import Record
from swinv2.images import decode
from swinv2.model import SwinV2
from swinv2.preprocess import Preprocess
from swinv2.runtimes import open_session

NAMES = ("ape", "bee", "cow", "dog", "eel", "fox", "gnu")
PREPROCESS = Preprocess(size=(64, 64), resize_to=73)


@dataclass
class Running:
    """A server that answers. http, grpc: where; log: file with what it writes to stderr."""

    http: str
    grpc: str
    process: subprocess.Popen[str]
    log: Path

    def lines(self) -> list[dict[str, Any]]:
        """The lines of its log."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def children(self) -> set[int]:
        """Processes that it has started: workers, and the one that looks after shared memory."""
        files = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return {int(child) for file in files for child in file.read_text().split()}

    def workers(self) -> set[int]:
        return {
            child
            for child in self.children()
            if b"resource_tracker" not in Path(f"/proc/{child}/cmdline").read_bytes()
        }

    @contextmanager
    def held(self) -> Iterator[None]:
        """Workers compute nothing meanwhile, however fast they are."""
        stopped = self.workers()
        for worker in stopped:
            os.kill(worker, signal.SIGSTOP)
        try:
            yield
        finally:
            for worker in stopped:
                os.kill(worker, signal.SIGCONT)

    def end(self, number: int = signal.SIGTERM, seconds: float = 30) -> int:
        """Send a signal; returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(seconds)


def write_model(path: Path, *, seed: int = 0, classes: tuple[str, ...] = NAMES, side: int = 64) -> Path:
    """A model file: the small network of the tests with weights that matter, for pictures of side x side pixels."""
    config = replace(SMALL, num_classes=len(classes), image_size=side)
    model = randomized(SwinV2(config), seed).eval()
    record = Record(
        config, replace(PREPROCESS, size=(side, side), resize_to=side * 73 // 64), classes=classes
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    artifact.write(path, record, model.state_dict())
    return path


def picture(seed: int = 0, size: tuple[int, int] = (90, 70), kind: str = "PNG") -> bytes:
    """An encoded picture of soft colours, another one for each seed."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
    data = io.BytesIO()
    small.resize(size, Image.Resampling.BICUBIC).save(data, kind)
    return data.getvalue()


# The command line with other limits than those of people, so that a test need not wait for them.
LIMITED = """
import functools, json, sys
from swinv2 import cli
from swinv2.serve import settings
settings.Limits = functools.partial(settings.Limits, **json.loads(sys.argv[1]))
sys.exit(cli.main(sys.argv[2:]))
"""


def pixels(*seeds: int) -> np.ndarray:
    """Those pictures, prepared: float32 [N, 3, 64, 64]."""
    return np.stack([PREPROCESS(decode(picture(seed))) for seed in seeds])


def softmax(rows: np.ndarray) -> np.ndarray:
    powers = np.exp(rows.astype(np.float64) - rows.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@contextmanager
def answering(file: Path) -> Iterator[Callable[..., np.ndarray]]:
    """Pictures, by their seeds -> logits, from a session without a server, one at a time."""
    with open_session(file, threads=1) as session:
        yield lambda *seeds: np.concatenate([session.run(pixels(seed)) for seed in seeds])


def write_zoo(root: Path) -> Path:
    """A folder of two models with versions."""
    for name, version, seed in (("birds", 3, 1), ("cats", 1, 2)):
        write_model(root / name / str(version) / "model.safetensors", seed=seed)
    return root


@contextmanager
def serving(
    *arguments: str | os.PathLike[str],
    environment: dict[str, str] | None = None,
    limits: dict[str, float] | None = None,
) -> Iterator[Running]:
    """`swinv2 serve` with these arguments on free ports, from ready to its end; it must end well."""
    program = ["-c", LIMITED, json.dumps(limits)] if limits else ["-m", "swinv2"]
    command = [sys.executable, *program, "serve", *map(os.fspath, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        with (
            log.open("w") as lines,
            subprocess.Popen(
                [*command, "--http-port", "0", "--grpc-port", "0", "--json"], stdout=subprocess.PIPE, stderr=lines,
                text=True, env=os.environ | (environment or {}),
            ) as process,
        ):  # fmt: skip
            try:
                assert process.stdout is not None
                said = ""
                for line in process.stdout:
                    said += line
                    if line == "}\n":
                        break
                assert said, log.read_text()
                told = json.loads(said)
                assert "error" not in told, told
                running = Running(told["http"], told["grpc"], process, log)
                yield running
                if process.poll() is None:
                    assert running.end() == 0, log.read_text()
            finally:
                if process.poll() is None:
                    process.kill()
