"""Sources of photos: a Google Cloud Storage bucket or a local folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from clip_client import defaults
from clip_client.errors import SourceError
from clip_client.sources.base import Source


def open_source(uri: str, connections: int = defaults.CONCURRENCY) -> Source:
    """Opens the source that `uri` names: `gs://bucket/prefix`, or the path of a folder.

    `connections` is the number of concurrent loads that a remote source keeps connections for. Raises
    SourceError for an unknown scheme, an incomplete URI, or missing credentials.
    """
    scheme, separator, _ = uri.partition("://")
    opener = SOURCES.get(scheme if separator else "")
    if opener is None:
        raise SourceError(
            f"cannot read {uri}: {scheme}:// is not supported. Give gs://bucket/prefix or a folder"
        )
    return opener(uri, connections)


# Each function imports its source when called: the Google Cloud libraries take half a second to load.
def _folder(uri: str, connections: int) -> Source:
    from clip_client.sources.folder import FolderSource

    del connections
    if not uri:  # Path("") is the current folder: an unset variable in a script would embed that
        raise SourceError("the source is empty. Give gs://bucket/prefix or a folder (. is the current one)")
    return FolderSource(Path(uri))


def _gcs(uri: str, connections: int) -> Source:
    from clip_client.sources.gcs import GcsSource

    bucket, _, prefix = uri.removeprefix("gs://").partition("/")
    if not bucket:
        raise SourceError(f"{uri} has no bucket name. Use gs://bucket/prefix")
    return GcsSource(bucket, prefix, connections)


SOURCES: dict[str, Callable[[str, int], Source]] = {"": _folder, "gs": _gcs}
"""Source by URI scheme; "" is a path. To add one, add its function (URI, connections) here."""
