"""Photos to CLIP embeddings, through a clip-triton server.

from clip_client import ClipClient

with ClipClient("127.0.0.1:8001") as client:
    vectors = client.embed(["a.jpg", "b.jpg"])     # float32 [2, D], L2-normalised
"""

from clip_client.aio import AsyncClipClient
from clip_client.check import CheckResult, check
from clip_client.client import ClipClient
from clip_client.errors import (
    ClipClientError,
    ItemError,
    ServerBusy,
    ServerMismatch,
    ServerUnavailable,
    SinkError,
    SourceError,
)
from clip_client.requests.channel import ConnectionOptions
from clip_client.requests.wire import ModelInfo
from clip_client.timings import Stage, TimedAnswer, Timings

__all__ = [
    "AsyncClipClient",
    "CheckResult",
    "ClipClient",
    "ClipClientError",
    "ConnectionOptions",
    "ItemError",
    "ModelInfo",
    "ServerBusy",
    "ServerMismatch",
    "ServerUnavailable",
    "SinkError",
    "SourceError",
    "Stage",
    "TimedAnswer",
    "Timings",
    "check",
]
