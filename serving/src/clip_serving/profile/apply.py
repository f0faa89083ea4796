"""Writes a setting into a repository's rendered configs, whole or not at all, and takes it back.

The configs come from the spec and the deployment's settings as always, so what is written is what
clip-export would have written. The old ones are kept in the run folder first; a journal beside them
says how far the change went, so that one that was killed half-way is taken back by the next command.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from clip_serving import defaults
from clip_serving.defaults import EncoderPrecision
from clip_serving.errors import ProfileError
from clip_serving.profile.setting import Setting
from clip_serving.render import render_all
from clip_serving.rendered import read_rendered
from clip_serving.settings import DeploymentSettings, one_of

_KEPT = "before"
_JOURNAL = "applied.json"


def apply(setting: Setting, repository: Path, run: Path) -> list[str]:
    """Renders `setting` into `repository`; returns the configs that changed, relative to it.

    Raises ConfigurationError for what is no rendered repository, ProfileError where configs were edited
    by hand (they would be lost) or cannot be written; then the repository is as it was.
    """
    settle(repository, run)
    now = read_rendered(repository)
    before = render_all(now.spec, now.deployment, now.encoder_version)
    _refuse_edited(repository, before)
    after = render_all(now.spec, deployment_for(setting, now.deployment), now.encoder_version)
    changed = {path: text for path, text in after.items() if text != before[path]}
    if changed:
        _replace_all(repository, run, changed)
    return sorted(changed)


def undo(repository: Path, run: Path) -> list[str]:
    """Takes the last apply of this run folder back; returns the configs that were restored."""
    journal = run / _JOURNAL
    if not journal.exists():
        raise ProfileError(f"nothing was applied from {run}")
    values = json.loads(journal.read_text(encoding="utf-8"))
    if values["repository"] != str(repository.resolve()):
        raise ProfileError(f"{run} was applied to {values['repository']}, not to {repository}")
    kept = {path: (run / _KEPT / path).read_text(encoding="utf-8") for path in values["after"]}
    for path, digest in values["after"].items():
        text = _text(repository / path)
        if text != kept[path] and (text is None or _digest(text) != digest):
            raise ProfileError(
                f"{path} in {repository} was changed since: the configs of before are in {run / _KEPT}"
            )
    for path, text in kept.items():
        _put(repository / path, text)
    journal.unlink()
    shutil.rmtree(run / _KEPT, ignore_errors=True)
    return sorted(kept)


def settle(repository: Path, run: Path) -> None:
    """Takes back a change that was cut off half-way."""
    journal = run / _JOURNAL
    if journal.exists() and not json.loads(journal.read_text(encoding="utf-8"))["done"]:
        undo(repository, run)


def deployment_for(setting: Setting, before: DeploymentSettings) -> DeploymentSettings:
    """`before` with what the sweep measured; what it does not vary stays."""
    precision = _precision(setting.encoder_precision) if setting.on_cpu else before.encoder_precision
    preferred = tuple(n for n in before.preferred_batch_sizes if n <= setting.max_batch)
    return dataclasses.replace(
        before,
        preprocess_instances=setting.preprocess_instances,
        preprocess_threads=setting.layout.preprocess_threads,
        encoder_instances=setting.encoder_instances,
        encoder_threads=setting.encoder_threads,
        encoder_precision=precision,
        max_batch_size=setting.max_batch,
        preferred_batch_sizes=preferred,
        max_queue_delay_us=setting.queue_delay_us,
    )


def _precision(text: str) -> EncoderPrecision:
    """The default for a text that is none."""
    try:
        precision: EncoderPrecision = one_of(EncoderPrecision, text)
        return precision
    except ValueError:
        return defaults.ENCODER_PRECISION


def _refuse_edited(repository: Path, rendered: dict[str, str]) -> None:
    edited = [path for path, text in rendered.items() if _text(repository / path) != text]
    if edited:
        raise ProfileError(
            f"{', '.join(edited)} in {repository} is not as it is rendered from the model's spec: it was "
            "edited by hand, or by another version. Nothing was changed; `clip-export --activate` renders it"
        )


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _replace_all(repository: Path, run: Path, texts: dict[str, str]) -> None:
    journal, kept = run / _JOURNAL, run / _KEPT
    entry: dict[str, Any] = {"repository": str(repository.resolve()), "after": {}, "done": False}
    if journal.exists():  # what was before an earlier apply is what to go back to
        entry = json.loads(journal.read_text(encoding="utf-8"))
        if entry["repository"] != str(repository.resolve()):
            raise ProfileError(f"{run} is applied to {entry['repository']}: undo that first")
    else:
        shutil.rmtree(kept, ignore_errors=True)
    for path in texts.keys() - entry["after"].keys():
        (kept / path).parent.mkdir(parents=True, exist_ok=True)
        _put(kept / path, (repository / path).read_text(encoding="utf-8"))
    entry["after"] = {**entry["after"], **{path: _digest(text) for path, text in texts.items()}}
    _put(journal, json.dumps({**entry, "done": False}))
    try:
        for path, text in texts.items():
            _put(repository / path, text)
    except BaseException as error:
        undo(repository, run)
        if isinstance(error, OSError):
            raise ProfileError(f"{error.filename}: {error.strerror}; nothing was changed") from error
        raise
    _put(journal, json.dumps({**entry, "done": True}))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _put(path: Path, text: str) -> None:
    """Replaces the file whole, and has it on the disk before the next one's turn."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
