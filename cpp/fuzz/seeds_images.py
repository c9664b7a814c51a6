"""Small pictures of every kind that the engine decodes, to begin fuzzing from.

python cpp/fuzz/seeds_images.py FOLDER
"""

from __future__ import annotations

import io
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (13, 9)  # width, height
PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
COLOUR_TYPES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of PNG: values per pixel
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}


def picture(mode: str) -> Image.Image:
    """Something with edges and gradients."""
    across, down = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]))
    planes = [across * 19, down * 28, (across * down * 7) % 256, 255 - across * 13]
    return Image.fromarray(np.stack(planes, axis=-1).astype(np.uint8)).convert(mode)


def encoded(mode: str, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def orientation(value: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x010E], tags[0x0112] = "a picture", value
    return tags


def jpegs() -> Iterator[tuple[str, bytes]]:
    for mode in ("L", "RGB", "CMYK"):
        for progressive in (False, True):
            for subsampling in (0, 1, 2) if mode != "L" else (0,):
                name = f"{mode}-{subsampling}{'-progressive' * progressive}.jpg"
                yield (
                    name,
                    encoded(mode, "JPEG", progressive=progressive, subsampling=subsampling, quality=60),
                )
    yield "restarts.jpg", encoded("RGB", "JPEG", restart_marker_blocks=1)
    yield "turned.jpg", encoded("RGB", "JPEG", exif=orientation(6))
    yield "xmp.jpg", encoded("RGB", "JPEG", xmp=b'<x tiff:Orientation="8"/>')


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(colour_type: int, depth: int, *, interlaced: bool, transparent: bool) -> bytes:
    """What Pillow does not write: every depth, interlacing, keys."""
    values = np.random.default_rng(depth).integers(0, 1 << depth, (*SIZE[::-1], COLOUR_TYPES[colour_type]))
    parts = [values[y::dy, x::dx] for y, x, dy, dx in PASSES] if interlaced else [values]
    rows = [b"\0" + _packed(row.reshape(-1), depth) for part in parts if part.size for row in part]
    header = struct.pack(">IIBBBBB", *SIZE, depth, colour_type, 0, 0, interlaced)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    if colour_type == 3:
        data += (
            chunk(b"PLTE", bytes(range(3 << depth))[: 3 << depth])
            if depth < 8
            else chunk(b"PLTE", bytes(768))
        )
    if transparent and colour_type < 4:
        key = b"\x00\x80" if colour_type == 3 else values[0, 0].astype(">u2").tobytes()
        data += chunk(b"tRNS", key)
    data += chunk(b"IDAT", zlib.compress(b"".join(rows)))
    return data + chunk(b"eXIf", orientation(5).tobytes()[6:]) + chunk(b"IEND", b"")


def _packed(row: np.ndarray, depth: int) -> bytes:
    if depth == 16:
        return row.astype(">u2").tobytes()
    bits = (row[:, None] >> np.arange(depth - 1, -1, -1)) & 1
    return np.packbits(bits.astype(np.uint8)).tobytes()


def pngs() -> Iterator[tuple[str, bytes]]:
    for colour_type, depths in DEPTHS.items():
        for depth in depths:
            for interlaced in (False, True):
                for transparent in (False, True)[: 2 if colour_type < 4 else 1]:
                    name = f"{colour_type}-{depth}{'-interlaced' * interlaced}{'-key' * transparent}.png"
                    yield name, png(colour_type, depth, interlaced=interlaced, transparent=transparent)
    text = chunk(b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="3"/>')
    profile = orientation(4).tobytes().hex()
    text += chunk(
        b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(f"\nexif\n{len(profile)}\n{profile}".encode())
    )
    plain = encoded("RGB", "PNG")
    yield "texts.png", plain[:33] + text + plain[33:]


def webps() -> Iterator[tuple[str, bytes]]:
    for mode in ("RGB", "RGBA"):
        for lossless in (False, True):
            yield f"{mode}{'-lossless' * lossless}.webp", encoded(mode, "WEBP", lossless=lossless, quality=50)
            frames = {"save_all": True, "append_images": [Image.new("RGBA", SIZE, "purple")]}
            yield (
                f"{mode}{'-lossless' * lossless}-frames.webp",
                encoded(mode, "WEBP", lossless=lossless, **frames),
            )
    yield "turned.webp", encoded("RGB", "WEBP", exif=orientation(7), xmp=b"<tiff:Orientation>2<")


def pnms() -> Iterator[tuple[str, bytes]]:
    yield "grey.pgm", encoded("L", "PPM")
    yield "colour.ppm", encoded("RGB", "PPM").replace(b"255", b"# white\n254", 1)


def main(folder: str) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    for make in (jpegs, pngs, webps, pnms):
        for name, data in make():
            Path(folder, name).write_bytes(data)


if __name__ == "__main__":
    main(sys.argv[1])
