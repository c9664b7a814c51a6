"""A zoo of generated pictures: every mode and format that people have, and every way in which files break.

All show four quadrants of plain colour, so that orientation, colour and transparency can be read off the
corners. What comes out is stated in the table, not computed by what is tested; plain ones must also equal
Pillow's convert("RGB"), which is what torchvision's image folders do.
"""

# ruff: noqa: E501 -- one row per animal

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image, ImageOps, features

from swinv2.images import ImageError, decode

RED, GREEN, BLUE, YELLOW = (230, 30, 20), (20, 180, 40), (30, 50, 220), (240, 220, 40)
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
COLOURS = (RED, GREEN, BLUE, YELLOW)  # top left, top right, bottom left, bottom right
GREYS = (40, 90, 140, 255)
SHOWN = tuple((value,) * 3 for value in GREYS)  # grey in RGB
SIZE = (48, 32)  # width, height


class Animal(NamedTuple):
    """A file and what is expected: four corners and a size, or words of the refusal."""

    data: bytes
    corners: tuple = ()
    size: tuple[int, int] = SIZE
    error: str = ""
    tolerance: int = 0
    plain: bool = False  # opaque, 8 bit and upright


def quadrants(values: tuple, dtype: Any = np.uint8) -> np.ndarray:
    """[32, 48] or [32, 48, C], one value per quadrant."""
    top, bottom = (np.repeat(np.asarray(pair, dtype), 24, axis=0) for pair in (values[:2], values[2:]))
    return np.repeat(np.stack([top, bottom]), 16, axis=0)


def rgba(*alphas: int) -> Image.Image:
    return Image.fromarray(quadrants(tuple((*c, a) for c, a in zip(COLOURS, alphas, strict=True))))


def file(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.copy().save(buffer, kind, **options)  # a copy: some writers leave settings on the image
    return buffer.getvalue()


def frames(kind: str, **options: Any) -> bytes:
    """The scene, then a frame or page that is not to be seen."""
    return file(colour, kind, save_all=True, append_images=[Image.new("RGB", SIZE, "purple")], **options)


def turned(orientation: int, kind: str = "JPEG", **options: Any) -> bytes:
    """The scene stored so that a viewer that follows EXIF sees it upright."""
    tags = Image.Exif()
    tags[0x0112] = orientation
    to = Image.Transpose
    stored = [None, to.FLIP_LEFT_RIGHT, to.ROTATE_180, to.FLIP_TOP_BOTTOM]
    stored += [to.TRANSPOSE, to.ROTATE_90, to.TRANSVERSE, to.ROTATE_270]
    how = stored[orientation - 1]
    return file(colour if how is None else colour.transpose(how), kind, exif=tags, **options)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(rows: np.ndarray, *, interlaced: bool = False, before: bytes = b"") -> bytes:
    """What Pillow does not write: 16-bit colour, interlacing, grey with a transparent value."""
    passes = (
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    )
    parts = [rows[y::dy, x::dx] for y, x, dy, dx in passes] if interlaced else [rows]
    lines = [b"\0" + line.astype(line.dtype.newbyteorder(">")).tobytes() for part in parts for line in part]
    return png_header(rows.shape[1], rows.shape[0], 8 * rows.itemsize, rows.ndim, interlaced) + (
        before + chunk(b"IDAT", zlib.compress(b"".join(lines))) + chunk(b"IEND", b"")
    )


def png_header(
    width: int, height: int, depth: int = 8, dimensions: int = 3, interlaced: bool = False
) -> bytes:
    kind = 2 if dimensions == 3 else 0
    return b"\x89PNG\r\n\x1a\n" + chunk(
        b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, interlaced)
    )


def indexed(**options: Any) -> bytes:
    image = Image.frombytes("P", SIZE, quadrants((0, 1, 2, 3)).tobytes())
    image.putpalette(np.array(COLOURS, np.uint8).tobytes())
    return file(image, options.pop("kind", "PNG"), **options)


