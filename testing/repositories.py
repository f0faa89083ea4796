"""Model repositories made for one test or one measurement: rendered like clip-export's, without an export."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any, Literal

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from clip_serving import defaults
from clip_serving.repository.deployment import Deployment
from clip_serving.repository.families.image import IMAGE, facts
from clip_serving.repository.families.image.settings import ImageSettings
from clip_serving.repository.families.text import TEXT
from clip_serving.repository.render import write_repository
from clip_serving.repository.spec import SPEC_FILE, ModelSpec, TextSpec

DEFAULT_SPEC = Path(__file__).resolve().parent.parent / "tools" / "default_spec.json"
Work = Literal["whole", "null"]
"""Everything, or everything but the model: the null encoder returns a constant vector."""
_NULL_MODEL = Path(__file__).parent / "null_encoder" / "model.py"
_ADDED_OUTPUTS = ("notice", "format", "dimensions")
_ADDED_PARAMETERS = ("activation", "background", "pixels_version", "preprocess", "transform")


def default_spec() -> ModelSpec:
    return ModelSpec.load(DEFAULT_SPEC)


def rendered_repository(root: Path, spec: ModelSpec | None = None, **settings: Any) -> Path:
    """A repository whose encoder version 1 is a spec without weights; `settings` are ImageSettings."""
    spec = spec or default_spec()
    version = root / defaults.ENCODER / "1"
    version.mkdir(parents=True, exist_ok=True)
    (version / SPEC_FILE).write_text(spec.to_json(), encoding="utf-8")
    write_repository(root, Deployment.of(IMAGE, ImageSettings(**settings)), {IMAGE.name: spec})
    return root


def linked_repository(source: Path, root: Path, spec: ModelSpec | None = None, **settings: Any) -> Path:
    """A repository that serves the exported files of `source`, with a spec and settings of its own."""
    exported = source / defaults.ENCODER / "1"
    version = root / defaults.ENCODER / "1"
    version.mkdir(parents=True)
    for path in exported.iterdir():
        if path.name != SPEC_FILE:
            (version / path.name).symlink_to(path.resolve())
    return rendered_repository(root, spec or ModelSpec.load(exported / SPEC_FILE), **settings)


def without_additions(config: pb.ModelConfig) -> None:
    """Makes a config as release 0.1 would have rendered it."""
    for index in reversed(range(len(config.output))):
        if config.output[index].name in _ADDED_OUTPUTS:
            del config.output[index]
    of_clients = {
        defaults.PREPROCESS: ["reference_image"],
        defaults.ENCODER: list(facts.for_clients(default_spec(), ImageSettings())),
    }
    for name in [*_ADDED_PARAMETERS, *of_clients.get(config.name, [])]:
        config.parameters.pop(name, None)
    for step in config.ensemble_scheduling.step:
        for name in _ADDED_OUTPUTS:
            step.output_map.pop(name, None)
    if config.HasField("ensemble_scheduling"):
        config.ensemble_scheduling.ClearField("max_inflight_requests")


def make_repository(folder: Path, version: Path, work: Work, **settings: Any) -> None:
    """A repository around an exported encoder `version` with the default settings, or the null encoder, also
    with other `settings`."""
    spec = ModelSpec.load(version / SPEC_FILE)
    if work == "null":
        rendered_repository(folder, spec, **settings)
        shutil.copy(_NULL_MODEL, folder / defaults.ENCODER / "1" / "model.py")
        return
    (folder / defaults.ENCODER).mkdir(parents=True)
    (folder / defaults.ENCODER / "1").symlink_to(version.resolve())
    write_repository(folder, Deployment.of(IMAGE), {IMAGE.name: spec})


def read_config(path: Path) -> pb.ModelConfig:
    """Parses a config.pbtxt as Triton does."""
    return text_format.Parse(path.read_text(encoding="utf-8"), pb.ModelConfig())


def repository_with_text(source: Path, root: Path, **changes: Any) -> Path:
    """A repository that serves both towers that were exported to `source`; `changes` are of the TextSpec."""
    linked_repository(source, root)
    spec = dataclasses.replace(TextSpec.load(source / TEXT.encoder / "1" / SPEC_FILE), **changes)
    for model in (defaults.TOKENIZE, defaults.TEXT_ENCODER):
        version = root / model / "1"
        version.mkdir(parents=True)
        for path in (source / model / "1").iterdir():
            (version / path.name).symlink_to(path.resolve())
    (root / TEXT.encoder / "1" / SPEC_FILE).unlink()
    (root / TEXT.encoder / "1" / SPEC_FILE).write_text(spec.to_json(), encoding="utf-8")
    image = ModelSpec.load(root / IMAGE.encoder / "1" / SPEC_FILE)
    deployment = Deployment.load(root).replaced(TEXT)
    write_repository(root, deployment, {IMAGE.name: image, TEXT.name: spec})
    return root
