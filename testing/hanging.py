"""A repository in which some photos hang in their decoder until a test releases them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clip_serving import defaults
from testing.pictures import encoded, noise
from testing.repositories import linked_repository
from testing.waiting import wait_until

_MARK = b"hangs while the gate is closed"
HANGING_PHOTO = encoded(noise(64, 48), "JPEG", comment=_MARK)
"""A photo like any other while the gate is open."""
_MODEL = """
import time
from pathlib import Path

from clip_preprocess import formats
from clip_preprocess.headers import jpeg
from clip_serving.triton_models.preprocess import TritonPythonModel

GATE = Path({gate!r})

def read_header(data, allow_truncated):
    if GATE.exists():
        (GATE / str(time.monotonic_ns())).touch()
    while GATE.exists():
        time.sleep(0.01)
    return jpeg.read_header(data, allow_truncated)

hanging = formats.Format("JPEG", lambda start: {mark!r} in start, None, read_header)
formats.FORMATS = (hanging, *formats.FORMATS)
"""


class Gate:
    """Closed, it keeps each HANGING_PHOTO in its decoder, where it uses no CPU."""

    def __init__(self, repository: Path) -> None:
        self.repository = repository
        self.folder = repository.with_name(f"{repository.name}-gate")

    @contextmanager
    def closed(self) -> Iterator[None]:
        self.folder.mkdir()
        try:
            yield
        finally:
            self.open()

    def open(self) -> None:
        """Releases every hanging photo. It is safe to call this twice."""
        for mark in self.folder.glob("*"):
            mark.unlink()
        if self.folder.exists():
            self.folder.rmdir()

    def wait_for_hanging(self, photos: int = 1) -> None:
        """Waits until this many photos hang since the gate was closed."""
        wait_until(lambda: len(list(self.folder.glob("*"))) >= photos, f"{photos} photos that hang")


def hanging_repository(source: Path, root: Path, **settings: Any) -> Gate:
    """As linked_repository: the exported files of `source`, served from `root`, with a gate."""
    linked_repository(source, root, **settings)
    gate = Gate(root)
    model = root / defaults.PREPROCESS / "1" / "model.py"
    model.write_text(_MODEL.format(gate=str(gate.folder), mark=_MARK), encoding="utf-8")
    return gate
