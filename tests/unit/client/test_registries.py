"""Sources and sinks by URI: what is refused, and how another kind is added."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pytest

from clip_client import (
    ClipClient,
    EmbeddedObject,
    Existing,
    ItemError,
    MissingExtra,
    ObjectInfo,
    Sink,
    SinkError,
    Source,
    SourceError,
    StoredRow,
    embed_all,
    open_sink,
    open_source,
)
from clip_client.sinks import SINKS
from clip_client.sources import SOURCES
from clip_client.sources.base import crc32c
from tests.unit.client.servers import INVALID, FakeTransport


class Words:
    """A source of the words in its URI."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._words = uri.removeprefix("words://").split("/")

    def check(self) -> None:
        """Can always be listed."""

    def covers(self, name: str) -> bool:
        return name in self._words

    def list(self) -> Iterator[ObjectInfo]:
        for word in self._words:
            yield ObjectInfo(word, len(word))

    def load(self, item: ObjectInfo) -> bytes:
        return item.name.encode()


class Memory:
    """A sink in memory; interrupted runs are kept as well."""

    local_paths: tuple[Path, ...] = ()
    unfinished: str | None = None
    errors_uri: str | None = None

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.rows: dict[str, EmbeddedObject] = {}
        self.model: Mapping[str, str] = {}
        self.ended = ""

    def check(self, source: str, existing: Existing) -> None:
        del source, existing

    def open(
        self, source: str, model: Mapping[str, str], dimension: int, existing: Existing
    ) -> dict[str, StoredRow]:
        assert source == "words://one/two/three"
        assert dimension == 2
        assert not existing.overwrite
        assert not existing.resume
        self.model = model
        return {
            name: StoredRow(
                None, len(name), None, crc32c(name.encode()), item.error.code if item.error else None
            )
            for name, item in self.rows.items()
        }

    def write(self, item: EmbeddedObject) -> None:
        self.rows[item.name] = item

    def refresh(self, item: ObjectInfo) -> None:
        assert item.name in self.rows

    def remove(self, names: Collection[str]) -> None:
        for name in names:
            del self.rows[name]

    def finish(self) -> dict[str, int]:
        self.ended = "finished"
        codes = [item.error.code if item.error else "" for item in self.rows.values()]
        return {code: codes.count(code) for code in codes}

    def keep(self) -> dict[str, int]:
        counts = self.finish()
        self.ended = "kept"
        return counts

    def close(self) -> None:
        self.ended += ", closed"


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> Source:
    monkeypatch.setitem(SOURCES, "words", lambda uri, connections: Words(uri))  # noqa: ARG005
    return open_source("words://one/two/three")


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    monkeypatch.setitem(SINKS, "memory", lambda uri, work: Memory(uri))  # noqa: ARG005
    sink: Sink = open_sink("memory://rows")
    assert isinstance(sink, Memory)
    return sink


def test_added_kinds_are_found_by_their_scheme_and_resume(words: Source, memory: Memory) -> None:
    failing = iter([None, *[INVALID] * 3, None])  # one photo is rejected, in the end alone
    transport = FakeTransport(lambda _: next(failing))
    with ClipClient(transport=transport, concurrency=1) as client:
        first = embed_all(client, words, memory)
        assert memory.ended == "finished, closed"
        assert (first.out, first.photos, first.embedded) == ("memory://rows", 3, 2)
        assert first.failed == {"request_failed": 1}
        failing = iter([None])
        second = embed_all(client, words, memory)
    assert (second.photos, second.skipped, second.embedded, second.failed) == (1, 2, 3, {})
    assert memory.model["triton_model"] == "clip_image"


