"""TIFF: which of its pictures is the photo, the sides, and whether a decoder can read it in bounded memory.

A TIFF file is a chain of directories (IFDs), each with the tags of one picture; a directory may name others
(SubIFDs). Cameras and scanners put thumbnails before, behind or below the photo.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from PIL import TiffImagePlugin

from clip_preprocess.errors import ErrorCode
from clip_preprocess.headers.base import Data, Header, damaged, header_cut
from clip_preprocess.notices import Notice, NoticeCode

MAX_TAGS = 4_096
"""Tags of one directory; cameras write fewer than 100."""
MAX_VALUES = 400_000
"""Numbers in the tags of one directory: the decoder makes a Python object of each."""
MAX_TILES = 131_072
"""Tiles or strips: 100 megapixels in tiles of 28 x 28."""
MAX_DIRECTORIES = 64
"""Directories that are looked at. Later pages of a document are not."""
_TILE_PIXELS = 4_000_000
"""A tile of this size may be larger than its picture."""
_TILE_TIMES = 4
"""So may a tile of this many times the pixels of its picture."""
_LARGER, _THUMBNAIL_SIDE = 4, 512
"""A first picture that does not say what it is counts as a thumbnail if its longer side has at most this many
pixels, and another one of the same shape has at least so many times its pixels."""

_SUBFILE, _OLD_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 255, 256, 257, 258, 259, 262
_MAKE, _STRIPS, _ORIENTATION, _SAMPLES, _ROWS, _STRIP_BYTES, _PLANAR = 271, 273, 274, 277, 278, 279, 284
_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES, _CHILDREN, _SAMPLE_FORMAT = 322, 323, 324, 325, 330, 339
_METADATA = {34665, 34853, 40965}
"""Directories of EXIF, GPS and interoperability tags."""
_LAYOUT = {*range(_SUBFILE, _PHOTOMETRIC + 1), 266, _STRIPS, *range(_SAMPLES, _STRIP_BYTES + 1), _PLANAR}
_LAYOUT |= {317, 320, *range(_TILE_WIDTH, _TILE_BYTES + 1), 338, _SAMPLE_FORMAT, 347, 530}
"""Tags without which the pixels cannot be decoded."""
_DNG_VERSION = 50706
_SENSOR = {32803, 34892}
"""Photometric interpretations of camera raw: a color filter array, or linear sensor data."""
_PAGES = {_SUBFILE, _OLD_SUBFILE, 297}
"""Tags that say what a picture is; the last is the number of a page."""
_THUMBNAIL, _MASK = 1, 4
"""Flags of NewSubfileType."""
_SIZES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
_CODES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
_NO_TYPE = 0
"""Makes a decoder skip the tag."""
_COMPRESSIONS = set(TiffImagePlugin.COMPRESSION_INFO) - {50001}
_COMPRESSION_NAMES = {
    34661: "JBIG",
    34712: "JPEG 2000",
    33003: "JPEG 2000",
    33005: "JPEG 2000",
    34887: "LERC",
    34892: "lossy JPEG",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
    32767: "Sony raw",
    34713: "Nikon raw",
}


@dataclass(frozen=True)
class _Tag:
    entry: int
    """Where its entry begins."""
    kind: int
    count: int
    at: int
    """Where its values begin."""
    size: int
    """Length of its values in bytes."""


@dataclass
class _Directory:
    """One IFD: the tags of a picture or of metadata."""

    file: _File
    at: int
    tags: dict[int, _Tag] = field(default_factory=dict)
    next: int = 0

    def numbers(self, tag: int, most: int = MAX_VALUES) -> tuple[int, ...]:
        """Its values, up to `most`; empty if it is missing, no whole number, or not in the file."""
        found = self.tags.get(tag)
        if found is None or found.kind not in _CODES or found.at + found.size > len(self.file.data):
            return ()
        count = min(found.count, most)
        return struct.unpack_from(f"{self.file.order}{count}{_CODES[found.kind]}", self.file.data, found.at)

    def number(self, tag: int, default: int = 0) -> int:
        """Its first value."""
        return next(iter(self.numbers(tag, 1)), default)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as stored; zeros for a directory without a picture."""
        return self.number(_WIDTH), self.number(_HEIGHT)

    @property
    def pixels(self) -> int:
        return self.size[0] * self.size[1]

    @property
    def thumbnail(self) -> bool:
        """It says that it is a reduced version of another picture, or a mask."""
        flags = self.number(_SUBFILE)
        return bool(flags & (_THUMBNAIL | _MASK)) or self.number(_OLD_SUBFILE) == 2

    @property
    def sensor_data(self) -> bool:
        return self.number(_PHOTOMETRIC) in _SENSOR

    def text(self, tag: int) -> str:
        found = self.tags.get(tag)
        part = bytes(self.file.data[found.at : found.at + min(found.size, 64)]) if found else b""
        return part.split(b"\0")[0].decode("ascii", "replace").strip()


