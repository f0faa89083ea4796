"""A copy of a repository for one setting: settings changed, versions linked, the original unchanged."""

from __future__ import annotations

from pathlib import Path

from clip_profile.answer.apply import changes
from clip_profile.records.setting import Setting
from clip_serving.repository.deployment import Deployment
from clip_serving.repository.families import FAMILIES
from clip_serving.repository.families.image import IMAGE
from clip_serving.repository.stage import refuse_other_backends, stage
from clip_serving.server import runtime


def make_variant(source: Path, target: Path, setting: Setting) -> None:
    """Fills the folder `target` with what --apply would render; TritonServer stages its own copy of it.

    Without the models that have names: they are not measured, and would take memory.

    Raises ConfigurationError if `source` lacks a model.
    """

    def changed(deployment: Deployment) -> Deployment:
        unnamed = {name: each for name, each in deployment.sections.items() if name in FAMILIES}
        return Deployment(unnamed).replaced(IMAGE, **changes(setting))

    stage(source, target, changed)


def require_servable(source: Path, model_config_name: str) -> None:
    """Raises ConfigurationError for a format that `source` lacks, or whose backend the server here lacks.

    ServerError if there is no embedded server.
    """
    backends = [entry.name for entry in runtime.prepare().backends.iterdir()]
    refuse_other_backends(source, model_config_name, backends)
