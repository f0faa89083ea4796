"""Pictures of a black square on a transparent canvas, in every way in which a format can say so."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import numpy.typing as npt
import pillow_heif
from PIL import Image

from testing.pictures import encoded, png_chunk

SIDE = 96
"""The square is the middle half of both sides."""


def with_alpha() -> dict[str, bytes]:
    """Transparency that is not in the colors: ignoring it leaves nothing but black."""
    alpha = Image.fromarray(np.where(_square(), 255, 0).astype(np.uint8))
    grey, color = Image.new("LA", alpha.size, (0, 0)), Image.new("RGBA", alpha.size, (0, 0, 0, 0))
    grey.putalpha(alpha)
    color.putalpha(alpha)
    palette = Image.fromarray(_square().astype(np.uint8)).convert("P")
    palette.putpalette(bytes(6))
    return {
        "rgba.png": encoded(color, "PNG"),
        "grey_alpha.png": encoded(grey, "PNG"),
        "rgba_16_bits.png": _png(16, 6, np.dstack([np.zeros((SIDE, SIDE, 3)), _square() * 65535])),
        "grey_alpha_16_bits.png": _png(16, 4, np.dstack([np.zeros((SIDE, SIDE)), _square() * 65535])),
        "palette_with_alphas.png": encoded(palette, "PNG", transparency=b"\0\xff"),
        "palette_with_an_index.png": encoded(palette, "PNG", transparency=0),
        **{f"palette_{bits}_bits.png": _png(bits, 3, _square(), b"\0\xff") for bits in (1, 2, 4, 8)},
        "index.gif": encoded(palette, "GIF", transparency=0, optimize=False),
        "small_frame.gif": _gif_with_a_small_frame(palette),
        "alpha.bmp": _bmp(alpha),
        "lossless.webp": encoded(color, "WEBP", lossless=True),
        "lossy.webp": encoded(color, "WEBP", quality=90),
        "rgba.tiff": encoded(color, "TIFF"),
        "grey_alpha.tiff": encoded(grey, "TIFF"),
        **{
            f"{name}_times_alpha.tiff": _with_associated_alpha(encoded(picture, "TIFF"))
            for name, picture in (("color", color), ("grey", grey))
        },
        "rgba.avif": encoded(color, "AVIF", quality=90),
        "rgba.heic": _heic(color),
    }


def with_a_color_key() -> dict[str, bytes]:
    """PNGs that name one color as transparent."""
    square = _square()
    files = {}
    for bits in (1, 2, 4, 8, 16):
        key = {1: 1, 2: 2, 4: 7, 8: 130, 16: 777}[bits]
        pixels = np.where(square, 0, key)
        files[f"grey_{bits}_bits.png"] = _png(bits, 0, pixels, struct.pack(">H", key))
    for bits, color in ((8, (200, 100, 50)), (16, (51_200, 25_600, 12_801))):
        pixels = np.where(square[..., None], 0, color)
        files[f"color_{bits}_bits.png"] = _png(bits, 2, pixels, struct.pack(">HHH", *color))
    return files


def _square() -> npt.NDArray[np.bool_]:
    square = np.zeros((SIDE, SIDE), np.bool_)
    square[SIDE // 4 : SIDE * 3 // 4, SIDE // 4 : SIDE * 3 // 4] = True
    return square


def _png(bits: int, color_type: int, pixels: npt.NDArray[np.generic], key: bytes = b"") -> bytes:
    """A PNG of samples [h,w] or [h,w,channels], in depths that Pillow does not write."""
    rows = pixels.reshape(SIDE, -1)
    if bits == 16:
        packed = rows.astype(">u2").tobytes()
    else:
        unpacked = np.unpackbits(rows.astype(np.uint8)[..., None], axis=-1)[..., 8 - bits :]
        packed = np.packbits(unpacked.reshape(SIDE, -1), axis=-1).tobytes()
    length = len(packed) // SIDE
    filtered = b"".join(b"\0" + packed[at : at + length] for at in range(0, len(packed), length))
    header = struct.pack(">IIBBBBB", SIDE, SIDE, bits, color_type, 0, 0, 0)
    palette = bytes(6) if color_type == 3 else b""
    chunks = [
        (b"IHDR", header),
        (b"PLTE", palette),
        (b"tRNS", key),
        (b"IDAT", zlib.compress(filtered)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        png_chunk(kind, content) for kind, content in chunks if content or kind == b"IEND"
    )


def _gif_with_a_small_frame(palette: Image.Image) -> bytes:
    """The square is the frame; the canvas around it has no pixels."""
    quarter = SIDE // 4
    box = (quarter, quarter, SIDE - quarter, SIDE - quarter)
    data = bytearray(encoded(palette.crop(box), "GIF", transparency=0, optimize=False))
    struct.pack_into("<HH", data, 6, SIDE, SIDE)
    frame = data.index(b",", 13 + 3 * (2 << (data[10] & 7)))
    struct.pack_into("<HH", data, frame + 1, quarter, quarter)
    return bytes(data)


def _bmp(alpha: Image.Image) -> bytes:
    """32 bits with masks, alpha included."""
    pixels = np.zeros((SIDE, SIDE, 4), np.uint8)
    pixels[..., 3] = np.asarray(alpha)
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 108, SIDE, -SIDE, 1, 32, 3, pixels.nbytes, 2835, 2835, 0, 0) + masks
    header = header.ljust(108, b"\0")
    start = struct.pack("<2sIHHI", b"BM", 14 + len(header) + pixels.nbytes, 0, 0, 14 + len(header))
    return start + header + pixels.tobytes()


def _with_associated_alpha(tiff: bytes) -> bytes:
    """The same TIFF, saying that its colors (black) are multiplied by alpha: ExtraSamples 1 instead of 2."""
    entry = struct.pack("<HHIHH", 338, 3, 1, 2, 0)
    assert tiff.count(entry) == 1
    return tiff.replace(entry, struct.pack("<HHIHH", 338, 3, 1, 1, 0))


def _heic(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    pillow_heif.from_pillow(picture).save(buffer, quality=90)
    return buffer.getvalue()
