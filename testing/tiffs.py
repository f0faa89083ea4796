"""TIFF files written tag by tag: thumbnails before the photo, odd samples, and bombs."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image

from testing.odd_files import Odd
from testing.pictures import encoded, source_picture

SHORT, LONG, RATIONAL, UNDEFINED, ASCII = 3, 4, 5, 7, 2
_CODES = {SHORT: "H", LONG: "I", RATIONAL: "I"}
_UNIT = {SHORT: 2, LONG: 4, RATIONAL: 8, UNDEFINED: 1, ASCII: 1}
Value = tuple[int, Sequence[int] | bytes]
"""The type of a tag, and its values."""
Tags = dict[int, Value]
THUMBNAIL: Tags = {254: (LONG, [1])}
FULL: Tags = {254: (LONG, [0])}


@dataclass
class Directory:
    """One picture: its tags, its only strip, and the directories that it names."""

    tags: Tags
    strip: bytes = b""
    children: list[Directory] = field(default_factory=list)


def picture(pixels: npt.NDArray[np.generic], **tags: Value) -> Directory:
    """A directory for samples [H,W] or [H,W,bands] of any type; tags as t259=(SHORT, [1])."""
    height, width, bands = (*pixels.shape, 1)[:3]
    kind = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    strip = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    found: Tags = {
        256: (LONG, [width]),
        257: (LONG, [height]),
        258: (SHORT, [pixels.dtype.itemsize * 8] * bands),
        259: (SHORT, [1]),
        262: (SHORT, [2 if bands == 3 else 1]),
        277: (SHORT, [bands]),
        278: (LONG, [height]),
        339: (SHORT, [kind] * bands),
    }
    return Directory(found | {int(name[1:]): value for name, value in tags.items()}, strip)


def tiff_file(*directories: Directory) -> bytes:
    """A little-endian file with the directories in a chain."""
    out = bytearray(b"II*\0\0\0\0\0")
    link = 4
    for directory in directories:
        at, after = _write(out, directory)
        struct.pack_into("<I", out, link, at)
        link = after
    return bytes(out)


def _write(out: bytearray, directory: Directory) -> tuple[int, int]:
    """Where the directory begins, and where its link to the next one is."""
    tags = dict(directory.tags)
    if directory.strip:
        tags.setdefault(273, (LONG, [len(out)]))
        tags.setdefault(279, (LONG, [len(directory.strip)]))
        out += directory.strip
    if directory.children:
        tags[330] = (LONG, [_write(out, child)[0] for child in directory.children])
    entries = []
    for tag, (kind, values) in sorted(tags.items()):
        content = (
            values if isinstance(values, bytes) else struct.pack(f"<{len(values)}{_CODES[kind]}", *values)
        )
        count = len(content) // _UNIT[kind]
        if len(content) > 4:
            out += bytes(len(out) % 2)
            entries.append(struct.pack("<HHII", tag, kind, count, len(out)))
            out += content
        else:
            entries.append(struct.pack("<HHI", tag, kind, count) + content.ljust(4, b"\0"))
    out += bytes(len(out) % 2)
    at = len(out)
    out += struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return at, len(out) - 4


def odd_tiffs() -> dict[str, Odd]:
    """Name -> a sound picture in an odd file."""
    cat = source_picture("chelsea.png")
    large, small = np.asarray(cat), np.asarray(cat.resize((90, 60)))
    clean, page = encoded(cat, "PNG"), cat.resize((902, 600))
    full, thumbnail = picture(large, **_named(FULL)), picture(small, **_named(THUMBNAIL))
    parent = picture(small, **_named(THUMBNAIL))
    parent.children = [picture(small[:30], **_named(THUMBNAIL)), full]
    silent_parent = picture(small)
    silent_parent.children = [picture(large)]
    pyramid = picture(large)
    pyramid.children = [thumbnail]
    lost = picture(large, t34675=(UNDEFINED, bytes(1000)))
    lost_profile = bytearray(tiff_file(lost))
    at = lost_profile.rindex(struct.pack("<HHI", 34675, UNDEFINED, 1000))
    struct.pack_into("<I", lost_profile, at + 8, len(lost_profile) + 5)
    return {
        "tiff_thumbnail_first": Odd(tiff_file(thumbnail, full), clean, "other_picture"),
        "tiff_thumbnail_first_of_three": Odd(
            tiff_file(thumbnail, picture(small), full), clean, "other_picture"
        ),
        "tiff_thumbnail_with_children": Odd(tiff_file(parent), clean, "other_picture"),
        "tiff_old_thumbnail_first": Odd(
            tiff_file(picture(small, t255=(SHORT, [2])), picture(large)), clean, "other_picture"
        ),
        "tiff_silent_thumbnail_first": Odd(tiff_file(picture(small), picture(large)), clean, "other_picture"),
        "tiff_silent_parent": Odd(tiff_file(silent_parent), clean, "other_picture"),
        "tiff_thumbnail_last": Odd(tiff_file(full, thumbnail), clean),
        "tiff_pyramid": Odd(tiff_file(pyramid), clean),
        "tiff_pages": Odd(tiff_file(full, picture(large[::-1]), picture(large[:, ::-1])), clean),
        "tiff_pages_of_different_resolution": Odd(
            tiff_file(picture(np.asarray(page)), picture(np.asarray(page.resize((1804, 1200))))),
            encoded(page, "PNG"),
        ),
        "tiff_small_page_of_a_document": Odd(
            tiff_file(picture(small, t297=(SHORT, [0, 2])), picture(large, t297=(SHORT, [1, 2]))),
            encoded(cat.resize((90, 60)), "PNG"),
        ),
        "tiff_mask_last": Odd(tiff_file(full, picture(large[:, :, 0], t254=(LONG, [4]))), clean),
        "tiff_lost_profile": Odd(bytes(lost_profile), clean, "damaged_metadata"),
        "tiff_odd_tags": Odd(
            tiff_file(picture(large, t60000=(RATIONAL, [1, 0]), t65000=(SHORT, [7]))), clean
        ),
        "tiff_strip_length_too_large": Odd(tiff_file(picture(large, t279=(LONG, [99_999_999]))), clean),
        "tiff_strip_length_missing": Odd(tiff_file(picture(large, t279=(LONG, []))), clean),
        "tiff_data_after_the_end": Odd(tiff_file(full) + bytes(1000), clean),
        "tiff_after_a_newline": Odd(b"\n" + tiff_file(full), clean, "stray_bytes"),
    }


def _named(tags: Tags) -> dict[str, Value]:
    return {f"t{tag}": value for tag, value in tags.items()}


def wide_pictures() -> dict[str, tuple[bytes, bytes]]:
    """Name -> (a gray picture of more than 8 bits, the PNG of 8 bits that it is a scaled version of)."""
    gray = source_picture("chelsea.png").convert("L")
    levels = np.asarray(gray)
    stretched = levels.copy()
    stretched[0, :2] = 0, 255  # the lowest and highest value
    missing = (stretched / 255).astype(np.float32)
    missing[5:9, 5:9] = np.nan
    without = stretched.copy()
    without[5:9, 5:9] = 0
    png, whole = encoded(gray, "PNG"), encoded(Image.fromarray(stretched), "PNG")
    deep = levels.astype(np.uint16) * 257
    return {
        "16_bits.png": (encoded(Image.fromarray(deep), "PNG"), png),
        "16_bits.tiff": (tiff_file(picture(deep)), png),
        "16_bits_deflate.tiff": (
            encoded(Image.fromarray(deep), "TIFF", compression="tiff_adobe_deflate"),
            png,
        ),
        "16_bits_white_is_zero.tiff": (tiff_file(picture(65535 - deep, t262=(SHORT, [0]))), png),
        "signed_16_bits.tiff": (tiff_file(picture((stretched.astype(np.int16) - 128) * 200)), whole),
        "signed_16_bits_of_15.tiff": (
            tiff_file(picture(np.rint(levels / 255 * 32_767).astype(np.int16))),
            png,
        ),
        "signed_16_bits_of_8.tiff": (tiff_file(picture(levels.astype(np.int16))), png),
        "32_bits.tiff": (tiff_file(picture(stretched.astype(np.uint32) * 16_843_009)), whole),
        "32_bits_of_8.tiff": (tiff_file(picture(levels.astype(np.int32))), png),
        "32_bits_of_16.tiff": (tiff_file(picture(levels.astype(np.int32) * 257)), png),
        "float_0_to_1.tiff": (tiff_file(picture((levels / 255).astype(np.float32))), png),
        "float_0_to_255.tiff": (tiff_file(picture(levels.astype(np.float32))), png),
        "float_0_to_65535.tiff": (tiff_file(picture(levels.astype(np.float32) * 257)), png),
        "float_any.tiff": (tiff_file(picture(stretched.astype(np.float32) * 1e9 - 5e10)), whole),
        "float_with_nan.tiff": (tiff_file(picture(missing)), encoded(Image.fromarray(without), "PNG")),
    }


def camera_raw_tiffs() -> dict[str, tuple[bytes, str]]:
    """Name -> (a file whose photo is sensor data, part of the text of its error)."""
    small = np.asarray(source_picture("chelsea.png").resize((90, 60)))
    sensor = np.zeros((300, 450), np.uint16)
    cfa, linear = (SHORT, [32803]), (SHORT, [34892])
    preview = np.asarray(source_picture("chelsea.png"))

    def with_children(*children: Directory, **tags: Value) -> bytes:
        parent = picture(small, **_named(THUMBNAIL), **tags)
        parent.children = list(children)
        return tiff_file(parent)

    raw = picture(sensor, t262=cfa, **_named(FULL))
    version = (UNDEFINED, b"\1\4\0\0")
    cr2 = tiff_file(picture(preview))
    return {
        "raw.dng": (with_children(raw, t50706=version), "DNG"),
        "raw_with_preview.dng": (
            with_children(raw, picture(preview, **_named(THUMBNAIL)), t50706=version),
            "DNG",
        ),
        "linear.dng": (tiff_file(picture(sensor, t262=linear, t50706=version)), "DNG"),
        "raw.nef": (with_children(raw, t271=(ASCII, b"NIKON CORPORATION\0")), "NIKON"),
        "raw.arw": (tiff_file(picture(small), picture(sensor, t262=cfa)), "camera raw"),
        "raw.cr2": (cr2[:4] + struct.pack("<I", 16) + b"CR\2\0\0\0\0\0" + _moved_directory(), "CR2"),
    }


def _moved_directory() -> bytes:
    """A directory of one tag, as it could be at byte 16."""
    return struct.pack("<HHHIII", 1, 256, LONG, 1, 100, 0)


def undecodable_tiffs() -> dict[str, tuple[bytes, str]]:
    """Name -> (a file that may be sound, part of the text of its `unsupported_format` error)."""
    cat = np.asarray(source_picture("chelsea.png").resize((90, 60)))
    return {
        "float_rgb.tiff": (tiff_file(picture((cat / 255).astype(np.float32))), "float samples in 3 bands"),
        "double.tiff": (tiff_file(picture(cat[:, :, 0].astype(np.float64))), "64-bit float"),
        "half.tiff": (tiff_file(picture(cat[:, :, 0].astype(np.float16))), "16-bit float"),
        "integer_rgb.tiff": (tiff_file(picture(cat.astype(np.int32))), "samples"),
        "two_bands.tiff": (tiff_file(picture(cat[:, :, :2])), "samples"),
        "jpeg_2000.tiff": (tiff_file(picture(cat, t259=(SHORT, [34712]))), "JPEG 2000"),
        "jpeg_xl.tiff": (tiff_file(picture(cat, t259=(SHORT, [50002]))), "JPEG XL"),
        "big_and_big_endian.tiff": (_big_and_big_endian(cat[:, :, 0]), "BigTIFF"),
    }


def _big_and_big_endian(pixels: npt.NDArray[np.uint8]) -> bytes:
    """A BigTIFF with the most significant byte first, as some scientific software writes it."""
    height, width = pixels.shape
    numbers = {
        256: width,
        257: height,
        258: 8,
        259: 1,
        262: 1,
        273: 16,
        277: 1,
        278: height,
        279: pixels.size,
    }
    directory = struct.pack(">Q", len(numbers))
    directory += b"".join(struct.pack(">HHQQ", tag, 16, 1, number) for tag, number in numbers.items())
    at = 16 + pixels.size
    return struct.pack(">2sHHHQ", b"MM", 43, 8, 0, at) + pixels.tobytes() + directory + bytes(8)
