"""Embeds every object of a source into one row of a sink. Resumable; no row is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from clip_client import defaults
from clip_client.client import ClipClient
from clip_client.errors import PERMANENT_CODES, ClipClientError, ItemError, SourceError
from clip_client.sinks.base import EmbeddedObject, Existing, Sink, StoredRow, describe_model
from clip_client.sources.base import ObjectInfo, Source, crc32c
from clip_client.sources.folder import FolderSource

_TOTAL_EVERY_S = 0.25


@dataclass(frozen=True)
class RunOptions(Existing):
    """What one run does with the source's objects, beside what it does with rows of earlier runs.

    Objects are embedded if they match one of the patterns `include`, if there are any, and none of `exclude`:
    `*` and `?` as in a shell. A pattern without "/" is for the last part of a name, others for all of it.
    `prune` removes rows of objects that the source no longer has. Objects that failed with one of
    PERMANENT_CODES are embedded again only if the code is in `retry_errors`. `source_name` is recorded
    instead of the source's uri, for a folder that is not always at the same path.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    prune: bool = False
    retry_errors: Collection[str] = ()
    source_name: str | None = None


@dataclass
class Summary:
    """The result of one run. `embedded` and `failed` (by error code) count all rows, earlier runs included;
    `notices` (by code) count this run's photos.

    The rows are in `out`, those of failed photos in `errors` if it is set. After an interruption all are in
    `kept_in`, and the next run continues from there. `skipped` objects were done before. `not_retried`
    of them have a permanent error. `gone` rows are of objects that the source no longer has; `pruned` says
    whether they were removed. `assumed` rows did not name their source. `excluded` objects did not match the
    run's patterns, `placeholders` are zero-byte objects that stand for folders.
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
    errors: str | None = None
    notices: dict[str, int] = field(default_factory=dict)
    not_retried: int = 0
    gone: int = 0
    pruned: bool = False
    excluded: int = 0
    placeholders: int = 0
    assumed: int = 0

    @property
    def photos_per_second(self) -> float:
        return self.photos / self.seconds if self.seconds else 0.0


def embed_all(
    client: ClipClient,
    source: Source,
    sink: Sink,
    options: RunOptions = RunOptions(),
    *,
    bytes_in_flight: int = defaults.BYTES_IN_FLIGHT,
    on_item: Callable[[EmbeddedObject], None] | None = None,
    on_total: Callable[[int, bool], None] | None = None,
) -> Summary:
    """Embeds the objects of `source` that `sink` does not have yet, and closes the sink.

    Calls `on_item` for each. If `on_total` is given, a thread lists the source a second time to count the
    objects to embed, and calls it now and then with their number so far and whether that is all. The sink's
    files may be in the source's folder. Raises ServerUnavailable, ServerMismatch, SourceError and SinkError.
    After an error or a KeyboardInterrupt, finished rows are kept for the next run, and the client is closed
    to end its requests in flight.
    """
    if isinstance(source, FolderSource):
        source = source.excluding(*sink.local_paths)
    with closing(sink):
        info = client.info
        name = options.source_name or source.uri
        known = sink.open(name, describe_model(info), info.dimension, options)
        todo = _Remaining(source, known, options, {sink.uri, sink.errors_uri})
        records = client.embed_records(todo, bytes_in_flight=bytes_in_flight, on_abort=client.close)
        with closing(records), _counting(todo, on_total):
            return _Run(todo, sink, on_item).finish(records, prune=options.prune)


class _Run:
    """Moves the results into the sink, and counts them."""

    def __init__(
        self, todo: _Remaining, sink: Sink, on_item: Callable[[EmbeddedObject], None] | None
    ) -> None:
        self._todo, self._sink, self._on_item = todo, sink, on_item
        self._summary = Summary(sink.uri)

    def finish(self, records: Iterator[EmbeddedObject], *, prune: bool) -> Summary:
        summary, todo, begin = self._summary, self._todo, time.monotonic()
        try:
            self._drain(records)
            if not summary.photos and not todo.known:
                raise SourceError(todo.why_empty())
            gone = todo.gone()
            if prune:
                self._prune(gone)
            summary.gone, summary.pruned = len(gone), prune
            counts = self._sink.finish()
        except KeyboardInterrupt:
            counts = self._sink.keep()
            summary.interrupted, summary.kept_in = True, self._sink.unfinished
        except BaseException:
            self._sink.keep()
            raise
        summary.skipped += todo.skipped
        summary.not_retried, summary.excluded = todo.not_retried, todo.excluded
        summary.placeholders = todo.placeholders
        summary.assumed = sum(row.is_source_assumed for row in todo.known.values())
        summary.seconds = time.monotonic() - begin
        summary.embedded = counts.pop("", 0)
        summary.failed = dict(counts)
        summary.errors = self._sink.errors_uri if counts and not summary.interrupted else None
        return summary

    def _prune(self, gone: Collection[str]) -> None:
        if gone and not self._todo.listed:
            raise SourceError(
                f"the source is empty, and --prune would remove all of its rows ({len(gone)}). Is the folder "
                "mounted? If it is empty for good, remove the output instead"
            )
        self._sink.remove(gone)

    def _drain(self, records: Iterator[EmbeddedObject]) -> None:
        for item in records:
            if isinstance(item.outcome, _Unchanged):
                self._sink.refresh(item.info)
                self._summary.skipped += 1
                continue
            self._sink.write(item)
            self._summary.photos += 1
            self._summary.megabytes += item.info.size / 1e6
            for notice in item.result.notices:
                self._summary.notices[notice.code] = self._summary.notices.get(notice.code, 0) + 1
            if self._on_item is not None:
                self._on_item(item)


@contextmanager
def _counting(todo: _Remaining, on_total: Callable[[int, bool], None] | None) -> Iterator[None]:
    """Counts the objects to embed in a thread that nothing waits for."""
    stopped = threading.Event()

    def count() -> None:
        total, told = 0, time.monotonic()
        with suppress(ClipClientError):  # whoever embeds the objects lists them too, and reports it
            for total in todo.totals():
                if stopped.is_set():
                    return
                if on_total is not None and time.monotonic() - told > _TOTAL_EVERY_S:
                    told = time.monotonic()
                    on_total(total, False)
            if on_total is not None:
                on_total(total, True)

    if on_total is not None:
        threading.Thread(target=count, name="clip-count", daemon=True).start()
    try:
        yield
    finally:
        stopped.set()


class _Unchanged(ItemError):  # noqa: N818 - no error for anyone else
    """Instead of an embedding: the object's content is what its row was made from."""

    def __init__(self) -> None:
        super().__init__("unchanged", "embedded before")


