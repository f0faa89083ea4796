"""Every default of this distribution."""

from __future__ import annotations

from typing import Literal

from clip_preprocess.settings import Quality

Clean = Literal["lower", "whitespace", "canonicalize"]
"""open_clip's names: how a text is normalized before it is split into words."""

Precision = Literal["fp32", "bf16", "int8"]
"""The data type that a CPU encoder computes in."""
EncoderPrecision = Literal["auto", "fp32", "bf16", "int8"]
"""The setting: `auto` is bf16 if the CPU supports it and it passes its check, else fp32; never int8."""

Tier = Literal["decode", "encode"]
"""A part of a repository on servers of its own: the model that decodes photos, or the encoders."""

ENSEMBLE = "clip_image"
PREPROCESS = "clip_image_preprocess"
ENCODER = "clip_image_encoder"

TEXT_ENSEMBLE = "clip_text"
TOKENIZE = "clip_text_tokenize"
TEXT_ENCODER = "clip_text_encoder"

VOCABULARY_FILE = "merges.txt.gz"
"""Of a version directory of clip_text_tokenize: the merges of CLIP's byte-pair encoder, from open_clip."""

TOKENIZER_FILE = "tokenizer.json"
"""Instead of it, for a model with a Hugging Face tokenizer: the whole tokenizer."""

# Files of one encoder version directory.
ONNX_FP32_FILE = "model.onnx"
ONNX_FP16_FILE = "model.fp16.onnx"
ONNX_INT8_FILE = "model.int8.onnx"
FP16_GRAPH_LEVEL = 1
"""Triton's `optimization { graph { level } }` of the fp16 graph: ONNX Runtime's EXTENDED. At the default,
ALL, ONNX Runtime 1.28 to 1.32 crashes on a CPU while it loads the graph. Exports verify it at this level."""
TORCHSCRIPT_FILE = "model.pt"
PROOF_FILE = "proof.npz"

GRPC_PORT = 8001
HTTP_PORT = 8000
METRICS_PORT = 8002

GRPC_CONNECTION_AGE_MS = 300_000
"""Age at which the server asks a client to reconnect. A client that resolves a name then finds servers that
were added, and drops those that were removed."""
GRPC_CONNECTION_GRACE_MS = 120_000
"""How long requests in flight on such a connection may take: longer than the client's default deadline."""

MAX_BATCH_SIZE = 64
"""Like the settings below, for new repositories only: an existing one has its values in deployment.json."""
PREFERRED_BATCH_SIZES = (8, 16, 32, 64)
MAX_QUEUE_DELAY_US = 2000
"""Of the encoder. Preprocess has none: a delay there would only add latency."""
PREPROCESS_INSTANCES = 4
PREPROCESS_THREADS = 1
"""Photos of one batch that one preprocess instance decodes in parallel."""
ENCODER_INSTANCES = 1
ENCODER_THREADS = 1
"""Intra-op threads of one CPU encoder instance."""
ENCODER_PRECISION: EncoderPrecision = "auto"
MIN_COSINE: dict[Precision, float] = {"fp32": 0.9999, "bf16": 0.9999, "int8": 0.99}
"""Least cosine to fp32 on every photo of proof.npz; an encoder below it is not served."""
TENSORRT_CACHE = "/var/cache/clip-triton/tensorrt"
"""Where the TensorRT variant caches its engines: a writable volume of the container."""

QUALITY: Quality = "high"
"""On average within a fifth of a level of open_clip's pixels, at a third of its CPU time."""
MAX_STUCK_DECODES = 2
"""Threads stuck in a decoder at which a preprocess process exits, to be restarted without them."""
PREPROCESS_NICENESS = 10
"""Preprocess yields to a CPU encoder on the same cores. Decoded photos are embedded first, so load queues
before the decoder, where rejecting a request costs nothing."""
MAX_BACKLOG = 16
"""Decoded photos that may wait for one CPU encoder instance; preprocess holds further ones back."""
MAX_BACKLOG_WAIT_S = 30.0
"""How long preprocess holds photos back at most."""
MAX_QUEUE_SIZE = 64
"""Requests that may wait at preprocess; one more is rejected (UNAVAILABLE), and the client retries."""
PREPROCESS_PREFERRED_BATCH_SIZE = 4
"""How many waiting requests one instance takes at once. By default Triton gives it all of them, which leaves
the other instances idle and holds every photo until the slowest is done."""

TOKENIZE_INSTANCES = 1
"""A text takes less than a millisecond."""
MAX_TEXT_BYTES = 16384
"""Of one text: a text tower reads 300 or so."""
CACHED_WORDS = 65536
"""Words whose token ids one tokenizer keeps: about 10 MB."""

LEAST_INFLIGHT_REQUESTS = 32
"""Least `max_inflight_requests` of the ensemble. Triton runs the ensemble's callbacks in 8 threads; with a
limit near that number, those that wait for the encoder could keep out those that free it."""

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(128 << 20),
}
"""tritonserver's environment, in the launcher and in the image. A Python process of Triton is one decoder or
encoder instance, whose code sets its own number of threads; a pool per library would only compete with it.
glibc keeps freed memory for the next requests. By default it returns each photo's memory to the system and
faults it in again page by page, several times per photo."""

REFERENCE_MIN_COSINE = 0.999
"""A server whose reference embedding has a lower cosine is not ready; for int8, MIN_COSINE applies."""

CHECK_WAITS_S = (10.0, 20.0, 30.0)
"""How long the tries to embed the reference picture may take on a server that has just become ready. A
restarted server first answers the requests that waited for it."""

READY_TIMEOUT_S = 180.0
START_TRIES = 3
"""First starts of a server that crashes in them; a wrong setting or model is not tried again."""
STUB_TIMEOUT_S = 120
"""How long a Python process may take to start. Triton's 30 s are too few if many start on busy cores."""
EXIT_TIMEOUT_S = 10
"""How long tritonserver may take to finish the requests in flight after SIGTERM."""
RESTART_BACKOFF_S = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Delays before the 1st, 2nd, ... restart in a row; the last one repeats."""
STABLE_AFTER_S = 60.0
"""After running this long, a server restarts with the first delay again."""
MAX_CPU_ENCODER_INSTANCES = 4
"""Each has its own copy of the weights; more cores become threads of an instance."""
