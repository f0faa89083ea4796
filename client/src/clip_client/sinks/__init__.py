"""Sinks of embeddings: a Parquet file, local or in a bucket."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from clip_client.errors import SinkError
from clip_client.sinks.base import Sink


def open_sink(uri: str, work: Path | None = None) -> Sink:
    """The sink that `uri` names: a local Parquet file by its path, or one in a bucket, `gs://bucket/name`.

    Nothing is written until its open() is called. The rows of a file in a bucket are kept in the local folder
    `work` until it is complete; by default in the user's cache. Raises SinkError for an unknown scheme, a
    folder, or a missing optional package.
    """
    scheme, separator, _ = uri.partition("://")
    opener = SINKS.get(scheme if separator else "")
    if opener is None:
        advice = ", and copy it when it is complete" if scheme.lower() in ("s3", "az") else ""
        raise SinkError(
            f"cannot write to {uri}: {scheme}:// is not supported. Give the path of a local Parquet file, or "
            f"gs://bucket/name.parquet{advice}"
        )
    return opener(uri, work)


# Each function imports its sink when called, so that only its users need the sink's packages.
def _parquet(uri: str, work: Path | None) -> Sink:
    from clip_client.sinks.parquet import ParquetSink

    if work is not None:
        raise SinkError("--work is for an output in a bucket. A local file has its rows in OUT.parts")
    if _SLASH_LOST.match(uri) and not Path(uri).parent.exists():
        raise SinkError(f"cannot write to {uri}: no such folder. For a bucket, write gs://bucket/name")
    if uri.endswith("/"):  # Path() drops it
        raise SinkError(f"{uri} names a folder. Give the path of the file to write")
    suffix = Path(uri).suffix
    if suffix.lower() not in ("", ".parquet") and not Path(uri).exists():
        raise SinkError(f"{uri}: the output is a Parquet file, and not {suffix}. End its name in .parquet")
    return ParquetSink(Path(uri))


def _gcs(uri: str, work: Path | None) -> Sink:
    from clip_client.sinks.bucket import BucketParquetSink

    bucket, _, name = uri.removeprefix("gs://").partition("/")
    if not bucket or not name or name.endswith("/"):
        raise SinkError(f"{uri} does not name a file in a bucket. Use gs://bucket/name.parquet")
    return BucketParquetSink(bucket, name, work)


_SLASH_LOST = re.compile(r"([a-z][a-z0-9+.-]+):/", re.I)

SINKS: dict[str, Callable[[str, Path | None], Sink]] = {"": _parquet, "gs": _gcs}
"""Sink by URI scheme; "" is a path. To add one, add its function here."""