class _Remaining:
    """A source without the objects that earlier runs have finished."""

    def __init__(
        self,
        source: Source,
        known: dict[str, StoredRow],
        options: RunOptions,
        outputs: Collection[str | None] = (),
    ) -> None:
        """`outputs` are URIs of files that the run writes, perhaps beside the photos in their bucket."""
        self._source, self.known, self._options = source, known, options
        self._outputs = outputs
        self._final = PERMANENT_CODES.difference(options.retry_errors)
        self._unlisted = set(known)
        self._undecided: set[str] = set()
        self.listed = self.skipped = self.not_retried = self.excluded = 0

    @property
    def uri(self) -> str:
        return self._source.uri

    @property
    def placeholders(self) -> int:
        return getattr(self._source, "placeholders", 0)  # only sources of objects have any

    def why_empty(self) -> str:
        if self.excluded:
            return f"there are no photos to embed: --include and --exclude leave out all {self.excluded}"
        return "there are no photos to embed: the folder or bucket prefix is empty"

    def check(self) -> None:
        self._source.check()

    def covers(self, name: str) -> bool:
        return self._source.covers(name)

    def list(self) -> Iterator[ObjectInfo]:
        for item in self._source.list():
            if self._is_output(item.name):
                continue
            self.listed += 1
            self._unlisted.discard(item.name)
            if not self._is_selected(item.name):
                self.excluded += 1
                continue
            is_done = self._is_done(item)
            if is_done:
                self.skipped += 1
                self.not_retried += self.known[item.name].error_code is not None
                continue
            if is_done is None:
                self._undecided.add(item.name)
            yield item

    def totals(self) -> Iterator[int]:
        """The number of objects to embed among the first 1, 2, ... objects; without those in doubt."""
        total = 0
        for item in self._source.list():
            is_todo = not self._is_output(item.name) and self._is_selected(item.name)
            total += is_todo and self._is_done(item) is False
            yield total

    def gone(self) -> set[str]:
        """The known objects that the source no longer has. Complete once everything is listed."""
        return {name for name in self._unlisted if self.covers(name)}

    def _is_output(self, name: str) -> bool:
        return f"{self._source.uri}/{name}" in self._outputs

    def _is_selected(self, name: str) -> bool:
        include, exclude = self._options.include, self._options.exclude
        return (not include or _matches(name, include)) and not _matches(name, exclude)

    def _is_done(self, item: ObjectInfo) -> bool | None:
        """Whether the object's row is right and final; None if only its content can decide that."""
        row = self.known.get(item.name)
        return False if row is None or not self._is_final(row) else row.is_current(item)

    def _is_final(self, row: StoredRow) -> bool:
        return row.error_code is None or row.error_code in self._final

    def load(self, item: ObjectInfo) -> bytes:
        data = self._source.load(item)
        if item.name in self._undecided and crc32c(data) == self.known[item.name].crc32c:
            raise _Unchanged
        return data


def _matches(name: str, patterns: Sequence[str]) -> bool:
    last = name.rstrip("/").rpartition("/")[2]
    return any(fnmatchcase(name if "/" in pattern else last, pattern) for pattern in patterns)
