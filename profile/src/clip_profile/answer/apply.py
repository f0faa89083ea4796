"""Writes a measured setting into a repository's deployment.json and renders its configs; also undoes that.

deployment.json is replaced as a whole, and the configs follow from it: if a command is killed between the
two, `clip-render` finishes the work. The previous deployment.json is kept in the run folder for `undo`.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from clip_preprocess.settings import one_of
from clip_profile.errors import ProfileError
from clip_profile.records.setting import Setting
from clip_serving import defaults
from clip_serving.defaults import EncoderPrecision
from clip_serving.files import write_atomically
from clip_serving.repository.deployment import DEPLOYMENT_FILE, Deployment
from clip_serving.repository.families.image import IMAGE
from clip_serving.repository.render import outdated_configs, render_repository

_APPLIED = "applied.json"


@dataclass(frozen=True)
class Applied:
    """A run folder's record of its --apply: the texts of deployment.json before and after it."""

    repository: str
    before: str
    after: str

    @classmethod
    def load(cls, run: Path) -> Applied | None:
        """None if nothing was applied from this run folder."""
        try:
            return msgspec.json.decode((run / _APPLIED).read_bytes(), type=cls)
        except FileNotFoundError:
            return None
        except msgspec.MsgspecError as error:
            raise ProfileError(f"{run / _APPLIED} is damaged: {error}") from error


def apply(setting: Setting, repository: Path, run: Path) -> list[str]:
    """Renders `setting` into `repository`; returns the files that changed, relative to it.

    Raises ConfigurationError if `repository` is not an exported repository, and ProfileError if configs were
    edited by hand (the edits would be lost) or a file cannot be written; then nothing has changed.
    """
    now = Deployment.load(repository)
    _refuse_outdated(repository)
    after = now.replaced(IMAGE, **changes(setting))
    if after == now:
        return []
    _keep(repository, run, after.to_json())
    return _write(repository, after)


def undo(repository: Path, run: Path) -> list[str]:
    """Undoes the --apply of this run folder; returns the files that changed."""
    applied = _of_repository(run, repository)
    if applied is None:
        raise ProfileError(f"nothing was applied from {run}")
    path = repository / DEPLOYMENT_FILE
    if _text(repository) not in (applied.after, applied.before):
        raise ProfileError(
            f"{path} was changed after --apply, and --undo would lose that change. The content from before "
            f"--apply is in {run / _APPLIED}"
        )
    changed = _write(repository, Deployment.from_json(applied.before))
    (run / _APPLIED).unlink()
    return changed


def changes(setting: Setting) -> dict[str, Any]:
    """The settings of the image family that a sweep measured; it leaves the others as they are."""
    found: dict[str, Any] = {
        "preprocess_instances": setting.preprocess_instances,
        "preprocess_threads": setting.layout.preprocess_threads,
        "encoder_instances": setting.encoder_instances,
        "encoder_threads": setting.encoder_threads,
        "max_batch_size": setting.max_batch,
        "preferred_batch_sizes": defaults.PREFERRED_BATCH_SIZES,
        "max_queue_delay_us": setting.queue_delay_us,
    }
    if setting.on_cpu:
        found["encoder_precision"] = _precision(setting.encoder_precision)
    return found


def _precision(text: str) -> EncoderPrecision:
    """The default for a text that is not a precision."""
    try:
        precision: EncoderPrecision = one_of(EncoderPrecision, text)
        return precision
    except ValueError:
        return defaults.ENCODER_PRECISION


def _refuse_outdated(repository: Path) -> None:
    outdated = outdated_configs(repository)
    if outdated:
        raise ProfileError(
            f"{', '.join(outdated)} in {repository} differ from what {DEPLOYMENT_FILE} says: edited by hand, "
            "or rendered by another version. Nothing was changed. Move your edits to that file, then run: "
            f"clip-render --repository {repository}"
        )


def _keep(repository: Path, run: Path, after: str) -> None:
    """Records the content from before the first --apply in the run folder, for `undo`."""
    before = _text(repository)
    earlier = _of_repository(run, repository)
    if earlier is not None and earlier.after == before:
        before = earlier.before
    applied = Applied(str(repository.resolve()), before, after)
    write_atomically(run / _APPLIED, json.dumps(dataclasses.asdict(applied), indent=2) + "\n")


def _text(repository: Path) -> str:
    Deployment.load(repository)  # names the file if it is missing or is not UTF-8
    return (repository / DEPLOYMENT_FILE).read_text(encoding="utf-8")


def _of_repository(run: Path, repository: Path) -> Applied | None:
    applied = Applied.load(run)
    if applied is not None and applied.repository != str(repository.resolve()):
        raise ProfileError(
            f"{run} was applied to {applied.repository}, not to {repository}. Run --undo there first"
        )
    return applied


def _write(repository: Path, deployment: Deployment) -> list[str]:
    try:
        _, changed = render_repository(repository, lambda _: deployment)
    except OSError as error:
        raise ProfileError(
            f"cannot write {error.filename or repository}: {error.strerror}. Nothing was changed"
        ) from error
    return changed
