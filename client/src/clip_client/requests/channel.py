"""How a server is reached: its address, credentials and headers, and those calls of Triton that are needed.

The calls are NVIDIA's generated ones, over a channel of our own: tritonclient's own client copies each photo
into a message, and the message into bytes, before gRPC sees it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from clip_client.errors import ServerUnavailable

CHANNEL_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A restarted server is found again within seconds, not within gRPC's default two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # Of a name with several addresses (`dns:///...`) all are used, not the first that answers.
    ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
]

_INFER = "/inference.GRPCInferenceService/ModelInfer"


@dataclass(frozen=True)
class ConnectionOptions:
    """How to reach a server. `headers` go with every call, in any case; the file paths are PEM."""

    ssl: bool = False
    root_certificates: Path | None = None
    private_key: Path | None = None
    certificate_chain: Path | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # gRPC refuses a header with a capital letter, whatever HTTP says of them.
        lowered = {name.lower(): value for name, value in self.headers.items()}
        object.__setattr__(self, "headers", lowered)

    def channel(self, url: str) -> grpc.Channel:
        """A new one. Raises ServerUnavailable for a file that cannot be read."""
        return self._open(url, grpc.insecure_channel, grpc.secure_channel)

    def async_channel(self, url: str) -> grpc.aio.Channel:
        """As channel(), for asyncio."""
        return self._open(url, grpc.aio.insecure_channel, grpc.aio.secure_channel)

    def _open(self, url: str, insecure: Callable[..., Any], secure: Callable[..., Any]) -> Any:
        if not self.ssl:
            return insecure(url, options=CHANNEL_OPTIONS)
        credentials = grpc.ssl_channel_credentials(
            _read("root certificates", self.root_certificates),
            _read("private key", self.private_key),
            _read("certificate chain", self.certificate_chain),
        )
        return secure(url, credentials, options=CHANNEL_OPTIONS)


def _read(name: str, path: Path | None) -> bytes | None:
    try:
        return None if path is None else path.read_bytes()
    except OSError as error:
        raise ServerUnavailable(f"{name} {path}: {error.strerror}") from error


class Calls:
    """Triton's calls over a channel; an asyncio channel's return awaitables. All raise grpc.RpcError.

    `timeout_s` bounds a call; at its end it fails with DEADLINE_EXCEEDED.
    """

    def __init__(self, channel: Any, headers: dict[str, str]) -> None:
        self._stub = GRPCInferenceServiceStub(channel)
        # Without a serializer gRPC takes bytes as they are: transport.request_bytes() has made them.
        self._infer = channel.unary_unary(_INFER, response_deserializer=pb.ModelInferResponse.FromString)
        self._headers = tuple(headers.items())

    def infer(self, request: bytes, timeout_s: float) -> Any:
        """The ModelInferResponse to a serialised ModelInferRequest."""
        return self._infer(request, timeout=timeout_s, metadata=self._headers)

    def config(self, model: str, timeout_s: float) -> Any:
        """A ModelConfigResponse."""
        request = pb.ModelConfigRequest(name=model)
        return self._stub.ModelConfig(request, timeout=timeout_s, metadata=self._headers)

    def statistics(self, model: str, timeout_s: float) -> Any:
        """A ModelStatisticsResponse."""
        request = pb.ModelStatisticsRequest(name=model)
        return self._stub.ModelStatistics(request, timeout=timeout_s, metadata=self._headers)

    def ready(self, timeout_s: float) -> Any:
        """A ServerReadyResponse."""
        return self._stub.ServerReady(pb.ServerReadyRequest(), timeout=timeout_s, metadata=self._headers)
