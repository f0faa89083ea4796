"""Renders every config.pbtxt of the repository from the spec and the deployment's settings.

The texts go through Triton's own ModelConfig protobuf, so a misspelt field or a wrong type fails
here and not when the server loads the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2 as pb

from clip_serving import defaults
from clip_serving.defaults import EncoderPrecision
from clip_serving.errors import ConfigurationError
from clip_serving.files import write_all_atomically
from clip_serving.repository.deployment import DeploymentSettings, preprocess_settings
from clip_serving.repository.spec import ModelSpec

_HEADER = "# Rendered by clip-export from the model's spec; edit the spec or the settings, not this file.\n"
_RANDOM = "# RANDOM WEIGHTS (seeded): these embeddings are NOT CLIP's and mean nothing outside a test.\n"

_MODEL_PY = "from clip_serving.triton_models.{} import TritonPythonModel as TritonPythonModel\n"


def encoder_model_py() -> str:
    """The `model.py` that clip-export puts into each of the encoder's version directories."""
    return _MODEL_PY.format("encoder")


def reference_min_cosine(precision: EncoderPrecision) -> float:
    """What a server's reference embedding must reach: less for int8, which is proved on photos besides."""
    return defaults.MIN_COSINE["int8"] if precision == "int8" else defaults.REFERENCE_MIN_COSINE


def render_all(
    spec: ModelSpec,
    deployment: DeploymentSettings | None = None,
    encoder_version: int | None = None,
) -> dict[str, str]:
    """Every config.pbtxt of the repository: path relative to its root -> protobuf text.

    `encoder_version` pins the encoder to one version directory; None serves the newest. In the order in
    which they are to be written: the encoder's, which say what is served, last.
    """
    deployment = deployment or DeploymentSettings()
    variants = f"{defaults.ENCODER}/configs"
    configs = {
        f"{defaults.ENSEMBLE}/config.pbtxt": _ensemble(spec, deployment, encoder_version),
        f"{defaults.ENSEMBLE}/configs/torchscript.pbtxt": _ensemble(
            spec, deployment, encoder_version, encoder_output=_TORCHSCRIPT_OUTPUT
        ),
        f"{defaults.PREPROCESS}/config.pbtxt": _preprocess(spec, deployment),
        f"{variants}/cpu.pbtxt": _cpu(spec, deployment, encoder_version),
        f"{variants}/tensorrt.pbtxt": _tensorrt(spec, deployment, encoder_version),
        f"{variants}/torchscript.pbtxt": _torchscript(spec, deployment, encoder_version),
        f"{defaults.ENCODER}/config.pbtxt": _onnx_gpu(spec, deployment, encoder_version),
    }
    notice = _HEADER + (_RANDOM if spec.random_weights else "")
    return {path: notice + _to_text(config) for path, config in configs.items()}


def write_repository(
    root: Path,
    spec: ModelSpec,
    deployment: DeploymentSettings | None = None,
    *,
    encoder_version: int | None = None,
) -> None:
    """Writes the parts that never change and the rendered configs, of which the encoder's come last.

    All are on the disk before the first takes its place: a full disk changes nothing.
    """
    # Triton wants a version directory of an ensemble too, and git keeps no empty ones.
    texts = {
        f"{defaults.ENSEMBLE}/1/.gitkeep": "",
        f"{defaults.PREPROCESS}/1/model.py": _MODEL_PY.format("preprocess"),
    }
    texts.update(render_all(spec, deployment, encoder_version))
    write_all_atomically({root / path: text for path, text in texts.items()})


def _model_config(fields: dict[str, Any]) -> pb.ModelConfig:
    try:
        return json_format.ParseDict(fields, pb.ModelConfig())
    except json_format.ParseError as error:
        raise ConfigurationError(f"Triton has no such model setting: {error}") from error


def _to_text(config: pb.ModelConfig) -> str:
    text: str = text_format.MessageToString(config, as_utf8=True)
    return text


def _parameters(values: dict[str, object]) -> dict[str, Any]:
    return {key: {"string_value": _plain(value)} for key, value in values.items()}


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _tensor(name: str, data_type: str, dims: list[int]) -> dict[str, Any]:
    return {"name": name, "data_type": data_type, "dims": dims}


