"""What happens in the process of a converter: the model is read, written in one format, and its graph looked over.

Everything that this process prints is kept by its parent and shown where it fails.
"""

from __future__ import annotations

import collections
import importlib.metadata
import warnings
from pathlib import Path
from typing import Any

import swinv2
from swinv2 import lint, probe, verification
from swinv2.config import Pair
from swinv2.runtimes import RUNTIMES, Options


def write(
    source: str, path: str, runtime: str, options: dict[str, Any], calibration: str | None
) -> dict[str, Any]:
    """Write a model file in a format, without a record.

    Args:
        calibration: a .npy file of images float32 [N, C, H, W], for int8.

    Returns:
        what the record says about the file: format, precision, operators, versions.

    Raises:
        ValueError: the format cannot hold the model, or its graph breaks the rules.
    """
    import numpy as np
    import torch

    from swinv2.checkpoints import load

    warnings.simplefilter("ignore")  # converters speak to their own authors
    torch.set_num_threads(1)  # sums are rounded by their parts: the same bytes from every machine
    row, chosen = RUNTIMES[runtime], Options(**options | {"keep_float": tuple(options["keep_float"])})
    images = None if calibration is None else np.load(calibration)
    module = row.load()
    notes = module.export(load(source).eval(), Path(path), chosen, images)
    about: dict[str, Any] = {
        "format": row.name,
        "precision": chosen.precision,
        "dynamic": [
            *(["batch"] if row.dynamic_batch else []),
            *(["height", "width"] if chosen.dynamic_size else []),
        ],
        "written_with": {"swinv2": swinv2.__version__, **_versions(row.package, *row.converters)},
        **notes,
    }
    if hasattr(module, "nodes"):
        nodes = module.nodes(Path(path))
        if found := lint.problems(
            nodes, edge=row.edge and not chosen.dynamic_size, dynamic=chosen.dynamic_size
        ):
            raise ValueError(
                f"the graph of {Path(path).name} breaks the rules: {'; '.join(found)}; please report it"
            )
        operators = collections.Counter(node.operator for node in nodes)
        about["graph"] = {
            "operators": dict(sorted(operators.items())),
            "nodes": len(nodes),
            "largest_rank": max(node.rank for node in nodes),
        }
    return about


def refer(source: str, sizes: list[list[int]], images: int) -> dict[str, Any]:
    """What the torch model answers on the probe images, in float32: a verification.Reference as plain values."""
    import torch

    from swinv2.checkpoints import load

    model = load(source).eval()
    assert model.record is not None
    step = verification.step_of(model.config.num_classes or model.config.num_features)
    cases: dict[Pair, Any] = {}
    with torch.inference_mode():
        for i, (height, width) in enumerate(sizes):
            x = torch.from_numpy(probe.images(model.record, images if i == 0 else 1, (height, width)))
            # One at a time: the answer to an image must not depend on its batch, and memory stays small.
            logits = torch.cat([model(one[None]) for one in x]).float().numpy()
            cases[(height, width)] = logits[:, ::step]
    return verification.Reference(step, cases).to_dict()


def _versions(*packages: str) -> dict[str, str]:
    """Versions of distributions, by the names under which they are imported."""
    by_import = importlib.metadata.packages_distributions()
    return {d: importlib.metadata.version(d) for p in packages for d in by_import.get(p, ())[:1]}
