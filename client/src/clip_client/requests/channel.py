"""The connection to a server: gRPC options, credentials and headers, and the calls that a client makes.

The calls are NVIDIA's generated ones over a plain channel, because tritonclient's own client copies each
photo into a message, and the message into bytes, before gRPC sees it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from clip_client import defaults
from clip_client.errors import ServerUnavailable

CHANNEL_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Reconnect to a restarted server within seconds instead of gRPC's default of two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # Use all addresses of a name (`dns:///...`), not only the first that answers.
    ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
    # Connections of its own: those of other clients in the process may be waiting to reconnect.
    ("grpc.use_local_subchannel_pool", 1),
]

_INFER = "/inference.GRPCInferenceService/ModelInfer"


_RESOLVERS = ("dns", "unix", "unix-abstract", "vsock", "ipv4", "ipv6", "xds", "google-c2p")
"""gRPC's own schemes."""


def addresses(url: str | Sequence[str], *, ssl: bool) -> tuple[str, ...]:
    """The different addresses in `url`. Raises ValueError for none; see also require_address()."""
    urls = tuple(dict.fromkeys([url] if isinstance(url, str) else url))
    if not urls:
        raise ValueError("url must have at least one address")
    for each in urls:
        require_address(each, ssl=ssl)
    return urls


def require_address(url: str, *, ssl: bool) -> None:
    """Raises ServerUnavailable for an address that gRPC does not take, or takes for port 443."""
    scheme, _, rest = url.partition("://")
    if rest and scheme not in _RESOLVERS:
        raise ServerUnavailable(
            f"{url} is not a gRPC address. Write host:port with the gRPC port, usually {defaults.URL}"
        )
    if scheme in _RESOLVERS and "://" in url and not rest.strip("/"):
        raise ServerUnavailable(f"{url} has no host name. Write for example dns:///host:8001")
    is_plain = url.partition(":")[0] not in _RESOLVERS
    if is_plain and url.count(":") > 1 and not url.startswith("["):
        raise ServerUnavailable(f"{url} is not host:port. Write an IPv6 address in brackets: [::1]:8001")
    if is_plain and not ssl and not _PORT.search(url):
        raise ServerUnavailable(f"{url} has no port. Write host:port, such as {defaults.URL}")


_PORT = re.compile(r":\d+$")


@dataclass(frozen=True)
class ConnectionOptions:
    """How to reach a server. `headers` are sent with every call; the paths are of PEM files."""

    ssl: bool = False
    root_certificates: Path | None = None
    private_key: Path | None = None
    certificate_chain: Path | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # gRPC rejects header names with capital letters.
        lowered = {name.lower(): value for name, value in self.headers.items()}
        object.__setattr__(self, "headers", lowered)

    def open(self, url: str, grpc_module: Any = grpc) -> GrpcTransport:
        """A new connection; `grpc_module` is grpc, or grpc.aio for asyncio.

        Raises ServerUnavailable for a PEM file that cannot be read.
        """
        return GrpcTransport(self._channel(url, grpc_module), self.headers)

    def _channel(self, url: str, grpc_module: Any) -> Any:
        if not self.ssl:
            return grpc_module.insecure_channel(url, options=CHANNEL_OPTIONS)
        credentials = grpc.ssl_channel_credentials(
            _read("root certificates", self.root_certificates),
            _read("private key", self.private_key),
            _read("certificate chain", self.certificate_chain),
        )
        return grpc_module.secure_channel(url, credentials, options=CHANNEL_OPTIONS)


def _read(name: str, path: Path | None) -> bytes | None:
    try:
        return None if path is None else path.read_bytes()
    except OSError as error:
        raise ServerUnavailable(f"cannot read the {name} {path}: {error.strerror}") from error


class Transport(Protocol):
    """The Triton calls that a client makes. Pass another implementation to test without a server.

    ClipClient expects answers, AsyncClipClient expects awaitables. Each call raises grpc.RpcError,
    with status DEADLINE_EXCEEDED if it takes longer than `timeout_s`.
    """

    def infer(self, request: bytes, timeout_s: float) -> Any:
        """The ModelInferResponse to a serialized ModelInferRequest."""

    def config(self, model: str, timeout_s: float) -> Any:
        """The ModelConfigResponse for a model."""

    def statistics(self, model: str, timeout_s: float) -> Any:
        """The ModelStatisticsResponse for a model."""

    def ready(self, timeout_s: float) -> Any:
        """A ServerReadyResponse."""

    def close(self) -> Any:
        """Ends calls in flight."""


class GrpcTransport:
    """The Transport over a gRPC channel, sync or asyncio."""

    def __init__(self, channel: Any, headers: dict[str, str]) -> None:
        self._channel = channel
        self._stub = GRPCInferenceServiceStub(channel)
        # Without a serializer, gRPC sends the bytes of ModelInfo.request_bytes() unchanged.
        self._infer = channel.unary_unary(_INFER, response_deserializer=pb.ModelInferResponse.FromString)
        self._headers = tuple(headers.items())

    def infer(self, request: bytes, timeout_s: float) -> Any:
        return self._infer(request, timeout=timeout_s, metadata=self._headers)

    def config(self, model: str, timeout_s: float) -> Any:
        request = pb.ModelConfigRequest(name=model)
        return self._stub.ModelConfig(request, timeout=timeout_s, metadata=self._headers)

    def statistics(self, model: str, timeout_s: float) -> Any:
        request = pb.ModelStatisticsRequest(name=model)
        return self._stub.ModelStatistics(request, timeout=timeout_s, metadata=self._headers)

    def ready(self, timeout_s: float) -> Any:
        return self._stub.ServerReady(pb.ServerReadyRequest(), timeout=timeout_s, metadata=self._headers)

    def close(self) -> Any:
        return self._channel.close()
