"""What every runtime offers: a Session that turns a batch of images into logits, and a row that describes it.

A runtime is one file with three names, and one row in RUNTIMES:

    open(source, *, device, precision, threads) -> Session
    unsupported(device, precision) -> str | None        why it cannot run here; None where it can
    class ...Session(Session)
"""

from __future__ import annotations

import importlib
import importlib.util
from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from swinv2.artifact import Record

PRECISIONS = ("fp32", "bf16", "fp16")


class Session(ABC):
    """An open model. Use it as a context manager, or call close().

    Attributes:
        record: architecture, preprocessing and class names that came with the model.
        runtime, device, precision: what runs, where, and how; as chosen, never "auto".
    """

    record: Record
    runtime: str
    device: str
    precision: str

    @abstractmethod
    def run(self, images: np.ndarray) -> np.ndarray:
        """float32 [B, C, H, W] as record.preprocess makes them -> logits, float32 [B, classes]."""

    def close(self) -> None:  # noqa: B027 -- most runtimes have nothing to give back
        """Give memory and devices back; the session cannot run afterwards."""

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def check(self, images: np.ndarray) -> None:
        """Raises ValueError where images are not what record.preprocess makes."""
        expected = (self.record.config.in_chans, *self.record.preprocess.size)
        if images.ndim != 4 or images.shape[1:] != expected:
            wanted = ", ".join(map(str, expected))
            raise ValueError(f"images have shape {list(images.shape)}; this model takes [batch, {wanted}]")


@dataclass(frozen=True)
class Runtime:
    """One row of RUNTIMES.

    Args:
        about: what it is, in one line.
        suffixes: of the model files it opens.
        names: whether it opens what is no file: published names and hub ids.
        devices: kinds, the default first.
        package: what must be importable.
        extra: of swinv2, which brings the package.
        module: our file, imported when it is used.
    """

    name: str
    about: str
    suffixes: tuple[str, ...]
    names: bool
    devices: tuple[str, ...]
    precisions: tuple[str, ...]
    package: str
    extra: str
    module: str

    def unsupported(self, device: str = "auto", precision: str = "fp32") -> str | None:
        """Why this runtime cannot be used here, in words; None where it can."""
        if device != "auto" and device.partition(":")[0] not in self.devices:
            return f"{self.name} runs on {', '.join(self.devices)}, not on {device!r}"
        if precision not in self.precisions:
            return f"{self.name} computes in {', '.join(self.precisions)}, not in {precision!r}"
        if importlib.util.find_spec(self.package) is None:
            return f'needs {self.package} -- pip install "swinv2[{self.extra}]"'
        return self.load().unsupported(device, precision)

    def load(self) -> Any:
        """The module behind the row."""
        return importlib.import_module(self.module)
