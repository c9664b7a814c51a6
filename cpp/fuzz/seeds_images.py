"""Pictures of every kind that the engine decodes, to begin fuzzing from and to compare with Pillow.

python cpp/fuzz/seeds_images.py FOLDER
"""

from __future__ import annotations

import io
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Size = tuple[int, int]  # width, height
Files = Iterator[tuple[str, bytes]]

PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
COLOUR_TYPES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of PNG: values per pixel
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}


def files(size: Size = (13, 9)) -> Files:
    """(name, bytes) of one of each kind."""
    yield from jpegs(size)
    yield from pngs(size)
    yield from webps(size)
    yield from pnms(size)


def picture(mode: str, size: Size) -> Image.Image:
    """Something with edges, gradients, and transparency where the mode has it."""
    across, down = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    planes = [across * 19, down * 28, across * down * 7, 255 - across * 13]
    return Image.fromarray(np.stack(planes, axis=-1).astype(np.uint8)).convert(mode)


def encoded(mode: str, size: Size, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture(mode, size).save(buffer, kind, **options)
    return buffer.getvalue()


def orientation(value: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x010E], tags[0x0112] = "a picture", value
    return tags


def jpegs(size: Size) -> Files:
    for mode in ("L", "RGB", "CMYK"):
        for progressive in (False, True):
            for subsampling in (0, 1, 2) if mode != "L" else (0,):
                name = f"{mode}-{subsampling}{'-progressive' * progressive}.jpg"
                options = {"progressive": progressive, "subsampling": subsampling, "quality": 60}
                yield name, encoded(mode, size, "JPEG", **options)
    yield "stored-as-rgb.jpg", encoded("RGB", size, "JPEG", keep_rgb=True)
    yield "restarts.jpg", encoded("RGB", size, "JPEG", restart_marker_blocks=1)
    for value in range(1, 9):
        yield f"turned-{value}.jpg", encoded("RGB", size, "JPEG", exif=orientation(value))
    yield "xmp.jpg", encoded("RGB", size, "JPEG", xmp=b'<x tiff:Orientation="8"/>')


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(colour_type: int, depth: int, size: Size, *, interlaced: bool, transparent: bool) -> bytes:
    """What Pillow does not write: every depth, interlacing, keys."""
    random = np.random.default_rng(depth)
    values = random.integers(0, 1 << depth, (*size[::-1], COLOUR_TYPES[colour_type]))
    parts = [values[y::dy, x::dx] for y, x, dy, dx in PASSES] if interlaced else [values]
    rows = [b"\0" + _packed(row.reshape(-1), depth) for part in parts if part.size for row in part]
    header = struct.pack(">IIBBBBB", *size, depth, colour_type, 0, 0, interlaced)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    if colour_type == 3:
        data += chunk(b"PLTE", random.bytes(3 << depth))
    if transparent:
        data += chunk(b"tRNS", b"\x00\x80" if colour_type == 3 else values[0, 0].astype(">u2").tobytes())
    data += chunk(b"IDAT", zlib.compress(b"".join(rows)))
    return data + chunk(b"eXIf", orientation(5).tobytes()[6:]) + chunk(b"IEND", b"")


def _packed(row: np.ndarray, depth: int) -> bytes:
    if depth == 16:
        return row.astype(">u2").tobytes()
    bits = (row[:, None] >> np.arange(depth - 1, -1, -1)) & 1
    return np.packbits(bits.astype(np.uint8)).tobytes()


def pngs(size: Size) -> Files:
    for colour_type, depths in DEPTHS.items():
        for depth in depths:
            for interlaced in (False, True):
                for transparent in (False, True) if colour_type < 4 else (False,):
                    name = f"{colour_type}-{depth}{'-interlaced' * interlaced}{'-key' * transparent}.png"
                    yield name, png(colour_type, depth, size, interlaced=interlaced, transparent=transparent)
    plain, profile = encoded("RGB", size, "PNG"), orientation(4).tobytes().hex()
    raw = zlib.compress(f"\nexif\n{len(profile)}\n{profile}".encode())
    for name, text in (
        ("xmp.png", chunk(b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="3"/>')),
        ("profile.png", chunk(b"zTXt", b"Raw profile type exif\0\0" + raw)),
    ):
        yield name, plain[:33] + text + plain[33:]


def webps(size: Size) -> Files:
    frames = {"save_all": True, "append_images": [Image.new("RGBA", size, "purple")]}
    for mode in ("RGB", "RGBA"):
        for lossless in (False, True):
            name, options = f"{mode}{'-lossless' * lossless}", {"lossless": lossless, "quality": 50}
            yield f"{name}.webp", encoded(mode, size, "WEBP", **options)
            yield f"{name}-frames.webp", encoded(mode, size, "WEBP", **options, **frames)
    yield "turned.webp", encoded("RGB", size, "WEBP", exif=orientation(7), xmp=b"<tiff:Orientation>2<")


def pnms(size: Size) -> Files:
    yield "grey.pgm", encoded("L", size, "PPM")
    yield "colour.ppm", encoded("RGB", size, "PPM").replace(b"255", b"# white\n254", 1)


def main(folder: str) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, data in files():
        Path(folder, name).write_bytes(data)


if __name__ == "__main__":
    main(sys.argv[1])
