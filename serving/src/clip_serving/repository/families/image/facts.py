"""What the configs tell clients: in their parameters, which Triton passes on."""

from __future__ import annotations

import json

from clip_preprocess import PIXELS_VERSION
from clip_serving import defaults
from clip_serving.defaults import EncoderPrecision
from clip_serving.repository.families.image.settings import ImageSettings, preprocess_settings
from clip_serving.repository.spec import ModelSpec


def of_pixels(spec: ModelSpec, settings: ImageSettings) -> dict[str, str]:
    """The settings and the version of the pixels that preprocess computes and the encoder expects."""
    return {
        **preprocess_settings(spec, settings).to_parameters(),
        "pixels_version": str(PIXELS_VERSION),
    }


def of_encoder(spec: ModelSpec, settings: ImageSettings) -> dict[str, object]:
    """For clients that send it pixels, and do not call the ensemble: it may not be on the same server."""
    pixels = json.dumps(of_pixels(spec, settings), sort_keys=True)
    return {**for_clients(spec, settings), "preprocess": pixels}


def _transform(spec: ModelSpec) -> str:
    """How pixels become the tower's input: the same weights embed differently after another one."""
    mean, std = (",".join(map(str, values)) for values in (spec.mean, spec.std))
    return f"{spec.resize_mode} {spec.interpolation} mean {mean} std {std}"


def reference_min_cosine(precision: EncoderPrecision) -> float:
    """The least cosine of a server's reference embedding; lower for int8, which is checked on photos too."""
    return defaults.MIN_COSINE["int8"] if precision == "int8" else defaults.REFERENCE_MIN_COSINE


def for_clients(spec: ModelSpec, settings: ImageSettings) -> dict[str, object]:
    """Facts for clients, which see only the metadata of the model that they call."""
    height, width = spec.image_size
    version = settings.encoder_version
    return {
        "model": spec.model,
        "pretrained": spec.pretrained,
        "weights_sha256": spec.weights_sha256,
        "activation": spec.activation,
        "transform": _transform(spec),
        "random_weights": spec.random_weights,
        "embedding_dim": spec.embedding_dim,
        "image_size": f"{height}x{width}",
        "encoder_version": "latest" if version is None else version,
        "reference_image": spec.reference_image,
        "reference_embedding": spec.reference_embedding,
        "reference_min_cosine": reference_min_cosine(settings.encoder_precision),
        "max_bytes": settings.max_bytes,
        "quality": settings.quality,
        "apply_exif_orientation": settings.apply_exif_orientation,
        "background": settings.background,
        "encoder_precision": settings.encoder_precision,
    }