def _pixels(spec: ModelSpec) -> dict[str, Any]:
    height, width = spec.image_size
    return _tensor("pixels", "TYPE_UINT8", [height, width, 3])


_TORCHSCRIPT_OUTPUT = "embedding__0"
_VALID = _tensor("valid", "TYPE_BOOL", [1])
_IMAGE = _tensor("image", "TYPE_STRING", [1])
_ERROR = _tensor("error", "TYPE_STRING", [1])
# FP64, so that a client tells it from the embedding by its type.
_STAGE_SECONDS = _tensor("stage_seconds", "TYPE_FP64", [2])


def _embedding(spec: ModelSpec) -> dict[str, Any]:
    return _tensor("embedding", "TYPE_FP32", [spec.embedding_dim])


def _version_policy(version: int | None) -> dict[str, Any]:
    return {"latest": {"num_versions": 1}} if version is None else {"specific": {"versions": [version]}}


def _ensemble(
    spec: ModelSpec,
    deployment: DeploymentSettings,
    encoder_version: int | None,
    encoder_output: str = "embedding",
) -> pb.ModelConfig:
    height, width = spec.image_size
    return _model_config(
        {
            "name": defaults.ENSEMBLE,
            "platform": "ensemble",
            "max_batch_size": deployment.max_batch_size,
            "input": [_IMAGE],
            "output": [_embedding(spec), _ERROR, _STAGE_SECONDS],
            "ensemble_scheduling": {
                "step": [
                    {
                        "model_name": defaults.PREPROCESS,
                        "model_version": -1,
                        "input_map": {"image": "image"},
                        "output_map": {name: name for name in ("pixels", "valid", "error", "stage_seconds")},
                    },
                    {
                        "model_name": defaults.ENCODER,
                        "model_version": -1,
                        "input_map": {"pixels": "pixels", "valid": "valid"},
                        "output_map": {encoder_output: "embedding"},
                    },
                ]
            },
            "parameters": _parameters(
                {
                    "model": spec.model,
                    "pretrained": spec.pretrained,
                    "weights_sha256": spec.weights_sha256,
                    "random_weights": spec.random_weights,
                    "embedding_dim": spec.embedding_dim,
                    "image_size": f"{height}x{width}",
                    "encoder_version": "latest" if encoder_version is None else encoder_version,
                    "reference_image": spec.reference_image,
                    "reference_embedding": spec.reference_embedding,
                    "reference_min_cosine": reference_min_cosine(deployment.encoder_precision),
                    # What a client that only sees the ensemble may want to know of its stages.
                    "max_bytes": deployment.limits.max_bytes,
                    "quality": deployment.quality,
                    "apply_exif_orientation": deployment.apply_exif_orientation,
                    "encoder_precision": deployment.encoder_precision,
                }
            ),
        }
    )


def _preprocess(spec: ModelSpec, deployment: DeploymentSettings) -> pb.ModelConfig:
    settings = preprocess_settings(spec, deployment)
    return _model_config(
        {
            "name": defaults.PREPROCESS,
            "backend": "python",
            "max_batch_size": deployment.max_batch_size,
            "input": [_IMAGE],
            "output": [_pixels(spec), _VALID, _ERROR, _STAGE_SECONDS],
            # No queue delay: waiting for a fuller batch buys nothing before the decoder. The bound on the
            # queue refuses what a server behind its load could not answer in time, before it costs a decode.
            "dynamic_batching": {
                "preferred_batch_size": preprocess_batches(deployment.max_batch_size),
                "default_queue_policy": {"max_queue_size": deployment.max_queue_size},
            },
            "instance_group": [{"kind": "KIND_CPU", "count": deployment.preprocess_instances}],
            "parameters": _parameters(
                {
                    **settings.to_parameters(),
                    "threads": deployment.preprocess_threads,
                    "niceness": defaults.PREPROCESS_NICENESS,
                }
            ),
        }
    )


def preprocess_batches(most: int) -> list[int]:
    """Preprocess's preferred batch sizes where `most` is the largest batch."""
    return [min(defaults.PREPROCESS_PREFERRED_BATCH_SIZE, most)]


def encoder_batches(sizes: Sequence[int], most: int) -> list[int]:
    """Those of the encoder's preferred batch sizes that are not above the largest batch."""
    return [size for size in sizes if size <= most]


