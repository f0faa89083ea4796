"""The main job: every object of a source to one row of a Parquet file, resumable, nothing lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from clip_client import defaults
from clip_client.client import ClipClient
from clip_client.errors import ItemError, SourceError
from clip_client.sinks.parquet import SETTINGS, Key, ParquetSink, key_of, parts_of
from clip_client.sources.gcs import FolderSource, ObjectInfo, Source
from clip_client.stream import EmbeddedObject


@dataclass
class Summary:
    """What one run did. `embedded`, and `failed` by error code, count all rows, earlier runs' as well.

    `kept_in` is where they are after an interruption, for another run to go on; else they are in `out`.
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

    @property
    def photos_per_second(self) -> float:
        return self.photos / self.seconds if self.seconds else 0.0


def embed_to_parquet(
    client: ClipClient,
    source: Source,
    out: Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
    bytes_in_flight: int = defaults.BYTES_IN_FLIGHT,
    on_item: Callable[[EmbeddedObject], None] | None = None,
) -> Summary:
    """Embeds what is not yet in `out`, and writes it when all is done. A folder may hold `out` as well.

    Raises ServerUnavailable, ServerMismatch, SourceError and SinkError; rows finished before that, or
    before a KeyboardInterrupt, are kept in `OUT.parts/`, and the next run goes on from them.
    """
    if isinstance(source, FolderSource):
        source = source.leaving_out(out, parts_of(out))
    with ParquetSink(out, client.info.dimension, _model(client)) as sink:
        todo = _Remaining(source, sink.open(overwrite=overwrite, resume=resume))
        records = client.embed_records(todo, bytes_in_flight=bytes_in_flight, on_abort=client.close)
        with closing(records):
            return _run(records, todo, sink, Summary(str(out)), on_item)


def _run(
    records: Iterator[EmbeddedObject],
    todo: _Remaining,
    sink: ParquetSink,
    summary: Summary,
    on_item: Callable[[EmbeddedObject], None] | None,
) -> Summary:
    begin = time.monotonic()
    try:
        _drain(records, sink, summary, on_item)
        if not summary.photos and not todo.known:
            raise SourceError("there is no photo to embed: the folder, or the bucket's prefix, is empty")
        counts = sink.finish()
    except KeyboardInterrupt:
        counts = sink.keep()
        summary.interrupted, summary.kept_in = True, str(sink.parts) if counts else None
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
    sink: ParquetSink,
    summary: Summary,
    on_item: Callable[[EmbeddedObject], None] | None,
) -> None:
    for item in records:
        sink.write(item)
        summary.photos += 1
        summary.megabytes += item.info.size / 1e6
        if on_item is not None:
            on_item(item)


_MODEL = ("model", "pretrained", "weights_sha256", "random_weights", "encoder_version", "image_size")
"""Of the server's parameters: what tells whose vectors these are. "" for what it does not say."""


def _model(client: ClipClient) -> dict[str, str]:
    parameters = client.info.parameters
    told = {name: parameters.get(name, "") for name in (*_MODEL, *SETTINGS)}
    return {"triton_model": client.info.name, **told}


class _Remaining:
    """A source without the objects that earlier runs embedded."""

    def __init__(self, source: Source, known: set[Key]) -> None:
        self._source, self.known = source, known
        self.skipped = 0

    def list(self) -> Iterator[ObjectInfo]:
        for item in self._source.list():
            if key_of(item) in self.known:
                self.skipped += 1
            else:
                yield item

    def load(self, item: ObjectInfo) -> bytes:
        return self._source.load(item)


def is_failed(item: EmbeddedObject) -> bool:
    return isinstance(item.outcome, ItemError)
