"""Which pictures int8 is calibrated on, and which other ones it is judged on: the same every time, by their names.

A data set that has parts is calibrated on its training part and judged on the held-out one; anything else is cut in
two. Labels are used where they are the model's classes. Without them the float model is what is right.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swinv2.data import DataError, Split, divide
from swinv2.data import folder as folders
from swinv2.data.formats import Layout, find, read_training
from swinv2.evaluate.matching import held_out, match_classes
from swinv2.inputs import images_in

if TYPE_CHECKING:
    from swinv2.artifact import Record


@dataclass(frozen=True)
class Choice:
    """Pictures for both purposes.

    Args:
        judged: with the model's class ids as labels where it has labels.
        has_labels: whether answers can be counted as right and wrong.
        why_no_labels: in a sentence, where the data has labels of its own that say nothing here.
    """

    calibration: Split
    judged: Split
    has_labels: bool
    why_no_labels: str = ""

    @property
    def overlaps(self) -> bool:
        """Whether it is judged on pictures that it was calibrated on: of a single picture there is no other."""
        return bool(set(self.calibration.names) & set(self.judged.names))

    def to_dict(self) -> dict[str, Any]:
        """For the record: names and hashes, no paths of this machine."""
        return {
            "calibration": _described(self.calibration),
            "judged_on": _described(self.judged) | {"has_labels": self.has_labels, "overlaps": self.overlaps},
        }


def choose(data: str | os.PathLike[str], record: Record, *, images: int, judge: int) -> Choice:
    """Look at a data set, or at a folder of pictures.

    Args:
        images: to calibrate on, at most; of pictures that are not divided at most half.
        judge: to judge on, at most.

    Raises:
        FileNotFoundError, DataError: data that cannot be used, in one sentence.
    """
    if _is_plain(data):
        calibration, judged = _cut(_plain(Path(data)), images)
        return Choice(_some(calibration, images), _some(judged, judge), has_labels=False)
    calibration, judged = _parts(find(data), record, images)
    try:
        judged, why = match_classes(judged, record), ""
    except DataError as error:
        why = str(error)
    return Choice(_some(calibration, images), _some(judged, judge), not why, why)


def _parts(layout: Layout, record: Record, images: int) -> tuple[Split, Split]:
    """What to calibrate on and what to judge on, of pictures in classes."""
    if layout.trains and layout.held_outs:
        return layout.parts[layout.trains[0]](), layout.parts[layout.held_outs[0]]()
    if layout.whole is None:
        return read_training(layout.root) if layout.trains else _cut(_only_part(layout), images)
    whole = layout.whole()
    unseen = held_out(whole, record)
    return _cut(whole, images) if unseen is whole else (divide(whole)[0], unseen)


def _only_part(layout: Layout) -> Split:
    return layout.parts[(layout.held_outs or list(layout.parts))[0]]()


def _cut(whole: Split, images: int) -> tuple[Split, Split]:
    """In two, by the hash of the names; a single picture serves for both."""
    if len(whole) < 2:
        return whole, whole
    ranked = _ranked(whole.names)
    count = min(images, len(whole) // 2)
    return whole.select(sorted(ranked[:count])), whole.select(sorted(ranked[count:]))


def _some(split: Split, most: int) -> Split:
    """So many at most, from all over the split."""
    return split if len(split) <= most else split.select(sorted(_ranked(split.names)[:most]))


def _ranked(names: Sequence[str]) -> list[int]:
    """By hash: no generator whose stream a library may change, and adding a file moves few others."""
    return sorted(range(len(names)), key=lambda i: hashlib.sha256(names[i].encode()).digest())


def _is_plain(data: str | os.PathLike[str]) -> bool:
    """A folder of pictures that are in no classes."""
    root = Path(data)
    if not root.is_dir():
        return False
    layout = find(root)
    inside = [root / part for part in layout.parts] or [root]
    return (
        layout.form == "folder" and not any(map(folders.has_classes, inside)) and folders.holds_pictures(root)
    )


def _plain(root: Path) -> Split:
    names = tuple(file.relative_to(root).as_posix() for file in images_in(root))
    return Split(root, "all", ("picture",), names, (0,) * len(names))


def _described(split: Split) -> dict[str, Any]:
    return {"data": split.name, "part": split.split, "images": len(split), "fingerprint": split.fingerprint}
