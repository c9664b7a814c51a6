"""Anything that shows a picture -> a plain 8-bit RGB or grey Pillow image, upright and opaque.

Files of every kind that people have, bytes and arrays; what cannot be used is refused in one sentence that
names it. docs/predict.md has the table of what happens to which kind.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

# What decode() reads, most frequent first: raster formats with an unmistakable header. Pillow has more, even
# formats that start other programs (EPS runs Ghostscript), which nothing from a network shall ask for.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO", "AVIF", "JPEG2000")
SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".mpo", ".ico", ".avif", ".jp2",
})  # fmt: skip
MAX_PIXELS = 178_956_970  # where Pillow refuses by default; ours holds wherever Pillow's was switched off

_LOOKS_LIKE = {
    # somewhere in the first bytes, in lower case -> what people call it
    b"<svg": "an SVG drawing", b"<html": "a web page", b"<!doctype html": "a web page", b"%pdf": "a PDF",
    b"ftypheic": "a HEIC photo", b"ftypheix": "a HEIC photo", b"ftypmif1": "a HEIF photo",
    b"ftypmp4": "a video", b"ftypisom": "a video", b"ftypqt": "a video", b"pk\x03\x04": "a zip archive",
    b"version https://git-lfs": "a git-lfs pointer instead of the file",
}  # fmt: skip
_STARTS = (b"\xff\xd8\xff", b"\x89png", b"gif8", b"riff", b"ii*\0", b"mm\0*")  # of pictures, in lower case
_MODES = {1: "L", 3: "RGB"}


class ImageError(ValueError):
    """A picture that cannot be used: which one, and why."""


def decode(
    source: Any, *, channels: int = 3, name: str | None = None, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Anything that shows a picture -> a Pillow image of mode RGB (channels=3) or L (channels=1).

    The first frame, upright (EXIF), 8 bit (16-bit values lose their low byte), transparency on white. Opaque
    8-bit pictures are exactly Image.open(file).convert(mode), but for the EXIF orientation.

    Args:
        source: path, encoded bytes, Pillow image, or array: [H, W], [H, W, 3] or [H, W, 4], uint8 or
            float in [0, 1].
        name: what messages call the picture; default: the path.
        max_pixels: of a larger one nothing is decoded; above the default Pillow refuses by itself.

    Raises:
        ImageError: not a picture, cut off, empty, or so large that it is refused before it is decoded.
        OSError: the file cannot be opened.
    """
    import numpy as np
    from PIL import Image

    if channels not in _MODES:
        raise ValueError(f"channels is {channels}; pictures decode to 1 or 3, other counts take arrays")
    name, mode = name or name_of(source), _MODES[channels]
    if isinstance(source, (str, os.PathLike)):
        with open(source, "rb") as file:
            piped = not file.seekable()  # <(curl ...), /dev/stdin
            return _decode_file(io.BytesIO(file.read()) if piped else file, mode, name, max_pixels)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode_file(io.BytesIO(source), mode, name, max_pixels)
    if isinstance(source, np.ndarray):
        source = _from_array(source, name)
    if isinstance(source, Image.Image):
        with _reasons(name):
            return _plain(source, mode, name, max_pixels)
    kind = type(source).__name__
    raise TypeError(f"{name} is a {kind}; give a path, bytes, a Pillow image or a numpy array")


def array_of(array: Any, channels: int, name: str) -> np.ndarray:
    """An array of as many channels as a model takes that sees neither colour nor grey -> uint8 [H, W, C].

    Raises:
        ImageError: another shape or type, or a picture file, which has no such channels.
    """
    import numpy as np

    wanted = f"a model of {channels} channels takes numpy arrays [H, W, {channels}]"
    if not isinstance(array, np.ndarray):
        raise ImageError(f"{name} is a {type(array).__name__}; {wanted}")
    if array.ndim != 3 or array.shape[2] != channels:
        raise ImageError(f"{name} has shape {list(array.shape)}; {wanted}")
    refuse_size((array.shape[1], array.shape[0]), name)
    return _bytes(array, name)


def name_of(source: Any) -> str:
    """What messages call a picture that nobody named."""
    return os.fsdecode(source) if isinstance(source, (str, os.PathLike)) else "the image"


def refuse_size(size: tuple[int, int], name: str, max_pixels: int = MAX_PIXELS) -> None:
    """Raises ImageError where (width, height) is nothing, or too much to decode."""
    if not min(size):
        raise ImageError(f"{name} is {size[0]} x {size[1]} pixels; an image has at least one")
    if size[0] * size[1] > max_pixels:
        raise _bomb(name, max_pixels)


def _bomb(name: str, max_pixels: int = MAX_PIXELS) -> ImageError:
    limit = f"more than {max_pixels:,} pixels"
    return ImageError(f"{name} has {limit}, which is refused before decoding; scale it down first")


