"""Handwritten digits as an image folder, so that a demo goes the way of a person's own pictures.

The 1,797 handwritten digits of 8 x 8 pixels that ship inside scikit-learn (UCI "Optical Recognition
of Handwritten Digits", CC BY 4.0). Nothing is downloaded. Each is enlarged to 32 x 32 (bicubic) and saved as
a grey PNG.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

from swinv2.data.prepared import NOTE, Prepared, holds
from swinv2.data.split import DataError, Split, divide
from swinv2.extras import require

DIGITS_SIDE = 32  # pixels: one window of 8 x 8 tokens in the first stage


def digits(folder: str | os.PathLike) -> Prepared:
    """Write the digits as train/digit-0/*.png ... val/digit-9/*.png, and one held-out picture per class in
    samples/.

    The folder appears complete or not at all; a second call finds it and does nothing. The split is the one
    that
    an undivided folder of these files would get: a fifth of each class, by the hash of the file names.

    Raises:
        DataError: the folder holds something else.
        ImportError: scikit-learn is missing.
    """
    root = Path(folder)
    note = {"dataset": "digits", "version": 1, "side": DIGITS_SIDE}
    if holds(root, note):
        return _described(root, is_new=False)
    if root.is_file() or (root.is_dir() and any(root.iterdir())):
        raise DataError(f"{root} holds something else; give a folder that is empty or does not exist yet")
    root.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=root.parent, prefix=f".{root.name}."))
    try:
        _write_digits(part)
        (part / NOTE).write_text(json.dumps(note, indent=2) + "\n")
        part.chmod(0o755)  # mkdtemp makes it private
        if root.is_dir():
            root.rmdir()
        part.rename(root)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return _described(root, is_new=True)


def _write_digits(root: Path) -> None:
    import numpy as np
    from PIL import Image

    bunch = require("sklearn.datasets", extra="train").load_digits()
    pictures = [np.rint(grey * (255 / 16)).astype(np.uint8) for grey in bunch.images]  # values 0..16
    names = [f"digit-{target}" for target in bunch.target]
    classes = tuple(sorted(set(names)))
    whole = Split(
        root, "all", classes,
        names=tuple(f"{name}/{i:04d}.png" for i, name in enumerate(names)),
        labels=tuple(classes.index(name) for name in names),
    )  # fmt: skip
    for part in divide(whole):
        for name in part.names:
            target = root / part.split / name
            target.parent.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(pictures[int(target.stem)])
            image.resize((DIGITS_SIDE, DIGITS_SIDE), Image.Resampling.BICUBIC).save(target)
    (root / "samples").mkdir()
    for name in classes:
        shutil.copyfile(min((root / "val" / name).iterdir()), root / "samples" / f"{name}.png")


def _described(root: Path, *, is_new: bool) -> Prepared:
    images = sum(1 for split in ("train", "val") for _ in (root / split).glob("*/*.png"))
    classes = tuple(sorted(p.name for p in (root / "train").iterdir()))
    return Prepared(root, images, classes, is_new, tuple(sorted((root / "samples").iterdir())))