@dataclass(frozen=True)
class _File:
    data: Data
    order: str
    """Of bytes, as struct wants it: "<" or ">"."""
    big: bool
    """BigTIFF, with offsets of 8 bytes."""

    @property
    def offset(self) -> str:
        return f"{self.order}{'Q' if self.big else 'I'}"

    def directory(self, at: int) -> _Directory | None:
        """The directory at `at`; None if the file does not have it whole. Raises ItemError: `too_complex`."""
        count_format, entry_format, entry_size = ("Q", "HHQ", 20) if self.big else ("H", "HHI", 12)
        width = struct.calcsize(self.offset)
        first = at + struct.calcsize(self.order + count_format)
        if at < 8 or first > len(self.data):
            return None
        (count,) = struct.unpack_from(self.order + count_format, self.data, at)
        end = first + count * entry_size
        if end > len(self.data):
            return None
        if count > MAX_TAGS:
            raise damaged(ErrorCode.TOO_COMPLEX, "TIFF", None, f"a directory has {count:,} tags")
        found = _Directory(self, at)
        for entry in range(first, end, entry_size):
            tag, kind, values = struct.unpack_from(self.order + entry_format, self.data, entry)
            size = values * _SIZES.get(kind, 0)
            value = entry + entry_size - width
            at_values = value if size <= width else struct.unpack_from(self.offset, self.data, value)[0]
            found.tags.setdefault(tag, _Tag(entry, kind, values, at_values, size))
        if end + width <= len(self.data):
            (found.next,) = struct.unpack_from(self.offset, self.data, end)
        return found

    def pictures(self, first: int) -> Iterator[_Directory]:
        """The directories with pictures: each of the chain, followed by its children."""
        waiting, seen = [first], set()
        while waiting:
            at = waiting.pop(0)
            directory = self.directory(at) if at not in seen else None
            seen.add(at)
            if directory is None:
                continue
            children = directory.numbers(_CHILDREN, MAX_DIRECTORIES)
            waiting = [*children, *([directory.next] if directory.next else []), *waiting]
            yield directory


def read_header(data: Data, allow_truncated: bool = False) -> Header:
    """Chooses the photo: the first picture, or the largest if the first is a thumbnail. That is a notice,
    as are tags whose values are not in the file; the decoder gets a copy that begins with the photo.

    Width and height are as seen, because Pillow turns a TIFF by itself. Raises ItemError: `truncated` if the
    directory or (unless allowed) rows are missing; `unsupported_format` for camera raw and for samples and
    compressions that are not decoded; `too_complex` for MAX_TAGS, MAX_VALUES and MAX_TILES.
    """
    if len(data) < 16:
        raise header_cut("TIFF")
    file = _File(data, "<" if data[0] == 0x49 else ">", 43 in (data[2], data[3]))
    (start,) = struct.unpack_from(file.offset, data, 8 if file.big else 4)
    found = list(islice(file.pictures(start), MAX_DIRECTORIES))
    if not found or found[0].at != start:
        raise header_cut("TIFF")
    photo = _photo(found)
    _check_raw(data, found, photo)
    metadata = [each for tag in _METADATA if (each := file.directory(photo.number(tag)))]
    for directory in (photo, *metadata):
        _check_values(directory)
    _check_supported(photo)
    _check_tiles(photo)
    if not allow_truncated:
        _check_rows(photo)
    notices = []
    if photo is not found[0]:
        text = "TIFF: the {}x{} picture was embedded, not the first one of {}x{}".format(
            *photo.size, *found[0].size
        )
        notices.append(Notice(NoticeCode.OTHER_PICTURE, text))
    lost = {key: tag for key, tag in photo.tags.items() if tag.at + tag.size > len(data)}
    if _LAYOUT & set(lost):
        raise damaged(ErrorCode.TRUNCATED, "TIFF", photo.size, "tags of its layout are not in the file")
    if lost:
        notices.append(Notice(NoticeCode.DAMAGED_METADATA, f"TIFF: {len(lost)} tags are not in the file"))
    repaired = _repaired(photo, list(lost.values())) if notices else None
    turned = photo.number(_ORIENTATION) in (5, 6, 7, 8)
    width, height = photo.size[::-1] if turned else photo.size
    return Header("TIFF", width, height, notices=tuple(notices), repaired=repaired)


def _photo(found: list[_Directory]) -> _Directory:
    """The first picture, unless it says or shows that it is a thumbnail."""
    first = found[0]
    full = [each for each in found if each.pixels and not each.thumbnail] or found
    largest = max(full, key=lambda each: each.pixels)
    if first not in full:
        return largest
    if largest.pixels > first.pixels and largest.at in first.numbers(_CHILDREN, MAX_DIRECTORIES):
        return largest
    width, height = largest.size
    if _PAGES & set(first.tags) or max(first.size) > _THUMBNAIL_SIDE:
        return first
    same_shape = abs(width * first.size[1] - height * first.size[0]) <= 0.03 * width * max(first.size[1], 1)
    return largest if same_shape and largest.pixels >= _LARGER * first.pixels else first


