"""Pictures for tests: camera-like photos, odd but sound files, and broken ones with their error codes.

All are made from the pictures in scikit-image's wheel, or from seeded noise.
"""

from __future__ import annotations

import importlib.util
import io
import struct
import zlib
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import pillow_heif
from PIL import ExifTags, Image

_SOURCES = (
    "astronaut.png",
    "coffee.png",
    "chelsea.png",
    "rocket.jpg",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "hubble_deep_field.jpg",
    "ihc.png",
)
_CAMERA_SIZES = ((2048, 1536), (1600, 1200), (1200, 1600), (1920, 1080), (1024, 768), (1500, 1000))


@lru_cache(maxsize=len(_SOURCES))
def source_picture(name: str) -> Image.Image:
    """One of scikit-image's pictures in RGB; read from its folder, so the package is not imported."""
    spec = importlib.util.find_spec("skimage")
    assert spec is not None
    assert spec.origin is not None
    with Image.open(Path(spec.origin).parent / "data" / name) as picture:
        converted: Image.Image = picture.convert("RGB")
        return converted


def camera_photos(n: int, seed: int = 0) -> list[bytes]:
    """`n` JPEGs as a camera writes them: 1-3 megapixels, 4:2:0 or 4:2:2, EXIF with make and time."""
    return list(_camera_photos(n, seed))


@lru_cache(maxsize=16)
def _camera_photos(n: int, seed: int) -> tuple[bytes, ...]:
    random = np.random.default_rng(seed)
    return tuple(_camera_photo(index, random) for index in range(n))


def _camera_photo(index: int, random: np.random.Generator) -> bytes:
    source = source_picture(_SOURCES[index % len(_SOURCES)])
    width, height = _CAMERA_SIZES[int(random.integers(len(_CAMERA_SIZES)))]
    picture = _random_crop(source, width / height, random).resize((width, height), Image.Resampling.BICUBIC)
    grain = random.integers(-6, 7, (height, width, 1), np.int16)
    picture = Image.fromarray((np.asarray(picture) + grain).clip(0, 255).astype(np.uint8))
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "clip-triton"
    exif[ExifTags.Base.DateTime] = f"2024:01:01 12:{index // 60 % 60:02}:{index % 60:02}"
    subsampling = ("4:2:0", "4:2:2")[int(random.integers(2))]
    return encoded(picture, "JPEG", quality=int(random.integers(85, 96)), subsampling=subsampling, exif=exif)


def _random_crop(picture: Image.Image, aspect: float, random: np.random.Generator) -> Image.Image:
    """60-95 % of the largest window of that aspect ratio, anywhere in the picture."""
    scale = random.uniform(0.6, 0.95)
    width = scale * min(picture.width, picture.height * aspect)
    height = width / aspect
    left = random.uniform(0, picture.width - width)
    top = random.uniform(0, picture.height - height)
    return picture.crop((round(left), round(top), round(left + width), round(top + height)))


def encoded(picture: Image.Image, format_name: str, **options: object) -> bytes:
    """`picture` as the bytes of a file."""
    buffer = io.BytesIO()
    picture.save(buffer, format_name, **options)
    return buffer.getvalue()


