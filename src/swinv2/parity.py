"""Whether two runtimes give the same answer: the measures, and how far they may part in each precision."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

# precision -> largest difference of two logits allowed, as a share of the largest logit. float32 is rounding in
# another order; bfloat16 has 8 bits through 12 to 24 blocks; the accuracy of int8 is judged by quantize on labelled
# or many pictures, here it must only be the same network.
TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 8e-2, "fp8": 3e-1, "int8": 3e-1}


@dataclass(frozen=True)
class Comparison:
    """Logits of one batch in two runtimes.

    Args:
        size: (height, width) of the images.
        max_error, mean_error: absolute differences of logits; largest: the largest absolute logit of the reference.
        cosine: between the two, the smallest of the batch.
        agreement: share of the images with the same first class. Where the error is allowed, it differs only for
            images whose first two classes are as near to each other as twice that error.
    """

    batch: int
    size: tuple[int, int]
    max_error: float
    mean_error: float
    largest: float
    cosine: float
    agreement: float

    @property
    def error(self) -> float:
        """max_error as a share of the largest logit."""
        return self.max_error / self.largest if self.largest else self.max_error

    def problem(self, precision: str) -> str | None:
        """Why the two do not agree as this precision must, in one sentence; None where they do."""
        allowed, where = (
            TOLERANCES[precision],
            f"at batch {self.batch} and {self.size[0]} x {self.size[1]} pixels",
        )
        if not self.error <= allowed:  # a NaN is a problem too
            return f"{where} logits differ by {self.error:.2g} of the largest, and {precision} allows {allowed:g}"
        return None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"error": self.error}


def compare(found: np.ndarray, reference: np.ndarray, size: tuple[int, int]) -> Comparison:
    """Two arrays of logits [batch, classes], the second from the torch model in float32."""
    import numpy as np

    assert found.shape == reference.shape, (found.shape, reference.shape)
    a, b = found.astype(np.float64), reference.astype(np.float64)
    difference = np.abs(a - b)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = (a * b).sum(1) / np.where(lengths > 0, lengths, 1)
    same = a.argmax(1) == b.argmax(1)
    largest = float(np.abs(b).max())
    return Comparison(
        len(b), size, float(difference.max()), float(difference.mean()), largest, float(cosine.min()),
        float(same.mean()),
    )  # fmt: skip
