"""A few small model files for fuzz_artifact.cpp to begin with: python seeds.py FOLDER

Each is there three times: the whole file, its header alone (behind H and the length of its weights) and its
record alone (behind R), because few changes of a whole file are still a file.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from swinv2 import artifact
from swinv2.config import SwinV2Config
from swinv2.counts import parameter_shapes
from swinv2.preprocess import Preprocess

# The smallest model with every kind of tensor; fuzz_artifact.cpp knows its shapes.
CONFIG = SwinV2Config(
    architecture="seed", image_size=(8, 8), window=2, embed_dim=16, depths=(1,), heads=(2,), pretrained_windows=(0,),
    num_classes=3, in_chans=1, patch_size=1, mlp_ratio=1.0,
)  # fmt: skip
TWO_STAGES = replace(
    CONFIG, depths=(1, 1), heads=(2, 4), pretrained_windows=((0, 3), 2), num_classes=0, in_chans=3, patch_size=2,
    mlp_ratio=0.5, drop_path=0.1,
)  # fmt: skip


def record(config: SwinV2Config, *, names: bool) -> artifact.Record:
    return artifact.Record(
        config, Preprocess.official(config.image_size, config.in_chans),
        classes=("Äpfel", 'g"\\', "\U0001f34f") if names else (), synsets=("n1", "n2", "n3") if names else (),
        provenance={"source": "seed", "loss": float("nan"), "nested": {"a": [1, None, True]}} if names else {},
        license="MIT" if names else "", accuracy={"top-1": 81.8} if names else {},
    )  # fmt: skip


def write(folder: Path, name: str, config: SwinV2Config, dtype: torch.dtype, *, names: bool) -> None:
    tensors = {
        parameter: torch.linspace(-1, 1, int(np.prod(shape))).reshape(shape).to(dtype)
        for parameter, shape in parameter_shapes(config).items()
    }
    with TemporaryDirectory() as temporary:
        path = Path(temporary) / name
        artifact.write(path, record(config, names=names), tensors)
        content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].rstrip()
    (folder / f"{name}.safetensors").write_bytes(content)
    (folder / f"{name}.header").write_bytes(b"H" + (len(content) - 8 - length).to_bytes(3, "little") + header)
    (folder / f"{name}.record").write_bytes(b"R" + json.loads(header)["__metadata__"]["swinv2"].encode())


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    write(folder, "half", CONFIG, torch.float16, names=True)
    write(folder, "brain", replace(CONFIG, image_size=(9, 7)), torch.bfloat16, names=False)
    write(folder, "stages", TWO_STAGES, torch.float32, names=False)


if __name__ == "__main__":
    main()
