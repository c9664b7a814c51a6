"""MNN: the ONNX graph, rewritten for its converter; one file, with the record beside it.

The converter is run without the command around it, which phones home (converting.py), and its mistakes are kept out
of its way (rewriting.py): it converts other spellings of the same network without a word, into other answers.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swinv2.runtimes.base import Node, Options
from swinv2.runtimes.mnn.session import load, open, unsupported

if TYPE_CHECKING:
    import numpy as np

    from swinv2.model import SwinV2

__all__ = ["cannot_export", "export", "nodes", "open", "unsupported"]

OPSET = 20  # the first whose Gelu is one operator


def export(
    model: SwinV2, path: Path, options: Options, calibration: np.ndarray | None = None
) -> dict[str, Any]:
    """Write the model; fp16 is the precision of the weights, and of the computation where a processor has it."""
    from swinv2.fold import fold
    from swinv2.runtimes.mnn.converting import convert
    from swinv2.runtimes.mnn.rewriting import rewritten
    from swinv2.runtimes.onnx.static import graph

    made = rewritten(graph(fold(model), opset=OPSET))
    with tempfile.TemporaryDirectory(prefix="swinv2-") as folder:
        source = Path(folder, "model.onnx")
        source.write_bytes(made.SerializeToString(deterministic=True))
        convert(source, path, half=options.precision == "fp16")
    (given,), (result,) = made.graph.input, made.graph.output
    return {"input": given.name, "output": result.name, "opset": OPSET}


def cannot_export(options: Options) -> str | None:
    """Why these options are impossible; None where they are not."""
    if options.opset not in (None, OPSET):
        return f"mnn is written through ONNX in opset {OPSET}, which its converter reads right; leave --opset out"
    return None


def nodes(path: Path) -> list[Node]:
    """The operators as MNN loads them, and the rank of their results; constants are none."""
    found = load(path, lambda mnn: mnn.expr.load_as_list(str(path)))
    return [
        Node(value.op_type, len(value.shape)) for value in found if value.op_type not in ("Const", "Input")
    ]
