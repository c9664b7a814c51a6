"""Counting answers: each picture of this process's share once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from swinv2 import metrics, multilabel, world
from swinv2.data import DataError, Split
from swinv2.data.unreadable import Unreadable
from swinv2.evaluate.matching import names_of
from swinv2.evaluate.printing import with_progress
from swinv2.evaluate.reading import batches
from swinv2.runtimes import Session

if TYPE_CHECKING:
    import numpy as np

    from swinv2.artifact import Record


def tally_for(split: Split, record: Record, threshold: float | None) -> metrics.Tally | multilabel.Tally:
    classes = names_of(record)
    if not split.is_multi_label:
        if threshold is not None:
            raise ValueError(
                f"threshold is for multi-label data; every picture of {split.name} has one class"
            )
        return metrics.Tally(classes)
    kept = record.provenance.get("thresholds")
    thresholds: Sequence[float] | None = (
        kept if isinstance(kept, list) and len(kept) == len(classes) else None
    )
    return multilabel.Tally(classes, thresholds if threshold is None else [threshold] * len(classes))


def count(
    tally: Any, session: Session, split: Split, *, batch_size: int, threads: int, stops: bool
) -> tuple[list[Unreadable], float]:
    """Put this process's share into the tally; returns what could not be read, and the seconds of computing."""
    me = world.current()
    share = range(me.rank, len(split), me.size)
    unread: list[Unreadable] = []
    seconds, refusal = 0.0, ""
    source = batches(
        split,
        share,
        session.record.preprocess,
        batch_size=batch_size,
        threads=min(threads, max(len(share), 1)),
    )
    for batch in with_progress(source, len(share)):
        unread += batch.unreadable
        if stops and unread:
            refusal = (
                f"{unread[0].reason}; nothing is measured without it: repair it or remove it, or count it as "
                f"wrong (unreadable wrong)"
            )
            break
        for one in batch.unreadable:
            tally.add_unreadable(labels_of(split, [one.index])[0], one.index)
        if batch.images is None:
            continue
        began = time.perf_counter()
        logits = session.run(batch.images)
        seconds += time.perf_counter() - began
        if refusal := _not_finite(logits, split, batch.indices, session):
            break
        tally.add(logits, labels_of(split, batch.indices), batch.indices)
    # All processes end together, and say the same.
    refusals = [refusal for refusal in world.gather(refusal) if refusal]
    if refusals:
        raise DataError(refusals[0])
    return unread, seconds


def _not_finite(logits: np.ndarray, split: Split, indices: list[int], session: Session) -> str:
    """What is wrong with answers that are no numbers; nothing where all are."""
    import numpy as np

    bad = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if not len(bad):
        return ""
    where = split.where(indices[int(bad[0])])
    return f"{where}: the model's answer in {session.precision} is not finite; try precision fp32"


def labels_of(split: Split, indices: Sequence[int]) -> np.ndarray:
    """Class ids [B], or of multi-label data 0 and 1, [B, classes]."""
    import numpy as np

    if not split.is_multi_label:
        return np.array([split.labels[i] for i in indices])
    there = np.zeros((len(indices), len(split.classes)), np.float32)
    for row, i in enumerate(indices):
        there[row, list(split.labels[i])] = 1
    return there
