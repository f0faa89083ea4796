"""The config of `clip_image`, the ensemble that clients call."""

from __future__ import annotations

from tritonclient.grpc import model_config_pb2 as pb

from clip_serving import defaults
from clip_serving.defaults import EncoderPrecision
from clip_serving.repository.families.configs import model_config, parameters
from clip_serving.repository.families.image import tensors
from clip_serving.repository.families.image.settings import ImageSettings
from clip_serving.repository.spec import ModelSpec

_FROM_PREPROCESS = ["pixels", "valid", *(tensor["name"] for tensor in tensors.ABOUT_PHOTOS)]


def config(spec: ModelSpec, settings: ImageSettings, encoder_output: str = "embedding") -> pb.ModelConfig:
    return model_config(
        {
            "name": defaults.ENSEMBLE,
            "platform": "ensemble",
            "max_batch_size": settings.max_batch_size,
            "input": [tensors.IMAGE],
            "output": [tensors.embedding(spec), *tensors.ABOUT_PHOTOS],
            "ensemble_scheduling": {
                "max_inflight_requests": _max_inflight_requests(settings),
                "step": [
                    {
                        "model_name": defaults.PREPROCESS,
                        "model_version": -1,
                        "input_map": {"image": "image"},
                        "output_map": {name: name for name in _FROM_PREPROCESS},
                    },
                    {
                        "model_name": defaults.ENCODER,
                        "model_version": -1,
                        "input_map": {"pixels": "pixels", "valid": "valid"},
                        "output_map": {encoder_output: "embedding"},
                    },
                ],
            },
            "parameters": parameters(_for_clients(spec, settings)),
        }
    )


def cpu(spec: ModelSpec, settings: ImageSettings) -> pb.ModelConfig:
    """Without a field that the embedded server's release, 24.10, rejects as unknown."""
    found = config(spec, settings)
    found.ensemble_scheduling.ClearField("max_inflight_requests")
    return found


def _max_inflight_requests(settings: ImageSettings) -> int:
    """The most requests at one step, which bounds those that wait for the encoder; 0 is no limit.

    It exceeds what preprocess can hold (its queue, one batch in each instance and one prepared for it), so
    overload is still rejected there: Triton does not reject a request above this limit, it blocks a thread.
    """
    if settings.max_queue_size == 0:
        return 0
    in_instances = 2 * settings.preprocess_instances * defaults.PREPROCESS_PREFERRED_BATCH_SIZE
    return max(defaults.LEAST_INFLIGHT_REQUESTS, settings.max_queue_size + in_instances)


def _transform(spec: ModelSpec) -> str:
    """How pixels become the tower's input: the same weights embed differently after another one."""
    mean, std = (",".join(map(str, values)) for values in (spec.mean, spec.std))
    return f"{spec.resize_mode} {spec.interpolation} mean {mean} std {std}"


def reference_min_cosine(precision: EncoderPrecision) -> float:
    """The least cosine of a server's reference embedding; lower for int8, which is checked on photos too."""
    return defaults.MIN_COSINE["int8"] if precision == "int8" else defaults.REFERENCE_MIN_COSINE


def _for_clients(spec: ModelSpec, settings: ImageSettings) -> dict[str, object]:
    """Facts for clients, which see only the ensemble's metadata."""
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
