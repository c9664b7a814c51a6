"""PaddleClas: weights in its names, as paddle.save writes them, with the record beside them.

Paddle itself is not needed to write the file, and torch runs it here: what was written is read back from the names and
the layout of PaddleClas, so a comparison of logits covers both ways.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swinv2.checkpoints import DIALECTS, files, load
from swinv2.runtimes.base import Options
from swinv2.runtimes.beside import read_record
from swinv2.runtimes.torch import TorchSession, unsupported

if TYPE_CHECKING:
    import numpy as np

    from swinv2.model import SwinV2

__all__ = ["export", "open", "unsupported"]


def export(
    model: SwinV2, path: Path, options: Options, calibration: np.ndarray | None = None
) -> dict[str, Any]:
    """Write the weights.

    Raises:
        ValueError: PaddleClas has no such architecture.
    """
    paddle = DIALECTS["paddle"]
    if why := paddle.unsupported(model.config):
        raise ValueError(f"PaddleClas cannot express {model.config.architecture}: {why}")
    files.write_tensors(path, paddle.from_official(model.float().state_dict(), model.config))
    return {"names": paddle.about}


class PaddleSession(TorchSession):
    """The folded network of torch with these weights."""

    runtime = "paddle"


def open(
    source: str | os.PathLike[str], *, device: str, precision: str, threads: int | None = None
) -> PaddleSession:
    """Open a file that export wrote; threads are set for the whole process, as PyTorch has it."""
    import torch

    record = read_record(Path(source))
    if threads is not None:
        torch.set_num_threads(threads)
    model = load(source, architecture=record.config)
    model.record = record
    return PaddleSession(model, device=device, precision=precision)
