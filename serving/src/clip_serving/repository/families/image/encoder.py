"""The configs of `clip_image_encoder`: one for each format that it is served in.

docs/adr/0015 has the reasons for the GPU settings.
"""

from __future__ import annotations

import hashlib
from typing import Any

from tritonclient.grpc import model_config_pb2 as pb

from clip_serving import defaults
from clip_serving.repository.families.configs import (
    TORCHSCRIPT_OUTPUT,
    model_config,
    parameters,
    version_policy,
)
from clip_serving.repository.families.image import facts, tensors
from clip_serving.repository.families.image.settings import ImageSettings
from clip_serving.repository.spec import ModelSpec


def onnx_gpu(spec: ModelSpec, settings: ImageSettings) -> pb.ModelConfig:
    """The default: the fp16 graph in the onnxruntime backend, on a GPU."""
    return _encoder(spec, settings, _onnx_fp16(spec, settings))


def cpu(spec: ModelSpec, settings: ImageSettings) -> pb.ModelConfig:
    """The Python backend with clip_serving.triton_models.encoder."""
    fields = {
        "backend": "python",
        "instance_group": [{"kind": "KIND_CPU", "count": settings.encoder_instances}],
        "parameters": parameters(
            {"precision": settings.encoder_precision, "threads": settings.encoder_threads}
        ),
    }
    return _encoder(spec, settings, fields)


def tensorrt(spec: ModelSpec, settings: ImageSettings) -> pb.ModelConfig:
    """The onnxruntime backend with TensorRT inside; engines are built once and cached on a volume."""
    height, width = spec.image_size

    def profile(batch: int) -> str:
        return f"pixels:{batch}x{height}x{width}x3,valid:{batch}x1"

    accelerator = {
        "name": "tensorrt",
        "parameters": {
            "trt_engine_cache_enable": "true",
            "trt_engine_cache_path": defaults.TENSORRT_CACHE,
            "trt_engine_cache_prefix": _engine_prefix(spec),
            "trt_timing_cache_enable": "true",
            "trt_timing_cache_path": defaults.TENSORRT_CACHE,
            "trt_profile_min_shapes": profile(1),
            "trt_profile_opt_shapes": profile(max(1, settings.max_batch_size // 2)),
            "trt_profile_max_shapes": profile(settings.max_batch_size),
        },
    }
    fields = _onnx_fp16(spec, settings)
    fields["optimization"]["execution_accelerators"] = {"gpu_execution_accelerator": [accelerator]}
    return _encoder(spec, settings, fields)


def torchscript(spec: ModelSpec, settings: ImageSettings) -> pb.ModelConfig:
    """The PyTorch backend. Inputs are named like forward()'s arguments."""
    fields = {
        "backend": "pytorch",
        "default_model_filename": defaults.TORCHSCRIPT_FILE,
        "parameters": parameters({"INFERENCE_MODE": True}),
        **_gpu(spec, settings),
    }
    config = _encoder(spec, settings, fields)
    config.output[0].name = TORCHSCRIPT_OUTPUT
    return config


def _encoder(spec: ModelSpec, settings: ImageSettings, fields: dict[str, Any]) -> pb.ModelConfig:
    common: dict[str, Any] = {
        "name": defaults.ENCODER,
        "max_batch_size": settings.max_batch_size,
        "version_policy": version_policy(settings.encoder_version),
        "input": [tensors.pixels(spec), tensors.VALID],
        "output": [tensors.embedding(spec)],
        "dynamic_batching": {
            "preferred_batch_size": _batch_sizes(settings),
            "max_queue_delay_microseconds": settings.max_queue_delay_us,
        },
    }
    of_encoder = parameters(facts.of_encoder(spec, settings)) | fields.get("parameters", {})
    return model_config({**common, **fields, "parameters": of_encoder})


def _batch_sizes(settings: ImageSettings) -> list[int]:
    """Triton rejects a preferred batch size above the largest batch."""
    return [size for size in settings.preferred_batch_sizes if size <= settings.max_batch_size]


def _onnx_fp16(spec: ModelSpec, settings: ImageSettings) -> dict[str, Any]:
    return {
        "backend": "onnxruntime",
        "default_model_filename": defaults.ONNX_FP16_FILE,
        "optimization": {"graph": {"level": defaults.FP16_GRAPH_LEVEL}},
        "parameters": parameters(
            {
                # HEURISTIC. The default, EXHAUSTIVE, times every algorithm again for each new batch size.
                # Read only here: in the options of the `cuda` accelerator the backend overwrites it.
                "cudnn_conv_algo_search": 1,
                # The GPU does the work; by default each instance starts a thread per core.
                "intra_op_thread_count": 1,
            }
        ),
        **_gpu(spec, settings),
    }


def _gpu(spec: ModelSpec, settings: ImageSettings) -> dict[str, Any]:
    return {
        "instance_group": [{"kind": "KIND_GPU", "count": settings.encoder_instances}],
        # The delay alone: no batch size is much faster than its neighbors, so none is preferred.
        "dynamic_batching": {"max_queue_delay_microseconds": settings.max_queue_delay_us},
        "model_warmup": [_warm_up(spec, size) for size in _warm_up_sizes(settings.max_batch_size)],
    }


def _warm_up_sizes(largest: int) -> list[int]:
    """The largest batch first, so that memory is reserved once, then the powers of two below it.

    Any size up to the largest occurs; the others use the kernels of the sizes beside them.
    """
    return [largest, *(1 << power for power in reversed(range((largest - 1).bit_length())))]


def _engine_prefix(spec: ModelSpec) -> str:
    """Distinguishes cached TensorRT engines by the values in the graph: its weights, mean and std.

    ONNX Runtime names an engine after the graph's structure alone, and would serve the previous model's.
    """
    constants = hashlib.sha256(repr((spec.mean, spec.std)).encode()).hexdigest()
    return f"{spec.weights_sha256[:16] or 'not-exported'}-{constants[:8]}"


def _warm_up(spec: ModelSpec, batch: int) -> dict[str, Any]:
    height, width = spec.image_size
    return {
        "name": f"batch_{batch}",
        "batch_size": batch,
        "inputs": {
            "pixels": {"data_type": "TYPE_UINT8", "dims": [height, width, 3], "random_data": True},
            "valid": {"data_type": "TYPE_BOOL", "dims": [1], "zero_data": True},
        },
    }
