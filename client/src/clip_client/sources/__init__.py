"""Sources of photos: buckets of Google Cloud Storage, S3 and Azure, HTTP(S) addresses, and local folders."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from clip_client.errors import MissingExtra, SourceError
from clip_client.sources.base import Source, SourceOptions, has_pattern

_USE = "Give gs://bucket/prefix, a folder or a file"
_BUCKET_URL = re.compile(r"https?://(?:storage\.(?:googleapis|cloud\.google)\.com)/([^?#]+)", re.I)
_SLASH_LOST = re.compile(r"([a-z][a-z0-9+.-]+):/+|(gs|s3)/+", re.I)


def open_source(uri: str | os.PathLike[str], options: SourceOptions | None = None) -> Source:
    """Opens the source that `uri` names: `gs://bucket/prefix`, or the path of a folder or file.

    Also `https://` (a photo, or a .txt list of addresses), and with the extra `stores` `s3://bucket/prefix`
    and `az://container/prefix`. Raises SourceError for an unknown scheme, an incomplete URI, a path that does
    not exist, or missing credentials, and MissingExtra. Nothing is listed yet.
    """
    text = os.fspath(uri)
    scheme, separator, rest = text.partition("://")
    opener = SOURCES.get(scheme if separator else "")
    if opener is None:
        raise SourceError(f"cannot read {text}: {_advice(scheme, rest)}")
    return opener(text, options or SourceOptions())


def _advice(scheme: str, rest: str) -> str:
    """What to write instead of a URI of an unknown scheme."""
    if scheme.lower() in SOURCES:
        return f"write {scheme.lower()}://{rest}"
    if scheme.lower() == "file":
        return "give the path without file://"
    return f"{scheme}:// is not supported. {_USE}"


# Each function imports its source when called: the Google Cloud libraries take half a second to load.
def _path(uri: str, options: SourceOptions) -> Source:
    from clip_client.sources.folder import FolderSource

    del options
    if not uri:  # Path("") is the current folder: an unset variable in a script would embed that
        raise SourceError("the source is empty. Give gs://bucket/prefix or a folder (. is the current one)")
    path = Path(uri)
    try:
        if path.is_dir():
            return FolderSource(path)
        if path.is_file():
            return FolderSource(path.parent, only=path.name)
        if path.exists():
            raise SourceError(f"{uri} is neither a folder nor a regular file")
    except (OSError, ValueError) as error:
        raise SourceError(f"cannot read {uri!r}: {getattr(error, 'strerror', None) or error}") from error
    raise SourceError(_missing(uri))


def _missing(path: str) -> str:
    """Why nothing is at `path`: a typing error, or a pattern that no shell has expanded."""
    if lost := _SLASH_LOST.match(path):
        scheme = (lost[1] or lost[2]).lower()
        uri = f"{scheme}://{path[lost.end() :]}"
        advice = f"Do you mean {uri}?" if scheme in SOURCES else f"{scheme}:// is not supported. {_USE}"
        return f"{path} does not exist. {advice}"
    if has_pattern(path):
        return f"{path} does not exist. Patterns are not expanded: give the folder with --include 'PATTERN'"
    return f"{path} does not exist. {_USE}"


def _gcs(uri: str, options: SourceOptions) -> Source:
    from clip_client.sources.gcs import GcsSource

    bucket, _, prefix = uri.removeprefix("gs://").partition("/")
    if not bucket:
        raise SourceError(f"{uri} has no bucket name. Use gs://bucket/prefix")
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", bucket):
        raise SourceError(
            f"{bucket!r} in {uri} is not the name of a bucket: names have lowercase letters, digits, '-', "
            "'_' and '.'"
        )
    return GcsSource(bucket, prefix, options)


def _object_store(uri: str, options: SourceOptions) -> Source:
    scheme, _, rest = uri.partition("://")
    bucket, _, prefix = rest.partition("/")
    if not bucket:
        raise SourceError(f"{uri} has no bucket name. Use {scheme}://bucket/prefix")
    try:
        from clip_client.sources.object_store import open_azure, open_s3
    except ImportError as error:
        raise MissingExtra(
            f"{uri} needs obstore ({error}). In a clone of clip-triton: pip install './client[stores]'"
        ) from error
    return (open_s3 if scheme == "s3" else open_azure)(bucket, prefix, options)


def _http(uri: str, options: SourceOptions) -> Source:
    from clip_client.sources.http import HttpSource

    if bucket := _BUCKET_URL.match(uri):
        raise SourceError(f"cannot read {uri}: give the bucket as gs://{bucket[1]}")
    return HttpSource(uri, options)


SOURCES: dict[str, Callable[[str, SourceOptions], Source]] = {
    "": _path,
    "gs": _gcs,
    "s3": _object_store,
    "az": _object_store,
    "http": _http,
    "https": _http,
}
"""Source by URI scheme; "" is a path. To add one, add its function (URI, options) here."""