def _decode_file(file: IO[bytes], mode: str, name: str, max_pixels: int) -> Image.Image:
    from PIL import Image, UnidentifiedImageError

    head = file.read(256).lower()
    if not head:
        raise ImageError(f"{name} is empty (0 bytes)")
    with _reasons(name):
        try:
            with Image.open(file, formats=FORMATS) as opened:
                return _plain(opened, mode, name, max_pixels)
        except UnidentifiedImageError:
            if head.startswith(_STARTS):
                raise ImageError(f"{name} is cut off or damaged: its header cannot be read") from None
            kind = next((what for mark, what in _LOOKS_LIKE.items() if mark in head), "")
            hint = f"; it looks like {kind}" if kind else ""
            raise ImageError(f"{name} is not an image of a kind that is read{hint}") from None


@contextmanager
def _reasons(name: str) -> Iterator[None]:
    """What a decoder raises over broken bytes -> ImageError; what the system says of a file stays OSError."""
    from PIL import Image

    try:
        yield
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise _bomb(name) from None
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, KeyError, zlib.error, ...
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{name} is cut off or damaged: {reason}") from None


def _plain(image: Image.Image, mode: str, name: str, max_pixels: int) -> Image.Image:
    """The first frame as it should be seen, in 8-bit RGB or L."""
    from PIL import Image

    refuse_size(image.size, name, max_pixels)
    image.load()
    turn = _turn(image)  # after load: Pillow turns TIFF pictures by itself there
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _to_8_bit(image, name)
    if image.mode == "La":
        image = image.convert("LA")  # the only way that leads on from it
    if image.has_transparency_data:
        # On white: what is drawn on transparent ground was drawn for a page, and the colour under full
        # transparency is arbitrary. Opaque pixels come out unchanged.
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    elif image.mode == "LAB":
        image = image.convert("RGB")  # Pillow knows no way from here to grey
    image = image.convert(mode)
    return image if turn is None else image.transpose(turn)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What makes the picture upright, as its EXIF orientation says."""
    from PIL import ExifTags, Image

    to = Image.Transpose
    turns = {
        2: to.FLIP_LEFT_RIGHT, 3: to.ROTATE_180, 4: to.FLIP_TOP_BOTTOM,
        5: to.TRANSPOSE, 6: to.ROTATE_270, 7: to.TRANSVERSE, 8: to.ROTATE_90,
    }  # fmt: skip
    try:
        return turns.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # EXIF that cannot be read says nothing about the pixels, which can
        return None


def _to_8_bit(image: Image.Image, name: str) -> Image.Image:
    """Grey of 16 bits, of 32 bits or of floats -> L, or LA where one value means transparent.

    16-bit values keep their high byte, which undoes both ways of widening (x 256 and x 257) and is what
    Pillow does to 16-bit colour. Of the others the range says what they are.
    """
    import numpy as np
    from PIL import Image

    values = np.asarray(image)
    low, high = values.min(), values.max()
    if values.dtype.itemsize == 2:
        grey = values >> 8
    elif image.mode == "I" and low >= 0 and high <= 65535:
        grey = values if high <= 255 else values >> 8
    elif image.mode == "F" and low >= 0 and high <= 255:  # False for NaN
        grey = np.rint(values * 255 if high <= 1 else values)
    else:
        allowed = "0 to 255 or to 65,535" if image.mode == "I" else "0 to 1 or to 255"
        raise ImageError(f"{name} has values from {low:g} to {high:g}; scale them to {allowed}")
    grey = grey.astype(np.uint8)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        opaque = np.where(values == clear, 0, 255).astype(np.uint8)
        return Image.fromarray(np.dstack([grey, opaque]))
    return Image.fromarray(grey)


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    from PIL import Image

    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        hint = "; move the channels to the end" if array.ndim == 3 and array.shape[0] in (1, 3, 4) else ""
        raise ImageError(f"{name} has shape {list(array.shape)}; give [H, W], [H, W, 3] or [H, W, 4]{hint}")
    refuse_size((array.shape[1], array.shape[0]), name)
    return Image.fromarray(_bytes(array, name))


def _bytes(array: np.ndarray, name: str) -> np.ndarray:
    """uint8 as it is, floats in [0, 1] rounded to it: a picture has 8 bits wherever it comes from."""
    import numpy as np

    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating):
        raise ImageError(f"{name} is an array of {array.dtype}; give uint8, or floats from 0 to 1")
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 1):  # also for NaN
        raise ImageError(f"{name} has floats from {low:g} to {high:g}; scale them to 0 to 1")
    return np.rint(array * 255).astype(np.uint8)
