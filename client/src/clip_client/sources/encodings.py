"""Objects that are stored compressed, under a Content-Encoding."""

from __future__ import annotations

import zlib

from clip_client.errors import ItemError
from clip_client.sources.base import ObjectInfo

_GZIP, _ZLIB, _RAW = 31, 15, -15
"""zlib's window sizes, which also choose the container."""
_GZIP_MAGIC = b"\x1f\x8b"
_IMAGES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"II*\0", b"MM\0*")
_CHUNK = 4096
"""Small, because zlib copies the rest of the input at the end of each of a file's gzip members."""


def decoded(item: ObjectInfo, data: bytes, max_bytes: int) -> bytes:
    """The photo in an object's stored bytes.

    Bytes that plainly are not encoded as the object says are returned as they are. Raises ItemError for an
    encoding that is not supported, for damaged data, and for a photo of more than `max_bytes` bytes, which is
    not unpacked further.
    """
    names = (item.content_encoding or "").lower().split(",")
    for name in filter(None, map(str.strip, reversed(names))):
        if name in ("gzip", "x-gzip"):
            data = _unpacked(item, data, _GZIP, max_bytes) if data.startswith(_GZIP_MAGIC) else data
        elif name == "identity" or data.startswith(_IMAGES):
            continue
        elif name == "deflate":
            data = _unpacked(item, data, _ZLIB if _has_zlib_header(data) else _RAW, max_bytes)
        else:
            raise ItemError(
                "unsupported_encoding",
                f"{item.name} is stored with Content-Encoding {name}, which this client cannot decode. Store "
                "it without one",
            )
    return data


def _has_zlib_header(data: bytes) -> bool:
    """HTTP's deflate is zlib's format, but some software writes a raw deflate stream."""
    return len(data) > 1 and data[0] & 15 == 8 and int.from_bytes(data[:2], "big") % 31 == 0


def _unpacked(item: ObjectInfo, data: bytes, window: int, max_bytes: int) -> bytes:
    """Joins all gzip members. What follows the last one is ignored, as gzip itself does."""
    parts: list[bytes] = []
    size = position = 0
    stream = zlib.decompressobj(window)
    while True:
        chunk = data[position : position + _CHUNK]
        if not chunk:
            raise ItemError("load_failed", f"{item.name} is stored compressed, and its end is missing")
        try:
            parts.append(stream.decompress(chunk, max_bytes + 1 - size))
        except zlib.error as error:
            text = f"{item.name} is stored compressed, and its data is damaged ({error})"
            raise ItemError("load_failed", text) from error
        size += len(parts[-1])
        if size > max_bytes:
            text = (
                f"{item.name} is stored compressed, and unpacks to more than {max_bytes:,} bytes, the limit"
            )
            raise ItemError("too_many_bytes", text)
        position += len(chunk) - len(stream.unused_data)
        if stream.eof:
            if window != _GZIP or not data.startswith(_GZIP_MAGIC, position):
                return b"".join(parts)
            stream = zlib.decompressobj(window)
