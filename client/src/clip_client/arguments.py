"""Command-line options for the connection to a server: TLS and headers."""

from __future__ import annotations

import argparse
from pathlib import Path

from clip_client.requests.channel import ConnectionOptions

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