def _encoder(
    spec: ModelSpec, deployment: DeploymentSettings, version: int | None, fields: dict[str, Any]
) -> pb.ModelConfig:
    preferred = encoder_batches(deployment.preferred_batch_sizes, deployment.max_batch_size)
    common: dict[str, Any] = {
        "name": defaults.ENCODER,
        "max_batch_size": deployment.max_batch_size,
        "version_policy": _version_policy(version),
        "input": [_pixels(spec), _VALID],
        "output": [_embedding(spec)],
        "dynamic_batching": {
            "preferred_batch_size": preferred,
            "max_queue_delay_microseconds": deployment.max_queue_delay_us,
        },
    }
    return _model_config({**common, **fields})


def _warm_up(spec: ModelSpec, deployment: DeploymentSettings) -> list[dict[str, Any]]:
    height, width = spec.image_size
    sizes = sorted({1, *deployment.preferred_batch_sizes} & set(range(deployment.max_batch_size + 1)))
    return [
        {
            "name": f"batch_{size}",
            "batch_size": size,
            "inputs": {
                "pixels": {
                    "data_type": "TYPE_UINT8",
                    "dims": [height, width, 3],
                    "random_data": True,
                },
                "valid": {"data_type": "TYPE_BOOL", "dims": [1], "zero_data": True},
            },
        }
        for size in sizes
    ]


def _gpu(spec: ModelSpec, deployment: DeploymentSettings) -> dict[str, Any]:
    return {
        "instance_group": [{"kind": "KIND_GPU", "count": deployment.encoder_instances}],
        "model_warmup": _warm_up(spec, deployment),
    }


def _onnx_gpu(spec: ModelSpec, deployment: DeploymentSettings, version: int | None) -> pb.ModelConfig:
    fields = {
        "backend": "onnxruntime",
        "default_model_filename": defaults.ONNX_FP16_FILE,
        **_gpu(spec, deployment),
    }
    return _encoder(spec, deployment, version, fields)


def _cpu(spec: ModelSpec, deployment: DeploymentSettings, version: int | None) -> pb.ModelConfig:
    fields = {
        "backend": "python",
        "instance_group": [{"kind": "KIND_CPU", "count": deployment.encoder_instances}],
        "parameters": _parameters(
            {"precision": deployment.encoder_precision, "threads": deployment.encoder_threads}
        ),
    }
    return _encoder(spec, deployment, version, fields)


def _tensorrt(spec: ModelSpec, deployment: DeploymentSettings, version: int | None) -> pb.ModelConfig:
    """The onnxruntime backend with TensorRT inside; engines are built once and cached on a volume."""
    height, width = spec.image_size

    def profile(batch: int) -> str:
        return f"pixels:{batch}x{height}x{width}x3,valid:{batch}x1"

    accelerator = {
        "name": "tensorrt",
        "parameters": {
            "trt_engine_cache_enable": "true",
            "trt_engine_cache_path": defaults.TENSORRT_CACHE,
            "trt_timing_cache_enable": "true",
            "trt_timing_cache_path": defaults.TENSORRT_CACHE,
            "trt_profile_min_shapes": profile(1),
            "trt_profile_opt_shapes": profile(max(1, deployment.max_batch_size // 2)),
            "trt_profile_max_shapes": profile(deployment.max_batch_size),
        },
    }
    fields = {
        "backend": "onnxruntime",
        "default_model_filename": defaults.ONNX_FP16_FILE,
        "optimization": {"execution_accelerators": {"gpu_execution_accelerator": [accelerator]}},
        **_gpu(spec, deployment),
    }
    return _encoder(spec, deployment, version, fields)


def _torchscript(spec: ModelSpec, deployment: DeploymentSettings, version: int | None) -> pb.ModelConfig:
    """Inputs go by forward()'s argument names; the backend insists on `__<index>` for outputs."""
    fields = {
        "backend": "pytorch",
        "default_model_filename": defaults.TORCHSCRIPT_FILE,
        "parameters": _parameters({"INFERENCE_MODE": True}),
        **_gpu(spec, deployment),
    }
    config = _encoder(spec, deployment, version, fields)
    config.output[0].name = _TORCHSCRIPT_OUTPUT
    return config
