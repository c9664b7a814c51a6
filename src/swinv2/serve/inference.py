"""The meaning of an inference request, for both protocols: tensors in, tensors out, by the rules of the Open Inference
Protocol (github.com/kserve/open-inference-protocol) and of Triton's classification extension.

Two ways in: `image`, encoded pictures (BYTES [N]), which the record of the model prepares, and `pixels`, prepared
tensors (FP32 [N, C, H, W]). Two ways out: `logits` and `scores` (probabilities), both FP32 [N, classes]; an output
with `classification` k gives BYTES [N, k], "score:index:label" each.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from swinv2.images import ImageError
from swinv2.predictions import Score, best, probabilities, ranked
from swinv2.serve.batcher import Admission
from swinv2.serve.errors import Kind, Refused, invalid
from swinv2.serve.pictures import Decoders
from swinv2.serve.settings import Limits
from swinv2.serve.version import Version

INPUTS = ("image", "pixels")
OUTPUTS = ("logits", "scores")
NAME_LENGTH = 256  # characters of what a client calls an input or output: a refusal repeats it


@dataclass(frozen=True)
class Tensor:
    """A tensor on the wire. data: float32 of that shape for FP32, a list of bytes in row-major order for BYTES."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Any


@dataclass(frozen=True)
class Wanted:
    """An output that the client asks for; classification: how many classes to name, 0 for the values themselves."""

    name: str
    classification: int = 0


@dataclass(frozen=True)
class Request:
    """What a client asks. outputs: empty for all. seconds: until nobody waits for the answer any more."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Wanted, ...] = ()
    id: str = ""
    seconds: float | None = None

    def within(self, seconds: float | None) -> Request:
        """The same request, which nobody waits for longer than so many seconds. None: as it is."""
        if seconds is None:
            return self
        return replace(self, seconds=min(seconds, self.seconds or seconds))


@dataclass
class Timing:
    """Where the time of a request went, in seconds: decoding, waiting in the queue, computing."""

    decode: float = 0.0
    queue: float = 0.0
    compute: float = 0.0

    def to_dict(self) -> dict[str, float]:
        """In milliseconds, as clients see it."""
        return {f"{name}_ms": round(1000 * seconds, 3) for name, seconds in vars(self).items()}


@dataclass(frozen=True)
class Answer:
    """What a client gets."""

    outputs: tuple[Tensor, ...]
    images: int
    timing: Timing = field(default_factory=Timing)


@dataclass(frozen=True)
class Seen:
    """One picture of predict(): its classes, best first, or why it cannot be read."""

    file: str
    classes: tuple[Score, ...] = ()
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As `swinv2 predict --json` prints it."""
        if self.error:
            return {"file": self.file, "error": self.error}
        return {"file": self.file, "predictions": [score.to_dict() for score in self.classes]}


class Inference:
    """What is done with a request, once the model is found."""

    def __init__(self, decoders: Decoders, limits: Limits):
        self._decoders, self._limits = decoders, limits

    async def infer(self, version: Version, request: Request) -> Answer:
        """Answer a request of the protocol.

        Raises:
            Refused: why it is not answered.
        """
        asked, wanted = _one_input(request.inputs), _outputs(request.outputs)
        images, timing = self._count(asked), Timing()
        async with self._deadline(request.seconds):
            with version.batcher.admit(images) as admission:
                tensors = await self._tensors(version, asked, timing)
                logits = await self._compute(version, admission, tensors, timing)
        return Answer(tuple(_output(version, want, logits) for want in wanted), images, timing)

    async def predict(
        self,
        version: Version,
        pictures: Sequence[tuple[str, bytes]],
        *,
        top_k: int = 5,
        seconds: float | None = None,
    ) -> tuple[list[Seen], Timing]:
        """The classes of encoded pictures (name, bytes), for people; a broken one does not disturb the others.

        Raises:
            Refused: why nothing is answered.
        """
        if not pictures:
            raise invalid("the request has no picture; send its bytes as the body, or as multipart/form-data")
        if top_k < 1:
            raise invalid(f"top_k is {top_k}; give at least 1")
        self._few(len(pictures))
        timing = Timing()
        async with self._deadline(seconds):
            with version.batcher.admit(len(pictures)) as admission:
                names, data = zip(*pictures, strict=True)
                tensors = await self._decode(version, data, timing, names)
                whole = [tensor for tensor in tensors if not isinstance(tensor, ImageError)]
                logits = iter(await self._compute(version, admission, whole, timing) if whole else ())
        return [
            Seen(name, error=str(tensor))
            if isinstance(tensor, ImageError)
            else Seen(name, ranked(next(logits), version.record, top_k))
            for name, tensor in zip(names, tensors, strict=True)
        ], timing

    async def _tensors(self, version: Version, asked: Tensor, timing: Timing) -> list[np.ndarray]:
        """The input as the model takes it; one picture that cannot be read is enough to refuse a request."""
        if asked.name == "pixels":
            tensors = list(asked.data)
            if why := version.check(tensors):
                raise invalid(why)
            return tensors
        whole = []
        for tensor in await self._decode(version, asked.data, timing):
            if isinstance(tensor, ImageError):
                raise invalid(str(tensor))
            whole.append(tensor)
        return whole

    async def _decode(
        self, version: Version, pictures: Sequence[bytes], timing: Timing, names: Sequence[str] | None = None
    ) -> list[np.ndarray | ImageError]:
        started = time.monotonic()
        if names is None:
            names = ["the image"] if len(pictures) == 1 else [f"image {i}" for i in range(len(pictures))]
        tensors = await self._decoders.load(pictures, version.record.preprocess, names)
        timing.decode = time.monotonic() - started
        return tensors

    async def _compute(
        self, version: Version, admission: Admission, tensors: Sequence[np.ndarray], timing: Timing
    ) -> np.ndarray:
        """Logits float32 [images, classes], all finite."""
        computed = await admission.compute(tensors)
        timing.queue, timing.compute = computed.queue_seconds, computed.compute_seconds
        if not np.isfinite(computed.logits).all():
            if not all(np.isfinite(tensor).all() for tensor in tensors):  # looked at only now: it takes time
                raise invalid("input pixels has values that are no finite float32; send finite ones")
            precision = version.opened.precision
            raise Refused(Kind.FAILED, f"the answer in {precision} is not finite; serve the model in fp32")
        return computed.logits

    def _count(self, asked: Tensor) -> int:
        images = len(asked.data)
        if not images:
            raise invalid(f"input {asked.name} has no images; send at least one")
        self._few(images)
        return images

    def _few(self, images: int) -> None:
        if images > self._limits.images:
            raise Refused(
                Kind.TOO_LARGE,
                f"the request has {images} images and {self._limits.images} may be; send fewer",
            )

    def _deadline(self, seconds: float | None) -> _Deadline:
        return _Deadline(min(seconds or self._limits.request_seconds, self._limits.request_seconds))