def oriented(picture: Image.Image, orientation: int, format_name: str = "JPEG") -> bytes:
    """A file whose EXIF asks for `orientation`."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return encoded(picture, format_name, exif=exif)


def noise(width: int, height: int, channels: int = 3, seed: int = 0) -> Image.Image:
    """Seeded noise: the hardest picture for any shortcut in resizing."""
    shape = (height, width) if channels == 1 else (height, width, channels)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))


def _palette_with_transparency(picture: Image.Image) -> bytes:
    quantized = picture.quantize(64)
    return encoded(quantized, "PNG", transparency=bytes(range(0, 256, 4)))


def _sixteen_bit(width: int, height: int) -> Image.Image:
    samples = np.random.default_rng(5).integers(0, 65536, (height, width), np.uint16)
    return Image.fromarray(samples)


def interlaced_png(picture: Image.Image) -> bytes:
    """An RGB picture in the seven passes of Adam7, which Pillow can read but not write."""
    pixels = np.asarray(picture)
    grids = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    passes = [pixels[top::down, left::across] for top, left, down, across in grids]
    rows = [b"\0" + row.tobytes() for each in passes if each.size for row in each]
    header = struct.pack(">IIBBBBB", picture.width, picture.height, 8, 2, 0, 0, 1)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def _ycck(picture: Image.Image) -> bytes:
    """A JPEG of four components, whose Adobe segment says that the first three are YCbCr."""
    cmyk = bytearray(encoded(picture.convert("CMYK"), "JPEG"))
    transform = cmyk.index(b"Adobe") + 11
    assert cmyk[transform] == 0
    cmyk[transform] = 2
    return bytes(cmyk)


@cache
def odd_pictures() -> dict[str, bytes]:
    """Sound JPEG and PNG files of odd sizes and modes; every one has pixels that open_clip accepts."""
    cat, cup = source_picture("chelsea.png"), source_picture("coffee.png")
    small = cat.resize((180, 120))
    alpha = cup.copy()
    alpha.putalpha(cup.convert("L"))
    pictures = {
        "1xn.png": encoded(noise(1, 100), "PNG"),
        "nx1.png": encoded(noise(120, 1), "PNG"),
        "1x1.png": encoded(noise(1, 1), "PNG"),
        "3xn.jpg": encoded(noise(3, 400), "JPEG"),
        "tiny.jpg": encoded(noise(7, 5), "JPEG"),
        "small.jpg": encoded(small, "JPEG"),
        "small_portrait.png": encoded(small.transpose(Image.Transpose.ROTATE_90), "PNG"),
        "exactly_224.png": encoded(noise(224, 224), "PNG"),
        "223x225.png": encoded(noise(223, 225), "PNG"),
        "225x224.jpg": encoded(noise(225, 224), "JPEG"),
        "portrait.jpg": encoded(cup.crop((100, 0, 367, 400)), "JPEG"),
        "landscape.jpg": encoded(cup, "JPEG", quality=92),
        "noise_portrait.png": encoded(noise(427, 640), "PNG"),
        "noise_landscape.jpg": encoded(noise(641, 333), "JPEG", quality=95, subsampling=0),
        "noise_strip.png": encoded(noise(50, 1000), "PNG"),
        "grey.jpg": encoded(cup.convert("L"), "JPEG"),
        "grey.png": encoded(cat.convert("L"), "PNG"),
        "grey_alpha.png": encoded(alpha.convert("LA"), "PNG"),
        "rgba.png": encoded(alpha, "PNG"),
        "rgba_noise.png": encoded(noise(300, 257, 4), "PNG"),
        "palette.png": encoded(cup.quantize(200), "PNG"),
        "palette_16_colours.png": encoded(cat.quantize(16), "PNG", bits=4),
        "palette_transparent.png": _palette_with_transparency(cat),
        "rgb_transparent_colour.png": encoded(cat, "PNG", transparency=(0, 0, 0)),
        "bilevel.png": encoded(cup.convert("1"), "PNG"),
        "sixteen_bit.png": encoded(_sixteen_bit(300, 231), "PNG"),
        "palette_4_colours.png": encoded(cat.quantize(4), "PNG", bits=2),
        "interlaced.png": interlaced_png(cat),
        "cmyk.jpg": encoded(cup.convert("CMYK"), "JPEG"),
        "ycck.jpg": _ycck(cup),
        "progressive.jpg": encoded(cat, "JPEG", progressive=True),
        "restart_markers.jpg": encoded(cat, "JPEG", restart_marker_rows=1),
        "411.jpg": encoded(cat, "JPEG", subsampling="4:1:1"),
    }
    for orientation in range(1, 9):
        pictures[f"exif_{orientation}.jpg"] = oriented(cup, orientation)
    pictures["exif_6.png"] = oriented(cat, 6, "PNG")
    return pictures


@cache
def other_formats() -> dict[str, bytes]:
    """Sound files of the other formats, including animated ones."""
    cat, cup = source_picture("chelsea.png"), source_picture("coffee.png").resize((451, 300))
    alpha = cat.copy()
    alpha.putalpha(cat.convert("L"))
    frames = [cat, cup]
    return {
        "lossy.webp": encoded(cat, "WEBP", quality=80),
        "lossless.webp": encoded(cat.resize((150, 100)), "WEBP", lossless=True),
        "alpha.webp": encoded(alpha, "WEBP"),
        "animated.webp": encoded(cat, "WEBP", save_all=True, append_images=[cup.resize(cat.size)]),
        "picture.gif": encoded(cat, "GIF"),
        "animated.gif": encoded(cat, "GIF", save_all=True, append_images=frames, duration=50),
        "animated.png": encoded(cat, "PNG", save_all=True, append_images=[cup.resize(cat.size)]),
        "picture.bmp": encoded(cat, "BMP"),
        "grey.bmp": encoded(cat.convert("L"), "BMP"),
        "picture.tiff": encoded(cat, "TIFF"),
        "deflate.tiff": encoded(cup, "TIFF", compression="tiff_adobe_deflate"),
        "cmyk.tiff": encoded(cup.convert("CMYK"), "TIFF", compression="tiff_lzw"),
        "picture.avif": encoded(cat, "AVIF", quality=70, speed=10),
        "picture.heic": heic(cat),
        "stereo.mpo": encoded(cat, "MPO", save_all=True, append_images=[cup]),
    }


def heic(picture: Image.Image) -> bytes:
    """As an iPhone stores it; written without making Pillow know the format."""
    buffer = io.BytesIO()
    pillow_heif.from_pillow(picture).save(buffer, quality=80)
    return buffer.getvalue()


def png_header_only(width: int, height: int) -> bytes:
    """A PNG whose header declares a picture, with one compressed byte of data."""
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0")),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """One chunk with its length and checksum."""
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def jpeg_with_sides(data: bytes, width: int, height: int) -> bytes:
    """The same JPEG with other sides in its frame header."""
    at = next(data.index(marker) for marker in (b"\xff\xc0", b"\xff\xc2") if marker in data)
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


def scan_bomb(progressive: bytes, scans: int) -> bytes:
    """A progressive JPEG whose last scan is repeated: each one costs a pass over the picture."""
    start = progressive.rindex(b"\xff\xda")
    return progressive[:-2] + progressive[start:-2] * scans + b"\xff\xd9"


@cache
def corrupt_pictures() -> dict[str, tuple[bytes, str]]:
    """Name -> (bytes, the error code that it must be rejected with)."""
    cat = source_picture("chelsea.png")
    jpeg, png = encoded(cat, "JPEG"), encoded(cat, "PNG")
    progressive = encoded(cat, "JPEG", progressive=True)
    flipped = bytearray(png)
    flipped[len(png) // 2] ^= 0x55
    header_only = jpeg[: jpeg.index(b"\xff\xda") + 14]
    return {
        "empty": (b"", "empty"),
        "text": (b"This is no picture at all, but a line of text.\n" * 20, "unsupported_format"),
        "html": (b"<!doctype html><title>404</title>", "unsupported_format"),
        "one_byte": (b"\xff", "unsupported_format"),
        "zeros": (bytes(1000), "unsupported_format"),
        "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "unsupported_format"),
        "jpeg_half": (jpeg[: len(jpeg) // 2], "truncated"),
        "jpeg_last_kilobyte_lost": (jpeg[:-1000], "truncated"),
        "jpeg_header_cut": (jpeg[:150], "truncated"),
        "jpeg_progressive_half": (progressive[: len(progressive) // 2], "truncated"),
        "jpeg_half_with_end": (jpeg[: len(jpeg) // 2] + b"\xff\xd9", "corrupt"),
        "jpeg_scan_bomb": (scan_bomb(progressive, 500), "too_complex"),
        "jpeg_40_megapixels_no_data": (jpeg_with_sides(header_only, 8000, 5000) + b"\xff\xd9", "truncated"),
        "jpeg_zero_width": (jpeg_with_sides(jpeg, 0, 300), "corrupt"),
        "jpeg_ends_in_a_scan_header_of_nothing": (
            jpeg[: jpeg.index(b"\xff\xda")] + b"\xff\xda\0\2",
            "corrupt",
        ),
        "jpeg_short_scan_header": (jpeg.replace(b"\xff\xda\0\x0c", b"\xff\xda\0\5"), "corrupt"),
        "jpeg_only_markers": (b"\xff\xd8\xff\xd9", "corrupt"),
        "png_half": (png[: len(png) // 2], "truncated"),
        "png_bit_flips": (bytes(flipped), "corrupt"),
        "png_40_megapixels_no_data": (png_header_only(8000, 5000), "truncated"),
        "png_too_many_pixels": (
            encoded(Image.new("1", (20_000, 20_000)), "PNG"),
            "too_many_pixels",
        ),
        "webp_half": (_half(encoded(cat, "WEBP")), "truncated"),
        "gif_half": (_half(encoded(cat, "GIF")), "truncated"),
        "bmp_half": (_half(encoded(cat, "BMP")), "truncated"),
    }


def _half(data: bytes) -> bytes:
    return data[: len(data) // 2]
