"""`clip-export`: exports an open_clip image tower into a Triton model repository."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from clip_export.arguments import TEXT_FORMATS, parser
from clip_export.errors import ExportError, HubUnreachable, NoTextTower
from clip_serving.errors import ClipServingError
from clip_serving.repository.deployment import Deployment, load_or_default
from clip_serving.repository.families.image import ImageFamily
from clip_serving.repository.families.image.settings import ImageSettings
from clip_serving.repository.families.text import TextFamily
from clip_serving.repository.flags import given
from clip_serving.repository.settings import table
from clip_serving.repository.spec import ModelSpec
from clip_serving.terminal import printable

_LOUD = """\
************************************************************************
*  RANDOM WEIGHTS: {why:51}  *
*  The embeddings are NOT CLIP's. They prove the service, nothing else. *
************************************************************************"""


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv)
    try:
        summary = _export(options) if options.encoder_version is None else _activate(options)
    except (ExportError, ClipServingError) as error:
        _say(f"error: {error}")
        return getattr(error, "exit_status", 2)
    except KeyboardInterrupt:
        _say("stopped; nothing was published")
        return 130
    except Exception as error:  # Python would exit with 1, which means that an artifact differs
        traceback.print_exc()
        _say(f"internal error ({type(error).__name__}): see the traceback above. Nothing was published")
        return 2
    if options.json:
        print(json.dumps(summary))
    return 0


def _changed(options: argparse.Namespace, now: Deployment) -> Deployment:
    """`now` with the settings whose flags were given; those of the text models only if it serves them."""
    image = ImageFamily(options.name)
    changed = now.replaced(image, **given(options, image))
    is_served = TextFamily(options.name).name in changed.sections
    return _text_changed(options, changed) if is_served else changed


def _text_changed(options: argparse.Namespace, now: Deployment) -> Deployment:
    text = TextFamily(options.name)
    return now.replaced(text, **given(options, text))


def _activate(options: argparse.Namespace) -> dict[str, Any]:
    from clip_export.publish import activate

    family, version = ImageFamily(options.name), options.encoder_version
    spec, deployment = activate(options.repository, version, partial(_changed, options), family)
    settings = deployment.settings(family)
    _say(f"version {version} ({spec.model}, {spec.pretrained}) will be served after a restart")
    _say(f"settings: {_unusual(settings)}")
    return {
        "version": version,
        "model": spec.model,
        "pretrained": spec.pretrained,
        "settings": settings.to_section(),
    }


def _unusual(settings: ImageSettings) -> str:
    """The settings that differ from the defaults."""
    found = {line.name: getattr(settings, line.name) for line in table(ImageSettings)}
    del found["encoder_version"]
    usual = ImageSettings()
    unusual = {name: value for name, value in found.items() if value != getattr(usual, name)}
    return ", ".join(f"{name} {value}" for name, value in unusual.items()) or "the defaults"


def _export(options: argparse.Namespace) -> dict[str, Any]:
    # torch takes seconds to import: --help and a misspelled option need not wait for it.
    from clip_export.publish import publish, staging
    from clip_export.verify import with_reference

    begin, family = time.monotonic(), ImageFamily(options.name)
    deployment = _changed(options, load_or_default(options.repository))
    int8_required = deployment.settings(family).encoder_precision == "int8"
    if int8_required and "onnx-int8" not in options.formats:
        raise ExportError("the encoder's precision is int8, which needs onnx-int8 among the --formats")
    loaded = _load(options)
    spec = with_reference(loaded)
    if spec.random_weights:
        _say(_LOUD.format(why=f"seed {options.seed}, no training."))
    _say(f"{spec.model} ({spec.pretrained}): {_describe(spec)}")
    for doubt in loaded.doubts:
        _say(f"warning: {doubt}")
    text = _text_tower(options, loaded)
    with ExitStack() as stack:
        folder = stack.enter_context(staging(options.repository, family.encoder))
        parities = _write_all(options, loaded, folder, int8_required=int8_required)
        spec = dataclasses.replace(spec, min_cosine=_least_cosines(parities), artifacts=_artifacts(folder))
        publish_text = stack.enter_context(_staged_text(options, text)) if text else None
        version = publish(folder, options.repository, spec, partial(_changed, options), family)
        text_version = publish_text() if publish_text else None
    took = time.monotonic() - begin
    _say(f"published version {version} in {options.repository / family.encoder} after {took:.0f} s")
    if text_version is not None:
        text_encoder = options.repository / TextFamily(options.name).encoder
        _say(f"published version {text_version} in {text_encoder}")
    return {
        "version": version,
        "text_version": text_version,
        "model": spec.model,
        "pretrained": spec.pretrained,
        "random_weights": spec.random_weights,
        "weights_sha256": spec.weights_sha256,
        "activation": spec.activation,
        "warnings": list(loaded.doubts),
        "artifacts": spec.artifacts,
        "embedding_dim": spec.embedding_dim,
        "seconds": round(took, 1),
        "min_cosine": spec.min_cosine,
        "parity": [vars(parity) for parity in parities],
    }


def _load(options: argparse.Namespace) -> Any:
    from clip_export.load import load

    def attempt(pretrained: str | None) -> Any:
        weights = {None: "its weights", "none": "random weights"}.get(pretrained, pretrained)
        is_local = pretrained == "none" or options.model.startswith("local-dir:")
        download = "" if is_local else " (fails after a minute if no hub answers)"
        _say(f"loading {options.model} with {weights}{download} ...")
        return load(
            options.model,
            pretrained,
            seed=options.seed,
            preprocess_from=options.preprocess_from,
            force_quick_gelu=options.force_quick_gelu,
        )

    try:
        return attempt(options.pretrained)
    except HubUnreachable as error:
        if not options.fallback_random:
            raise
        _say(f"{error}\nContinuing with random weights, because --fallback-random was given.")
        return attempt("none")


def _text_tower(options: argparse.Namespace, loaded: Any) -> Any:
    """The text tower to export; None if it was not asked for, or by default if it cannot be served."""
    from clip_export.text import load_text
    from clip_export.tokenizer import hub_tokenizer

    if options.towers is not None and "text" not in options.towers:
        return None
    if (hub := hub_tokenizer(options.model)) and not options.model.startswith("local-dir:"):
        _say(f"loading the tokenizer of {hub} (fails after a minute if no hub answers) ...")
    try:
        return load_text(loaded)
    except NoTextTower as error:
        if options.towers is not None:
            raise
        _say(f"the image tower alone is exported: {error}")
        return None


@contextmanager
def _staged_text(options: argparse.Namespace, text: Any) -> Iterator[Callable[[], int]]:
    """Writes and verifies the text tower; yields the function that publishes it."""
    from clip_export.artifacts import stage_text
    from clip_export.publish import publish, staging

    family = TextFamily(options.name)
    _, tokenize, encoder = family.models
    with staging(options.repository, encoder) as folder:
        formats = [name for name in options.formats if name in TEXT_FORMATS]
        stage_text(formats, text, folder, _say, tokenize)
        spec = dataclasses.replace(text.spec, artifacts=_artifacts(folder))
        change = partial(_text_changed, options)
        yield lambda: publish(folder, options.repository, spec, change, family)


def _write_all(options: argparse.Namespace, loaded: Any, folder: Path, *, int8_required: bool) -> list[Any]:
    """Writes the chosen formats, and proof.npz for the servers; returns the measured parities."""
    from clip_export.artifacts import write_and_verify, write_int8
    from clip_export.verify import PROOF_PHOTOS, photo_proof

    found: list[Any] = []
    for name in options.formats:
        if name != "onnx-int8":
            found += write_and_verify(name, loaded, folder, _say)
    if "onnx-fp32" in options.formats:
        photos = photo_proof(loaded, options.verify_photos)
        photos.first(PROOF_PHOTOS).save(folder)
        if "onnx-int8" in options.formats:
            found += write_int8(folder, photos, _say, required=int8_required)
    return found


def _artifacts(folder: Path) -> dict[str, dict[str, str | int]]:
    from clip_export.artifacts import describe

    found = describe(folder)
    for name, facts in found.items():
        if facts["oldest_triton"] == "unknown":
            _say(f"warning: no Triton release is known to load {name}, which torch {facts['torch']} wrote")
    return found


def _least_cosines(parities: list[Any]) -> dict[str, float]:
    """The least cosine by precision. TorchScript is fp32 too, but is not served on a CPU."""
    found: dict[str, float] = {}
    for parity in parities:
        form, _, precision = parity.artifact.partition("-")
        if form == "onnx":
            found[precision] = min(found.get(precision, 1.0), round(parity.min_cosine, 7))
    return found


def _describe(spec: ModelSpec) -> str:
    height, width = spec.image_size
    return (
        f"{height}x{width} pixels, {spec.resize_mode}, {spec.interpolation}, "
        f"{spec.embedding_dim} dimensions, {spec.activation or 'unknown'} activation, "
        f"weights sha256 {spec.weights_sha256[:12]}"
    )


def _say(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