class _Deadline:
    """asyncio.timeout, ending in the refusal that clients know."""

    def __init__(self, seconds: float):
        self._seconds, self._timeout = seconds, asyncio.timeout(seconds)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, *error: Any) -> None:
        try:
            await self._timeout.__aexit__(*error)
        except TimeoutError:
            raise Refused(
                Kind.EXPIRED,
                f"there is no answer after {self._seconds:g} s; allow more time or try again later",
            ) from None


def in_seconds(timeout: int) -> float | None:
    """The parameter timeout, in microseconds as Triton has it; 0 means none.

    Raises:
        Refused: it is below 0.
    """
    if timeout < 0:
        raise invalid(f"timeout is {timeout}; give microseconds")
    return timeout / 1e6 or None


def _one_input(inputs: Sequence[Tensor]) -> Tensor:
    """The input, checked by itself.

    Raises:
        Refused: not exactly one of the two, or of another type or shape.
    """
    if len(inputs) != 1 or inputs[0].name not in INPUTS:
        few = [tensor.name for tensor in inputs[:3]] + ["..."] * (len(inputs) > 3)
        names = ", ".join(few) or "none"
        raise invalid(f"the inputs are {names}; give one: image (BYTES, encoded pictures) or pixels (FP32)")
    (asked,) = inputs
    datatype = "BYTES" if asked.name == "image" else "FP32"
    if asked.datatype != datatype:
        raise invalid(f"input {asked.name} is {asked.datatype}; it must be {datatype}")
    if asked.name == "image" and not (
        len(asked.shape) == 1 or (len(asked.shape) == 2 and asked.shape[1] == 1)
    ):
        raise invalid(f"input image has shape {list(asked.shape)}; it must be [images]")
    if asked.name == "pixels" and len(asked.shape) != 4:
        raise invalid(
            f"input pixels has shape {list(asked.shape)}; it must be [images, channels, height, width]"
        )
    return asked


def _outputs(outputs: Sequence[Wanted]) -> Sequence[Wanted]:
    for want in outputs:
        if want.name not in OUTPUTS:
            raise invalid(f"output {want.name!r} is none of this model; there are {', '.join(OUTPUTS)}")
        if want.classification < 0:
            raise invalid(f"classification is {want.classification}; give the number of classes to name")
    names = [want.name for want in outputs]
    for name in OUTPUTS:
        if names.count(name) > 1:
            raise invalid(f"output {name} is asked for {names.count(name)} times; ask for it once")
    return outputs or tuple(Wanted(name) for name in OUTPUTS)


def _output(version: Version, want: Wanted, logits: np.ndarray) -> Tensor:
    record = version.record
    values = logits if want.name == "logits" else probabilities(logits, record).astype(np.float32)
    if not want.classification:
        return Tensor(want.name, "FP32", values.shape, values)
    count = min(want.classification, values.shape[1])
    labels = [
        f"{row[i]:f}:{i}" + (f":{record.classes[i]}" if record.classes else "")
        for row in values
        for i in best(row, count)
    ]
    return Tensor(want.name, "BYTES", (len(values), count), [label.encode() for label in labels])