colour, grey = Image.fromarray(quadrants(COLOURS)), Image.fromarray(quadrants(GREYS))
deep = quadrants(tuple(g * 257 for g in GREYS), np.uint16)
jpeg, lossless = file(colour, "JPEG", quality=95), file(colour, "PNG")
half = tuple(tuple(round((c + 255) / 2) for c in colour) for colour in COLOURS)  # at half opacity, on white
L16, ints, floats = Image.fromarray(deep), deep.astype(np.int32), quadrants(GREYS, np.float32)

ZOO = {
    # formats
    "baseline.jpg":          Animal(jpeg, COLOURS, tolerance=3, plain=True),
    "progressive.jpg":       Animal(file(colour, "JPEG", quality=95, progressive=True), COLOURS, tolerance=3, plain=True),
    "subsampled.jpg":        Animal(file(colour, "JPEG", quality=90, subsampling=2), COLOURS, tolerance=6, plain=True),
    "grey.jpg":              Animal(file(grey, "JPEG", quality=95), SHOWN, tolerance=2, plain=True),
    "adobe-cmyk.jpg":        Animal(file(colour.convert("CMYK"), "JPEG", quality=95), COLOURS, tolerance=6, plain=True),
    "photo.mpo":             Animal(frames("MPO", quality=95), COLOURS, tolerance=3, plain=True),
    "rgb.png":               Animal(lossless, COLOURS, plain=True),
    "interlaced.png":        Animal(png(np.asarray(colour), interlaced=True), COLOURS, plain=True),
    "animated.png":          Animal(frames("PNG"), COLOURS, plain=True),
    "lossless.webp":         Animal(file(colour, "WEBP", lossless=True), COLOURS, plain=True),
    "animated.webp":         Animal(frames("WEBP", lossless=True), COLOURS, plain=True),
    "animated.gif":          Animal(frames("GIF"), COLOURS, plain=True),
    "rgb.bmp":               Animal(file(colour, "BMP"), COLOURS, plain=True),
    "rgb.ppm":               Animal(file(colour, "PPM"), COLOURS, plain=True),
    "icon.ico":              Animal(file(colour.resize((32, 32)), "ICO", sizes=[(16, 16), (32, 32)]), COLOURS, size=(32, 32)),
    "pages.tiff":            Animal(frames("TIFF"), COLOURS, plain=True),
    "cmyk.tiff":             Animal(file(colour.convert("CMYK"), "TIFF"), COLOURS, plain=True),
    "lossless.jp2":          Animal(file(colour, "JPEG2000", irreversible=False), COLOURS, plain=True),
    # modes
    "black-and-white.png":   Animal(file(Image.fromarray(quadrants((0, 255, 255, 0))).convert("1"), "PNG"), (BLACK, WHITE, WHITE, BLACK), plain=True),
    "grey.png":              Animal(file(grey, "PNG"), SHOWN, plain=True),
    "palette.png":           Animal(indexed(), COLOURS, plain=True),
    "palette.bmp":           Animal(indexed(kind="BMP"), COLOURS, plain=True),
    "ycbcr.jpg":             Animal(file(colour.convert("YCbCr"), "JPEG", quality=95), COLOURS, tolerance=3, plain=True),
    "lab.tiff":              Animal(file(Image.merge("LAB", [Image.new("L", SIZE, v) for v in (128, 128, 128)]), "TIFF"), ((119, 119, 119),) * 4, tolerance=3),
    # transparency, on white
    "rgba.png":              Animal(file(rgba(255, 0, 255, 128), "PNG"), (RED, WHITE, BLUE, half[3]), tolerance=1),
    "rgba-opaque.png":       Animal(file(rgba(255, 255, 255, 255), "PNG"), COLOURS, plain=True),
    "rgba.webp":             Animal(file(rgba(255, 0, 255, 255), "WEBP", lossless=True), (RED, WHITE, BLUE, YELLOW)),
    "grey-alpha.png":        Animal(file(Image.merge("LA", (grey, Image.fromarray(quadrants((255, 0, 255, 0))))), "PNG"), (SHOWN[0], WHITE, SHOWN[2], WHITE)),
    "palette-index.png":     Animal(indexed(transparency=1), (RED, WHITE, BLUE, YELLOW)),
    "palette-alphas.png":    Animal(indexed(transparency=b"\xff\x00\x80\xff"), (RED, WHITE, half[2], YELLOW), tolerance=1),
    "transparent.gif":       Animal(indexed(kind="GIF", transparency=3), (RED, GREEN, BLUE, WHITE)),
    "colour-key.png":        Animal(png(np.asarray(colour), before=chunk(b"tRNS", struct.pack(">HHH", *GREEN))), (RED, WHITE, BLUE, YELLOW)),
    "deep-key.png":          Animal(png(deep, before=chunk(b"tRNS", struct.pack(">H", GREYS[1] * 257))), (SHOWN[0], WHITE, *SHOWN[2:])),
    # more than 8 bits
    "grey-16.png":           Animal(file(L16, "PNG"), SHOWN),
    "grey-16-shifted.png":   Animal(png(quadrants(tuple(g << 8 for g in GREYS), np.uint16)), SHOWN),
    "colour-16.png":         Animal(png(np.asarray(colour, np.uint16) * 257), COLOURS),
    "grey-16.tiff":          Animal(file(L16, "TIFF"), SHOWN),
    "grey-16.pgm":           Animal(file(L16, "PPM"), SHOWN),
    "int-32.tiff":           Animal(file(Image.fromarray(ints), "TIFF"), SHOWN),
    "int-32-of-bytes.tiff":  Animal(file(Image.fromarray(ints // 257), "TIFF"), SHOWN),
    "float.tiff":            Animal(file(Image.fromarray(floats / 255), "TIFF"), SHOWN),
    "float-of-bytes.tiff":   Animal(file(Image.fromarray(floats), "TIFF"), SHOWN),
    # orientation
    **{f"exif-{n}.jpg":      Animal(turned(n, quality=95), COLOURS, tolerance=3) for n in range(1, 9)},
    "exif-6.png":            Animal(turned(6, "PNG"), COLOURS),
    "exif-8.webp":           Animal(turned(8, "WEBP", lossless=True), COLOURS),
    "exif-5.tiff":           Animal(turned(5, "TIFF"), COLOURS),
    "exif-broken.jpg":       Animal(file(colour, "JPEG", quality=95, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"), COLOURS, tolerance=3),
    "exif-broken.png":       Animal(file(colour, "PNG", exif=b"Exif\0\0garbage!"), COLOURS),
    # sizes
    "one-pixel.png":         Animal(file(Image.new("RGB", (1, 1), RED), "PNG"), (RED,) * 4, size=(1, 1), plain=True),
    "strip.png":             Animal(file(Image.new("RGB", (1, 3000), RED), "PNG"), (RED,) * 4, size=(1, 3000), plain=True),
    "misnamed.txt":          Animal(lossless, COLOURS, plain=True),  # the content decides, not the name
    # what cannot be used
    "cut.jpg":               Animal(jpeg[: len(jpeg) * 2 // 3], error="is cut off or damaged"),
    "cut-header.jpg":        Animal(jpeg[:100], error="is cut off or damaged"),
    "cut-magic.jpg":         Animal(jpeg[:20], error="its header cannot be read"),
    "cut.png":               Animal(lossless[: len(lossless) * 2 // 3], error="is cut off or damaged"),
    "cut.gif":               Animal(file(colour, "GIF")[:-40], error="is cut off or damaged"),
    "cut.webp":              Animal(file(colour, "WEBP", lossless=True)[:-20], error="is cut off or damaged"),
    "cut.tiff":              Animal(file(colour, "TIFF")[:600], error="is cut off or damaged"),
    "cut.bmp":               Animal(file(colour, "BMP")[:600], error="is cut off or damaged"),
    "damaged.png":           Animal(lossless.replace(b"IDAT", b"IDAT\xff"), error="is cut off or damaged"),
    "empty.jpg":             Animal(b"", error=r"is empty \(0 bytes\)"),
    "text.jpg":              Animal(b"Not a picture, only called one.", error="is not an image of a kind that is read$"),
    "page.jpg":              Animal(b"<!DOCTYPE html><html><body>404", error="looks like a web page"),
    "drawing.svg":           Animal(b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', error="looks like an SVG drawing"),
    "paper.pdf":             Animal(b"%PDF-1.7\n", error="looks like a PDF"),
    "phone.heic":            Animal(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", error="looks like a HEIC photo"),
    "pointer.jpg":           Animal(b"version https://git-lfs.github.com/spec/v1\n", error="git-lfs pointer"),
    "postscript.eps":        Animal(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", error="is not an image of a kind"),
    "bomb.png":              Animal(png_header(60_000, 60_000) + chunk(b"IDAT", b""), error="more than 178,956,970 pixels"),
    "negative.tiff":         Animal(file(Image.fromarray(ints - 65_536), "TIFF"), error="values from -55256 to -1; scale them"),
    "too-deep.tiff":         Animal(file(Image.fromarray(ints * 2), "TIFF"), error="scale them to 0 to 255 or to 65,535"),
    "nan.tiff":              Animal(file(Image.fromarray(floats * np.nan), "TIFF"), error="values from nan to nan"),
}  # fmt: skip
if features.check("avif"):
    ZOO["photo.avif"] = Animal(file(colour, "AVIF", quality=95), COLOURS, tolerance=8, plain=True)

GOOD = {name: animal for name, animal in ZOO.items() if not animal.error}
BAD = {name: animal for name, animal in ZOO.items() if animal.error}


# Pillow warns of the broken EXIF; what it warns of is what is tested.
pytestmark = pytest.mark.filterwarnings("ignore:Corrupt EXIF data")


def corners(image: Image.Image) -> np.ndarray:
    """Inside of the corners, where no edge has bled."""
    array = np.asarray(image).astype(int)
    return array[[0, 0, -1, -1], [0, -1, 0, -1]]


@pytest.mark.parametrize("name", GOOD)
def test_picture_is_seen_as_people_see_it(name, tmp_path):
    animal = GOOD[name]
    (tmp_path / name).write_bytes(animal.data)
    image = decode(tmp_path / name)
    assert (image.mode, image.size) == ("RGB", animal.size)
    assert np.abs(corners(image) - np.array(animal.corners)).max() <= animal.tolerance, corners(image)


@pytest.mark.parametrize("name", [name for name, animal in GOOD.items() if animal.plain])
def test_opaque_8_bit_pictures_equal_the_official_loader(name):
    official = Image.open(io.BytesIO(GOOD[name].data)).convert("RGB")
    assert np.array_equal(np.asarray(decode(GOOD[name].data)), np.asarray(official))


@pytest.mark.parametrize("name", [name for name in GOOD if name.startswith("exif-") and "broken" not in name])
def test_orientation_equals_pillow(name):
    official = ImageOps.exif_transpose(Image.open(io.BytesIO(GOOD[name].data)))
    assert np.array_equal(np.asarray(decode(GOOD[name].data)), np.asarray(official))


@pytest.mark.parametrize("name", BAD)
def test_file_that_cannot_be_used_is_refused_in_one_sentence_that_names_it(name, tmp_path):
    (tmp_path / name).write_bytes(BAD[name].data)
    with pytest.raises(ImageError, match=BAD[name].error) as caught:
        decode(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", GOOD)
def test_grey_models_see_the_luminance_of_the_colours(name):
    image, seen = decode(GOOD[name].data, channels=1), decode(GOOD[name].data)
    assert image.mode == "L"
    assert np.abs(np.asarray(image).astype(int) - np.asarray(seen.convert("L"))).max() <= 1


def test_broken_bytes_give_a_picture_or_an_image_error_and_nothing_else():
    rng = np.random.default_rng(0)
    for animal in GOOD.values():
        for _ in range(12):
            data = bytearray(animal.data[: rng.integers(1, len(animal.data) + 1)])
            for position in rng.integers(0, len(data), 3):
                data[position] = rng.integers(0, 256)
            with contextlib.suppress(ImageError):
                assert decode(bytes(data)).mode == "RGB"


def test_the_limit_holds_where_pillows_own_is_switched_off(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(ImageError, match="more than 178,956,970 pixels"):
        decode(BAD["bomb.png"].data)


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)
    with pytest.raises(ImageError, match="refused before decoding"):
        decode(lossless, max_pixels=48 * 32 - 1)


def test_decoding_leaves_pillows_settings_alone():
    from PIL import ImageFile

    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    for animal in (ZOO["bomb.png"], ZOO["cut.jpg"]):
        with pytest.raises(ImageError):
            decode(animal.data)
    after = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    assert after == before


def test_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        decode(tmp_path / "missing.jpg")


def test_folder_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match="directory"):
        decode(tmp_path)


def test_pipes_are_read_to_the_end():
    import os
    import threading

    def send() -> None:
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(lossless)

    reader, writer = os.pipe()
    threading.Thread(target=send).start()
    assert decode(f"/dev/fd/{reader}").size == SIZE
    os.close(reader)


# ---------------------------------------------------------------------- what programs hand over


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"]
)
def test_pillow_images_of_any_mode(mode):
    source = colour.convert("LA").convert("La") if mode == "La" else colour.convert(mode)
    through = source.convert("LA").convert("RGB") if mode == "La" else source.convert("RGB")
    assert np.array_equal(np.asarray(decode(source)), np.asarray(through))


@pytest.mark.parametrize(("mode", "black"), [("LAB", (0, 128, 128)), ("HSV", (0, 255, 0))])
@pytest.mark.parametrize("channels", [1, 3])
def test_pillow_images_in_other_colour_spaces(mode, black, channels):
    assert np.asarray(decode(Image.new(mode, (4, 4), black), channels=channels)).max() <= 1


def test_a_pillow_image_is_not_changed():
    source = colour.copy()
    decode(source).putpixel((0, 0), BLACK)
    assert source.getpixel((0, 0)) == RED


ARRAYS = {
    "uint8 colour":    (quadrants(COLOURS), COLOURS),
    "uint8 grey":      (quadrants(GREYS), SHOWN),
    "uint8 grey H W 1": (quadrants(GREYS)[..., None], SHOWN),
    "uint8 rgba":      (np.asarray(rgba(255, 0, 255, 255)), (RED, WHITE, BLUE, YELLOW)),
    "float colour":    (quadrants(COLOURS) / 255, COLOURS),
    "float32 grey":    (quadrants(GREYS, np.float32) / 255, SHOWN),
    "float16 colour":  ((quadrants(COLOURS) / 255).astype(np.float16), COLOURS),
    "not contiguous":  (quadrants(COLOURS)[::-1, ::-1], COLOURS[::-1]),
}  # fmt: skip


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_are_pictures(name):
    array, expected = ARRAYS[name]
    assert np.array_equal(corners(decode(array)), np.array(expected))


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((3, 8, 8), np.uint8), r"shape \[3, 8, 8\].*move the channels to the end"),
        (np.zeros((8, 8, 2), np.uint8), r"shape \[8, 8, 2\]; give"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"shape \[2, 8, 8, 3\]; give"),
        (np.zeros(8, np.uint8), r"shape \[8\]; give"),
        (np.zeros((0, 8, 3), np.uint8), "8 x 0 pixels"),
        (np.zeros((8, 8, 3), np.int64), "array of int64; give uint8"),
        (np.zeros((8, 8), bool), "array of bool; give uint8"),
        (np.full((8, 8, 3), 255.0), "floats from 255 to 255; scale them"),
        (np.full((8, 8, 3), -0.1), "floats from -0.1 to -0.1; scale them"),
        (np.full((8, 8, 3), np.nan), "floats from nan to nan; scale them"),
    ],
)
def test_arrays_that_are_no_pictures(array, words):
    with pytest.raises(ImageError, match=words):
        decode(array)


def test_a_pillow_image_without_pixels_is_refused():
    with pytest.raises(ImageError, match="0 x 5 pixels"):
        decode(Image.new("RGB", (0, 5)))


def test_other_things_are_no_pictures():
    with pytest.raises(TypeError, match="the image is a list; give a path"):
        decode([1, 2, 3])


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_encoded_bytes_of_every_kind(kind):
    assert np.array_equal(np.asarray(decode(kind(lossless))), np.asarray(colour))
