"""The pictures of a benchmark: some to decode while the clock runs, and those of a data set that are answered.

Without a data set, the photographs that travel with the package are decoded, mirrored to 500 x 375 pixels, about the
average of ImageNet, as JPEG.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

from swinv2 import probe

if TYPE_CHECKING:
    import numpy as np

    from swinv2.artifact import Record
    from swinv2.data import Split

SIZE = (500, 375)  # width, height
DECODED = 16  # different pictures at most that are decoded while the clock runs
CALIBRATED = 256  # as many as quantize takes by default: those are not judged on


@dataclass(frozen=True)
class Pictures:
    """What is decoded and answered.

    Args:
        split: with the model's class ids as labels, where has_labels; None where there is no data set.
        why_no_labels: in a sentence, where the data has labels that are none of the model's.
    """

    split: Split | None = None
    has_labels: bool = False
    why_no_labels: str = ""

    @classmethod
    def of(cls, data: str | os.PathLike[str], record: Record, images: int) -> Pictures:
        """So many pictures at most of a data set, or of a folder of pictures; the same ones every time.

        They are those that `swinv2 quantize` judges on: of data with a held-out part they are of that part, and
        none that int8 was calibrated on is among them.

        Raises:
            FileNotFoundError, DataError: data that cannot be used, in one sentence.
        """
        from swinv2.quantize.choice import choose

        chosen = choose(data, record, images=CALIBRATED, judge=images)
        single = chosen.has_labels and not chosen.judged.is_multi_label
        why = chosen.why_no_labels
        if chosen.has_labels and not single:
            why = f"pictures of {chosen.judged.name} have several classes; `swinv2 evaluate` measures those"
        return cls(chosen.judged, single, why)

    def __len__(self) -> int:
        return 0 if self.split is None else len(self.split)

    def to_dict(self) -> dict[str, Any] | None:
        """Plain JSON types; None where there is no data set."""
        if self.split is None:
            return None
        return {
            "name": self.split.name, "part": self.split.split, "images": len(self),
            "has_labels": self.has_labels, "fingerprint": self.split.fingerprint,
        }  # fmt: skip

    @property
    def labels(self) -> Sequence[int]:
        assert self.split is not None
        assert self.has_labels
        return self.split.labels

    def encoded(self, count: int) -> list[Any]:
        """Pictures as Preprocess.load takes them; they come again where there are fewer."""
        if self.split is None:
            return list(islice(cycle(photographs()), count))
        return list(islice(cycle(self.split.read(i) for i in range(min(DECODED, len(self)))), count))

    def batches(self, record: Record, batch: int) -> Iterator[tuple[np.ndarray, list[int]]]:
        """Images float32 [B, C, H, W] of the data set, and their positions; what cannot be read is left out."""
        from swinv2.evaluate.reading import batches

        assert self.split is not None
        for found in batches(self.split, range(len(self)), record.preprocess, batch_size=batch):
            if found.images is not None:
                yield found.images, found.indices


@lru_cache(maxsize=1)
def photographs() -> tuple[bytes, ...]:
    """Encoded JPEGs of the photographs of the package."""
    import numpy as np
    from PIL import Image

    found = []
    for name in probe.PHOTOGRAPHS:
        with resources.files(probe.__name__).joinpath(f"{name}.png").open("rb") as file:
            pixels = np.asarray(Image.open(file).convert("RGB"))
        padding = [(0, wanted - have) for wanted, have in zip(SIZE[::-1], pixels.shape[:2], strict=True)]
        whole = np.pad(pixels, [*padding, (0, 0)], mode="symmetric")
        jpeg = io.BytesIO()
        Image.fromarray(whole).save(jpeg, "JPEG", quality=90)
        found.append(jpeg.getvalue())
    return tuple(found)
