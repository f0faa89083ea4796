"""Command-line options that several commands share: servers, where photos are decoded, buckets."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from clip_client import defaults
from clip_client.placement import CLIENT, SERVER, require_placement
from clip_client.requests.channel import ConnectionOptions
from clip_client.sources.base import SourceOptions

_FILES = {
    "root_certificates": "CA certificates to trust instead of the system's",
    "private_key": "this client's private key, if the server requires a certificate",
    "certificate_chain": "this client's certificate, if the server requires one",
}


def add_connection_options(parser: argparse.ArgumentParser, title: str = "TLS and headers") -> None:
    """Adds the fields of ConnectionOptions, under the same names."""
    group = parser.add_argument_group(title)
    group.add_argument("--ssl", action="store_true", help="connect with TLS")
    for name, text in _FILES.items():
        group.add_argument(f"--{name.replace('_', '-')}", type=Path, metavar="PEM", help=text)
    group.add_argument("--header", action="append", default=[], metavar="NAME:VALUE", type=_header,
                       help="a header to send with every call; can be repeated")  # fmt: skip


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME:VALUE")
    return name.strip(), value.strip()


def connection_of(options: argparse.Namespace) -> ConnectionOptions:
    """The ConnectionOptions in parsed arguments."""
    files = {name: getattr(options, name) for name in _FILES}
    return ConnectionOptions(ssl=options.ssl, **files, headers=dict(options.header))


def add_url_option(parser: argparse._ActionsContainer) -> None:
    """Adds --url, for urls()."""
    parser.add_argument("--url", action="append", help="a server's gRPC address; can be repeated, for "
        f"servers of the same model and settings (default: {defaults.URL})")  # fmt: skip


def urls(options: argparse.Namespace) -> list[str]:
    """The servers to use."""
    return options.url or [defaults.URL]


class _Decode(argparse.Action):
    """Appends addresses; server and client stand alone."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, value: Any, _: Any = None
    ) -> None:
        del parser
        given = [*(getattr(namespace, self.dest) or []), value]
        if len(given) > 1 and {SERVER, CLIENT} & {*given}:
            raise argparse.ArgumentError(self, "give server, client, or addresses, not both")
        setattr(namespace, self.dest, given)


def add_decode_option(parser: argparse.ArgumentParser) -> None:
    """Adds --decode, for decode()."""
    parser.add_argument("--decode", action=_Decode, type=placement, metavar="WHERE",
        help="where photos are decoded: server, client (sends pixels, and needs the extra decode), or the "
        f"gRPC address of a server that only decodes, which can be repeated (default: {defaults.DECODE})",
    )  # fmt: skip


def decode(options: argparse.Namespace) -> str | list[str]:
    """As for ClipClient."""
    given: list[str] = options.decode or [defaults.DECODE]
    return given[0] if len(given) == 1 else given


def placement(text: str) -> str:
    try:
        require_placement(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be server, client or host:port, not {text!r}") from error
    return text


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """The fields of SourceOptions."""
    add = parser.add_argument_group("buckets").add_argument
    add("--user-project", metavar="PROJECT", help="the project to bill for a requester-pays bucket")
    add("--anonymous", action="store_true", help="read a public bucket without credentials")
    add("--load-timeout", type=seconds, default=defaults.LOAD_TIMEOUT_S, metavar="SECONDS",
        help="time limit for loading one object, retries included (default: %(default).0f)")  # fmt: skip
    add("--stall-timeout", type=seconds, default=defaults.STALL_TIMEOUT_S, metavar="SECONDS",
        help="longest wait for the next bytes of an object (default: %(default).0f)")  # fmt: skip


def source_options(options: argparse.Namespace, connections: int) -> SourceOptions:
    """The SourceOptions in parsed arguments."""
    return SourceOptions(
        connections=connections,
        load_timeout_s=options.load_timeout,
        stall_timeout_s=options.stall_timeout,
        user_project=options.user_project,
        anonymous=options.anonymous,
    )


def count(text: str, least: int = 1) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, not {text!r}")
    return int(text)


def positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError("must be a positive number")
    return value


def seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError("must be a positive number of seconds")
    return value
