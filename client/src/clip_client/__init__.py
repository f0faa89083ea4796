"""CLIP embeddings of photos, from a clip-triton server.

from clip_client import ClipClient

with ClipClient("127.0.0.1:8001") as client:
    vectors = client.embed(["a.jpg", "b.jpg"])     # float32 [2, D], L2-normalized
"""

from clip_client.aio import AsyncClipClient
from clip_client.check import CheckResult, check
from clip_client.client import ClipClient
from clip_client.errors import (
    ClipClientError,
    ItemError,
    MissingExtra,
    ServerBusy,
    ServerCrash,
    ServerMismatch,
    ServerUnavailable,
    SinkError,
    SourceError,
)
from clip_client.pipeline import RunOptions, embed_all
from clip_client.requests.channel import ConnectionOptions, Transport
from clip_client.requests.servers import ServerStatus
from clip_client.requests.wire import ModelInfo
from clip_client.results import Notice, PhotoResult
from clip_client.sinks import open_sink
from clip_client.sinks.base import EmbeddedObject, Existing, Sink, StoredRow
from clip_client.sources import open_source
from clip_client.sources.base import ObjectInfo, Source, SourceOptions
from clip_client.timings import Stage, TimedAnswer, Timings

__all__ = [
    "AsyncClipClient",
    "CheckResult",
    "ClipClient",
    "ClipClientError",
    "ConnectionOptions",
    "EmbeddedObject",
    "Existing",
    "ItemError",
    "MissingExtra",
    "ModelInfo",
    "Notice",
    "ObjectInfo",
    "PhotoResult",
    "RunOptions",
    "ServerBusy",
    "ServerCrash",
    "ServerMismatch",
    "ServerStatus",
    "ServerUnavailable",
    "Sink",
    "SinkError",
    "Source",
    "SourceError",
    "SourceOptions",
    "Stage",
    "StoredRow",
    "TimedAnswer",
    "Timings",
    "Transport",
    "check",
    "embed_all",
    "open_sink",
    "open_source",
]
