"""The configs of clip_text, which runs clip_text_tokenize and then clip_text_encoder."""

from __future__ import annotations

from typing import Any

from tritonclient.grpc import model_config_pb2 as pb

from clip_serving import defaults
from clip_serving.repository.families.configs import (
    TORCHSCRIPT_OUTPUT,
    max_inflight_requests,
    model_config,
    parameters,
    version_policy,
)
from clip_serving.repository.families.text import tensors
from clip_serving.repository.families.text.settings import TextSettings
from clip_serving.repository.spec import TextSpec


def ensemble(spec: TextSpec, settings: TextSettings, encoder_output: str = "embedding") -> pb.ModelConfig:
    """`clip_text`, the model that clients call."""
    # Each instance of tokenize holds a batch, and one is prepared for it.
    in_instances = 2 * settings.tokenize_instances * settings.max_batch_size
    return model_config(
        {
            "name": defaults.TEXT_ENSEMBLE,
            "platform": "ensemble",
            "max_batch_size": settings.max_batch_size,
            "input": [tensors.TEXT],
            "output": [tensors.embedding(spec), tensors.ERROR, tensors.NOTICE],
            "ensemble_scheduling": {
                "max_inflight_requests": max_inflight_requests(settings.max_queue_size, in_instances),
                "step": [
                    {
                        "model_name": defaults.TOKENIZE,
                        "model_version": -1,
                        "input_map": {"text": "text"},
                        "output_map": {name: name for name in ("tokens", "valid", "error", "notice")},
                    },
                    {
                        "model_name": defaults.TEXT_ENCODER,
                        "model_version": -1,
                        "input_map": {"tokens": "tokens", "valid": "valid"},
                        "output_map": {encoder_output: "embedding"},
                    },
                ],
            },
            "parameters": parameters(_for_clients(spec, settings)),
        }
    )


def tokenize(spec: TextSpec, settings: TextSettings) -> pb.ModelConfig:
    """`clip_text_tokenize`: texts to token ids, on the CPU."""
    return model_config(
        {
            "name": defaults.TOKENIZE,
            "backend": "python",
            "max_batch_size": settings.max_batch_size,
            # Its versions hold the vocabulary of the encoder's version of the same number.
            "version_policy": version_policy(settings.encoder_version),
            "input": [tensors.TEXT],
            "output": [tensors.tokens(spec), tensors.VALID, tensors.ERROR, tensors.NOTICE],
            "dynamic_batching": {"default_queue_policy": {"max_queue_size": settings.max_queue_size}},
            "instance_group": [{"kind": "KIND_CPU", "count": settings.tokenize_instances}],
            "parameters": parameters(
                {
                    "context_length": spec.context_length,
                    "clean": spec.clean,
                    "max_bytes": settings.max_bytes,
                    **({} if spec.zeroed_token is None else {"zeroed_token": spec.zeroed_token}),
                }
            ),
        }
    )


def encoder_gpu(spec: TextSpec, settings: TextSettings) -> pb.ModelConfig:
    """`clip_text_encoder`: the fp16 graph in the onnxruntime backend, on a GPU."""
    fields = {
        "backend": "onnxruntime",
        "default_model_filename": defaults.ONNX_FP16_FILE,
        "optimization": {"graph": {"level": defaults.FP16_GRAPH_LEVEL}},
        "parameters": parameters({"intra_op_thread_count": 1}),
        "instance_group": [{"kind": "KIND_GPU", "count": settings.encoder_instances}],
    }
    return _encoder(spec, settings, fields)


def encoder_cpu(spec: TextSpec, settings: TextSettings) -> pb.ModelConfig:
    """The Python backend with clip_serving.triton_models.text_encoder, in fp32."""
    fields = {
        "backend": "python",
        "instance_group": [{"kind": "KIND_CPU", "count": settings.encoder_instances}],
        "parameters": parameters({"threads": settings.encoder_threads}),
    }
    return _encoder(spec, settings, fields)


def encoder_torchscript(spec: TextSpec, settings: TextSettings) -> pb.ModelConfig:
    """The PyTorch backend. Inputs are named like forward()'s arguments."""
    fields = {
        "backend": "pytorch",
        "default_model_filename": defaults.TORCHSCRIPT_FILE,
        "parameters": parameters({"INFERENCE_MODE": True}),
        "instance_group": [{"kind": "KIND_GPU", "count": settings.encoder_instances}],
    }
    config = _encoder(spec, settings, fields)
    config.output[0].name = TORCHSCRIPT_OUTPUT
    return config


def _encoder(spec: TextSpec, settings: TextSettings, fields: dict[str, Any]) -> pb.ModelConfig:
    common: dict[str, Any] = {
        "name": defaults.TEXT_ENCODER,
        "max_batch_size": settings.max_batch_size,
        "version_policy": version_policy(settings.encoder_version),
        "input": [tensors.tokens(spec), tensors.VALID],
        "output": [tensors.embedding(spec)],
        "dynamic_batching": {"max_queue_delay_microseconds": settings.max_queue_delay_us},
    }
    return model_config({**common, **fields})


def _for_clients(spec: TextSpec, settings: TextSettings) -> dict[str, object]:
    """Facts for clients, which see only the ensemble's metadata."""
    version = settings.encoder_version
    return {
        "model": spec.model,
        "pretrained": spec.pretrained,
        "weights_sha256": spec.weights_sha256,
        "random_weights": spec.random_weights,
        "embedding_dim": spec.embedding_dim,
        "context_length": spec.context_length,
        "encoder_version": "latest" if version is None else version,
        "logit_scale": spec.logit_scale,
        "logit_bias": "" if spec.logit_bias is None else spec.logit_bias,
        "max_bytes": settings.max_bytes,
        "reference_text": spec.reference_text,
        "reference_embedding": spec.reference_embedding,
        "reference_min_cosine": defaults.REFERENCE_MIN_COSINE,
    }
