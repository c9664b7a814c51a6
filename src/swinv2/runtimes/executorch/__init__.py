"""ExecuTorch: a program for phones and boards, all of whose operators XNNPACK computes; any batch up to a limit.

Int8 has weights per channel and activations by token, measured at run time (or static ones, calibrated). The record
stands beside the file. Its Python package needs torch to load, so this session does too.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from swinv2.runtimes.base import Node, Options
from swinv2.runtimes.executorch.session import open, unsupported

if TYPE_CHECKING:
    import numpy as np

    from swinv2.model import SwinV2

__all__ = ["export", "nodes", "open", "unsupported"]


def export(
    model: SwinV2, path: Path, options: Options, calibration: np.ndarray | None = None
) -> dict[str, Any]:
    """Write the program; returns what the record says about it: the largest batch and who computes the operators."""
    from swinv2.runtimes.executorch.lowering import MOST_IMAGES, lower
    from swinv2.runtimes.executorch.program import shares

    path.write_bytes(lower(model, options, calibration))
    return {"largest_batch": MOST_IMAGES, "xnnpack": shares(path)}


def nodes(path: Path) -> list[Node]:
    """The operators, those of XNNPACK in its words."""
    from swinv2.runtimes.executorch.program import operators

    return [node for node, _ in operators(path)]
