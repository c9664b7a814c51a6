"""TorchScript: the edge network, traced once, for programs that embed LibTorch without Python.

The trace holds no sizes but those of the image and no devices: it takes any batch and moves with .to(). The record
is in the file, as the extra file "swinv2.json".
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from swinv2.artifact import ArtifactError, Record
from swinv2.edge import edge
from swinv2.fold import fold
from swinv2.runtimes.base import Node, Options, Session
from swinv2.runtimes.beside import from_json, to_json
from swinv2.runtimes.torch import DTYPES, fastest_device, unsupported

if TYPE_CHECKING:
    from swinv2.model import SwinV2

__all__ = ["digest", "export", "nodes", "open", "read_record", "unsupported", "write_record"]

EXTRA = "swinv2.json"


def export(model: SwinV2, path: Path, options: Options, calibration: np.ndarray | None = None) -> dict[str, Any]:
    """Write the traced network."""
    network = edge(fold(model, dtype=DTYPES[options.precision]))
    example = torch.zeros(2, network.config.in_chans, *network.image_size, dtype=DTYPES[options.precision])
    with torch.no_grad(), _as_asked():
        traced = torch.jit.trace(network, example, check_trace=False)
        traced.save(str(path))
    return {"torch": torch.__version__}


def write_record(path: Path, record: Record) -> None:
    """Put the record into the file."""
    module = _load(path, torch.device("cpu"))[0]
    with _as_asked():
        torch.jit.save(module, str(path), _extra_files={EXTRA: to_json(record).encode()})


def read_record(path: Path) -> Record:
    """The record in the file; raises FileNotFoundError, ArtifactError."""
    return from_json(_load(path, torch.device("cpu"))[1], str(path))


def digest(path: Path) -> str:
    """SHA-256 over the weights and the code, without the record."""
    module, _ = _load(path, torch.device("cpu"))
    found = hashlib.sha256(str(module.inlined_graph).encode())
    for name, tensor in sorted(module.state_dict().items()):
        found.update(name.encode() + tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def nodes(path: Path) -> list[Node]:
    """The operators of the trace; ranks where the trace knows them."""
    module, _ = _load(path, torch.device("cpu"))
    found = []
    for node in module.inlined_graph.nodes():
        kind = node.kind()
        if kind.startswith("aten::"):
            ranks = [output.type().dim() for output in node.outputs() if isinstance(output.type(), torch._C.TensorType)]
            found.append(Node(kind.removeprefix("aten::"), max((rank or 0 for rank in ranks), default=0)))
    return found


class TorchScriptSession(Session):
    """A traced network on one device."""

    runtime = "torchscript"

    def __init__(self, path: Path, *, device: str, precision: str):
        self.device = fastest_device() if device == "auto" else device
        self._module, described = _load(path, torch.device(self.device))
        self.record = from_json(described, str(path))
        self.precision = self.record.provenance["export"]["precision"]
        if precision not in ("auto", self.precision):
            raise ValueError(f"{path} is in {self.precision}; export it again with --precision {precision}")

    @torch.inference_mode()
    def run(self, images: np.ndarray) -> np.ndarray:
        self.check(images)
        x = torch.from_numpy(np.ascontiguousarray(images)).to(self.device, DTYPES[self.precision])
        return self._module(x).float().cpu().numpy()


def open(
    source: str | os.PathLike[str], *, device: str, precision: str, threads: int | None = None
) -> TorchScriptSession:
    """Open a file that export wrote. threads are set for the whole process, as PyTorch has it."""
    if threads is not None:
        torch.set_num_threads(threads)
    return TorchScriptSession(Path(source), device=device, precision=precision)


@contextmanager
def _as_asked() -> Iterator[None]:
    """torch.jit warns that it is deprecated as a whole: a format that was asked for by name needs no such advice."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit.*")
        yield


def _load(path: Path, device: torch.device) -> tuple[torch.jit.ScriptModule, str | None]:
    """The module and the text of its record."""
    if not path.exists():
        raise FileNotFoundError(2, "No such file or directory", str(path))
    extra = {EXTRA: ""}
    try:
        with _as_asked():
            module = torch.jit.load(str(path), map_location=device, _extra_files=extra)
    except RuntimeError as error:
        raise ArtifactError(f"{path} is no TorchScript file, or was cut off: {str(error).splitlines()[0]}") from None
    text = extra[EXTRA]
    return module, (text.decode() if isinstance(text, bytes) else text) or None
