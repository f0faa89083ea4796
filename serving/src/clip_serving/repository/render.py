"""Renders every config.pbtxt of a repository from deployment.json and the served versions' spec.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from clip_serving.files import locked, write_all_atomically
from clip_serving.repository.deployment import DEPLOYMENT_FILE, Deployment
from clip_serving.repository.families import family_of
from clip_serving.repository.spec import TowerSpec
from clip_serving.repository.versions import load_specs

_HEADER = """\
# Generated from spec.json and deployment.json. Changes to this file are lost: edit deployment.json and run
# clip-render.
"""
_RANDOM = "# RANDOM WEIGHTS (seeded): these embeddings are NOT CLIP's and mean nothing outside a test.\n"


def configs(deployment: Deployment, specs: Mapping[str, TowerSpec]) -> dict[str, pb.ModelConfig]:
    """Every config of the families in `specs`: path relative to the repository -> ModelConfig.

    In the order in which they are written. Raises ConfigurationError for what Triton does not accept.
    """
    found: dict[str, pb.ModelConfig] = {}
    for name, spec in specs.items():
        family = family_of(name)
        found |= family.configs(spec, deployment.settings(family))
    return found


def render(deployment: Deployment, specs: Mapping[str, TowerSpec]) -> dict[str, str]:
    """As `configs`, as the text of a config.pbtxt."""
    rendered: dict[str, str] = {}
    for of_set in _sets(specs):
        random = any(spec.random_weights for spec in of_set.values())
        notice = _HEADER + (_RANDOM if random else "")
        for path, config in configs(deployment, of_set).items():
            rendered[path] = notice + text_format.MessageToString(config, as_utf8=True)
    return rendered


def _sets(specs: Mapping[str, TowerSpec]) -> list[dict[str, TowerSpec]]:
    """The specs of the models without a name, and of those with each name."""
    sets: dict[str, dict[str, TowerSpec]] = {}
    for name, spec in specs.items():
        sets.setdefault(family_of(name).set_name, {})[name] = spec
    return list(sets.values())


def write_repository(root: Path, deployment: Deployment, specs: Mapping[str, TowerSpec]) -> None:
    """Writes deployment.json, then the configs of the families in `specs` and the files that never change.

    A full disk changes nothing: all files are on disk before the first one is renamed. If the process dies
    between two renames, deployment.json already holds the settings, and clip-render finishes the work.
    Raises OSError and ConfigurationError.
    """
    texts = {DEPLOYMENT_FILE: deployment.to_json()}
    for name in specs:
        texts |= family_of(name).static_files()
    texts |= render(deployment, specs)
    write_all_atomically({root / path: text for path, text in texts.items()})


def render_repository(
    root: Path, change: Callable[[Deployment], Deployment] = lambda deployment: deployment
) -> tuple[Deployment, list[str]]:
    """Renders a repository from its own deployment.json, after `change`.

    Returns the settings, and the files whose content changed, relative to `root`. Raises ConfigurationError
    for settings that the served version cannot have, and OSError.
    """
    Deployment.load(root)  # names what is wrong with a folder that cannot even be locked
    with locked(root):  # of two changes at the same time, neither is lost
        deployment = change(Deployment.load(root))
        specs = load_specs(root, deployment)
        for name, spec in specs.items():
            family_of(name).validate(spec, deployment.settings(family_of(name)))
        texts = {DEPLOYMENT_FILE: deployment.to_json(), **render(deployment, specs)}
        changed = [path for path, text in texts.items() if _text(root / path) != text]
        write_repository(root, deployment, specs)
    return deployment, changed


def outdated_configs(root: Path) -> list[str]:
    """The configs that differ from deployment.json: edited by hand, missing, or of another release.

    Relative to `root`; comments do not count. Raises ConfigurationError if nothing was exported to `root`.
    """
    deployment = Deployment.load(root)
    wanted = configs(deployment, load_specs(root, deployment))
    return [path for path, config in wanted.items() if _config(root / path) != config]


def _config(path: Path) -> pb.ModelConfig | None:
    try:
        return text_format.Parse(_text(path) or "", pb.ModelConfig())
    except text_format.ParseError:
        return None


def _text(path: Path) -> str | None:
    """None for a file that does not exist or is not text."""
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        return None
