"""A folder as a user has it: pictures, a data set, a model."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import sklearn.datasets
from PIL import Image

from swinv2.artifact import Record, write
from swinv2.config import VARIANTS, resolve
from swinv2.counts import parameter_shapes
from swinv2.preprocess import Preprocess

CLASSES = ("china", "flower")  # the two photographs that ship inside scikit-learn


def make_folder(folder: Path) -> Path:
    """photo.jpg, photos/, data/ with train/ and val/ of two classes, model.safetensors (small, random weights)."""
    (folder / "photos").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in CLASSES:
        picture = Image.fromarray(sklearn.datasets.load_sample_image(f"{name}.jpg"))
        picture.save(folder / "photos" / f"{name}.jpg")
        for split, many in (("train", 12), ("val", 4)):
            (folder / "data" / split / name).mkdir(parents=True)
            for i in range(many):
                left, top = rng.integers(0, [picture.width - 200, picture.height - 200])
                crop = picture.crop((left, top, left + 200, top + 200)).resize((64, 64))
                crop.save(folder / "data" / split / name / f"{i}.jpg")
    shutil.copy(folder / "photos" / "flower.jpg", folder / "photo.jpg")
    write_model(folder / "model.safetensors", rng)
    return folder


def write_model(path: Path, rng: np.random.Generator) -> None:
    config = replace(VARIANTS[resolve("swinv2_pico")].resized(64), num_classes=len(CLASSES))
    tensors = {
        name: 0.02 * rng.standard_normal(shape, dtype=np.float32)
        for name, shape in parameter_shapes(config).items()
    }
    write(path, Record(config, Preprocess.official(64), CLASSES), tensors)
