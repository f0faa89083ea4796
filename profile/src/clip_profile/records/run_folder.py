"""A sweep on disk: `run.json` describes it, `measurements.jsonl` gets one line per record.

Every line is flushed to disk before the next trial starts, so a crash loses at most the trial in flight.
A folder belongs to one sweep and one version of the format; everything else is rejected.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from clip_client.files import FileLock
from clip_profile.errors import RunFolderError
from clip_profile.records.identity import PIXEL_BYTES
from clip_profile.records.machine import Machine
from clip_profile.records.measurement import Failure, Measurement, Trial
from clip_profile.records.setting import Setting, Space
from clip_serving.files import write_atomically

FORMAT = 4
"""Of both files."""
_FORMAT_KEY = "clip_profile_format"
_ABOUT = "run.json"
_LINES = "measurements.jsonl"
_LOCK = ".lock"


@dataclass(frozen=True)
class About:
    """What a sweep measures. A sweep is resumed only in a folder whose `identity` is the same.

    `served` says which model is served, and how (see identity.py). `seconds` and `share` are the sweep's.
    """

    created: str
    target: str
    photos: dict[str, Any]
    space: Space
    model: str
    served: dict[str, str]
    seconds: float
    share: float
    machine: Machine
    versions: dict[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    pixel_bytes: int = PIXEL_BYTES

    @property
    def cores(self) -> int | None:
        """The server's; None if it is on another machine."""
        return self.machine.cores if self.target == "embedded" else None

    @property
    def identity(self) -> dict[str, Any]:
        values: dict[str, Any] = msgspec.to_builtins(self)
        others = ("created", "command", "pixel_bytes")  # the last follows from the model
        return {name: value for name, value in values.items() if name not in others}


class _Line(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """One line of measurements.jsonl: one of the two."""

    measurement: Measurement | None = None
    failure: Failure | None = None


class RunFolder:
    """An open run; made by `create_or_resume` (to measure) or `load` (to read).

    `records` holds the last record of each trial, oldest first: a failed trial that worked when it was
    repeated is a measurement.
    """

    def __init__(self, path: Path, about: About) -> None:
        self.path = path
        self.about = about
        self.records: dict[Trial, Measurement | Failure] = {}
        for number, line in enumerate(_whole_lines(path / _LINES), 1):
            try:
                self._take(msgspec.json.decode(line, type=_Line))
            except msgspec.MsgspecError as error:
                raise RunFolderError(f"{path / _LINES}, line {number} is damaged: {error}") from error

    @classmethod
    def load(cls, path: Path) -> RunFolder:
        """Raises RunFolderError if `path` is not a run folder of this format."""
        return cls(path, _read_about(path))

    @classmethod
    @contextmanager
    def create_or_resume(cls, path: Path, about: About) -> Iterator[RunFolder]:
        """The folder, locked. An existing run is resumed if it is the same sweep, else RunFolderError."""
        path.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            if (path / _ABOUT).exists():
                _require_same(path, _read_about(path), about)
            elif any(entry.name != _LOCK for entry in path.iterdir()):
                raise RunFolderError(f"{path} is not empty and is not a run folder: choose another --out")
            else:
                values = {_FORMAT_KEY: FORMAT, **msgspec.to_builtins(about)}
                write_atomically(path / _ABOUT, msgspec.json.format(msgspec.json.encode(values)).decode())
            _drop_torn_line(path / _LINES)
            yield cls.load(path)

    @classmethod
    def about_of(cls, path: Path) -> About | None:
        """The sweep of a folder; None if there is none yet. Raises RunFolderError, like `load`."""
        return _read_about(path) if (path / _ABOUT).exists() else None

    @property
    def measurements(self) -> list[Measurement]:
        return [one for one in self.records.values() if isinstance(one, Measurement)]

    @property
    def failures(self) -> list[Failure]:
        return [one for one in self.records.values() if isinstance(one, Failure)]

    def group_of(self, settings: Collection[Setting]) -> str:
        """The group that repeats all of these settings, or a new one; its name follows from the settings."""
        groups: dict[str, set[Setting]] = {}
        for trial in self.records:
            if trial.round:
                groups.setdefault(trial.round.group, set()).add(trial.setting)
        labels = "\n".join(sorted(setting.label for setting in settings))
        new = hashlib.sha256(labels.encode()).hexdigest()[:8]
        return next((group for group, found in groups.items() if found.issuperset(settings)), new)

    def add(self, record: Measurement | Failure) -> None:
        """Appends the record and flushes it to disk."""
        line = _Line(record) if isinstance(record, Measurement) else _Line(failure=record)
        with (self.path / _LINES).open("ab") as file:
            file.write(msgspec.json.encode(line) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._take(line)

    def _take(self, line: _Line) -> None:
        if (record := line.measurement or line.failure) is not None:
            self.records.pop(record.trial, None)  # the order is that of the last records
            self.records[record.trial] = record


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = FileLock(path / _LOCK)
    if not lock.acquire():
        raise RunFolderError(f"another clip-profile is using {path}: wait for it, or stop it")
    try:
        yield
    finally:
        lock.release()


def _read_about(path: Path) -> About:
    try:
        values = msgspec.json.decode((path / _ABOUT).read_bytes(), type=dict[str, Any])
        found = values.get(_FORMAT_KEY)
        if found != FORMAT:
            raise RunFolderError(
                f"{path} is a run folder of format {found}; this clip-profile reads and writes format "
                f"{FORMAT}. Use the version that wrote it, or sweep into a new folder"
            )
        return msgspec.convert(values, About)
    except OSError:
        raise RunFolderError(f"{path} is not a run folder of clip-profile ({_ABOUT} is missing)") from None
    except msgspec.MsgspecError as error:
        raise RunFolderError(f"{path / _ABOUT} is damaged: {error}") from error


def _require_same(path: Path, there: About, wanted: About) -> None:
    before, now = there.identity, wanted.identity
    changed = [_change(name, before[name], now[name]) for name in now if before[name] != now[name]]
    if changed:
        raise RunFolderError(
            f"{path} holds a sweep with different {', '.join(changed)}: old and new measurements could not "
            "be compared. Choose another --out, or remove the folder"
        )


def _change(name: str, before: Any, now: Any) -> str:
    """What differs: the names of the entries, or the two values."""
    if not isinstance(now, dict):
        return f"{name} ({before} there, {now} now)"
    keys = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    return f"{name} ({', '.join(keys)})"


def _whole_lines(path: Path) -> list[bytes]:
    """Without a last line that was cut off."""
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def _drop_torn_line(path: Path) -> None:
    if path.exists():
        data = path.read_bytes()
        os.truncate(path, data.rfind(b"\n") + 1)
