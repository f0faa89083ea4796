"""Options that several commands share."""

from __future__ import annotations

import argparse
import math
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from clip_batch.dataset import recover
from clip_batch.engines.base import ClientOptions
from clip_batch.errors import BatchError
from clip_batch.manifest import has_plans
from clip_batch.storage import Storage, open_storage
from clip_client import defaults as client_defaults
from clip_client.arguments import add_connection_options, add_url_option, connection_of, seconds, urls
from clip_client.sinks.base import describe_model
from clip_client.terminal import printable

Command = Callable[[argparse.Namespace], int]
"""Runs a command; returns its exit status."""


def say(text: str) -> None:
    print(f"clip-batch: {printable(text, keep='')}", file=sys.stderr)


def in_bytes(size: int) -> str:
    """A size in a unit that suits it, such as "2.1 MB"."""
    value = float(size)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:,.1f} TB"


@contextmanager
def progress(unit: str, *, quiet: bool = False) -> Iterator[Callable[[int, int | None], None]]:
    """A function that shows how many of how many are done, on a bar that is drawn only on a terminal."""
    with tqdm(unit=f" {unit}", disable=quiet or None, delay=0.5, dynamic_ncols=True, leave=False) as bar:

        def show(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


def describe(parser: argparse.ArgumentParser, command: Command, example: str, description: str) -> None:
    """Sets what the parser runs, and its help around the options. Each line of `example` is a command."""
    parser.set_defaults(command=command)
    parser.description = textwrap.fill(description, 100, break_on_hyphens=False)
    parser.epilog = "\n  clip-batch ".join(["example:", *example.splitlines()])
    parser.formatter_class = argparse.RawDescriptionHelpFormatter  # a wrapped example could not be copied


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


def planned(storage: Storage) -> Storage:
    """The output of a job. Raises BatchError if it has no plan: a mistyped OUT is not an empty job."""
    if not has_plans(storage):
        raise BatchError(
            f"{storage.uri} has no plan. Make one with: clip-batch plan SOURCE --out {storage.uri}"
        )
    return storage


def add_server_options(parser: argparse.ArgumentParser) -> None:
    """The fields of ClientOptions that all users of a server need."""
    group = parser.add_argument_group("server")
    add_url_option(group)
    group.add_argument("--model", default=client_defaults.MODEL,
        help="the model's name on the server (default: %(default)s)")  # fmt: skip
    group.add_argument("--wait", type=seconds, default=client_defaults.WAIT_FOR_SERVER_S, metavar="SECONDS",
        help="how long to wait for the server to start (default: %(default).0f)")  # fmt: skip
    add_connection_options(parser)


def client_options(options: argparse.Namespace, **more: Any) -> ClientOptions:
    return ClientOptions(
        tuple(urls(options)), options.model, connection_of(options), wait_s=options.wait, **more
    )


def model_of(options: argparse.Namespace) -> dict[str, str]:
    """The description of the server's model."""
    with client_options(options).open() as client:
        return describe_model(client.info)


def price(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError("must be 0 or more")
    return value
