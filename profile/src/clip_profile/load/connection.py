"""TLS and headers for a running server, for Triton's client and for perf_analyzer.

A header's value may be a secret, so it is written to neither run folders nor reports.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from typing import Any

from tritonclient.grpc import InferenceServerClient, InferenceServerClientPlugin

from clip_client import ConnectionOptions, ServerUnavailable
from clip_client.arguments import connection_of
from clip_client.terminal import printable
from clip_profile.errors import ProfileError

_FILES = {
    "root_certificates": "--ssl-grpc-root-certifications-file",
    "private_key": "--ssl-grpc-private-key-file",
    "certificate_chain": "--ssl-grpc-certificate-chain-file",
}
"""ConnectionOptions' fields, and perf_analyzer's options."""


def connection_for(options: argparse.Namespace) -> ConnectionOptions:
    """That of --url. Raises ProfileError for TLS or headers without it."""
    connection = connection_of(options)
    if connection != ConnectionOptions() and not options.url:
        raise ProfileError("TLS and headers need --url: the embedded server has neither")
    return connection


def connect(url: str, connection: ConnectionOptions) -> InferenceServerClient:
    """Triton's own client. Raises ServerUnavailable for a certificate that cannot be read."""
    files = {name: getattr(connection, name) for name in _FILES}
    paths = {name: str(path) for name, path in files.items() if path is not None}
    try:
        client = InferenceServerClient(url, ssl=connection.ssl, **paths)
    except OSError as error:
        raise ServerUnavailable(f"{error.filename}: {error.strerror}") from error
    client.register_plugin(_Headers(connection.headers))
    return client


class _Headers(InferenceServerClientPlugin):  # type: ignore[misc]
    """Adds headers to every call of Triton's client."""

    def __init__(self, headers: dict[str, str]) -> None:
        self._headers = headers

    def __call__(self, request: Any) -> None:
        request.headers = {**(request.headers or {}), **self._headers}


def perf_analyzer_arguments(connection: ConnectionOptions) -> list[str]:
    arguments = ["--ssl-grpc-use-ssl"] if connection.ssl else []
    for name, option in _FILES.items():
        path = getattr(connection, name)
        arguments += [option, str(path)] if path else []
    for name, value in connection.headers.items():
        arguments += ["-H", f"{name}:{value}"]
    return arguments


def redacted(words: Sequence[str], headers: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """A command line for people: without the values of its headers, and without control characters."""
    found = [printable(word) for word in words]
    for name, value in headers:
        pattern = re.compile(rf"({re.escape(name)}\s*:\s*){re.escape(value)}", re.IGNORECASE)
        found = [pattern.sub(r"\1...", word) for word in found]
    return tuple(found)
