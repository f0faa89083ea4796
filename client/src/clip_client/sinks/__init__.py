"""Sinks of embeddings: a local Parquet file."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from clip_client.errors import SinkError
from clip_client.sinks.base import Sink


def open_sink(uri: str) -> Sink:
    """The sink that `uri` names: the path of a Parquet file. Nothing is written until its open() is called.

    Raises SinkError for an unknown scheme, a folder, or a missing optional package.
    """
    scheme, separator, _ = uri.partition("://")
    opener = SINKS.get(scheme if separator else "")
    if opener is None:
        advice = ", and copy it when it is complete" if scheme.lower() in ("gs", "s3") else ""
        raise SinkError(
            f"cannot write to {uri}: {scheme}:// is not supported. Give the path of a local Parquet file"
            + advice
        )
    return opener(uri)


# Each function imports its sink when called, so that only its users need the sink's packages.
def _parquet(uri: str) -> Sink:
    from clip_client.sinks.parquet import ParquetSink

    if (lost := _SLASH_LOST.match(uri)) and not Path(uri).parent.exists():
        raise SinkError(f"cannot write to {uri}: no such folder, and {lost[1]}:// is not supported")
    if uri.endswith("/"):  # Path() drops it
        raise SinkError(f"{uri} names a folder. Give the path of the file to write")
    suffix = Path(uri).suffix
    if suffix.lower() not in ("", ".parquet") and not Path(uri).exists():
        raise SinkError(f"{uri}: the output is a Parquet file, and not {suffix}. End its name in .parquet")
    return ParquetSink(Path(uri))


_SLASH_LOST = re.compile(r"([a-z][a-z0-9+.-]+):/", re.I)

SINKS: dict[str, Callable[[str], Sink]] = {"": _parquet}
"""Sink by URI scheme; "" is a path. To add one, add its function here."""
