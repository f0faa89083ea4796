"""Options that several commands share."""

from __future__ import annotations

import argparse
import math
import sys
from typing import Any

from clip_batch.dataset import recover
from clip_batch.engines.base import ClientOptions
from clip_batch.storage import Storage, open_storage
from clip_client import SourceOptions
from clip_client import defaults as client_defaults
from clip_client.arguments import add_connection_options, connection_of
from clip_client.sinks.base import describe_model
from clip_client.terminal import printable


def say(text: str) -> None:
    print(f"clip-batch: {printable(text, keep='')}", file=sys.stderr)


def add_common(parser: argparse.ArgumentParser, out: str = "out") -> None:
    add = parser.add_argument
    if out.startswith("-"):
        add(out, required=True, metavar="OUT", help="the folder of the job")
    else:
        add(out, metavar="OUT", help="the folder of the job, as given to plan")
    add("--json", action="store_true", help="print the result as one line of JSON on standard output")


def writable(out: str) -> Storage:
    """The output, without what a killed compaction has left."""
    storage = open_storage(out)
    storage.check()
    recover(storage)
    return storage


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """The fields of SourceOptions."""
    add = parser.add_argument_group("buckets").add_argument
    add("--user-project", metavar="PROJECT", help="the project to bill for a requester-pays bucket")
    add("--anonymous", action="store_true", help="read a public bucket without credentials")
    add("--load-timeout", type=seconds, default=client_defaults.LOAD_TIMEOUT_S, metavar="SECONDS",
        help="time limit for loading one object, retries included (default: %(default).0f)")  # fmt: skip
    add("--stall-timeout", type=seconds, default=client_defaults.STALL_TIMEOUT_S, metavar="SECONDS",
        help="longest wait for the next bytes of an object (default: %(default).0f)")  # fmt: skip


def source_options(options: argparse.Namespace, connections: int) -> SourceOptions:
    return SourceOptions(
        connections=connections,
        load_timeout_s=options.load_timeout,
        stall_timeout_s=options.stall_timeout,
        user_project=options.user_project,
        anonymous=options.anonymous,
    )


def add_server_options(parser: argparse.ArgumentParser, url: str | None) -> None:
    """The fields of ClientOptions."""
    add = parser.add_argument_group("server").add_argument
    add("--url", default=url, help="the server's gRPC address" + (" (default: %(default)s)" if url else ""))
    add("--model", default=client_defaults.MODEL,
        help="the model's name on the server (default: %(default)s)")  # fmt: skip
    add("--wait", type=seconds, default=client_defaults.WAIT_FOR_SERVER_S, metavar="SECONDS",
        help="how long to wait for the server to start (default: %(default).0f)")  # fmt: skip
    add_connection_options(parser)


def client_options(options: argparse.Namespace, **more: Any) -> ClientOptions:
    return ClientOptions(options.url, options.model, connection_of(options), wait_s=options.wait, **more)


def model_of(options: argparse.Namespace) -> dict[str, str] | None:
    """The description of the server's model; None without --url."""
    if options.url is None:
        return None
    with client_options(options).open() as client:
        return describe_model(client.info)


def count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError("must be a positive number of seconds")
    return value
