"""Photos in an S3 bucket and at HTTP addresses of the real rclone."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from clip_client import (
    ClipClient,
    ItemError,
    ObjectInfo,
    RunOptions,
    Source,
    SourceError,
    SourceOptions,
    defaults,
    embed_all,
    open_sink,
    open_source,
)
from clip_client.pipeline import Summary
from clip_client.sources.base import crc32c
from clip_serving.server.embedded import TritonServer
from testing.pictures import encoded, noise
from testing.rclone import KEY, LOGIN, SECRET, rclone_server
from tests.integration.embed_command import rows_of

_NAMES = ["2024/a.jpg", "2024/ab.jpg", "2024/sub/c d.jpg", "2025/ü.jpg"]
_SOON = SourceOptions(connections=2, load_timeout_s=1.0, stall_timeout_s=0.5)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the bucket `album`."""
    folder = tmp_path_factory.mktemp("stores")
    for seed, name in enumerate(_NAMES):
        path = folder / "album" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(noise(64, 48, seed=seed), "JPEG"))
    return folder


@pytest.fixture(scope="module")
def s3_url(root: Path) -> Iterator[str]:
    with rclone_server("s3", root, *LOGIN) as url:
        yield url


@pytest.fixture
def s3(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment for s3://."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)


@pytest.fixture(scope="module")
def http_url(root: Path) -> Iterator[str]:
    with rclone_server("http", root) as url:
        yield url


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def names(source: Source) -> list[str]:
    source.check()
    return [item.name for item in source.list()]


def code(source: Source, item: ObjectInfo) -> str:
    with pytest.raises(ItemError) as error:
        source.load(item)
    assert item.name in error.value.text
    return error.value.code


@pytest.mark.usefixtures("s3")
def test_a_prefix_of_s3_is_listed_and_loaded_as_one_of_gs(root: Path) -> None:
    for prefix in ("", "2024/", "2024", "2024/a", "20", "2024/sub/"):
        assert names(open_source(f"s3://album/{prefix}")) == [
            name for name in _NAMES if name.startswith(prefix)
        ]
    one = open_source("s3://album/2024/a.jpg")
    assert names(one) == ["2024/a.jpg"], "an object stands for itself"
    assert (one.covers("2024/a.jpg"), one.covers("2024/ab.jpg")) == (True, False)
    source = open_source("s3://album/")
    assert source.uri == "s3://album"
    for item in source.list():
        data = (root / "album" / item.name).read_bytes()
        assert source.load(item) == data
        assert item.size == len(data)
        assert item.generation is not None
    assert names(open_source("s3://album/none/")) == []


@pytest.mark.usefixtures("s3")
def test_objects_of_s3_that_cannot_be_loaded_have_their_codes(
    root: Path, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = root / "album" / "changing.jpg"
    path.write_bytes(b"one")
    source = open_source("s3://album/changing", _SOON)
    (item,) = source.list()
    path.write_bytes(b"two")
    assert code(source, item) == "not_found", "it was replaced"
    (changed,) = source.list()
    assert changed.generation != item.generation
    path.unlink()
    assert code(source, changed) == "not_found"
    for url in (silent, "http://127.0.0.1:9"):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        assert code(open_source("s3://album/", _SOON), item) == "load_timeout"


@pytest.mark.usefixtures("s3")
def test_what_keeps_all_objects_of_s3_from_being_read_is_a_source_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(SourceError, match="s3://no-bucket does not exist"):
        open_source("s3://no-bucket/").check()
    with pytest.raises(SourceError, match=r"Patterns are not expanded: give s3://album/ with --include"):
        open_source("s3://album/*.jpg").check()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    source = open_source("s3://album/")
    for call in (source.check, lambda: source.load(ObjectInfo("2024/a.jpg", 1))):
        with pytest.raises(SourceError, match=r"credentials for s3://album are rejected.*AWS_"):
            call()


@pytest.mark.usefixtures("s3")
def test_an_object_named_like_an_error_has_its_own() -> None:
    source = open_source("s3://album/", _SOON)
    for name in ("credentials/none.jpg", "InvalidToken.jpg"):
        assert code(source, ObjectInfo(name, 1)) == "not_found"
    assert code(source, ObjectInfo("2024//a.jpg", 1)) == "load_failed", "obstore cannot express it"
    with pytest.raises(SourceError, match="cannot list s3://album"):
        open_source("s3://album/2024//a.jpg").check()


@pytest.mark.usefixtures("s3")
def test_a_huge_object_of_unknown_size_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of clip-batch may not state sizes."""
    monkeypatch.setattr(defaults, "MAX_PHOTO_BYTES", 10)
    assert code(open_source("s3://album/"), ObjectInfo("2024/a.jpg", 0)) == "too_many_bytes"


@pytest.mark.usefixtures("s3")
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("AWS_ENDPOINT_URL", ""),
        ("AWS_ENDPOINT_URL", "storage.example.com"),
        ("AWS_ENDPOINT_URL", "http://user:private@127.0.0.1:9"),
        ("AWS_SESSION_TOKEN", "private\n"),
    ],
)
def test_settings_that_obstore_aborts_at_are_named(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SourceError, match=f"^{variable} ") as error:
        open_source("s3://album/")
    assert "private" not in str(error.value)


def test_a_store_that_cannot_be_opened_is_a_source_error() -> None:
    with pytest.raises(SourceError, match=r"cannot open az://album: .*Check AZURE_STORAGE_"):
        open_source("az://album/")
    with pytest.raises(SourceError, match="is not the name of a bucket"):
        open_source("s3://Al Bum/")


def test_a_public_bucket_of_s3_needs_no_credentials(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with rclone_server("s3", root) as public:
        monkeypatch.setenv("AWS_ENDPOINT_URL", public)
        assert names(open_source("s3://album/2025/", SourceOptions(anonymous=True))) == ["2025/ü.jpg"]
        (root / "zero").mkdir()
        (root / "zero" / "empty.jpg").touch()
        source = open_source("s3://zero/", SourceOptions(anonymous=True))
        (item,) = source.list()
        assert (item.name, item.size, source.load(item)) == ("empty.jpg", 0, b"")


@pytest.mark.usefixtures("s3")
def test_a_bucket_of_s3_is_embedded_and_replaced_objects_are_noticed(
    server: TritonServer, root: Path, tmp_path: Path
) -> None:
    shutil.copytree(root / "album", root / "changing")
    out = tmp_path / "e.parquet"

    def embed(existing: RunOptions) -> Summary:
        with ClipClient(server.grpc_url) as client:
            return embed_all(client, open_source("s3://changing/2024/"), open_sink(str(out)), existing)

    assert embed(RunOptions()).embedded == 3
    rows = rows_of(out)
    assert [*rows] == [name for name in _NAMES if name.startswith("2024/")]
    assert {row["source"] for row in rows.values()} == {"s3://changing"}
    replaced = root / "changing" / "2024" / "ab.jpg"
    replaced.write_bytes(encoded(noise(64, 48, seed=99), "JPEG"))
    again = embed(RunOptions(resume=True))
    assert (again.photos, again.skipped) == (1, 2)
    assert rows_of(out)["2024/ab.jpg"]["crc32c"] == crc32c(replaced.read_bytes())


def test_http_addresses_are_loaded_one_by_one_and_from_a_list(root: Path, http_url: str) -> None:
    one = open_source(f"{http_url}/album/2024/a.jpg")
    (item,) = one.list()
    data = (root / "album" / "2024" / "a.jpg").read_bytes()
    assert (one.uri, item.name, item.size) == (http_url, "album/2024/a.jpg", len(data))
    assert one.load(item) == data
    assert item.generation is not None or item.mtime_ns is not None
    lines = ["2024/ab.jpg", "", f"{http_url}/album/2024/a.jpg", "2024/none.jpg", "2024/sub/c%20d.jpg"]
    (root / "album" / "list.txt").write_text("\n".join(lines))
    listed = open_source(f"{http_url}/album/list.txt")
    assert names(listed) == [
        "album/2024/ab.jpg",
        "album/2024/a.jpg",
        "album/2024/none.jpg",
        "album/2024/sub/c%20d.jpg",
    ]
    items = {item.name: item for item in listed.list()}
    assert code(listed, items.pop("album/2024/none.jpg")) == "not_found"
    assert [len(listed.load(item)) for item in items.values()] == [item.size for item in items.values()]
    assert not listed.covers("album/2025/other.jpg"), "it may exist, although the list lacks it"


def test_an_http_file_that_has_changed_is_noticed_by_its_time(root: Path, http_url: str) -> None:
    path = root / "album" / "later.jpg"
    path.write_bytes(b"one")
    source = open_source(f"{http_url}/album/later.jpg")
    (before,) = source.list()
    os.utime(path, (1_000_000_000, 1_000_000_000))
    (after,) = source.list()
    assert (before.generation, before.mtime_ns) != (after.generation, after.mtime_ns)


def test_http_addresses_that_cannot_be_loaded_have_their_codes(
    root: Path, http_url: str, silent: str
) -> None:
    with rclone_server("http", root, "--user", "someone", "--pass", "secret") as private:
        assert code(open_source(f"{private}/album/", _SOON), ObjectInfo("album/2024/a.jpg", 1)) == "forbidden"
    for url in (silent, "http://127.0.0.1:9"):
        assert code(open_source(f"{url}/a.jpg", _SOON), ObjectInfo("a.jpg", 1)) == "load_timeout"
    with pytest.raises(SourceError, match=r"cannot read the list .*none.txt: not_found"):
        open_source(f"{http_url}/album/none.txt").check()
    with pytest.raises(SourceError, match="names no photo"):
        open_source(http_url).check()
    (root / "album" / "other.txt").write_text("https://example.com/a.jpg")
    with pytest.raises(SourceError, match=r"https://example.com/a.jpg of another host"):
        open_source(f"{http_url}/album/other.txt").check()
