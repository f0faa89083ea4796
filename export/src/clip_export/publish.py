"""Publishes a finished version in the repository: whole or not at all, and beside the earlier ones."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from clip_export.errors import ExportError, NotRendered
from clip_serving import defaults
from clip_serving.errors import ConfigurationError
from clip_serving.files import flush, locked
from clip_serving.repository.deployment import Deployment, load_or_default
from clip_serving.repository.families.base import MODEL_PY, ModelFamily
from clip_serving.repository.families.image import IMAGE
from clip_serving.repository.render import render, render_repository, write_repository
from clip_serving.repository.spec import SPEC_FILE, ModelSpec, TowerSpec
from clip_serving.repository.versions import versions

_STAGING = ".staging-"


@contextmanager
def staging(repository: Path, encoder_name: str = defaults.ENCODER) -> Iterator[Path]:
    """A folder beside the encoder's versions, which Triton ignores; removed afterwards.

    Folders that killed exports left behind are removed first.
    """
    encoder = repository / encoder_name
    with ExitStack() as stack:
        try:
            encoder.mkdir(parents=True, exist_ok=True)
            stack.callback(_remove_empty, encoder)
            # Until it is locked, a new folder looks like one that a killed export left behind.
            with locked(encoder):
                _remove_abandoned(encoder)
                folder = Path(tempfile.mkdtemp(prefix=_STAGING, dir=encoder))
                stack.callback(shutil.rmtree, folder, ignore_errors=True)
                stack.enter_context(locked(folder))
        except OSError as error:
            raise ExportError(f"cannot write into {encoder}: {error.strerror}") from error
        yield folder


def publish(
    staged: Path,
    repository: Path,
    spec: TowerSpec,
    change: Callable[[Deployment], Deployment],
    family: ModelFamily[Any, Any] = IMAGE,
) -> int:
    """Renames `staged` to the encoder's next version, then renders the configs; returns the number.

    A folder in `staged` with the name of another model of the family becomes that model's version of the
    same number. The configs name the version that is served, so no server sees the new one until the last
    of them is written. Earlier versions never change. Raises NotRendered if only the rename was done.

    `change` makes the new settings from those that the repository has by now: an export takes minutes, in
    which they may have changed.
    """
    specs = {family.name: spec}
    render(
        _with(family, change(load_or_default(repository))), specs
    )  # settings that Triton does not accept fail before anything has changed
    (staged / SPEC_FILE).write_text(spec.to_json(), encoding="utf-8")
    (staged / "model.py").write_text(MODEL_PY.format(family.python_encoder), encoding="utf-8")
    for path in [*staged.rglob("*"), staged]:
        flush(path)
    encoder = repository / family.encoder
    staged.chmod(0o755)  # mkdtemp's 0700 would keep a server of another user out
    while True:
        version = (
            max((last for model in family.models for last in versions(repository, model)), default=0) + 1
        )
        try:
            os.rename(staged, encoder / str(version))
            break
        except OSError:  # another export took the number, or the rename is not possible at all
            if not (encoder / str(version)).exists():
                raise
    with _rendering(repository, version), locked(repository):
        _move_parts(encoder / str(version), repository, family)
        flush(encoder)
        deployment = change(load_or_default(repository)).replaced(family, encoder_version=version)
        write_repository(repository, deployment, specs)
    return version


def _with(family: ModelFamily[Any, Any], deployment: Deployment) -> Deployment:
    """`deployment` with a section of `family`."""
    return deployment if family.name in deployment.sections else deployment.replaced(family)


def _move_parts(version: Path, repository: Path, family: ModelFamily[Any, Any]) -> None:
    """Moves the folders of the family's other models out of the encoder's new version."""
    for model in family.models:
        if (version / model).is_dir():
            (repository / model).mkdir(exist_ok=True)
            os.rename(version / model, repository / model / version.name)
            flush(repository / model)


def activate(
    repository: Path,
    version: int,
    change: Callable[[Deployment], Deployment],
    family: ModelFamily[Any, Any] = IMAGE,
) -> tuple[ModelSpec, Deployment]:
    """Pins an earlier version and renders its configs: a rollback. Restart the server afterwards.

    `change` makes the new settings, which pin `version`, from those that the repository has now.
    """
    known = versions(repository, family.encoder)
    if version not in known:
        raise ExportError(f"{repository} has no version {version} of the encoder; it has {known}")
    folder = repository / family.encoder / str(version)

    with _rendering(repository, version):
        deployment, _ = render_repository(repository, change)
    return ModelSpec.load(folder / SPEC_FILE), deployment


@contextmanager
def _rendering(repository: Path, version: int) -> Iterator[None]:
    try:
        yield
    except ConfigurationError:
        raise
    except (Exception, KeyboardInterrupt) as error:
        raise NotRendered(version, repository, error) from error


def _remove_abandoned(encoder: Path) -> None:
    for folder in encoder.glob(f"{_STAGING}*"):
        with suppress(OSError), locked(folder, wait=False):
            shutil.rmtree(folder, ignore_errors=True)


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # it holds versions
        folder.rmdir()
