"""Bounded reads, atomic file replacement, and a file lock that a killed process cannot leave behind."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
"""Raised by file systems without locks, such as some cluster mounts. A run without a lock beats no run."""


def open_regular(path: str | os.PathLike[str]) -> IO[bytes]:
    """Opens a file to read it. Raises OSError for a device or a pipe, which may have no end or no writer."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return open(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    raise OSError(errno.EINVAL, "not a regular file")


def chunks_of(file: IO[bytes], most: int) -> Iterator[bytes]:
    """At most `most` bytes, however few each read returns."""
    while most > 0 and (chunk := file.read(most)):
        yield chunk
        most -= len(chunk)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, and renames it to `path` when the block ends.

    If the block raises, `path` is unchanged and the temporary file is removed. Raises OSError.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class FileLock:
    """An exclusive lock on a file that exists only while the lock is held.

    The kernel drops the lock when its process dies, so a file left behind locks nobody out.
    """

    # Why not the filelock package: it leaves the file behind after a release, handles ENOSYS alone of
    # _NO_LOCKS, and falls back to marker files that outlive a killed process. Working around the three
    # takes as much code as calling flock.

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    @property
    def is_held(self) -> bool:
        return self._descriptor is not None

    def acquire(self) -> bool:
        """Returns False, without waiting, if the lock is held elsewhere. Raises OSError."""
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return False
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    os.close(descriptor)
                    raise
            if self._is_current(descriptor):
                self._descriptor = descriptor
                return True
            os.close(descriptor)  # the previous holder removed the file after it was opened here

    def release(self) -> None:
        """Removes the file and drops the lock. Does nothing if the lock is not held."""
        if self._descriptor is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None

    def _is_current(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self._path))
        except FileNotFoundError:
            return False
