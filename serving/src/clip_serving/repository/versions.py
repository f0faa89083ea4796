"""The encoder's exported versions in a repository, and the one that is served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clip_serving import defaults
from clip_serving.errors import ConfigurationError
from clip_serving.repository.deployment import Deployment
from clip_serving.repository.families.base import ModelFamily
from clip_serving.repository.families.image import IMAGE
from clip_serving.repository.spec import SPEC_FILE, TowerSpec


def versions(repository: Path, encoder: str = defaults.ENCODER) -> list[int]:
    """The exported versions of an encoder, oldest first."""
    return sorted(int(entry.name) for entry in (repository / encoder).glob("*") if entry.name.isdecimal())


def served_version(repository: Path, family: ModelFamily[Any, Any] = IMAGE) -> Path:
    """The encoder's version directory that a server loads: the pinned one, or the newest.

    Raises ConfigurationError if it does not exist.
    """
    if not versions(repository, family.encoder):
        raise _not_exported(repository, family)
    return _served(repository, family, Deployment.load(repository))


def load_specs(repository: Path, deployment: Deployment) -> dict[str, TowerSpec]:
    """By family, the spec of the version that `deployment` serves. Raises ConfigurationError."""
    return {
        family.name: family.spec.load(_served(repository, family, deployment) / SPEC_FILE)
        for family in deployment.families
    }


def _served(repository: Path, family: ModelFamily[Any, Any], deployment: Deployment) -> Path:
    exported = versions(repository, family.encoder)
    if not exported:
        raise _not_exported(repository, family)
    pinned = deployment.settings(family).encoder_version
    folder = repository / family.encoder / str(pinned or exported[-1])
    if not folder.is_dir():
        raise ConfigurationError(
            f"{repository} serves version {pinned} of {family.encoder}, which is missing; it has "
            f"{', '.join(map(str, exported))}. Choose one with: "
            f"clip-render --{family.flag_prefix}activate VERSION --repository {repository}"
            + f" --name {family.set_name}"
            * bool(family.set_name)
        )
    return folder


def _not_exported(repository: Path, family: ModelFamily[Any, Any]) -> ConfigurationError:
    export = f"clip-export --repository {repository}"
    if not family.set_name:
        return ConfigurationError(f"{repository} holds no exported encoder. Run: {export}")
    return ConfigurationError(
        f"{repository} holds no version of {family.encoder}. Run: {export} --name {family.set_name}, or "
        f"remove the section {family.name!r} from its deployment.json"
    )
