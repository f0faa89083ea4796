"""Every default of this distribution, once."""

from __future__ import annotations

from typing import Literal

from clip_preprocess.settings import Quality

Precision = Literal["fp32", "bf16", "int8"]
"""What a CPU encoder computes in."""
EncoderPrecision = Literal["auto", "fp32", "bf16", "int8"]
"""What is asked of it: `auto` is bf16 where the CPU has it and it proves right, else fp32; never int8."""

ENSEMBLE = "clip_image"
PREPROCESS = "clip_image_preprocess"
ENCODER = "clip_image_encoder"

# Files of one encoder version directory.
ONNX_FP32_FILE = "model.onnx"
ONNX_FP16_FILE = "model.fp16.onnx"
ONNX_INT8_FILE = "model.int8.onnx"
TORCHSCRIPT_FILE = "model.pt"
PROOF_FILE = "proof.npz"

GRPC_PORT = 8001
HTTP_PORT = 8000
METRICS_PORT = 8002

GRPC_CONNECTION_AGE_MS = 300_000
"""After which the server asks a client to connect anew: one that resolves its name again then finds servers
that came since, and no longer those that went."""
GRPC_CONNECTION_GRACE_MS = 120_000
"""For the requests in flight on it: more than the client's own deadline, unless
`clip-embed --deadline` is longer."""

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
ENCODER_PRECISION: EncoderPrecision = "auto"
MIN_COSINE: dict[Precision, float] = {"fp32": 0.9999, "bf16": 0.9999, "int8": 0.99}
"""To fp32, on every photo of the proof: less is not served."""
TENSORRT_CACHE = "/var/cache/clip-triton/tensorrt"
"""Where the TensorRT variant keeps its engines: a writable volume of the container."""

QUALITY: Quality = "high"
"""Pixels within a fifth of a level of open_clip's on average, for a third of its CPU."""
MAX_STUCK_DECODES = 2
"""Threads lost to photos that never end, after which a preprocess process asks to be renewed."""
PREPROCESS_NICENESS = 10
"""Preprocess yields to a CPU encoder on the same cores: photos that are decoded already come first, so
that load piles up at the first step, where it can be refused for nothing."""
MAX_QUEUE_SIZE = 64
"""Requests waiting at preprocess; one more is refused at once (UNAVAILABLE), and the client retries."""
PREPROCESS_PREFERRED_BATCH_SIZE = 4
"""So many waiting requests go to one instance at once. All, which is Triton's own way, would load one
instance and leave the others idle, and keep every photo until the slowest is done."""

MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(128 << 20)}
"""tritonserver's environment: glibc keeps the memory of requests for the next ones. It would return each
photo's to the system and fetch it again page by page, several times a photo."""

REFERENCE_MIN_COSINE = 0.999
"""A server whose reference embedding is further off than this is not ready; of int8, than MIN_COSINE."""

CHECK_WAITS_S = (10.0, 20.0, 30.0)
"""How long a server that has just become ready may take to embed the reference picture: a first try, and
more where none was answered. One that is started again has all that waited for it to do first."""

READY_TIMEOUT_S = 180.0
EXIT_TIMEOUT_S = 10
"""How long tritonserver may finish the requests in flight after SIGTERM."""
RESTART_BACKOFF_S = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Waits before the 1st, 2nd, ... restart in a row; the last one repeats."""
STABLE_AFTER_S = 60.0
"""A server that has run this long starts again at the first back-off."""
MAX_CPU_ENCODER_INSTANCES = 4
"""Each holds its own copy of the weights; beyond this, cores go into threads of an instance."""
