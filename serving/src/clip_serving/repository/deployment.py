"""deployment.json: the only home of the operator's settings. spec.json has the facts about the model.

It is at the root of the model repository, with one section per model family, and per
set of models with a name. Edit it and run `clip-render`,
or give the same settings as flags to clip-export or clip-render.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from clip_serving.errors import ConfigurationError
from clip_serving.files import write_atomically
from clip_serving.repository import migrate_0_1
from clip_serving.repository.families import family_of
from clip_serving.repository.families.base import ModelFamily
from clip_serving.repository.families.image import IMAGE, ImageFamily
from clip_serving.repository.settings import FamilySettings, read_section

DEPLOYMENT_FILE = "deployment.json"
DEPLOYMENT_VERSION = 1

_logger = logging.getLogger(__name__)

S = TypeVar("S", bound=FamilySettings)


@dataclass(frozen=True)
class Deployment:
    """The settings of each family that the repository serves, by its name: image, text, image_large, ..."""

    sections: Mapping[str, FamilySettings]
    text: str | None = field(default=None, compare=False, repr=False)
    """The file that the settings were read from: unchanged settings keep the operator's layout."""

    @classmethod
    def of(cls, family: ModelFamily[Any, S], settings: S | None = None) -> Deployment:
        """One family, with the default settings if none are given."""
        return cls({family.name: settings or family.settings()})

    def settings(self, family: ModelFamily[Any, S]) -> S:
        """Raises ConfigurationError if the repository does not serve `family`."""
        found = self.sections.get(family.name)
        if not isinstance(found, family.settings):
            raise ConfigurationError(f"{DEPLOYMENT_FILE} has no section {family.name!r}")
        return found

    @property
    def families(self) -> list[ModelFamily[Any, Any]]:
        """Those that the repository serves."""
        return [family_of(name) for name in self.sections]

    @property
    def image_families(self) -> list[ImageFamily]:
        """The image family of each set of models, that without a name if there are none."""
        return [family for family in self.families if isinstance(family, ImageFamily)] or [IMAGE]

    def replaced(self, family: ModelFamily[Any, S], **changes: Any) -> Deployment:
        """A copy with these settings of `family` changed; a family that is not served yet is added.

        Raises ConfigurationError for a value that is not allowed.
        """
        now = self.sections.get(family.name) or family.settings()
        changed: FamilySettings = dataclasses.replace(now, **changes)  # type: ignore[type-var]
        return Deployment({**self.sections, family.name: changed})

    def to_json(self) -> str:
        if self.text is not None:
            return self.text
        sections = {name: settings.to_section() for name, settings in self.sections.items()}
        return json.dumps({"version": DEPLOYMENT_VERSION, **sections}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Deployment:
        """Raises ConfigurationError that names the key, its value and the allowed values."""
        try:
            # Some editors on Windows begin a file with a byte order mark.
            values = json.loads(text.removeprefix("\ufeff"), object_pairs_hook=_without_duplicates)
        except (ValueError, RecursionError) as error:  # ValueError: also a number of thousands of digits
            raise ConfigurationError(f"not JSON: {error}") from error
        if not isinstance(values, dict) or values.pop("version", None) != DEPLOYMENT_VERSION:
            raise ConfigurationError(
                f'the key "version" is not {DEPLOYMENT_VERSION}, the only version that this release reads'
            )
        families = {name: family_of(name) for name in values}
        if not values:
            raise ConfigurationError(
                f'it describes no models. Add a section, for example "{IMAGE.name}": {{}} for the defaults'
            )
        sections = {
            name: read_section(families[name].settings, section, name) for name, section in values.items()
        }
        return cls(sections, text)

    @classmethod
    def load(cls, repository: Path) -> Deployment:
        """The repository's settings; one that clip-export 0.1 made is migrated, with a message.

        Raises ConfigurationError that names the file.
        """
        path = repository / DEPLOYMENT_FILE
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            if not migrate_0_1.applies_to(repository):
                raise ConfigurationError(
                    f"{repository} is not a clip-triton model repository: {DEPLOYMENT_FILE} is missing. "
                    f"Make one with: clip-export --repository {repository}"
                ) from None
        except OSError as error:
            raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ConfigurationError(f"{path} is not UTF-8 ({error}). Save it as UTF-8") from error
        except ConfigurationError as error:
            raise ConfigurationError(f"{path}: {error}") from error
        return _migrated(repository)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. json.loads() would use the last of several equal keys without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigurationError(f"the key {json.dumps(twice)} is there twice in one object. Remove one")
    return found


def load_or_default(repository: Path) -> Deployment:
    """As Deployment.load; empty for a folder that holds no repository yet."""
    if (repository / DEPLOYMENT_FILE).exists() or migrate_0_1.applies_to(repository):
        return Deployment.load(repository)
    return Deployment({})


def _migrated(repository: Path) -> Deployment:
    deployment = Deployment.of(IMAGE, migrate_0_1.read_settings(repository))
    path = repository / DEPLOYMENT_FILE
    try:
        write_atomically(path, deployment.to_json())
    except OSError as error:
        outcome = f"are used from memory, because {path} cannot be written ({error.strerror})"
    else:
        outcome = f"are now in {path}. Edit that file, then run: clip-render --repository {repository}"
    _say_once(f"{repository} was exported by clip-export 0.1. The settings in its configs {outcome}")
    return deployment


@functools.cache
def _say_once(text: str) -> None:
    """A command loads a repository several times; one that cannot be written is migrated each time."""
    _logger.warning(text)
