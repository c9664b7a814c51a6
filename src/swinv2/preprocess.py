"""From a picture to the tensor a model sees: the one preprocessing path of every verb.

The record travels with the weights (training decided it, not the architecture), and Pillow + numpy are the
reference for every other engine: the values before normalisation equal the official pipeline (torchvision on
Pillow images) to the last bit, and so do the normalised ones.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from swinv2.config import Pair, pair
from swinv2.images import MAX_PIXELS, ImageError, array_of, decode, name_of, refuse_size

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

__all__ = ["ImageError", "Preprocess", "decode"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

WHOLE_PIXELS = 50_000_000  # pictures enlarged beyond it (thin strips) are computed only where the crop looks


@dataclass(frozen=True)
class Preprocess:
    """How pixels become the input of one set of weights.

    Args:
        size: (height, width) of the input tensor.
        resize: "shorter" scales the shorter side to resize_to and crops the centre; "squash" scales both
            sides to size and crops nothing.
        resize_to: target of the shorter side in pixels; ignored by "squash".
        interpolation: Pillow's antialiased filter.
        mean, std: per channel, of values in [0, 1]; RGB order. One value for grey input.

    Raises:
        ValueError: fields that cannot be meant, in one sentence.
    """

    size: Pair = (256, 256)
    resize: Literal["shorter", "squash"] = "shorter"
    resize_to: int = 292
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", pair(self.size))
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))
        if min(self.size) < 1 or not isinstance(self.resize_to, int) or self.resize_to < 1:
            raise ValueError(f"size is {self.size}, resize_to {self.resize_to!r}; give at least 1 pixel")
        for name, allowed in (("resize", ("shorter", "squash")), ("interpolation", ("bicubic", "bilinear"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; give {' or '.join(allowed)}")
        if not self.mean or len(self.mean) != len(self.std) or not all(s > 0 for s in self.std):
            raise ValueError(f"mean is {self.mean}, std {self.std}; give one each per channel, std above 0")

    @classmethod
    def official(cls, size: int | Pair, in_chans: int = 3) -> Preprocess:
        """The protocol of the official evaluation (microsoft/Swin-Transformer, data/build.py) at a size.

        Up to 256 pixels: shorter side to int(256 / 224 * size), centre crop. Above: squashed to size.
        Grey input has the average of the colours' mean and std; more channels repeat them in turn, as the
        pretrained stem is repeated.
        """
        height, width = pair(size)
        squash = max(height, width) > 256 or height != width
        mean, std = IMAGENET_MEAN, IMAGENET_STD
        return cls(
            size=(height, width),
            resize="squash" if squash else "shorter",
            resize_to=int(256 / 224 * min(height, width)),
            mean=(sum(mean) / 3,) if in_chans == 1 else tuple(mean[c % 3] for c in range(in_chans)),
            std=(sum(std) / 3,) if in_chans == 1 else tuple(std[c % 3] for c in range(in_chans)),
        )

    @property
    def channels(self) -> int:
        """Of the input tensor: 3 for colour, 1 for grey; other counts take arrays instead of pictures."""
        return len(self.mean)

    def load(self, source: Any, *, name: str | None = None, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """Whatever decode() takes -> float32 [C, H, W]: all that a model needs to know of a picture.

        Args:
            name, max_pixels: as decode() takes them.

        Raises:
            ImageError, OSError: as decode() does.
        """
        if self.channels in (1, 3):
            return self(decode(source, channels=self.channels, name=name, max_pixels=max_pixels))
        return self(array_of(source, self.channels, name or name_of(source)))

    def __call__(self, image: Image.Image | np.ndarray) -> np.ndarray:
        """A decoded picture, or an array [H, W, C] where C is not 1 or 3 -> float32 [C, H, W], normalised."""
        import numpy as np

        planes = np.ascontiguousarray(self.pixels(image).transpose(2, 0, 1))  # first: bytes are quickly moved
        tensor = planes.astype(np.float32)
        tensor /= np.float32(255)
        tensor -= np.asarray(self.mean, np.float32)[:, None, None]
        tensor /= np.asarray(self.std, np.float32)[:, None, None]
        return tensor

    def pixels(self, image: Image.Image | np.ndarray) -> np.ndarray:
        """Resized and cropped, before normalisation: uint8 [H, W, C]."""
        import numpy as np
        from PIL import Image

        if self.channels not in (1, 3):
            planes = array_of(image, self.channels, "the array")
            placed = [self._place(Image.fromarray(planes[..., c])) for c in range(self.channels)]
            return np.stack([np.asarray(plane) for plane in placed], axis=-1)
        if not isinstance(image, Image.Image) or image.mode != ("L" if self.channels == 1 else "RGB"):
            image = decode(image, channels=self.channels)
        return np.asarray(self._place(image)).reshape(*self.size, self.channels)

    def _place(self, image: Image.Image) -> Image.Image:
        """The picture scaled and cropped to size; black where it is smaller than the crop."""
        from PIL import Image

        refuse_size(image.size, "the image")
        sampling = Image.Resampling.BICUBIC if self.interpolation == "bicubic" else Image.Resampling.BILINEAR
        if self.resize == "squash":
            return image.resize(self.size[::-1], sampling)
        resized, box = self._scaled(image.size)
        if min(image.size) < self.resize_to and resized[0] * resized[1] > WHOLE_PIXELS:
            from swinv2.resample import resize_crop

            return resize_crop(image, resized, box, self.interpolation)
        return image.resize(resized, sampling).crop(box)

    def _scaled(self, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
        """(width, height) of a picture after scaling its shorter side, and the crop in it."""
        height, width = self.size
        shorter, longer = sorted(size)
        scaled = (self.resize_to, int(self.resize_to * longer / shorter))  # cut off, as torchvision does
        resized = scaled if size[0] <= size[1] else scaled[::-1]
        left, top = _centre(resized[0], width), _centre(resized[1], height)
        return resized, (left, top, left + width, top + height)

    def seen(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """What a model sees of a picture of (width, height): left, top, right, bottom in the picture's pixels.

        Beyond the picture's edges where the crop is larger than it.
        """
        if self.resize == "squash":
            return 0.0, 0.0, float(size[0]), float(size[1])
        resized, (left, top, right, bottom) = self._scaled(size)
        across, down = size[0] / resized[0], size[1] / resized[1]
        return left * across, top * down, right * across, bottom * down

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocess:
        """Raises ValueError on keys this version does not know."""
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            names = ", ".join(unknown)
            raise ValueError(f"the preprocessing record holds {names}, which this version does not know")
        return cls(**values)


def _centre(length: int, crop: int) -> int:
    """Where a centred crop starts; negative where the crop is the longer one. Rounds as torchvision does."""
    return round((length - crop) / 2) if length >= crop else -((crop - length) // 2)
