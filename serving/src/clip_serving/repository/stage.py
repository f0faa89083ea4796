"""A private copy of a model repository, fitted to this machine: the user's own stays untouched.

Configs are copied with the instance counts and threads replaced; everything else is linked.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from clip_preprocess.settings import Quality
from clip_serving import defaults
from clip_serving.defaults import EncoderPrecision
from clip_serving.errors import ConfigurationError
from clip_serving.repository.render import reference_min_cosine


@dataclass(frozen=True)
class InstanceLayout:
    """How many processes of each stage run on the CPU, and with how many threads each."""

    preprocess_instances: int
    preprocess_threads: int
    encoder_instances: int
    encoder_threads: int

    def __post_init__(self) -> None:
        if min(vars(self).values()) < 1:
            raise ConfigurationError(f"instances and threads must be at least 1: {self}")

    @classmethod
    def for_cores(cls, cores: int) -> InstanceLayout:
        """One thread an instance costs least; the encoder's copies of the weights are capped."""
        encoders = min(cores, defaults.MAX_CPU_ENCODER_INSTANCES)
        return cls(
            preprocess_instances=cores,
            preprocess_threads=1,
            encoder_instances=encoders,
            encoder_threads=max(1, cores // encoders),
        )

    def past(self, cores: int, *, encoder_on_cpu: bool) -> list[str]:
        """A sentence for each stage whose processes and threads are more than the cores."""
        stages = {"preprocess": (self.preprocess_instances, self.preprocess_threads)}
        if encoder_on_cpu:
            stages["encoder"] = (self.encoder_instances, self.encoder_threads)
        return [
            f"{instances} {name} instances x {threads} threads are more than the {cores} cores: they only "
            "fight for them, and each takes memory"
            for name, (instances, threads) in stages.items()
            if instances * threads > cores
        ]


def available_cores() -> int:
    """Cores that this process may use: its affinity, and a container's CPU quota rounded up."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return cores if quota == "max" else max(1, min(cores, -(-int(quota) // int(period))))
    except (OSError, ValueError):
        return cores


@dataclass(frozen=True)
class Fit:
    """What is changed in the copy; `quality` and `encoder_precision` None leave the repository's."""

    layout: InstanceLayout
    quality: Quality | None = None
    encoder_precision: EncoderPrecision | None = None


def stage(source: Path, target: Path, fit: Fit) -> None:
    """Fills the empty folder `target` from the repository `source`.

    Raises ConfigurationError that names what `source` lacks.
    """
    copy_repository(source, target, lambda config: _change(config, fit))
    served_version(source)


def served_version(repository: Path) -> Path:
    """The encoder's version directory that a server takes: the pinned one, or the newest.

    Raises ConfigurationError where it is not there.
    """
    newest, pinned = newest_version(repository), pinned_version(repository)
    if pinned is None:
        return newest
    folder = repository / defaults.ENCODER / str(pinned)
    if not folder.is_dir():
        raise ConfigurationError(
            f"{repository} serves version {pinned} of the encoder, which is missing. Choose another: "
            f"clip-export --activate VERSION --repository {repository}"
        )
    return folder


def pinned_version(repository: Path) -> int | None:
    """The encoder's version that the configs name; None where they take the newest."""
    policy = read_config(repository / defaults.ENCODER / "config.pbtxt").version_policy
    return max(policy.specific.versions, default=None)


def newest_version(repository: Path) -> Path:
    """The encoder's newest version directory; raises ConfigurationError where nothing was exported."""
    exported = versions(repository)
    if not exported:
        raise ConfigurationError(
            f"{repository} holds no exported encoder. Run: clip-export --repository {repository}"
        )
    return repository / defaults.ENCODER / str(exported[-1])


def versions(repository: Path) -> list[int]:
    """The encoder's exported versions, oldest first."""
    folder = repository / defaults.ENCODER
    return sorted(int(entry.name) for entry in folder.glob("*") if entry.name.isdigit())


def copy_repository(source: Path, target: Path, change: Callable[[pb.ModelConfig], None]) -> None:
    """Fills the folder `target` with links to the files of `source`, and its configs after `change`.

    Raises ConfigurationError that names what `source` lacks.
    """
    for model in (defaults.ENSEMBLE, defaults.PREPROCESS, defaults.ENCODER):
        if not (source / model / "config.pbtxt").is_file():
            raise ConfigurationError(
                f"{source} is not a clip-triton model repository: {model}/config.pbtxt is missing. "
                f"Make one with: clip-export --repository {source}"
            )
        _copy_model(source / model, target / model, change)


def _copy_model(source: Path, target: Path, change: Callable[[pb.ModelConfig], None]) -> None:
    target.mkdir(parents=True)
    for entry in source.iterdir():
        if entry.name.isdigit() or entry.name == "warmup":
            (target / entry.name).symlink_to(entry.resolve())
    for path in [source / "config.pbtxt", *sorted((source / "configs").glob("*.pbtxt"))]:
        copy = target / path.relative_to(source)
        copy.parent.mkdir(exist_ok=True)
        config = read_config(path)
        change(config)
        copy.write_text(text_format.MessageToString(config, as_utf8=True), encoding="utf-8")


def _change(config: pb.ModelConfig, fit: Fit) -> None:
    if config.name == defaults.ENSEMBLE:
        _tell(config, fit)
        return
    encoder, layout = config.name == defaults.ENCODER, fit.layout
    if not config.instance_group:
        config.instance_group.add()
    config.instance_group[0].count = layout.encoder_instances if encoder else layout.preprocess_instances
    if config.backend != "python":  # its own parameters are all that another one knows
        return
    threads = layout.encoder_threads if encoder else layout.preprocess_threads
    config.parameters["threads"].string_value = str(threads)
    if encoder and fit.encoder_precision is not None:
        config.parameters["precision"].string_value = fit.encoder_precision
    if not encoder and fit.quality is not None:
        config.parameters["quality"].string_value = fit.quality


def _tell(ensemble: pb.ModelConfig, fit: Fit) -> None:
    """Keeps true what the ensemble says of its stages."""
    parameters = ensemble.parameters
    if fit.quality is not None:
        parameters["quality"].string_value = fit.quality
    if fit.encoder_precision is not None:
        parameters["encoder_precision"].string_value = fit.encoder_precision
        parameters["reference_min_cosine"].string_value = str(reference_min_cosine(fit.encoder_precision))


def encoder_config(repository: Path, model_config_name: str) -> Path:
    """The file of a format; empty is the model's config.pbtxt. Raises ConfigurationError where it is not."""
    folder = repository / defaults.ENCODER
    if not model_config_name:
        return folder / "config.pbtxt"
    path = folder / "configs" / f"{model_config_name}.pbtxt"
    if not path.is_file():
        known = ", ".join(sorted(each.stem for each in path.parent.glob("*.pbtxt"))) or "none"
        raise ConfigurationError(
            f"{repository} has no encoder configuration {model_config_name!r}; it has {known}"
        )
    return path


def refuse_other_backends(repository: Path, model_config_name: str, backends: Collection[str]) -> None:
    """Raises ConfigurationError where a config of that name wants a backend that is not among `backends`."""
    encoder_config(repository, model_config_name)
    for model in (defaults.ENSEMBLE, defaults.PREPROCESS, defaults.ENCODER):
        path = repository / model / "configs" / f"{model_config_name}.pbtxt"
        if not path.is_file():
            path = repository / model / "config.pbtxt"
        wanted = read_config(path).backend
        if wanted and wanted not in backends:
            raise ConfigurationError(
                f"{path} wants Triton's backend {wanted}, and the embedded server has only "
                f"{', '.join(sorted(backends))}. The image of docker-compose.yml has it; here, "
                "--model-config-name cpu can be served"
            )


def read_config(path: Path) -> pb.ModelConfig:
    """Parses a config.pbtxt; raises ConfigurationError that names the file, line and field."""
    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), pb.ModelConfig())
    except (text_format.ParseError, OSError) as error:
        raise ConfigurationError(f"{path}: {error}") from error
