"""Pictures for a session: decoded by threads while it computes, in order, none replaced by another."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from swinv2.data import Split
from swinv2.data.unreadable import Unreadable
from swinv2.preprocess import Preprocess

if TYPE_CHECKING:
    import numpy as np

THREADS = min(8, os.cpu_count() or 1)  # Pillow decodes outside of Python's lock


class Batch(NamedTuple):
    """images float32 [B, C, H, W] of the pictures at indices, and what could not be read beside them."""

    images: np.ndarray | None
    indices: list[int]
    unreadable: list[Unreadable]


def batches(
    split: Split, indices: Sequence[int], preprocess: Preprocess, *, batch_size: int, threads: int = THREADS
) -> Iterator[Batch]:
    """The pictures at these positions, as the model's record says it sees them. No image is in two batches.

    Args:
        threads: that decode; about two batches are decoded ahead.
    """
    import numpy as np

    def load(i: int) -> np.ndarray | Unreadable:
        where = split.where(i)
        try:
            return preprocess.load(split.read(i), name=where)
        except OSError as error:
            return Unreadable(i, split.names[i], f"{where}: {(error.strerror or str(error)).lower()}")
        except ValueError as error:
            return Unreadable(i, split.names[i], str(error))

    ahead: deque[tuple[int, Future[np.ndarray | Unreadable]]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="swinv2-decode")
    waiting = iter(indices)
    try:
        while True:
            while len(ahead) < 2 * max(batch_size, threads) and (i := next(waiting, None)) is not None:
                ahead.append((i, pool.submit(load, i)))
            if not ahead:
                return
            taken = [ahead.popleft() for _ in range(min(batch_size, len(ahead)))]
            loaded = [(i, future.result()) for i, future in taken]
            good = [(i, image) for i, image in loaded if not isinstance(image, Unreadable)]
            yield Batch(
                np.stack([image for _, image in good]) if good else None,
                [i for i, _ in good],
                [image for _, image in loaded if isinstance(image, Unreadable)],
            )
    finally:
        pool.shutdown(cancel_futures=True)
