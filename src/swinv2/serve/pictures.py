"""Encoded pictures -> tensors, in threads, before they wait for a batch: one that is broken fails alone.

The record of the model says how, and Preprocess does it: the one path of every verb.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from swinv2.images import ImageError
from swinv2.preprocess import Preprocess
from swinv2.serve.settings import usable_cores


class Decoders:
    """Threads that decode; Pillow works outside of Python's lock, so that they use other cores.

    Args:
        pixels: of larger pictures nothing is decoded.
        threads: None for as many as there are cores.
    """

    def __init__(self, pixels: int, threads: int | None = None):
        self._pixels = pixels
        self._pool = ThreadPoolExecutor(threads or len(usable_cores()), thread_name_prefix="swinv2-decode")

    async def load(
        self, pictures: Sequence[bytes], preprocess: Preprocess, names: Sequence[str]
    ) -> list[np.ndarray | ImageError]:
        """Encoded pictures -> float32 [C, H, W] each, or why it is none. Those that nobody waits for are left out."""
        found = [
            self.call(_load, preprocess, data, name, self._pixels)
            for data, name in zip(pictures, names, strict=True)
        ]
        return list(await asyncio.gather(*found))

    def call(self, function: Any, *arguments: Any) -> asyncio.Future[Any]:
        """Any other work that would keep the event loop from its clients."""
        return asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)


def _load(preprocess: Preprocess, data: bytes, name: str, pixels: int) -> np.ndarray | ImageError:
    try:
        return preprocess.load(data, name=name, max_pixels=pixels)
    except ImageError as error:
        return error
    except OSError as error:
        return ImageError(f"{name}: {(error.strerror or str(error)).lower()}")
