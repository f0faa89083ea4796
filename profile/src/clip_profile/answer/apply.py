"""Writes a setting into a repository's rendered configs, whole or not at all, and takes it back.

The configs come from the spec and the deployment's settings as always, so what is written is what
clip-export would have written. The old ones are kept in the run folder first, for `undo`. While a change
is under way a file in the repository holds what it replaces: one that was killed half-way is taken back by
the next command, of whatever run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path

from clip_preprocess.settings import one_of
from clip_profile.errors import ProfileError
from clip_profile.records.setting import Setting
from clip_serving import defaults
from clip_serving.defaults import EncoderPrecision
from clip_serving.repository import stage
from clip_serving.repository.deployment import DeploymentSettings
from clip_serving.repository.render import render_all
from clip_serving.repository.rendered import Rendered, read_rendered

_KEPT = "before"
_JOURNAL = "applied.json"
"""{"repository": ..., "texts": {path: digests of the texts that this run knows it by}}"""
_UNDER_WAY = ".clip-profile-apply.json"
"""{path: {"before": text, "after": digest}}; in the repository, as long as a change is not whole."""


def apply(setting: Setting, repository: Path, run: Path) -> list[str]:
    """Renders `setting` into `repository`; returns the configs that changed, relative to it.

    Raises ConfigurationError for what is no rendered repository, ProfileError where configs were edited
    by hand (they would be lost) or cannot be written; then the repository is as it was.
    """
    settle(repository)
    now = _read(repository)
    before = render_all(now.spec, now.deployment, now.encoder_version)
    _refuse_edited(repository, before)
    after = render_all(now.spec, deployment_for(setting, now.deployment), now.encoder_version)
    changed = {path: text for path, text in after.items() if text != before[path]}
    if changed:
        _keep(repository, run, changed)
        _replace_all(repository, changed)
    return sorted(changed)


def undo(repository: Path, run: Path) -> list[str]:
    """Takes what was applied from this run folder back; returns the configs that were restored."""
    settle(repository)
    journal = run / _JOURNAL
    if not journal.exists():
        raise ProfileError(f"nothing was applied from {run}")
    known = _journal_of(run, repository, f"not to {repository}")
    kept = {path: (run / _KEPT / path).read_text(encoding="utf-8") for path in known}
    for path, digests in known.items():
        if _digest_of(repository / path) not in digests:
            raise ProfileError(
                f"{path} in {repository} was changed since: the configs of before are in {run / _KEPT}"
            )
    _replace_all(repository, kept)
    journal.unlink()
    shutil.rmtree(run / _KEPT, ignore_errors=True)
    return sorted(kept)


def settle(repository: Path) -> bool:
    """Takes back a change that was cut off half-way; whether there was one."""
    log = repository / _UNDER_WAY
    if not log.exists():
        return False
    entries = json.loads(log.read_text(encoding="utf-8"))
    for path, entry in entries.items():
        if _digest_of(repository / path) not in (entry["after"], _digest(entry["before"])):
            raise ProfileError(
                f"a change of {repository} was cut off, and {path} was changed since. The texts of before "
                f"are in {log}: put right what is wrong, then remove that file"
            )
    for path, entry in entries.items():
        _put(repository / path, entry["before"])
    log.unlink()
    return True


def is_under_way(repository: Path) -> bool:
    """Whether a change was cut off half-way, which `settle` takes back."""
    return (repository / _UNDER_WAY).exists()


def deployment_for(setting: Setting, before: DeploymentSettings) -> DeploymentSettings:
    """`before` with what the sweep measured; what it does not vary stays."""
    precision = _precision(setting.encoder_precision) if setting.on_cpu else before.encoder_precision
    return dataclasses.replace(
        before,
        preprocess_instances=setting.preprocess_instances,
        preprocess_threads=setting.layout.preprocess_threads,
        encoder_instances=setting.encoder_instances,
        encoder_threads=setting.encoder_threads,
        encoder_precision=precision,
        max_batch_size=setting.max_batch,
        # All of them: the render leaves out those above the largest batch, and so did an --apply before.
        preferred_batch_sizes=defaults.PREFERRED_BATCH_SIZES,
        max_queue_delay_us=setting.queue_delay_us,
    )


def _precision(text: str) -> EncoderPrecision:
    """The default for a text that is none."""
    try:
        precision: EncoderPrecision = one_of(EncoderPrecision, text)
        return precision
    except ValueError:
        return defaults.ENCODER_PRECISION


def _read(repository: Path) -> Rendered:
    for path in (f"{defaults.PREPROCESS}/config.pbtxt", f"{defaults.ENCODER}/configs/cpu.pbtxt"):
        config = stage.read_config(repository / path)
        if not config.instance_group or "threads" not in config.parameters:
            raise _edited(path, repository)
    return read_rendered(repository)


def _refuse_edited(repository: Path, rendered: dict[str, str]) -> None:
    edited = [path for path, text in rendered.items() if _text(repository / path) != text]
    if edited:
        raise _edited(", ".join(edited), repository)


def _edited(what: str, repository: Path) -> ProfileError:
    return ProfileError(
        f"{what} in {repository} is not as it is rendered from the model's spec: it was edited by hand, or "
        "by another version. Nothing was changed; `clip-export --activate` renders it"
    )


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _keep(repository: Path, run: Path, texts: dict[str, str]) -> None:
    """Notes in the run folder what to go back to, and what the configs are about to become."""
    known = _journal_of(run, repository, "undo that first") if (run / _JOURNAL).exists() else {}
    if any(_digest_of(repository / path) not in digests for path, digests in known.items()):
        known = {}  # others changed them since: what is to be gone back to is theirs
    if not known:
        (run / _JOURNAL).unlink(missing_ok=True)
        shutil.rmtree(run / _KEPT, ignore_errors=True)
    for path, text in texts.items():
        now = (repository / path).read_text(encoding="utf-8")
        if path not in known:  # what was before an earlier apply is what to go back to
            (run / _KEPT / path).parent.mkdir(parents=True, exist_ok=True)
            _put(run / _KEPT / path, now)
        known[path] = list(dict.fromkeys([*known.get(path, []), _digest(now), _digest(text)]))
    _put(run / _JOURNAL, json.dumps({"repository": str(repository.resolve()), "texts": known}))


def _journal_of(run: Path, repository: Path, else_text: str) -> dict[str, list[str]]:
    """The digests that the run's configs may have; raises ProfileError for another repository's."""
    values = json.loads((run / _JOURNAL).read_text(encoding="utf-8"))
    if values["repository"] != str(repository.resolve()):
        raise ProfileError(f"{run} was applied to {values['repository']}: {else_text}")
    known: dict[str, list[str]] = values["texts"]
    return known


def _replace_all(repository: Path, texts: dict[str, str]) -> None:
    """All of the files or none; raises ProfileError where one cannot be written."""
    befores = {path: (repository / path).read_text(encoding="utf-8") for path in texts}
    entries = {path: {"before": befores[path], "after": _digest(text)} for path, text in texts.items()}
    log = repository / _UNDER_WAY
    try:
        _put(log, json.dumps(entries))
        for path, text in texts.items():
            _put(repository / path, text)
    except BaseException as error:
        settle(repository)
        if isinstance(error, OSError):
            raise ProfileError(f"{error.filename}: {error.strerror}; nothing was changed") from error
        raise
    log.unlink()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _digest_of(path: Path) -> str | None:
    text = _text(path)
    return None if text is None else _digest(text)


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
