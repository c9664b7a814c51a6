"""The verb `swinv2 data`: make data sets ready."""

from __future__ import annotations

from typing import Literal

from swinv2 import console
from swinv2.data.prepare import DATASETS
from swinv2.verbs import Exit


def prepare(dataset: Literal["digits"], folder: str, *, json: bool = False) -> int:
    """Write a data set as a folder of pictures that `swinv2 train` takes.

    A second call finds the folder complete and does nothing.

    Args:
        dataset: digits are the 1,797 handwritten digits that ship inside scikit-learn; nothing is downloaded.
        folder: where to; it is made.

    Examples:
        swinv2 data prepare digits runs/demo/digits
    """
    made = DATASETS[dataset](folder)
    if json:
        console.emit_json(
            {
                "dataset": dataset,
                "folder": str(made.root),
                "images": made.images,
                "classes": list(made.classes),
                "samples": [str(path) for path in made.samples],
                "written": made.is_new,
            }
        )
        return Exit.DONE
    done = "written" if made.is_new else "already there, nothing to do"
    console.stdout().print(f"{made.root}: {made.images:,} pictures of {len(made.classes)} classes, {done}")
    console.stdout().print(f"one held-out picture of each class: {made.root / 'samples'}")
    return Exit.DONE


COMMANDS = {"prepare": prepare}
