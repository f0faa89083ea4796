"""Puts a finished version into the repository: whole or not at all, and beside the earlier ones."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clip_export.errors import ExportError
from clip_serving import defaults
from clip_serving.encoder_choice import require_int8
from clip_serving.render import encoder_model_py, write_repository
from clip_serving.settings import DeploymentSettings
from clip_serving.spec import SPEC_FILE, ModelSpec


@contextmanager
def staging(repository: Path) -> Iterator[Path]:
    """A folder on the repository's file system that is gone afterwards, whatever happened."""
    try:
        repository.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".staging-", dir=repository))
    except OSError as error:
        raise ExportError(f"cannot write into {repository}: {error.strerror}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(staged: Path, repository: Path, spec: ModelSpec, deployment: DeploymentSettings) -> int:
    """Renames `staged` to the encoder's next version, then renders the configs; returns the number.

    Until the rename nothing of the repository has changed, and no earlier version ever does.
    """
    (staged / SPEC_FILE).write_text(spec.to_json(), encoding="utf-8")
    (staged / "model.py").write_text(encoder_model_py(), encoding="utf-8")
    for path in [*staged.iterdir(), staged]:
        _sync(path)
    encoder = repository / defaults.ENCODER
    encoder.mkdir(exist_ok=True)
    staged.chmod(0o755)  # mkdtemp's 0700 would keep a server of another user out
    while True:
        version = max(versions(repository), default=0) + 1
        try:
            os.rename(staged, encoder / str(version))
            break
        except OSError:  # another export took the number, or the rename is not possible at all
            if not (encoder / str(version)).exists():
                raise
    _sync(encoder)
    write_repository(repository, spec, deployment)
    return version


def activate(repository: Path, version: int, deployment: DeploymentSettings) -> ModelSpec:
    """Renders the configs for an earlier version and pins it: a roll-back. Restart the server after."""
    known = versions(repository)
    if version not in known:
        raise ExportError(f"{repository} has no version {version} of the encoder; it has {known}")
    folder = repository / defaults.ENCODER / str(version)
    if deployment.encoder_precision == "int8":
        require_int8(folder)
    spec = ModelSpec.load(folder / SPEC_FILE)
    write_repository(repository, spec, deployment, encoder_version=version)
    return spec


def versions(repository: Path) -> list[int]:
    """The encoder's published versions, oldest first."""
    encoder = repository / defaults.ENCODER
    if not encoder.is_dir():
        return []
    return sorted(int(entry.name) for entry in encoder.iterdir() if entry.name.isdigit())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
