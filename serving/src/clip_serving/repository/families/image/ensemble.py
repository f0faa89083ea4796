"""The config of `clip_image`, the ensemble that clients call."""

from __future__ import annotations

from tritonclient.grpc import model_config_pb2 as pb

from clip_serving import defaults
from clip_serving.repository.families.configs import max_inflight_requests, model_config, parameters
from clip_serving.repository.families.image import facts, tensors
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
            "parameters": parameters(facts.for_clients(spec, settings)),
        }
    )


def _max_inflight_requests(settings: ImageSettings) -> int:
    """Each instance of preprocess holds one batch, and one is prepared for it."""
    batches = 2 * settings.preprocess_instances
    return max_inflight_requests(settings.max_queue_size, batches * defaults.PREPROCESS_PREFERRED_BATCH_SIZE)
