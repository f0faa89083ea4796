"""Atomic file replacement and folder locks.

A reader sees the old content of a file or the new content, never a part of either: content is written to a
temporary file in the same folder, flushed to disk, and renamed over the target. If the write fails, the
target stays as it was and the temporary file is removed.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path, which does not exist yet, and renames it to `path` when the block ends.

    Create a file or a symbolic link at the temporary path. If the block raises, `path` is unchanged.
    Concurrent writers do not disturb each other: the last rename wins. Raises OSError.
    """
    # The leading dot keeps Triton, and globs such as `*.pbtxt`, from seeing the temporary file.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        yield temporary
        if not temporary.is_symlink():
            flush(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """Replaces the content of `path` with `text` in UTF-8, or creates it. Raises OSError.

    A symbolic link stays, and the file that it names is replaced; a file keeps its permissions.
    """
    write_all_atomically({path: text})


def write_all_atomically(texts: Mapping[Path, str]) -> None:
    """Writes all files as write_atomically(), in the mapping's order; creates missing parent folders.

    Every file is on disk before the first one is renamed, so a full disk changes nothing. Raises OSError.
    """
    with ExitStack() as stack:
        # An ExitStack unwinds last in, first out: entering in reverse renames in the mapping's order.
        for path, text in reversed(list(texts.items())):
            path.parent.mkdir(parents=True, exist_ok=True)
            target = path.resolve()
            temporary = stack.enter_context(replacing(target))
            temporary.write_text(text, encoding="utf-8")
            with suppress(FileNotFoundError):
                shutil.copymode(target, temporary)


@contextmanager
def locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Holds an exclusive lock on a folder until the block ends or the process dies; leaves no file behind.

    Without `wait`, raises BlockingIOError if another process holds the lock, and OSError on a file system
    that has no locks; with `wait`, such a file system is used without a lock.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            if not wait:
                raise
        yield
    finally:
        os.close(descriptor)


def flush(path: Path) -> None:
    """Waits until a file, or a folder's list of files, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
