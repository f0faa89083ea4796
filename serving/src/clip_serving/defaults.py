"""Every default of this distribution, once."""

from __future__ import annotations

ENSEMBLE = "clip_image"
PREPROCESS = "clip_image_preprocess"
ENCODER = "clip_image_encoder"

# Files of one encoder version directory.
ONNX_FP32_FILE = "model.onnx"
ONNX_FP16_FILE = "model.fp16.onnx"
TORCHSCRIPT_FILE = "model.pt"

GRPC_PORT = 8001
HTTP_PORT = 8000
METRICS_PORT = 8002

MAX_BATCH_SIZE = 64
PREFERRED_BATCH_SIZES = (8, 16, 32, 64)
MAX_QUEUE_DELAY_US = 2000
"""The encoder's alone: delaying preprocess would only add latency."""
PREPROCESS_INSTANCES = 4
ENCODER_INSTANCES = 1

MAX_BYTES = 32 * 1024 * 1024
"""Largest encoded file, in bytes."""
MAX_PIXELS = 100_000_000
"""Most pixels decoded for one photo (after the decoder's choice of scale)."""

REFERENCE_MIN_COSINE = 0.999
"""A server whose reference embedding is further off than this is not ready."""
