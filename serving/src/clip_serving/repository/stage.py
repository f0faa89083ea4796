"""A private copy of a model repository, with settings that fit this machine.

The original is not changed. The copy's deployment.json and configs are rendered; the version directories are
links.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from clip_preprocess.settings import Quality
from clip_serving import defaults
from clip_serving.defaults import EncoderPrecision, Tier
from clip_serving.errors import ConfigurationError
from clip_serving.files import write_all_atomically
from clip_serving.repository.deployment import DEPLOYMENT_FILE, Deployment
from clip_serving.repository.render import configs, render
from clip_serving.repository.versions import load_specs


@dataclass(frozen=True)
class InstanceLayout:
    """How many processes each stage runs on the CPU, and how many threads each of them has."""

    preprocess_instances: int
    preprocess_threads: int
    encoder_instances: int
    encoder_threads: int

    def __post_init__(self) -> None:
        if min(vars(self).values()) < 1:
            raise ConfigurationError(f"instances and threads must be at least 1: {self}")

    @classmethod
    def for_cores(cls, cores: int) -> InstanceLayout:
        """One thread per instance costs the least CPU. Encoders are capped: each has its own weights."""
        encoders = min(cores, defaults.MAX_CPU_ENCODER_INSTANCES)
        return cls(
            preprocess_instances=cores,
            preprocess_threads=1,
            encoder_instances=encoders,
            encoder_threads=max(1, cores // encoders),
        )

    def past(self, cores: int, *, encoder_on_cpu: bool) -> list[str]:
        """A warning for each stage with more processes x threads than cores."""
        stages = {"preprocess": (self.preprocess_instances, self.preprocess_threads)}
        if encoder_on_cpu:
            stages["encoder"] = (self.encoder_instances, self.encoder_threads)
        return [
            f"{name} instances x threads ({instances} x {threads}) exceed the cores ({cores}): they "
            "compete for them, and each instance takes memory"
            for name, (instances, threads) in stages.items()
            if instances * threads > cores
        ]


def available_cores() -> int:
    """Cores that this process may use: its affinity, or a container's CPU quota, rounded up."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return cores if quota == "max" else max(1, min(cores, -(-int(quota) // int(period))))
    except (OSError, ValueError):
        return cores


@dataclass(frozen=True)
class Fit:
    """The settings that fit the image models to this machine, each set alike; None keeps the repository's."""

    layout: InstanceLayout
    quality: Quality | None = None
    encoder_precision: EncoderPrecision | None = None

    def __call__(self, deployment: Deployment) -> Deployment:
        chosen = {"quality": self.quality, "encoder_precision": self.encoder_precision}
        given = {name: value for name, value in chosen.items() if value is not None}
        for family in deployment.image_families:
            deployment = deployment.replaced(family, **vars(self.layout), **given)
        return deployment


def stage(
    source: Path, target: Path, change: Callable[[Deployment], Deployment], tier: Tier | None = None
) -> None:
    """Fills the folder `target` with the repository `source`, rendered with its settings after `change`.

    Of a `tier`, only its models. Raises ConfigurationError, which names what is missing in `source`.
    """
    deployment = change(Deployment.load(source))
    specs = load_specs(source, deployment)
    served = [model for family in deployment.families for model in family.served(tier)]
    for model in served:
        _link_versions(source / model, target / model)
    rendered = render(deployment, specs)
    texts = {path: text for path, text in rendered.items() if path.partition("/")[0] in served}
    texts[DEPLOYMENT_FILE] = deployment.to_json()
    write_all_atomically({target / path: text for path, text in texts.items()})


def _link_versions(source: Path, target: Path) -> None:
    if not (source / "config.pbtxt").is_file():
        raise ConfigurationError(
            f"{source.parent} is not complete: {source.name}/config.pbtxt is missing. "
            f"Render it with: clip-render --repository {source.parent}"
        )
    target.mkdir(parents=True)
    for entry in source.iterdir():
        if entry.name.isdigit() or entry.name == "warmup":
            (target / entry.name).symlink_to(entry.resolve())


def refuse_other_backends(
    repository: Path, model_config_name: str, backends: Collection[str], tier: Tier | None = None
) -> None:
    """Raises ConfigurationError for a `--model-config-name` that cannot be served.

    The encoder does not have it, or it needs a backend that is not among `backends`.
    """
    deployment = Deployment.load(repository)
    rendered = configs(deployment, load_specs(repository, deployment))
    encoder = deployment.image_families[0].encoder
    _require_format(repository, model_config_name, rendered, encoder)
    for family in deployment.families:
        for model in family.served(tier):
            path = f"{model}/configs/{model_config_name}.pbtxt"
            path = path if path in rendered else f"{model}/config.pbtxt"
            wanted = rendered[path].backend
            if wanted and wanted not in backends:
                raise ConfigurationError(
                    f"{repository / path} needs Triton's backend {wanted}, and the embedded server has only "
                    f"{', '.join(sorted(backends))}. Serve it with the image of docker-compose.yml, or use "
                    "--model-config-name cpu"
                )


def _require_format(
    repository: Path, model_config_name: str, rendered: Collection[str], encoder: str
) -> None:
    folder = f"{encoder}/configs/"
    known = sorted(Path(path).stem for path in rendered if path.startswith(folder))
    if model_config_name and model_config_name not in known:
        raise ConfigurationError(
            f"{repository} has no encoder configuration {model_config_name!r}; it has {', '.join(known)}"
        )
