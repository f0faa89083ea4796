"""Objects of a real bucket to vectors: in order, in bounds, and never out of bytes that went bad."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clip_client import AsyncClipClient, ClipClient, ItemError, ObjectInfo, Source, SourceError
from clip_client.requests.wire import Embedding
from clip_client.sources.gcs import GcsSource
from clip_client.timings import STAGES, Timings
from clip_serving.server.embedded import TritonServer
from testing.fake_gcs import FakeGcs
from testing.pictures import corrupt_pictures, encoded, source_picture

Results = list[tuple[str, Embedding | ItemError]]
Collect = Callable[..., Results]


def photo(index: int) -> bytes:
    """One of many small photos that embed differently."""
    picture = source_picture(("chelsea.png", "coffee.png", "rocket.jpg", "astronaut.png")[index % 4])
    left = 7 * (index // 4)
    return encoded(picture.crop((left, 0, left + 300, 260)), "JPEG", quality=90)


def album() -> dict[str, bytes]:
    """Eight objects in the bucket's order: photos, and two that are none."""
    objects = {f"{index:02d}.jpg": photo(index) for index in range(8)}
    objects["03.jpg"] = corrupt_pictures()["jpeg_half"][0]
    objects["06.jpg"] = b""
    return objects


@pytest.fixture(scope="module")
def bucket(fake_gcs: FakeGcs) -> str:
    name = f"bucket-{uuid.uuid4().hex[:8]}"
    for object_name, data in album().items():
        fake_gcs.upload(name, f"2024/{object_name}", data)
    fake_gcs.upload(name, "2025/other.jpg", photo(0))
    return name


def with_client(url: str, source: str | Source, *, bytes_in_flight: int = 1 << 28, **options: Any) -> Results:
    kind = options.pop("sync", ClipClient)
    with kind(url, **options) as client:
        return list(client.embed_objects(source, bytes_in_flight=bytes_in_flight))


def with_async_client(
    url: str, source: str | Source, *, bytes_in_flight: int = 1 << 28, **options: Any
) -> Results:
    kind = options.pop("asynchronous", AsyncClipClient)

    async def run() -> Results:
        async with kind(url, **options) as client:
            return [pair async for pair in client.embed_objects(source, bytes_in_flight=bytes_in_flight)]

    return asyncio.run(run())


both = pytest.mark.parametrize("collect", [with_client, with_async_client])


@pytest.fixture(scope="module")
def wanted(server: TritonServer) -> list[Embedding | ItemError]:
    """What embed() makes of the album."""
    with ClipClient(server.grpc_url) as client:
        return client.embed(list(album().values()), on_error="return")


@both
def test_a_bucket_streams_in_order_with_errors_in_place(
    server: TritonServer, bucket: str, wanted: list[Embedding | ItemError], collect: Collect
) -> None:
    results = collect(server.grpc_url, f"gs://{bucket}/2024/")
    assert [name for name, _ in results] == [f"2024/{name}" for name in album()]
    for (name, outcome), expected in zip(results, wanted, strict=True):
        if isinstance(expected, ItemError):
            assert isinstance(outcome, ItemError)
            assert (outcome.code, outcome.text) == (expected.code, expected.text)
        else:
            assert not isinstance(outcome, ItemError), (name, outcome)
            np.testing.assert_allclose(outcome, expected, atol=1e-5)
    codes = [outcome.code for _, outcome in results if isinstance(outcome, ItemError)]
    assert codes == ["truncated", "empty"]


@both
def test_a_bucket_that_does_not_exist(server: TritonServer, fake_gcs: FakeGcs, collect: Collect) -> None:
    del fake_gcs
    with pytest.raises(SourceError, match="gs://no-such-bucket does not exist"):
        collect(server.grpc_url, "gs://no-such-bucket/")


def timed_client(url: str, source: str) -> Timings:
    with ClipClient(url) as client, client.timed() as timings:
        list(client.embed_objects(source))
        client.embed([photo(0)])
    return timings


def timed_async_client(url: str, source: str) -> Timings:
    async def run() -> Timings:
        async with AsyncClipClient(url) as client, client.timed() as timings:
            _ = [pair async for pair in client.embed_objects(source)]
            await client.embed([photo(0)])
        return timings

    return asyncio.run(run())


