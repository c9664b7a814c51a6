"""TorchScript: the edge network, traced once, for programs that embed LibTorch without Python.

Written for a CPU, float32 products are 1x1 convolutions, which LibTorch computes about twice as fast there (linear.py);
written for a GPU they are products. Both files run everywhere. The trace holds no sizes but those of the image, and no
devices: it takes any batch, and moves with .to(). Images and logits are float32 in every precision. The record is in
the file, as PyTorch's extra file "swinv2.json".
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swinv2.artifact import ArtifactError
from swinv2.edge import edge
from swinv2.fold import fold
from swinv2.runtimes import archive
from swinv2.runtimes.archive import digest, read_record, write_record
from swinv2.runtimes.base import Node, Options, Session
from swinv2.runtimes.torch import DTYPES, InFloat32, fastest_device, images_at_once, unsupported

if TYPE_CHECKING:
    from swinv2.model import SwinV2

__all__ = ["digest", "export", "nodes", "open", "read_record", "unsupported", "write_record"]

# Lines of Python that errors quote: paths of the machine that exported, in every file.
SOURCES = ".debug_pkl"


def export(
    model: SwinV2, path: Path, options: Options, calibration: np.ndarray | None = None
) -> dict[str, Any]:
    """Write the traced network."""
    network = edge(fold(model, dtype=DTYPES[options.precision]))
    if options.device == "cpu" and options.precision == "fp32":
        as_convolutions(network)
    example = torch.zeros(2, network.config.in_chans, *network.image_size)
    with torch.no_grad(), _as_asked():
        traced = torch.jit.trace(
            InFloat32(network, DTYPES[options.precision]).eval(), example, check_trace=False
        )
        traced.save(str(path))
    archive.rewrite(path, _renamed)
    return {"torch": torch.__version__}


class Convolution(nn.Module):
    """A linear layer of tokens [rows, in] -> [rows, out] as a 1x1 convolution."""

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.ins, self.outs = layer.in_features, layer.out_features  # numbers: a trace would compute shapes
        self.weight = nn.Parameter(layer.weight.detach()[:, :, None, None], requires_grad=False)
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        image = x.reshape(1, -1, 1, self.ins).permute(0, 3, 1, 2)  # 1 in pixels 1, channels last in memory
        return F.conv2d(image, self.weight, self.bias).permute(0, 2, 3, 1).reshape(-1, self.outs)


def as_convolutions(module: nn.Module) -> None:
    """Replace the linear layers of a module, all but the head's, which sees a row a picture."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear) and name != "head":
            setattr(module, name, Convolution(child))
        else:
            as_convolutions(child)


def nodes(path: Path) -> list[Node]:
    """The operators of the trace; ranks where the trace knows them."""
    found = []
    for node in _load(path, torch.device("cpu")).inlined_graph.nodes():
        kind = node.kind()
        if kind.startswith("aten::"):
            types = [output.type() for output in node.outputs()]
            ranks = [kind.dim() for kind in types if isinstance(kind, torch._C.TensorType)]
            found.append(Node(kind.removeprefix("aten::"), max((rank or 0 for rank in ranks), default=0)))
    return found


class TorchScriptSession(Session):
    """A traced network on one device."""

    runtime = "torchscript"

    def __init__(self, path: Path, *, device: str, precision: str):
        self.record = read_record(path)
        self.precision = archive.about_export(self.record, path, self.runtime).get("precision", "fp32")
        if precision not in ("auto", self.precision):
            raise ValueError(f"{path} is in {self.precision}; export it again with --precision {precision}")
        if why := unsupported(device, precision):
            raise ValueError(why)
        archive.check(path)
        self.device = fastest_device() if device == "auto" else device
        self._module: torch.jit.ScriptModule | None = _load(path, torch.device(self.device))

    @torch.inference_mode()
    def run(self, images: np.ndarray) -> np.ndarray:
        self.check(images)
        assert self._module is not None, "the session was closed"
        x = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        parts = x.split(images_at_once(self.record, self.device, self.precision))
        return torch.cat([self._module(part) for part in parts]).cpu().numpy()

    def close(self) -> None:
        self._module = None


def open(
    source: str | os.PathLike[str], *, device: str, precision: str, threads: int | None = None
) -> TorchScriptSession:
    """Open a file that export wrote. threads are set for the whole process, as PyTorch has it."""
    if threads is not None:
        torch.set_num_threads(threads)
    return TorchScriptSession(Path(source), device=device, precision=precision)


def _renamed(name: str) -> str | None:
    """The folder that holds everything is named after the file, by PyTorch; here always the same."""
    return None if name.endswith(SOURCES) else f"{archive.ROOT}/{name.partition('/')[2]}"


@contextmanager
def _as_asked() -> Iterator[None]:
    """torch.jit warns that it is deprecated as a whole: a format that was asked for by name needs no such advice."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit.*")
        yield


def _load(path: Path, device: torch.device) -> torch.jit.ScriptModule:
    try:
        with _as_asked():
            return torch.jit.load(str(path), map_location=device)
    except RuntimeError as error:
        raise ArtifactError(f"{path} cannot be loaded: {str(error).strip().splitlines()[0]}") from None
