"""Batches of pictures for torch: from which pixels, made by whom.

The order and every random choice follow from (seed, epoch, index) and not from who computes them, so any
number of workers gives the same batches. A picture that cannot be read comes back as its name and the reason;
what that means is decided by training and by evaluation, which never replaces one by another.
"""

from __future__ import annotations

import io
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from swinv2.data.order import Key, Order
from swinv2.data.packed import packed
from swinv2.data.split import Split
from swinv2.data.unreadable import Unreadable
from swinv2.images import decode
from swinv2.preprocess import Preprocess

Transform = Callable[[Any, Key], Tensor]  # Pillow image -> [C, H, W]

MEMORY = 256 * 2**20  # bytes of decoded pictures that are kept; 85,000 of 32 x 32
GRACE = 30  # seconds that a worker outlives a SIGTERM, where the main process does not end it before


class Batch(NamedTuple):
    """What could be read of a (micro) batch; B may be 0, then images has no other dimensions.

    Args:
        images: [B, C, H, W].
        labels: [B] long, or of a multi-label set [B, classes] float, 1 where the class is there.
        indices: [B] positions in the split.
        positions: [B] places in the total batch of the step, see Order.
        unreadable: pictures that are not among them.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    positions: Tensor
    unreadable: tuple[Unreadable, ...]


_TENSORS = ("images", "labels", "indices", "positions")  # of a Batch


class Pictures(Dataset):
    """Decoded, transformed pictures of a split, by key."""

    def __init__(
        self, split: Split, channels: int, transform: Transform, decoded: Sequence[Any] | None = None
    ):
        self.split = packed(split)
        self.channels, self.transform, self.decoded = channels, transform, decoded
        self.classes = len(split.classes) if split.is_multi_label else None

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, key: Key) -> Sample | Unreadable:
        index = key.index
        image = (
            self.decoded[index] if self.decoded is not None else try_decode(self.split, index, self.channels)
        )
        if isinstance(image, Unreadable):
            return image
        try:
            return Sample(self.transform(image, key), self._target(index), index, key.position)
        except ValueError as error:  # a defect, and not what people did
            raise RuntimeError(f"{self.split.where(index)} could not be augmented: {error}") from error

    def _target(self, index: int) -> Tensor:
        labels = self.split.labels[index]
        if self.classes is None:
            return torch.tensor(int(labels))
        return torch.zeros(self.classes).index_fill_(0, torch.tensor(labels, dtype=torch.long), 1)


class Sample(NamedTuple):
    """One picture of a batch."""

    image: Tensor
    label: Tensor
    index: int  # type: ignore[assignment]  # as in Key
    position: int


@dataclass(frozen=True)
class AsPredicted:
    """The transform of evaluation: a picture as a prediction sees it, the same in every epoch."""

    preprocess: Preprocess

    def __call__(self, image: Any, key: Key | None = None) -> Tensor:
        return torch.from_numpy(self.preprocess(image))


class Batches(DataLoader):
    """An iterable of Batch; set the order's epoch (and start) before each iteration.

    Args:
        workers: processes that make the batches; 0 makes them in this one.
        pin: put them where a GPU can fetch them from.
    """

    def __init__(self, pictures: Pictures, order: Order, *, workers: int, pin: bool = False):
        # Workers hand batches over in shared memory. A plain container has 64 MB of it, and a worker that
        # finds it full dies of a bus error; then they go through pipes instead, which are slower to copy.
        self.is_shared = not workers or _shared_room() >= _held(pictures, order, workers)
        super().__init__(
            pictures,
            batch_sampler=order,
            num_workers=workers,
            collate_fn=collate if self.is_shared else _collate_for_pipe,
            pin_memory=pin,
            persistent_workers=workers > 0,
            worker_init_fn=_prepare_worker,
            generator=torch.Generator(),  # otherwise it draws from torch's own, which drop path uses
        )

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # which batches, and nothing else of it
        for batch in super().__iter__():
            if not self.is_shared:
                batch = _restored(batch, pin=self.pin_memory)
            yield batch


def loader(pictures: Pictures, order: Order, *, workers: int, pin: bool = False) -> Batches:
    """Batches of pictures in an order."""
    return Batches(pictures, order, workers=workers, pin=pin)


def collate(samples: list[Sample | Unreadable]) -> Batch:
    """Samples -> Batch."""
    readable = [s for s in samples if isinstance(s, Sample)]
    return Batch(
        images=torch.stack([s.image for s in readable]) if readable else torch.empty(0),
        labels=torch.stack([s.label for s in readable]) if readable else torch.empty(0, dtype=torch.long),
        indices=torch.tensor([s.index for s in readable], dtype=torch.long),
        positions=torch.tensor([s.position for s in readable], dtype=torch.long),
        unreadable=tuple(s for s in samples if isinstance(s, Unreadable)),
    )


def _collate_for_pipe(samples: list[Sample | Unreadable]) -> Batch:
    """Arrays instead of tensors: torch would put those into shared memory."""
    batch = collate(samples)
    return batch._replace(**{name: getattr(batch, name).numpy() for name in _TENSORS})


def _restored(batch: Batch, *, pin: bool) -> Batch:
    tensors: dict[str, Any] = {name: torch.from_numpy(getattr(batch, name)) for name in _TENSORS}
    if pin:
        tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
    return batch._replace(**tensors)


def try_decode(split: Split, i: int, channels: int) -> Any:
    """Picture i, decoded, or why it cannot be."""
    try:
        return decode(split.read(i), channels=channels, name=split.where(i))
    except (OSError, ValueError) as error:
        return Unreadable(i, split.names[i], " ".join(str(error).split()))


def decode_all(split: Split, channels: int, *, keep: bool = True) -> list[Any]:
    """Every picture of a split, or None in its place where they are not to be kept; an Unreadable where it
    is one.

    Threads, because Pillow decodes outside of Python's lock.
    """

    def read(i: int) -> Any:
        image = try_decode(split, i, channels)
        return image if keep or isinstance(image, Unreadable) else None

    with ThreadPoolExecutor(max_workers=min(cpus(), 8)) as pool:
        return list(pool.map(read, range(len(split))))


def fits_in_memory(split: Split, limit: int = MEMORY) -> bool:
    """Whether all pictures, decoded, take at most so many bytes. Reads headers, and stops when it knows."""
    from PIL import Image

    total = 0
    for i in range(len(split)):
        try:
            encoded = split.read(i)
            with Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded) as image:
                total += image.width * image.height * 3
        except (OSError, ValueError, Image.DecompressionBombError):
            continue  # decoding will say why
        if total > limit:
            return False
    return True


def cpus() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers(*, processes: int = 1) -> int:
    """Loader processes for pictures that are decoded as they are needed, where so many processes train here."""
    return max(1, min(cpus() // processes, 8))


def _held(pictures: Pictures, order: Order, workers: int) -> int:
    """Bytes of the batches that are under way at a time, those of the other processes on this machine too."""
    samples = (pictures[Key(0, i, 0)] for i in range(min(len(pictures), 10)))
    image = next((s.image for s in samples if isinstance(s, Sample)), torch.empty(0))
    size = -(-order.batch_size // (order.world * order.parts))
    # Two per worker are made ahead; one is in use and one being unpacked.
    return image.nbytes * size * (2 * workers + 2) * order.world


def _shared_room() -> float:
    """Bytes that processes can share; infinitely many where that is not a matter of /dev/shm."""
    return shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else math.inf


def _prepare_worker(_: int) -> None:
    """Signals are answered by the main process, which saves with the workers' help and ends them."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        # Schedulers and pkill end every process they find: this one stays while the main process saves.
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE))
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)  # terminals and launchers send signals to the whole group of the main process
    torch.set_num_threads(1)