@pytest.mark.parametrize("timed", [timed_client, timed_async_client])
def test_every_stage_of_a_bucket_is_timed(
    server: TritonServer, bucket: str, timed: Callable[[str, str], Timings]
) -> None:
    timings = timed(server.grpc_url, f"gs://{bucket}/2024/")
    stages = timings.stages()
    assert tuple(stages) == STAGES
    counts = {name: stage.count for name, stage in stages.items()}
    # Eight objects are loaded and asked for; the photo that was sent after them was not loaded.
    assert counts == {"load": 8, **dict.fromkeys(STAGES[1:], 9)}
    assert all(stage.mean_s is not None and stage.mean_s >= 0 for stage in stages.values())
    for name in ("load", "decode", "embed"):
        assert stages[name].mean_s, name
    assert max(timings.decode_s) + max(timings.preprocess_s) < max(timings.request_s)


def test_nothing_is_timed_outside_the_block(server: TritonServer) -> None:
    async def run() -> tuple[Timings, int]:
        async with AsyncClipClient(server.grpc_url) as client:
            async with client.timed() as timings:
                await client.embed([photo(0)])
            requests = len(timings.request_s)
            await client.embed([photo(0)])
            return timings, requests

    timings, requests = asyncio.run(run())
    assert (requests, len(timings.request_s)) == (1, 1)


class Gauge:
    """Bytes of objects between the begin of their loading and the end of their request."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held = self.most = 0

    def add(self, count: int) -> None:
        with self._lock:
            self._held += count
            self.most = max(self.most, self._held)


class Measured(GcsSource):
    """A bucket that says how much of it is being loaded."""

    def __init__(self, bucket: str, gauge: Gauge) -> None:
        super().__init__(bucket, "2024/")
        self._gauge = gauge

    def load(self, item: ObjectInfo) -> bytes:
        self._gauge.add(item.size)
        return super().load(item)


@both
def test_bytes_in_flight_stay_within_the_bound(server: TritonServer, bucket: str, collect: Collect) -> None:
    gauge = Gauge()

    class Sync(ClipClient):
        def _request(self, photos: Any) -> Any:
            answer = super()._request(photos)
            gauge.add(-sum(map(len, photos)))
            return answer

    class Async(AsyncClipClient):
        async def _request(self, photos: Any) -> Any:
            answer = await super()._request(photos)
            gauge.add(-sum(map(len, photos)))
            return answer

    sizes = [len(data) for data in album().values()]
    bound = sorted(sizes)[-1] + sorted(sizes)[-2]
    assert sum(sizes) > 2 * bound
    options = {"sync": Sync} if collect is with_client else {"asynchronous": Async}
    results = collect(server.grpc_url, Measured(bucket, gauge), bytes_in_flight=bound, **options)
    assert len(results) == len(sizes)
    assert max(sizes) < gauge.most <= bound


class Spoilt(GcsSource):
    """A bucket whose listing has a wrong checksum for one object."""

    def list(self) -> Iterator[ObjectInfo]:
        for item in super().list():
            wrong = item.name == "2024/05.jpg"
            yield dataclasses.replace(item, crc32c="ZZZZZZ==") if wrong else item


@both
def test_downloads_are_compared_with_the_listing(server: TritonServer, bucket: str, collect: Collect) -> None:
    source = Spoilt(bucket, "2024/")
    (item,) = [item for item in source.list() if item.crc32c == "ZZZZZZ=="]
    with pytest.raises(ItemError, match=r"checksum_mismatch: 2024/05\.jpg"):
        source.load(item)
    results = dict(collect(server.grpc_url, source))
    outcome = results.pop("2024/05.jpg")
    assert isinstance(outcome, ItemError)
    assert outcome.code == "checksum_mismatch"
    assert sum(not isinstance(other, ItemError) for other in results.values()) == 5


@both
def test_an_object_that_is_damaged_on_the_servers_disk(
    server: TritonServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, collect: Collect
) -> None:
    """The server goes on sending the checksum of what was uploaded."""
    try:
        os.setxattr(tmp_path, b"user.probe", b"1")
    except OSError:
        pytest.skip(f"{tmp_path} keeps no extended attributes, which the server's disk backend needs")
    with FakeGcs(tmp_path) as disk:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", disk.url)
        for index in range(3):
            disk.upload("album", f"{index}.jpg", photo(index))
        path = tmp_path / "album" / "1.jpg"
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        with path.open("r+b") as stored:  # written in place: its attributes stay
            stored.write(data)
        (_, first), (_, rotten), (_, last) = collect(server.grpc_url, "gs://album")
    assert isinstance(rotten, ItemError)
    assert rotten.code == "checksum_mismatch"
    assert not isinstance(first, ItemError), first
    assert not isinstance(last, ItemError), last
