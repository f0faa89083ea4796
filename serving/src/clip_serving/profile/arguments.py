"""Types of argparse options, and those that say how to reach a running server."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from clip_client import ConnectionOptions


def positive(text: str) -> float:
    value = float(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def at_least(least: int) -> Callable[[str], int]:
    def count(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is below {least}")
        return int(text)

    return count


def add_connection(parser: argparse.ArgumentParser) -> None:
    """As clip-embed has them; `connection_of` reads them."""
    tls = parser.add_argument_group("TLS and headers, with --url")
    tls.add_argument("--ssl", action="store_true", help="connect with TLS")
    for name in ("root-certificates", "private-key", "certificate-chain"):
        tls.add_argument(f"--{name}", type=Path, metavar="PEM")
    tls.add_argument("--header", action="append", default=[], metavar="NAME:VALUE", type=_header,
                     help="sent with every call; may be given again")  # fmt: skip


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME:VALUE")
    return name.strip(), value.strip()


def connection_of(options: argparse.Namespace) -> ConnectionOptions:
    return ConnectionOptions(
        ssl=options.ssl,
        root_certificates=options.root_certificates,
        private_key=options.private_key,
        certificate_chain=options.certificate_chain,
        headers=dict(options.header),
    )
