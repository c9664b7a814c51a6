"""What float8 does to answers, by products of the same rounded values in float32: no GPU is needed.

    python benchmarks/float8.py digits=runs/demo/digits-pico/best.safetensors,runs/demo/digits

Of trained models the held-out pictures: how many keep the class of float32, accuracy, the largest error of a logit. Of
the base model with random weights in which every block counts: the error of the logits with each kind of layer in
float8, alone and left out, which says what should stay wider. All beside bfloat16. Results go to
benchmarks/results/float8.json; docs/generate.py makes the tables of docs/gpu.md.
"""

from __future__ import annotations

import argparse
import copy
import json
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from inference import RESULTS, commit, lively
from torch import Tensor

from swinv2.artifact import Record
from swinv2.checkpoints import load
from swinv2.float8 import LAYERS, in_float8
from swinv2.fold import FoldedSwinV2, fold
from swinv2.model import SwinV2, create_model
from swinv2.preprocess import Preprocess
from swinv2.probe import images as probe_images

EVERY = ("qkv", *LAYERS)
PART = 64  # pictures at a time


def ways(model: SwinV2) -> dict[str, FoldedSwinV2]:
    """Label -> the network in bfloat16, and with layers of its blocks in float8."""
    half = fold(model, dtype=torch.bfloat16)
    kinds = {
        "all": EVERY,
        **{f"all but {kind}": tuple(k for k in EVERY if k != kind) for kind in EVERY},
        **{f"{kind} alone": (kind,) for kind in EVERY},
    }
    in_8 = {name: in_float8(copy.deepcopy(half), layers=layers) for name, layers in kinds.items()}
    return {"bf16": half, **in_8}


@torch.inference_mode()
def logits(network: FoldedSwinV2, images: Tensor) -> Tensor:
    return torch.cat([network(part).double() for part in images.split(PART)])


def errors(found: Tensor, exact: Tensor) -> dict[str, float]:
    """Of all logits together, and of the worst one, both relative to the logits."""
    off = found - exact
    return {
        "norm": float(f"{(off.norm() / exact.norm()).item():.3g}"),
        "largest": float(f"{(off.abs().max() / exact.abs().max()).item():.3g}"),
    }


def answers(name: str, path: Path, data: Path) -> list[dict[str, Any]]:
    """Rows of a trained model, on its held-out pictures."""
    model = load(path).eval()
    assert model.record is not None
    record = model.record
    held_out = next(folder for part in ("val", "validation") if (folder := data / part).is_dir())
    files = [p for p in sorted(held_out.rglob("*")) if p.suffix.lower() in (".jpg", ".jpeg", ".png")]
    labels = torch.tensor([record.classes.index(p.parent.name) for p in files])
    images = torch.from_numpy(np.stack([record.preprocess.load(p) for p in files]))
    exact = logits(fold(model), images)
    rows = []
    for label, network in {"fp32": fold(model), **ways(model)}.items():
        found = logits(network, images)
        classes = found.argmax(1)
        rows.append({"model": name, "float8": label, "pictures": len(files), **errors(found, exact),
                     "same_class": int((classes == exact.argmax(1)).sum()),
                     "correct": int((classes == labels).sum())})  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
    return rows


def random_weights(name: str, count: int) -> list[dict[str, Any]]:
    """Rows of a published architecture with weights of nobody, on the probe images."""
    model = lively(create_model(name)).eval()
    size = model.config.image_size
    classes = tuple(map(str, range(model.config.num_classes)))
    model.record = Record(model.config, Preprocess.official(size[0]), classes)
    images = torch.from_numpy(probe_images(model.record, count))
    exact = logits(fold(model), images)
    rows = []
    for label, network in ways(model).items():
        found = logits(network, images)
        rows.append({"model": name, "float8": label, "pictures": count, **errors(found, exact)})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL,DATA")
    parser.add_argument("--random", nargs="*", default=["swinv2_base_window8_256"])
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS / "float8.json")
    args = parser.parse_args()
    result: dict[str, Any] = {
        "date": date.today().isoformat(), "commit": commit(), "torch": torch.__version__, "answers": [], "random": []
    }  # fmt: skip
    for text in args.models:
        name, _, places = text.partition("=")
        model, _, data = places.partition(",")
        result["answers"] += answers(name, Path(model), Path(data))
    for name in args.random:
        result["random"] += random_weights(name, args.images)
    args.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
