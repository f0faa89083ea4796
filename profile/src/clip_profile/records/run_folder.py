"""A sweep on disk: `run.json` says what it is, `measurements.jsonl` grows by a line a run.

A line is written whole and synced before the next run starts, so whatever ends the sweep costs at most
the run in flight. The folder is of one version of this format and of one sweep: another's is refused.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clip_profile.errors import RunFolderError
from clip_profile.records.machine import Machine
from clip_profile.records.measurement import Arrival, Failure, Measurement
from clip_profile.records.objective import Objective
from clip_profile.records.setting import Setting, Space

FORMAT = 3
"""Of both files; a folder of another one is refused rather than misread."""
_KEY = "clip_profile_format"
_ABOUT = "run.json"
_LINES = "measurements.jsonl"
_LOCK = ".lock"


Key = tuple[Setting, int, Arrival]
"""What is measured once: a setting in a round, in a closed or an open loop."""


def key_of(record: Measurement | Failure) -> Key:
    return record.setting, record.round, record.arrival


@dataclass(frozen=True)
class Choice:
    """The finalists of a search, best first, and what it searched for.

    `whole` is whether it came to its end by itself, and not for want of time. `first_round` is the number
    of the first of their rounds.
    """

    objective: Objective
    exhaustive: bool
    whole: bool
    settings: tuple[Setting, ...]
    first_round: int

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Choice:
        settings = tuple(Setting.from_dict(one) for one in values["settings"])
        return cls(**{**values, "objective": Objective(**values["objective"]), "settings": settings})


@dataclass(frozen=True)
class About:
    """What a sweep measures. A sweep goes on in a folder only where `identity` is the same.

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

    @property
    def identity(self) -> dict[str, Any]:
        names = {field.name for field in dataclasses.fields(self)} - {"created", "command"}
        return {name: value for name, value in self.to_dict().items() if name in names}

    def to_dict(self) -> dict[str, Any]:
        values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> About:
        machine: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values["machine"].items()
        }
        return cls(
            **{
                **values,
                "space": Space.from_dict(values["space"]),
                "machine": Machine(**machine),
                "command": tuple(values["command"]),
            }
        )


class RunFolder:
    """An open run; made by `create_or_resume` (to measure) or `load` (to read).

    `failures` are those that were not made good: what was measured after all is a measurement alone.
    """

    def __init__(self, path: Path, about: About) -> None:
        self.path = path
        self.about = about
        self.measurements: list[Measurement] = []
        self.failures: list[Failure] = []
        self._choices: list[Choice] = []
        for number, record in enumerate(_records(path / _LINES), 1):
            try:
                self._take(record)
            except (TypeError, KeyError, ValueError) as error:
                raise RunFolderError(f"{path / _LINES}, line {number} was damaged: {error}") from error

    @classmethod
    def load(cls, path: Path) -> RunFolder:
        """Raises RunFolderError that says what `path` is if it is no run of this version."""
        return cls(path, _read_about(path))

    @classmethod
    @contextmanager
    def create_or_resume(cls, path: Path, about: About) -> Iterator[RunFolder]:
        """The folder, locked; a run that is there already goes on if it is the same sweep."""
        path.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            if (path / _ABOUT).exists():
                _refuse_another(path, _read_about(path), about)
            elif any(entry.name != _LOCK for entry in path.iterdir()):
                raise RunFolderError(f"{path} is not empty and holds no run of clip-profile: choose another")
            else:
                text = json.dumps({_KEY: FORMAT, **about.to_dict()}, indent=1)
                _write_whole(path / _ABOUT, text)
            _drop_torn_line(path / _LINES)
            yield cls.load(path)

    @classmethod
    def about_of(cls, path: Path) -> About | None:
        """What is swept in a folder; None where no sweep began there. Raises RunFolderError as `load`."""
        return _read_about(path) if (path / _ABOUT).exists() else None

    def choice(self, objective: Objective, *, exhaustive: bool) -> Choice | None:
        """The last one that such a search made."""
        wanted = (objective, exhaustive)
        return next((c for c in reversed(self._choices) if (c.objective, c.exhaustive) == wanted), None)

    def first_round(self, settings: Sequence[Setting]) -> int | None:
        """Of the rounds that just these finalists ran in together; None where they never did."""
        same = (one.first_round for one in self._choices if set(one.settings) == set(settings))
        return next(same, None)

    def add(self, record: Measurement | Failure | Choice) -> None:
        """Appends and syncs: what was measured stays measured."""
        kind = type(record).__name__.lower()
        line = json.dumps({"kind": kind, **record.to_dict()}, separators=(",", ":"))
        with (self.path / _LINES).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._take(json.loads(line))

    def _take(self, record: dict[str, Any]) -> None:
        kind = record.pop("kind")
        if kind == "choice":
            self._choices.append(Choice.from_dict(record))
            return
        one = Failure.from_dict(record) if kind == "failure" else Measurement.from_dict(record)
        self.failures = [each for each in self.failures if key_of(each) != key_of(one)]
        if isinstance(one, Failure):
            self.failures.append(one)
        else:
            self.measurements.append(one)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with (path / _LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunFolderError(f"another clip-profile is at work in {path}") from None
        yield


def _read_about(path: Path) -> About:
    try:
        values = json.loads((path / _ABOUT).read_text(encoding="utf-8"))
    except OSError:
        raise RunFolderError(f"{path} holds no run of clip-profile ({_ABOUT} is missing)") from None
    except ValueError as error:
        raise RunFolderError(f"{path / _ABOUT} is not JSON ({error}): it was damaged") from error
    found = values.pop(_KEY, None) if isinstance(values, dict) else None
    if found != FORMAT:
        raise RunFolderError(
            f"{path} is a run folder of format {found}, and this clip-profile reads and writes format "
            f"{FORMAT}: use the version that made it, or sweep into a new folder"
        )
    try:
        return About.from_dict(values)
    except (TypeError, KeyError) as error:
        raise RunFolderError(f"{path / _ABOUT} is damaged: {error}") from error


def _refuse_another(path: Path, there: About, wanted: About) -> None:
    before, now = there.identity, wanted.identity
    changed = [_change(name, before[name], now[name]) for name in now if before[name] != now[name]]
    if changed:
        raise RunFolderError(
            f"{path} holds a sweep with other {', other '.join(changed)}: its figures and new ones would not "
            "compare. Choose another --out, or remove the folder"
        )


def _change(name: str, before: Any, now: Any) -> str:
    """What differs: the names within, or the two values."""
    if not isinstance(now, dict):
        return f"{name} ({before} there, {now} now)"
    keys = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    return f"{name} ({', '.join(keys)})"


def _records(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of the file; a last one that was cut off is passed over."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines[:-1], 1):
        try:
            yield json.loads(line)
        except ValueError as error:
            raise RunFolderError(f"{path}, line {number} is not JSON: the file was damaged") from error


def _drop_torn_line(path: Path) -> None:
    if path.exists():
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole != len(data):
            os.truncate(path, whole)


def _write_whole(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
