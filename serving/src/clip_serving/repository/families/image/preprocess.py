"""The config of `clip_image_preprocess`: encoded photos to the encoder's pixels, on the CPU."""

from __future__ import annotations

from tritonclient.grpc import model_config_pb2 as pb

from clip_serving import defaults
from clip_serving.repository.families.configs import model_config, parameters
from clip_serving.repository.families.image import facts, tensors
from clip_serving.repository.families.image.settings import ImageSettings
from clip_serving.repository.spec import ModelSpec


def config(spec: ModelSpec, settings: ImageSettings) -> pb.ModelConfig:
    preferred = min(defaults.PREPROCESS_PREFERRED_BATCH_SIZE, settings.max_batch_size)
    return model_config(
        {
            "name": defaults.PREPROCESS,
            "backend": "python",
            "max_batch_size": settings.max_batch_size,
            "input": [tensors.IMAGE],
            "output": [tensors.pixels(spec), tensors.VALID, *tensors.ABOUT_PHOTOS],
            # No queue delay: a fuller batch gains nothing before the decoder. The bound on the queue rejects
            # what an overloaded server could not answer in time, before it costs a decode.
            "dynamic_batching": {
                "preferred_batch_size": [preferred],
                "default_queue_policy": {"max_queue_size": settings.max_queue_size},
            },
            "instance_group": [{"kind": "KIND_CPU", "count": settings.preprocess_instances}],
            "parameters": parameters(
                {
                    **facts.of_pixels(spec, settings),
                    "reference_image": spec.reference_image,
                    "threads": settings.preprocess_threads,
                    "niceness": defaults.PREPROCESS_NICENESS,
                }
            ),
        }
    )
