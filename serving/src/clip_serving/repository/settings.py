"""Declares and validates settings: one line of a table gives a setting its key, flag, default and limits.

A family's settings are a frozen dataclass whose fields are made by `setting()`. The field's name is the flag
(`encoder_threads` is `--encoder-threads`), `key` is its place in deployment.json (`encoder.threads`), and
`values` says what is allowed. A bad value raises ConfigurationError, whether it comes from code or a file.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from clip_preprocess import background
from clip_serving.errors import ConfigurationError

_METADATA = "clip_serving"

INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1


class Values(Protocol):
    """The values that a setting may have."""

    @property
    def allowed(self) -> str:
        """A description for error messages and the documentation."""

    def accept(self, value: object) -> Any:
        """`value` as the setting holds it. Raises ValueError for one that is not allowed."""

    def parse(self, text: str) -> object:
        """A flag's text as a value for `accept`. Raises ValueError."""


@dataclass(frozen=True)
class WholeNumber:
    minimum: int = 1
    optional: bool = False
    """Whether null is allowed."""
    maximum: int = INT32_MAX
    """Triton's configs hold most numbers in 32 bits."""

    @property
    def allowed(self) -> str:
        return f"a whole number, at least {self.minimum} and at most {self.maximum}" + (
            ", or null" * self.optional
        )

    def accept(self, value: object) -> int | None:
        if value is None and self.optional:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError
        if not self.minimum <= value <= self.maximum:
            raise ValueError
        return value

    def parse(self, text: str) -> object:
        return int(text)


@dataclass(frozen=True)
class WholeNumbers:
    """A list of whole numbers, separated by commas in a flag."""

    minimum: int = 1

    @property
    def allowed(self) -> str:
        return f"a list of whole numbers, each at least {self.minimum} and at most {INT32_MAX}"

    def accept(self, value: object) -> tuple[int, ...]:
        if not isinstance(value, list | tuple):
            raise ValueError
        one = WholeNumber(self.minimum)
        return tuple(number for number in map(one.accept, value) if number is not None)

    def parse(self, text: str) -> object:
        return [int(part) for part in text.split(",") if part.strip()]


@dataclass(frozen=True)
class PositiveNumber:
    maximum: float

    @property
    def allowed(self) -> str:
        return f"a number above 0 and at most {self.maximum:g}"

    def accept(self, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= self.maximum:
            raise ValueError
        return float(value)

    def parse(self, text: str) -> object:
        return float(text)


@dataclass(frozen=True)
class Choice:
    names: tuple[str, ...]

    @property
    def allowed(self) -> str:
        return ", ".join(self.names)

    def accept(self, value: object) -> str:
        if not isinstance(value, str) or value not in self.names:
            raise ValueError
        return value

    def parse(self, text: str) -> object:
        return text


@dataclass(frozen=True)
class Color:
    """An opaque color, as #rrggbb, or none."""

    allowed = 'none, or a color such as "#ffffff"'

    def accept(self, value: object) -> str:
        if not isinstance(value, str):
            raise ValueError
        return background.normalized(value)

    def parse(self, text: str) -> object:
        return text


@dataclass(frozen=True)
class Switch:
    """true or false. As a flag it takes no value; `off` names the flag for false."""

    off: str
    allowed = "true or false"

    def accept(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise ValueError
        return value

    def parse(self, text: str) -> object:
        return {"true": True, "false": False}.get(text)


@dataclass(frozen=True)
class Setting:
    """One line of the table."""

    name: str
    key: str
    """Dotted, within the family's section of deployment.json."""
    help: str
    values: Values
    default: Any
    flag: str
    """Without its dashes; empty if there is none."""


def setting(default: Any, key: str, help: str, values: Values, *, flag: str | None = None) -> Any:
    """A dataclass field that is a setting. `flag` defaults to the field's name; "" means no flag."""
    metadata = {"key": key, "help": help, "values": values, "flag": flag}
    return dataclasses.field(default=default, metadata={_METADATA: metadata})


class FamilySettings:
    """Base of a family's settings; subclasses are frozen dataclasses whose fields are all settings."""

    encoder_version: int | None
    """The encoder's version to serve; None serves the newest."""

    def __post_init__(self) -> None:
        for line in table(type(self)):
            value = getattr(self, line.name)
            object.__setattr__(self, line.name, _accept(line, value, line.name))

    def to_section(self) -> dict[str, Any]:
        """The settings as a section of deployment.json: nested objects, in the table's order."""
        section: dict[str, Any] = {}
        for line in table(type(self)):
            *groups, last = line.key.split(".")
            target = section
            for group in groups:
                target = target.setdefault(group, {})
            target[last] = getattr(self, line.name)
        return section


S = TypeVar("S", bound=FamilySettings)


def table(settings: type[FamilySettings]) -> list[Setting]:
    """All settings of a family, in their order."""
    return [_line(field) for field in dataclasses.fields(settings)]  # type: ignore[arg-type]


def _line(field: dataclasses.Field[Any]) -> Setting:
    metadata = dict(field.metadata[_METADATA])
    flag = metadata.pop("flag")
    named = field.name.replace("_", "-") if flag is None else flag
    return Setting(name=field.name, default=field.default, flag=named, **metadata)


def read_section(settings: type[S], section: object, path: str) -> S:
    """The settings that a section of deployment.json holds; a missing key means the default.

    `path` is where the section is, for error messages. Raises ConfigurationError that names the key.
    """
    lines = {line.key: line for line in table(settings)}
    values = {}
    for key, value in _leaves(section, lines, path):
        values[lines[key].name] = _accept(lines[key], value, f"{path}.{key}")
    return settings(**values)


def _leaves(
    section: object, lines: Mapping[str, Setting], path: str, prefix: str = ""
) -> Iterator[tuple[str, object]]:
    """Dotted keys and values of a nested section. Raises ConfigurationError for a key that is no setting."""
    if not isinstance(section, dict):
        raise ConfigurationError(f"{path} is {json.dumps(section)}. Allowed: an object with settings")
    names = list(
        dict.fromkeys(key[len(prefix) :].partition(".")[0] for key in lines if key.startswith(prefix))
    )
    for name, value in section.items():
        key = prefix + name
        if name not in names:
            raise ConfigurationError(unknown_name(f"{path}.{name}", name, names))
        if key in lines:
            yield key, value
        else:
            yield from _leaves(value, lines, f"{path}.{name}", f"{key}.")


def unknown_name(path: str, name: str, known: list[str]) -> str:
    """The message for a key that does not exist."""
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {close[0]!r}?" if close else f"Allowed: {', '.join(known)}"
    return f"{path} is not a setting. {hint}"


def _accept(line: Setting, value: object, path: str) -> Any:
    try:
        return line.values.accept(value)
    except ValueError:
        shown = json.dumps(value, default=repr)
        raise ConfigurationError(f"{path} is {shown}. Allowed: {line.values.allowed}") from None
