"""The command that serves a setting: what `recommend --apply` and the report tell people to run."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

from clip_profile.records.setting import Setting


def serve_command(setting: Setting, repository: Path) -> str | None:
    """clip-serve with every option that holds it to `setting`, quoted for a shell.

    Largest batch and queue delay are the repository's. None where clip-serve has no backend for the
    setting's encoder: that is served by the image, from the repository as it is.
    """
    if not setting.on_cpu:
        return None
    options: dict[str, object] = {"repository": repository, "model-config-name": "cpu"}
    options |= {name.replace("_", "-"): n for name, n in dataclasses.asdict(setting.layout).items()}
    if setting.encoder_precision:
        options["encoder-precision"] = setting.encoder_precision
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return shlex.join(["clip-serve", *words])
