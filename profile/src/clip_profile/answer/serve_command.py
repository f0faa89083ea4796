"""The clip-serve command for a setting, which `recommend --apply` and the report print."""

from __future__ import annotations

import shlex
from pathlib import Path

from clip_profile.records.setting import Setting


def serve_command(setting: Setting, repository: Path) -> str | None:
    """clip-serve with the setting's instances, threads and precision, quoted for a shell.

    The largest batch and the queue delay are the repository's. None if clip-serve has no backend for the
    setting's encoder: the container image serves that.
    """
    if not setting.on_cpu:
        return None
    options: dict[str, object] = {
        "repository": repository,
        "model-config-name": "cpu",
        **vars(setting.layout),
    }
    if setting.encoder_precision:
        options["encoder-precision"] = setting.encoder_precision
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return shlex.join(["clip-serve", *words])
