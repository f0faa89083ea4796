"""The photos that a caller passes: encoded bytes, paths and open files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from clip_client.errors import ItemError
from clip_client.files import chunks_of, open_regular
from clip_client.requests.wire import ModelInfo

Image = bytes | bytearray | memoryview | str | os.PathLike[str] | IO[bytes]
"""An encoded photo, the path of one, or a file opened in binary mode, which is read from its position."""


def as_list(images: Iterable[Image]) -> list[Image]:
    """Raises TypeError for a single photo that is not in a list, and for what cannot be a photo."""
    if _is_photo(images):
        raise TypeError("images must be a list of photos. For one photo, write embed([photo])")
    try:
        found = list(images)
    except TypeError:
        text = f"images must be a list of photos, not {_type(images)}"
        raise TypeError(f"{text}. A photo is encoded bytes, a path or an open file") from None
    for index, image in enumerate(found):
        if not _is_photo(image):
            raise TypeError(
                f"images[{index}] is {_type(image)}. A photo is encoded bytes (a JPEG file's, say), "
                "a path, or a file opened in binary mode"
            )
    return found


def _is_photo(value: object) -> bool:
    return isinstance(value, bytes | bytearray | memoryview | str | os.PathLike) or hasattr(value, "read")


def _type(value: object) -> str:
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"of type {name}"


def size_of(image: Image) -> int:
    """Bytes; 0 for a file whose size is not known, which read_photo() handles."""
    if isinstance(image, bytes | bytearray):
        return len(image)
    if isinstance(image, memoryview):
        return image.nbytes
    try:
        if isinstance(image, str | os.PathLike):
            return Path(image).stat().st_size
        return max(0, os.fstat(image.fileno()).st_size - image.tell())
    except (OSError, ValueError, AttributeError):
        return 0


def read_photo(info: ModelInfo, image: Image) -> bytes | ItemError:
    """The encoded photo, or the error for a file that cannot be read or is too large."""
    if too_large := info.too_large(size_of(image)):
        return too_large
    if isinstance(image, bytes):
        return image
    if isinstance(image, bytearray | memoryview):
        return bytes(image)
    try:
        if isinstance(image, str | os.PathLike):
            with open_regular(image) as file:
                return _read(file, info)
        return _read(image, info)
    except FileNotFoundError:
        return ItemError("not_found", f"{image} does not exist")
    except OSError as error:
        return ItemError("load_failed", f"{image}: {error.strerror or error}")
    except ValueError as error:  # a closed file; a NUL in the path, or a lone surrogate
        return ItemError("load_failed", f"{str(image)!r}: {error}")


def _read(file: IO[bytes], info: ModelInfo) -> bytes | ItemError:
    """The rest of the file. A device or a pipe may never end: reads no more than the server accepts."""
    most = info.most_bytes
    parts: list[Any] = list(chunks_of(file, most + 1))
    if any(isinstance(part, str) for part in parts):
        raise TypeError(f"{file} is opened in text mode. Open photos in binary mode: open(path, 'rb')")
    data = b"".join(parts)
    if len(data) > most:
        return ItemError("too_many_bytes", f"more than {most:,} bytes, the most that the server accepts")
    return data
