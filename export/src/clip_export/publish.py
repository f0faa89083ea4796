"""Puts a finished version into the repository: whole or not at all, and beside the earlier ones."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from clip_export.errors import ExportError, NotRendered
from clip_serving import defaults
from clip_serving.encoder.choice import require_int8
from clip_serving.errors import ConfigurationError
from clip_serving.repository.deployment import DeploymentSettings
from clip_serving.repository.render import encoder_model_py, render_all, write_repository
from clip_serving.repository.rendered import read_deployment
from clip_serving.repository.spec import SPEC_FILE, ModelSpec
from clip_serving.repository.stage import versions

_STAGING = ".staging-"


@contextmanager
def staging(repository: Path) -> Iterator[Path]:
    """A folder beside the encoder's versions, where Triton looks for numbers alone; gone afterwards.

    Those that killed exports left behind are removed first.
    """
    encoder = repository / defaults.ENCODER
    with ExitStack() as stack:
        try:
            encoder.mkdir(parents=True, exist_ok=True)
            stack.callback(_remove_empty, encoder)
            # Between its making and its lock a folder looks like one that was left behind.
            with _locked(encoder):
                _remove_left_behind(encoder)
                folder = Path(tempfile.mkdtemp(prefix=_STAGING, dir=encoder))
                stack.callback(shutil.rmtree, folder, ignore_errors=True)
                stack.enter_context(_locked(folder))
        except OSError as error:
            raise ExportError(f"cannot write into {encoder}: {error.strerror}") from error
        yield folder


def publish(staged: Path, repository: Path, spec: ModelSpec, deployment: DeploymentSettings) -> int:
    """Renames `staged` to the encoder's next version, then renders the configs; returns the number.

    The configs name the version that is served, so nobody sees the new one until the last of them is
    rendered. No earlier version ever changes. Raises NotRendered where only the first step was done.
    """
    render_all(spec, deployment)  # settings that Triton does not take fail before anything has changed
    (staged / SPEC_FILE).write_text(spec.to_json(), encoding="utf-8")
    (staged / "model.py").write_text(encoder_model_py(), encoding="utf-8")
    for path in [*staged.iterdir(), staged]:
        _sync(path)
    encoder = repository / defaults.ENCODER
    staged.chmod(0o755)  # mkdtemp's 0700 would keep a server of another user out
    while True:
        version = max(versions(repository), default=0) + 1
        try:
            os.rename(staged, encoder / str(version))
            break
        except OSError:  # another export took the number, or the rename is not possible at all
            if not (encoder / str(version)).exists():
                raise
    _render(repository, spec, deployment, version)
    return version


def activate(
    repository: Path, version: int, change: Callable[[DeploymentSettings], DeploymentSettings]
) -> tuple[ModelSpec, DeploymentSettings]:
    """Renders the configs for an earlier version and pins it: a roll-back. Restart the server after.

    `change` makes the new settings of those that the configs hold now.
    """
    known = versions(repository)
    if version not in known:
        raise ExportError(f"{repository} has no version {version} of the encoder; it has {known}")
    folder = repository / defaults.ENCODER / str(version)
    deployment = change(settings_of(repository))
    if deployment.encoder_precision == "int8":
        try:
            require_int8(folder)
        except ConfigurationError as error:
            raise ExportError(f"{folder}: {error}; or give another --encoder-precision") from error
    spec = ModelSpec.load(folder / SPEC_FILE)
    _render(repository, spec, deployment, version)
    return spec, deployment


def settings_of(repository: Path) -> DeploymentSettings:
    """What the configs hold; the defaults where there are none yet."""
    rendered = (repository / defaults.ENSEMBLE / "config.pbtxt").exists()
    return read_deployment(repository) if rendered else DeploymentSettings()


def _render(repository: Path, spec: ModelSpec, deployment: DeploymentSettings, version: int) -> None:
    try:
        _sync(repository / defaults.ENCODER)
        write_repository(repository, spec, deployment, encoder_version=version)
    except (Exception, KeyboardInterrupt) as error:
        raise NotRendered(version, repository, error) from error


@contextmanager
def _locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Holds the folder's lock. Without `wait` raises OSError where another process does."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            if not wait:
                raise
            # A file system without locks: there, what was left behind stays.
        yield
    finally:
        os.close(descriptor)


def _remove_left_behind(encoder: Path) -> None:
    for folder in encoder.glob(f"{_STAGING}*"):
        with suppress(OSError), _locked(folder, wait=False):
            shutil.rmtree(folder, ignore_errors=True)


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # it holds versions
        folder.rmdir()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
