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
PREPROCESS_THREADS = 1
"""Photos of one batch that one preprocess instance decodes side by side."""
ENCODER_INSTANCES = 1
ENCODER_THREADS = 1
"""Intra-op threads of one CPU encoder instance."""
TENSORRT_CACHE = "/var/cache/clip-triton/tensorrt"
"""Where the TensorRT variant keeps its engines: a writable volume of the container."""

MAX_BYTES = 32 * 1024 * 1024
"""Largest encoded file, in bytes."""
MAX_PIXELS = 100_000_000
"""Most pixels decoded for one photo (after the decoder's choice of scale)."""

REFERENCE_MIN_COSINE = 0.999
"""A server whose reference embedding is further off than this is not ready."""

READY_TIMEOUT_S = 180.0
EXIT_TIMEOUT_S = 10
"""How long tritonserver may finish the requests in flight after SIGTERM."""
RESTART_BACKOFF_S = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Waits before the 1st, 2nd, ... restart in a row; the last one repeats."""
STABLE_AFTER_S = 60.0
"""A server that has run this long starts again at the first back-off."""
MAX_CPU_ENCODER_INSTANCES = 4
"""Each holds its own copy of the weights; beyond this, cores go into threads of an instance."""

MAX_RESIZED_PIXELS = 64_000_000
"""Largest resized whole that is made for the sake of bit-exactness. Beyond it (a strip of 5000 x 3
would become 373,333 x 224) only the crop is resized, at most some grey levels away."""
