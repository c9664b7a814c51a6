"""ncnn's own Python package, on a CPU."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swinv2.artifact import ArtifactError
from swinv2.extras import require
from swinv2.runtimes.base import Session
from swinv2.runtimes.beside import read_record
from swinv2.runtimes.ncnn.layers import WEIGHTS, read

if TYPE_CHECKING:
    import numpy as np


class NcnnSession(Session):
    """One network, and as many threads as asked for."""

    runtime, device = "ncnn", "cpu"

    def __init__(self, path: Path, *, precision: str, threads: int | None):
        self.record = read_record(path)
        about = self.record.provenance["export"]
        self.precision = about["precision"] if precision == "auto" else precision
        if about["precision"] == "fp16" and self.precision != "fp16":
            raise ValueError(f"{path} has weights in fp16; export it again for {self.precision}")
        self._names = about["input"], about["output"]
        self._net = _load(path, self.precision, threads)

    def run(self, images: np.ndarray) -> np.ndarray:
        import ncnn
        import numpy as np

        self.check(images)
        logits = []
        for image in np.ascontiguousarray(images, dtype=np.float32):
            extractor = self._net.create_extractor()
            extractor.input(self._names[0], ncnn.Mat(image))
            status, found = extractor.extract(self._names[1])
            if status != 0:
                raise RuntimeError(f"ncnn could not run the model (status {status}); is there memory left?")
            logits.append(np.array(found))
        return np.stack(logits)

    def close(self) -> None:
        self._net.clear()


def open(
    source: str | os.PathLike[str], *, device: str, precision: str, threads: int | None = None
) -> NcnnSession:
    """Open a .param file that export wrote; its weights are beside it."""
    return NcnnSession(Path(source), precision=precision, threads=threads)


def unsupported(device: str, precision: str) -> str | None:
    """Why ncnn cannot compute so here; None where it can."""
    return None  # its row says what it computes in


def _load(path: Path, precision: str, threads: int | None) -> Any:
    """The network in memory; damage is found before ncnn sees it, which would crash."""
    weights = path.with_suffix(WEIGHTS)
    if not weights.exists():
        raise ArtifactError(
            f"{path} has no {weights.name} beside it (its weights); copy both, or export again"
        )
    layers = read(path)
    ncnn = require("ncnn", extra="ncnn")
    for kind in sorted({layer.kind for layer in layers}):
        if ncnn.create_layer(kind) is None:
            raise ArtifactError(
                f"{path} needs the layer {kind}, which ncnn {ncnn.__version__} lacks; pip install -U ncnn"
            )
    net = ncnn.Net()
    option = net.opt
    option.use_vulkan_compute = False
    option.use_fp16_packed = option.use_fp16_storage = option.use_fp16_arithmetic = precision == "fp16"
    option.use_bf16_storage = precision == "bf16"
    # Packing is for feature maps. Tokens would be packed and unpacked around every reshape: bf16 takes twice as long.
    option.use_packing_layout = False
    if threads is not None:
        option.num_threads = threads
    if net.load_param(str(path)) != 0 or net.load_model(str(weights)) != 0:
        raise ArtifactError(
            f"{path} cannot be loaded by ncnn {ncnn.__version__}, or was cut off; export it again"
        )
    return net
