"""Batches of pictures for torch: in which order, from which pixels, made by whom.

The order and every random choice follow from (seed, epoch, index) and not from who computes them, so any
number of workers gives the same batches. A picture that cannot be read comes back as its name and the reason;
what that means is decided by training and by evaluation, which never replaces one by another.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from swinv2.data.folder import ImageFolder
from swinv2.images import decode
from swinv2.preprocess import Preprocess

Key = tuple[int, int]  # (epoch, index): all that decides a sample
Transform = Callable[[Any, Key], Tensor]  # Pillow image -> [C, H, W]

MEMORY = 256 * 2**20  # bytes of decoded pictures that are kept; 85,000 of 32 x 32


class Unreadable(NamedTuple):
    """A picture that could not be decoded."""

    path: str
    reason: str  # names the path


class Batch(NamedTuple):
    """images [B, C, H, W], labels [B], positions in the folder [B]; what could not be read is not in them."""

    images: Tensor
    labels: Tensor
    indices: Tensor
    unreadable: tuple[Unreadable, ...]


class Order(Sampler[list[Key]]):
    """The batches of one epoch, as lists of (epoch, index).

    Args:
        count: pictures.
        seed: of the shuffle; None keeps the order of the folder and the last, smaller batch.
            A shuffled epoch leaves the pictures over that do not fill a batch: other ones each time.
    """

    def __init__(self, count: int, batch_size: int, seed: int | None = None):
        self.count, self.batch_size, self.seed = count, min(batch_size, count), seed
        self.epoch = 0

    def __len__(self) -> int:
        return -(-self.count // self.batch_size) if self.seed is None else self.count // self.batch_size

    def __iter__(self) -> Iterator[list[Key]]:
        indices = list(range(self.count))
        if self.seed is not None:
            generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
            indices = torch.randperm(self.count, generator=generator).tolist()
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            yield [(self.epoch, i) for i in indices[start : start + self.batch_size]]


class Pictures(Dataset):
    """Decoded, transformed pictures of a folder, by (epoch, index)."""

    def __init__(
        self, folder: ImageFolder, channels: int, transform: Transform, decoded: Sequence[Any] | None = None
    ):
        self.folder, self.channels, self.transform, self.decoded = folder, channels, transform, decoded

    def __len__(self) -> int:
        return len(self.folder)

    def __getitem__(self, key: Key) -> tuple[Tensor, int, int] | Unreadable:
        index = key[1]
        path = self.folder.paths[index]
        image = self.decoded[index] if self.decoded is not None else try_decode(path, self.channels)
        if isinstance(image, Unreadable):
            return image
        try:
            return self.transform(image, key), self.folder.labels[index], index
        except ValueError as error:  # a defect, and not what people did
            raise RuntimeError(f"{path} could not be augmented: {error}") from error


@dataclass(frozen=True)
class AsPredicted:
    """The transform of evaluation: a picture as a prediction sees it, the same in every epoch."""

    preprocess: Preprocess

    def __call__(self, image: Any, key: Key | None = None) -> Tensor:
        return torch.from_numpy(self.preprocess(image))


def loader(pictures: Pictures, order: Order, *, workers: int, pin: bool = False) -> DataLoader:
    """An iterable of Batch; set order.epoch before each epoch."""
    return DataLoader(
        pictures,
        batch_sampler=order,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin,
        persistent_workers=workers > 0,
        worker_init_fn=_prepare_worker,
        generator=torch.Generator(),  # otherwise it draws from torch's own, which drop path uses
    )


def collate(samples: list[tuple[Tensor, int, int] | Unreadable]) -> Batch:
    """Samples -> Batch. Where none could be read, images has 0 rows."""
    readable = [s for s in samples if not isinstance(s, Unreadable)]
    images = [image for image, _, _ in readable]
    return Batch(
        images=torch.stack(images) if images else torch.empty(0),
        labels=torch.tensor([label for _, label, _ in readable], dtype=torch.long),
        indices=torch.tensor([index for _, _, index in readable], dtype=torch.long),
        unreadable=tuple(s for s in samples if isinstance(s, Unreadable)),
    )


def try_decode(path: os.PathLike, channels: int) -> Any:
    """The decoded picture, or why it cannot be one."""
    try:
        return decode(path, channels=channels)
    except (OSError, ValueError) as error:
        return Unreadable(str(path), " ".join(str(error).split()))


def decode_all(folder: ImageFolder, channels: int, *, keep: bool = True) -> list[Any]:
    """Every picture of a folder, or None in its place where they are not to be kept; an Unreadable where it
    is one.

    Threads, because Pillow decodes outside of Python's lock.
    """

    def read(path: os.PathLike) -> Any:
        image = try_decode(path, channels)
        return image if keep or isinstance(image, Unreadable) else None

    with ThreadPoolExecutor(max_workers=min(cpus(), 8)) as pool:
        return list(pool.map(read, folder.paths))


def fits_in_memory(folder: ImageFolder, limit: int = MEMORY) -> bool:
    """Whether all pictures, decoded, take at most so many bytes. Reads headers, and stops when it knows."""
    from PIL import Image

    total = 0
    for path in folder.paths:
        try:
            with Image.open(path) as image:
                total += image.width * image.height * 3
        except (OSError, ValueError, Image.DecompressionBombError):
            continue  # decoding will say why
        if total > limit:
            return False
    return True


def cpus() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers(batch_bytes: int) -> int:
    """Loader processes for pictures that are decoded as they are needed.

    Each holds up to two finished batches in shared memory; where /dev/shm is small (64 MB in a plain
    container) there are fewer, down to none.
    """
    wanted = min(cpus(), 8)
    if os.path.isdir("/dev/shm"):
        room = shutil.disk_usage("/dev/shm").free // 2
        wanted = min(wanted, max(0, (room // max(batch_bytes, 1) - 1) // 2))
    return wanted


def _prepare_worker(_: int) -> None:
    import signal

    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is answered by the main process, which ends the workers
    torch.set_num_threads(1)