def test_finished_rows_are_kept_before_an_error_and_an_interruption(words: Source, memory: Memory) -> None:
    class Revoked(Words):
        def load(self, item: ObjectInfo) -> bytes:
            if item.name == "three":
                raise SourceError("the credentials are gone")
            return super().load(item)

    def interrupt(item: EmbeddedObject) -> None:
        if item.name == "three":
            raise KeyboardInterrupt

    transport = FakeTransport(lambda _: None)
    with pytest.raises(SourceError, match="credentials"):
        embed_all(ClipClient(transport=transport), Revoked("words://one/two/three"), memory)
    assert memory.ended == "kept, closed"
    assert [item.name for item in memory.rows.values()] == ["one", "two"]
    summary = embed_all(ClipClient(transport=transport), words, memory, on_item=interrupt)
    assert summary.interrupted
    assert memory.ended == "kept, closed"


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("s3://album/rows.parquet", "cannot write to s3://album/rows.parquet: s3:// is not supported"),
        ("gs://album", "gs://album does not name a file in a bucket. Use gs://bucket/name.parquet"),
        ("gs://album/rows/", "gs://album/rows/ does not name a file in a bucket"),
        ("lance://rows", "lance:// is not supported. Give the path of a local Parquet file"),
        (".", ". is a folder"),
        ("rows/", "rows/ names a folder"),
        ("/dev/null", "/dev/null is not a regular file"),
        ("gs:/album/rows.parquet", "no such folder. For a bucket, write gs://bucket/name"),
        ("a\0b", "cannot write"),
        ("a" * 300, "File name too long"),
    ],
)
def test_outputs_that_are_refused(uri: str, said: str) -> None:
    with pytest.raises(SinkError, match=re.escape(said)):
        open_sink(uri)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("", "the source is empty"),
        ("ftp://album", "ftp:// is not supported. Give gs://bucket/prefix, a folder or a file"),
        ("s3://", "s3:// has no bucket name. Use s3://bucket/prefix"),
        ("https:///a.jpg", "https:///a.jpg has no host name"),
        ("GS://album/x", "write gs://album/x"),
        ("gs:/album/x.jpg", "gs:/album/x.jpg does not exist. Do you mean gs://album/x.jpg?"),
        ("gs//album", "Do you mean gs://album?"),
        ("s3:/album", "s3:/album does not exist. Do you mean s3://album?"),
        ("ftp:/album", "ftp:/album does not exist. ftp:// is not supported"),
        ("https://storage.googleapis.com/album/a.jpg", "give the bucket as gs://album/a.jpg"),
        ("file:///photos", "give the path without file://"),
        ("no/such/*.jpg", "Patterns are not expanded: give the folder with --include"),
        ("no/such/folder", "no/such/folder does not exist. Give gs://bucket/prefix"),
        ("gs://*/x", "'*' in gs://*/x is not the name of a bucket"),
        ("gs:///x", "gs:///x has no bucket name"),
        ("a\0b", "does not exist. Give gs://"),
        ("/dev/null", "/dev/null is neither a folder nor a regular file"),
        ("gs://", "gs:// has no bucket name"),
    ],
)
def test_sources_that_are_refused(uri: str, said: str) -> None:
    with pytest.raises(SourceError, match=re.escape(said)):
        open_source(uri)


def test_a_path_is_a_folder_or_a_file(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", ".hidden.jpg", "[1].jpg"):
        (tmp_path / name).write_bytes(b"photo")
    folder = open_source(str(tmp_path))
    assert [item.name for item in folder.list()] == ["[1].jpg", "a.jpg", "b.jpg"]
    for name in ("b.jpg", ".hidden.jpg", "[1].jpg"):
        file = open_source(tmp_path / name)
        assert [item.name for item in file.list()] == [name]
        assert file.uri == folder.uri
        assert [file.covers(name), file.covers("a.jpg")] == [True, False]


def test_libraries_of_sources_and_sinks_are_not_imported_before_they_are_needed() -> None:
    code = "import sys, clip_client; print({'pyarrow', 'google.cloud.storage'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_path_is_embedded_like_its_text(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"photo")
    with ClipClient(transport=FakeTransport(lambda _: None)) as client:
        for source in (tmp_path, str(tmp_path), tmp_path / "a.jpg"):
            assert [name for name, _ in client.embed_objects(source)] == ["a.jpg"]


@pytest.mark.parametrize("path", ["a\0b.jpg", "a\ud800.jpg"])
def test_a_path_that_no_file_can_have_is_that_photos_error(tmp_path: Path, path: str) -> None:
    good = tmp_path / "a.jpg"
    good.write_bytes(b"photo")
    with ClipClient(transport=FakeTransport(lambda _: None)) as client:
        first, second = client.embed([path, good], on_error="return")
    assert isinstance(first, ItemError)
    assert first.code == "load_failed"
    assert not isinstance(second, ItemError)


@pytest.mark.parametrize("uri", ["s3://album/x", "az://album/x"])
def test_stores_without_their_extra_say_how_to_install_it(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "clip_client.sources.object_store", raising=False)
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(MissingExtra, match=r"pip install './client\[stores\]'"):
        open_source(uri)
