"""Small files that would take a decoder gigabytes or minutes: millions of chunks, tiles, tags or frames."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import ExifTags, Image

from testing.jpeg_bombs import jpeg_bombs
from testing.pictures import encoded, heic, png_chunk, source_picture
from testing.tiffs import LONG, RATIONAL, SHORT, Directory, picture, tiff_file

LENGTH = 30_000_000
"""Bytes of most of them: below the default limit."""


def bombs() -> dict[str, Callable[[], bytes]]:
    """Name -> what makes the file."""
    cat = source_picture("chelsea.png")
    found: dict[str, Callable[[], bytes]] = {}
    for group in (_png_bombs, _gif_bombs, _webp_bombs, _tiff_bombs, _media_bombs):
        found |= group(cat)
    found["bmp_runs"] = partial(_bmp_runs, encoded(cat, "BMP"))
    jpegs = jpeg_bombs(LENGTH)
    # The time of all of them is bounded in tests/unit/preprocess/test_jpeg_headers.py.
    found |= {name: jpegs[name] for name in ("jpeg_exif", "jpeg_blocks_before_end", "jpeg_one_directory")}
    found["stray_bytes"] = lambda: bytes(LENGTH)
    found["text"] = lambda: b"<!-- " * (LENGTH // 5)
    found["comments"] = lambda: b"<!---->" * 100
    return found


def _png_bombs(cat: Image.Image) -> dict[str, Callable[[], bytes]]:
    png = encoded(cat, "PNG")
    million = zlib.compress(bytes(1_000_000), 9)
    many_values = tiff_file(Directory({274: (SHORT, bytes(LENGTH))}))
    frame = png_chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 1, 1, 0, 0, 1, 10, 0, 0))

    def with_chunks(chunk: bytes, count: int) -> bytes:
        return png[:33] + chunk * count + png[33:]

    def texts() -> bytes:
        chunks = [png_chunk(b"iTXt", b"key%d\0\1\0\0\0" % index + million) for index in range(63)]
        return with_chunks(b"".join(chunks), 1)

    return {
        "png_chunks": lambda: with_chunks(png_chunk(b"tEXt", b""), LENGTH // 12),
        "png_empty_data": lambda: png[:-12] + png_chunk(b"IDAT", b"") * (LENGTH // 12) + png[-12:],
        "png_frames": lambda: with_chunks(frame, LENGTH // len(frame)),
        "png_chunks_at_the_limit": lambda: with_chunks(png_chunk(b"teSt", bytes(400)), 65_000),
        "png_compressed_texts": lambda: with_chunks(png_chunk(b"zTXt", b"k\0\0" + million), 20_000),
        "png_compressed_translations": texts,
        "png_exif": lambda: with_chunks(png_chunk(b"eXIf", many_values), 1),
    }


def _gif_bombs(cat: Image.Image) -> dict[str, Callable[[], bytes]]:
    gif = encoded(cat, "GIF")
    start = 13 + 768
    frame = b",\0\0\0\0\1\0\1\0\0\2\2D\1\0"

    def before_the_frame(junk: bytes) -> bytes:
        return gif[:start] + junk + gif[start:]

    return {
        "gif_frames": lambda: gif[:-1] + frame * (LENGTH // 15) + b";",
        "gif_blank_frames": lambda: b"GIF89a\x10\0\x10\0\0\0\0" + frame * (LENGTH // 15) + b";",
        "gif_comment": lambda: before_the_frame(b"!\xfe" + b"\1a" * (LENGTH // 2) + b"\0"),
        "gif_extensions": lambda: before_the_frame(b"!\x77\0" * (LENGTH // 3)),
        "gif_stray_bytes": lambda: before_the_frame(bytes(LENGTH)),
        "gif_without_end": lambda: gif[:-1] + frame[:11] + b"\1a" * (LENGTH // 2),
    }


def _webp_bombs(cat: Image.Image) -> dict[str, Callable[[], bytes]]:
    webp = encoded(cat, "WEBP")
    small = encoded(Image.new("RGB", (16, 16)), "WEBP", lossless=True)
    start, frame = _webp_frames((16, 16), small)
    return {
        "webp_chunks": lambda: _riff(b"RIFF", webp[8:] + _riff(b"abcd", b"") * (LENGTH // 8)),
        "webp_frames": lambda: _riff(b"RIFF", start + frame * 60_000),
        "webp_too_many_frames": lambda: _riff(b"RIFF", start + frame * (LENGTH // len(frame))),
    }


def _webp_frames(size: tuple[int, int], picture: bytes) -> tuple[bytes, bytes]:
    """The start of an animation, after RIFF, and a frame of it that shows all of a WebP file."""
    sides = b"".join((side - 1).to_bytes(3, "little") for side in size)
    frame = _riff(b"ANMF", bytes(6) + sides + bytes(4) + picture[12:])
    return b"WEBP" + _riff(b"VP8X", struct.pack("<I", 2) + sides) + _riff(b"ANIM", bytes(6)), frame


def _blank_animation(size: tuple[int, int], frames: int) -> bytes:
    blank = encoded(Image.new("RGB", size), "WEBP", lossless=True, method=0)
    start, frame = _webp_frames(size, blank)
    return _riff(b"RIFF", start + frame * frames)


def _riff(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def _tiff_bombs(cat: Image.Image) -> dict[str, Callable[[], bytes]]:
    count = LENGTH // 4
    gray = {258: (SHORT, [8]), 259: (SHORT, [1]), 262: (SHORT, [1]), 277: (SHORT, [1])}
    third = struct.pack("<II", 1, 3)

    def tiles(width: int, height: int, tile: int, **more: bytes) -> bytes:
        offsets = more.get("offsets", struct.pack("<I", 8) * count)
        sides = {256: (LONG, [width]), 257: (LONG, [height]), 322: (LONG, [tile]), 323: (LONG, [tile])}
        return tiff_file(Directory({**gray, **sides, 324: (LONG, offsets)}))

    def directories() -> bytes:
        one = [struct.pack("<HHHIII", 1, 256, LONG, 1, 9, 26 + 18 * index) for index in range(LENGTH // 18)]
        return b"II*\0\x08\0\0\0" + b"".join(one)

    def pages() -> bytes:
        """A picture, and then directories of one tag."""
        file = bytearray(tiff_file(picture(np.asarray(cat))))
        begin, count = len(file), LENGTH // 18
        file[begin - 4 :] = struct.pack("<I", begin)
        one = [struct.pack("<HHHIII", 1, 256, LONG, 1, 9, begin + 18 * index) for index in range(1, count)]
        return bytes(file) + b"".join(one)

    def exif() -> bytes:
        """The values of an EXIF directory that is behind the picture."""
        child = Directory({33434: (RATIONAL, third * (LENGTH // 8))})
        parent = picture(np.asarray(cat), t34665=(LONG, [0]))
        parent.children = [child]
        file = bytearray(tiff_file(parent))
        at = file.rindex(struct.pack("<HHII", 34665, LONG, 1, 0)) + 8
        child_at = file.rindex(struct.pack("<HHI", 330, LONG, 1)) + 8
        file[at : at + 4] = file[child_at : child_at + 4]
        return bytes(file)

    return {
        "tiff_tiles_at_the_limit": lambda: tiles(362, 362, 1, offsets=struct.pack("<I", 8) * 131_044),
        "tiff_fractions_at_the_limit": lambda: tiff_file(
            picture(np.asarray(cat), t282=(RATIONAL, third * 399_000))
        ),
        "tiff_tiles": lambda: tiles(count, 1, 1),
        "tiff_square_of_tiles": lambda: tiles(2500, 3000, 1),
        "tiff_few_offsets_for_many_tiles": lambda: tiles(9000, 9000, 1, offsets=struct.pack("<I", 8) * 9),
        "tiff_one_huge_tile": lambda: tiles(10, 10, 40_000, offsets=struct.pack("<I", 8)),
        "tiff_fractions": lambda: tiff_file(picture(np.asarray(cat), t282=(RATIONAL, third * (LENGTH // 8)))),
        "tiff_exif": exif,
        "tiff_directories": directories,
        "tiff_pages": pages,
    }


def _media_bombs(cat: Image.Image) -> dict[str, Callable[[], bytes]]:
    boxes = struct.pack(">I4s", 8, b"free") * (LENGTH // 8)
    found: dict[str, Callable[[], bytes]] = {}
    for name, data in (("avif", encoded(cat, "AVIF", speed=10)), ("heic", heic(cat))):
        first = int.from_bytes(data[:4], "big")
        found |= {
            f"{name}_boxes_first": partial(bytes.join, b"", (data[:first], boxes, data[first:])),
            f"{name}_boxes_last": partial(bytes.join, b"", (data, boxes)),
        }
    return found


def _bmp_runs(bmp: bytes) -> bytes:
    """Ends of lines, which stand for 10,000 pixels each."""
    sides, kind = struct.pack("<ii", 10_000, 9_999), struct.pack("<HI", 8, 1)
    return bmp[:18] + sides + bmp[26:28] + kind + bmp[34:54] + bytes(1024) + b"\0\0" * 9_999


def large_pictures() -> dict[str, Callable[[], bytes]]:
    """Name -> what makes a sound picture of LARGE_PIXELS in the mode that takes most memory."""
    size = (4000, 3000)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    floats = Image.new("F", size, 0.5)
    return {
        "large.webp": lambda: encoded(Image.new("RGBA", size), "WEBP", lossless=True, method=0, exif=exif),
        "large_blank_animation.webp": lambda: _blank_animation(size, frames=3),
        "large.png": lambda: encoded(Image.new("RGBA", size), "PNG", exif=exif),
        "large.tiff": lambda: encoded(floats, "TIFF", compression="tiff_adobe_deflate"),
        "large.avif": lambda: encoded(Image.new("RGB", size), "AVIF", speed=10, exif=exif),
        "large.gif": lambda: encoded(Image.new("P", size), "GIF"),
        "large.heic": lambda: heic(Image.new("RGB", size)),
    }


LARGE_PIXELS = 12_000_000
