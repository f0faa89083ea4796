"""Embeds every object of a source into one row of a sink. Resumable; no row is lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field

from clip_client import defaults
from clip_client.client import ClipClient
from clip_client.errors import SourceError
from clip_client.sinks.base import EmbeddedObject, Sink, describe_model
from clip_client.sources.base import ObjectInfo, ObjectKey, Source
from clip_client.sources.folder import FolderSource


@dataclass
class Summary:
    """The result of one run. `embedded` and `failed` (by error code) count all rows, earlier runs included;
    `notices` (by code) count this run's photos.

    The rows are in `out`; after an interruption they are in `kept_in`, and the next run continues from there.
    """

    out: str
    photos: int = 0
    embedded: int = 0
    skipped: int = 0
    megabytes: float = 0.0
    seconds: float = 0.0
    interrupted: bool = False
    kept_in: str | None = None
    failed: dict[str, int] = field(default_factory=dict)
    notices: dict[str, int] = field(default_factory=dict)

    @property
    def photos_per_second(self) -> float:
        return self.photos / self.seconds if self.seconds else 0.0


def embed_all(
    client: ClipClient,
    source: Source,
    sink: Sink,
    *,
    overwrite: bool = False,
    resume: bool = False,
    bytes_in_flight: int = defaults.BYTES_IN_FLIGHT,
    on_item: Callable[[EmbeddedObject], None] | None = None,
) -> Summary:
    """Embeds the objects of `source` that `sink` does not have yet, and closes the sink.

    Calls `on_item` for each. The sink's files may be in the source's folder. Raises ServerUnavailable,
    ServerMismatch, SourceError and SinkError. After an error or a KeyboardInterrupt, finished rows are kept
    for the next run, and the client is closed to end its requests in flight.
    """
    if isinstance(source, FolderSource):
        source = source.excluding(*sink.local_paths)
    with closing(sink):
        info = client.info
        known = sink.open(describe_model(info), info.dimension, overwrite=overwrite, resume=resume)
        todo = _Remaining(source, known)
        records = client.embed_records(todo, bytes_in_flight=bytes_in_flight, on_abort=client.close)
        with closing(records):
            return _run(records, todo, sink, on_item)


def _run(
    records: Iterator[EmbeddedObject],
    todo: _Remaining,
    sink: Sink,
    on_item: Callable[[EmbeddedObject], None] | None,
) -> Summary:
    summary, begin = Summary(sink.uri), time.monotonic()
    try:
        _drain(records, sink, summary, on_item)
        if not summary.photos and not todo.known:
            raise SourceError("there are no photos to embed: the folder or bucket prefix is empty")
        counts = sink.finish()
    except KeyboardInterrupt:
        counts = sink.keep()
        summary.interrupted, summary.kept_in = True, sink.unfinished
    except BaseException:
        sink.keep()
        raise
    summary.skipped = todo.skipped
    summary.seconds = time.monotonic() - begin
    summary.embedded = counts.pop("", 0)
    summary.failed = dict(counts)
    return summary


def _drain(
    records: Iterator[EmbeddedObject],
    sink: Sink,
    summary: Summary,
    on_item: Callable[[EmbeddedObject], None] | None,
) -> None:
    for item in records:
        sink.write(item)
        summary.photos += 1
        summary.megabytes += item.info.size / 1e6
        for notice in item.result.notices:
            summary.notices[notice.code] = summary.notices.get(notice.code, 0) + 1
        if on_item is not None:
            on_item(item)


class _Remaining:
    """A source without the objects that earlier runs embedded."""

    def __init__(self, source: Source, known: set[ObjectKey]) -> None:
        self._source, self.known = source, known
        self.skipped = 0

    def list(self) -> Iterator[ObjectInfo]:
        for item in self._source.list():
            if item.key in self.known:
                self.skipped += 1
            else:
                yield item

    def load(self, item: ObjectInfo) -> bytes:
        return self._source.load(item)