def _check_raw(data: Data, found: list[_Directory], photo: _Directory) -> None:
    """Raises ItemError: `unsupported_format` if the photo is camera raw, whatever previews are with it."""
    is_cr2 = bytes(data[8:10]) == b"CR"
    sensor = [each for each in found if each.sensor_data and each.pixels > photo.pixels]
    if not (is_cr2 or photo.sensor_data or sensor):
        return
    maker = (
        "CR2"
        if is_cr2
        else "DNG"
        if any(_DNG_VERSION in each.tags for each in found)
        else found[0].text(_MAKE)
    )
    size = max(found, key=lambda each: each.pixels).size
    cause = f"camera raw ({maker or 'unknown maker'}) cannot be decoded"
    raise damaged(ErrorCode.UNSUPPORTED_FORMAT, "TIFF", size, cause)


def _check_values(directory: _Directory) -> None:
    numbers = sum(
        tag.count for tag in directory.tags.values() if tag.kind not in (1, 2, 6, 7) and tag.kind in _SIZES
    )
    if numbers > MAX_VALUES:
        cause = f"its tags have {numbers:,} values, the limit is {MAX_VALUES:,}"
        raise damaged(ErrorCode.TOO_COMPLEX, "TIFF", directory.size, cause)


def _check_supported(photo: _Directory) -> None:
    compression, kinds = photo.number(_COMPRESSION, 1), set(photo.numbers(_SAMPLE_FORMAT))
    samples, bits = photo.number(_SAMPLES, 1), max(photo.numbers(_BITS), default=1)
    cause = ""
    if compression not in _COMPRESSIONS:
        cause = (
            f"compression {_COMPRESSION_NAMES.get(compression, f'number {compression}')} cannot be decoded"
        )
    elif photo.file.big and photo.file.order == ">":
        cause = "BigTIFF with the most significant byte first cannot be decoded"
    elif kinds & {5, 6}:
        cause = "complex samples cannot be decoded"
    elif 3 in kinds and (samples > 1 or bits != 32):
        bands = f" in {samples} bands" if samples > 1 else ""
        cause = f"{bits}-bit float samples{bands} cannot be decoded"
    elif bits > 32:
        cause = f"{bits}-bit samples cannot be decoded"
    if cause:
        raise damaged(ErrorCode.UNSUPPORTED_FORMAT, "TIFF", photo.size, cause)


def _check_tiles(photo: _Directory) -> None:
    """Raises ItemError: `too_complex` for many tiles or strips, or for tiles far larger than the picture."""
    width, height = photo.size
    across, down = photo.number(_TILE_WIDTH), photo.number(_TILE_HEIGHT)
    count = max(photo.tags[tag].count if tag in photo.tags else 0 for tag in (_STRIPS, _TILES))
    if across and down:
        count = max(count, -(-width // across) * -(-height // down))
    elif (rows := photo.number(_ROWS)) and not across:
        count = max(count, -(-height // rows))
    if count > MAX_TILES:
        cause = f"it has {count:,} tiles or strips, the limit is {MAX_TILES:,}"
        raise damaged(ErrorCode.TOO_COMPLEX, "TIFF", photo.size, cause)
    if across * down > max(_TILE_TIMES * photo.pixels, _TILE_PIXELS):
        cause = f"its tiles of {across}x{down} are far larger than the picture"
        raise damaged(ErrorCode.TOO_COMPLEX, "TIFF", photo.size, cause)


def _check_rows(photo: _Directory) -> None:
    """Raises ItemError: `truncated` if a strip or tile is not in the file."""
    offsets = photo.numbers(_TILES) or photo.numbers(_STRIPS)
    lengths = list(photo.numbers(_TILE_BYTES) or photo.numbers(_STRIP_BYTES))
    if not offsets:
        raise damaged(ErrorCode.TRUNCATED, "TIFF", photo.size, "its list of strips is missing")
    if photo.number(_COMPRESSION, 1) == 1 and not photo.numbers(_TILES) and photo.number(_PLANAR, 1) == 1:
        lengths = _strip_lengths(photo, len(offsets))
    ends = (offset + length for offset, length in zip(offsets, lengths, strict=False))
    if max(ends, default=max(offsets)) > len(photo.file.data):
        cause = f"{len(photo.file.data):,} bytes cannot hold its rows"
        raise damaged(ErrorCode.TRUNCATED, "TIFF", photo.size, cause)


def _strip_lengths(photo: _Directory, count: int) -> list[int]:
    """Bytes of each strip without compression, whatever its length is said to be."""
    width, height = photo.size
    bits = photo.numbers(_BITS) or (1,)
    samples = photo.number(_SAMPLES, 1)
    row = (width * (sum(bits) if len(bits) == samples else bits[0] * samples) + 7) // 8
    rows = min(photo.number(_ROWS, height) or height, height)
    return [row * max(min(rows, height - index * rows), 0) for index in range(count)]


def _repaired(photo: _Directory, lost: list[_Tag]) -> bytes:
    """A copy that begins with `photo` and has no type, and so no value, for lost tags."""
    file = photo.file
    copy = bytearray(file.data)
    struct.pack_into(file.offset, copy, 8 if file.big else 4, photo.at)
    for tag in lost:
        struct.pack_into(file.order + "H", copy, tag.entry + 2, _NO_TYPE)
    return bytes(copy)
