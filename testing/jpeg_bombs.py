"""JPEGs that would take a careless header reader minutes: megabytes of segments, or of bytes between them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from testing.odd_jpegs import header_places, segment
from testing.pictures import encoded, source_picture

_XMP = b"http://ns.adobe.com/xap/1.0/\0"


def jpeg_bombs(length: int = 30_000_000) -> dict[str, Callable[[], bytes]]:
    """Name -> what makes the file of about `length` bytes."""
    cat = source_picture("chelsea.png")
    baseline, progressive = encoded(cat, "JPEG"), encoded(cat, "JPEG", progressive=True)
    start, end = header_places(baseline)[1], len(baseline) - 2
    last = len(progressive) - 2

    def fill(data: bytes, at: int, unit: bytes) -> bytes:
        return data[:at] + unit * (length // len(unit)) + data[at:]

    in_header = {
        "exif": segment(0xE1, b"Exif\0\0" + bytes(65_000)),
        "small_exif": segment(0xE1, b"Exif\0\0"),
        "xmp": segment(0xE1, _XMP + b"tiff:Orientation " * 3000),
        "xmp_spaces": segment(0xE1, _XMP + b"tiff:Orientation" + b" " * 60_000),
        "profile": segment(0xE2, b"ICC_PROFILE\0\1\xff" + bytes(65_000)),
        "small_profile": segment(0xE2, b"ICC_PROFILE\0\1\xff"),
        "comments": segment(0xFE, b""),
        "tables": segment(0xC4, b""),
        "junk": b"\0",
        "ff": b"\xff",
        "ff00": b"\xff\0",
        "restarts": b"\xff\xd0",
        "reserved": b"\xff\x47",
        "starts": b"\xff\xd8",
        "ends": b"\xff\xd9",
    }
    before_end = {
        name: in_header[name] for name in ("junk", "ff", "ff00", "restarts", "reserved", "comments")
    }
    before_end["blocks"] = b"\x12\x34\x56"
    files: dict[str, Callable[[], bytes]]
    files = {f"jpeg_{name}": partial(fill, baseline, start, unit) for name, unit in in_header.items()}
    for name, unit in before_end.items():
        files[f"jpeg_{name}_before_end"] = partial(fill, baseline, end, unit)
        files[f"jpeg_{name}_without_end"] = partial(fill, baseline[:end], end, unit)
        files[f"jpeg_progressive_{name}"] = partial(fill, progressive, last, unit)
    files["jpeg_one_directory"] = partial(_one_directory, baseline, start, length)
    files["jpeg_tables_between_scans"] = partial(fill, progressive, last, in_header["tables"])
    return files


def _one_directory(data: bytes, at: int, length: int) -> bytes:
    """EXIF of a megabyte whose 65,535 entries have all of it for their value."""
    entries = b"".join(tag.to_bytes(2, "big") + b"\0\1\0\x0f\0\0\0\0\0\0" for tag in range(65_535))
    exif = b"MM\0*\0\0\0\x08\xff\xff" + entries + bytes(max(length - 1_000_000, 0))
    parts = [exif[begin : begin + 65_000] for begin in range(0, len(exif), 65_000)]
    return data[:at] + b"".join(segment(0xE1, b"Exif\0\0" + part) for part in parts) + data[at:]
