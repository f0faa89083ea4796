"""The ensemble on a real tritonserver: right rows, recorded errors, batches across requests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from PIL import Image
from tritonclient.grpc import InferenceServerClient
from tritonclient.grpc import model_config_pb2 as pb

from clip_client import AsyncClipClient, ClipClient, ItemError, Notice, ServerMismatch, check
from clip_client.requests.wire import Embedding
from clip_serving.server.embedded import ServerOptions, TritonServer
from testing.odd_jpegs import broken_jpegs, odd_jpegs, unsupported_jpegs
from testing.pictures import camera_photos, corrupt_pictures, encoded, source_picture
from testing.repositories import linked_repository, without_additions
from testing.servers import short_lived
from testing.waiting import wait_until


@pytest.fixture(scope="module")
def client(server: TritonServer) -> Iterator[ClipClient]:
    with ClipClient(server.grpc_url) as connected:
        yield connected


@pytest.fixture(scope="module")
def photos() -> list[bytes]:
    return camera_photos(12, seed=1)


@pytest.fixture(scope="module")
def wanted(client: ClipClient, photos: list[bytes]) -> Embedding:
    """Each photo embedded alone: what any batch must give too."""
    return np.concatenate([client.embed([photo]) for photo in photos])


@pytest.fixture(scope="module")
def mixed(photos: list[bytes]) -> list[tuple[bytes, int | str]]:
    """200 photos, every tenth of them broken: (data, index of the right row or the error's code)."""
    broken = list(corrupt_pictures().values())
    return [
        broken[i // 10 % len(broken)] if i % 10 == 3 else (photos[i % len(photos)], i % len(photos))
        for i in range(200)
    ]


def assert_right(
    outcomes: list[Embedding | ItemError], mixed: list[tuple[bytes, int | str]], wanted: Embedding
) -> None:
    assert len(outcomes) == len(mixed)
    for outcome, (_, expected) in zip(outcomes, mixed, strict=True):
        if isinstance(expected, str):
            assert isinstance(outcome, ItemError)
            assert outcome.code == expected
        else:
            assert not isinstance(outcome, ItemError), outcome
            assert float(outcome @ wanted[expected]) > 0.9999
    assert sum(isinstance(outcome, ItemError) for outcome in outcomes) == 20


def test_batches_with_broken_photos(
    client: ClipClient, mixed: list[tuple[bytes, int | str]], wanted: Embedding
) -> None:
    outcomes = client.embed([data for data, _ in mixed], on_error="return")
    assert_right(outcomes, mixed, wanted)


def test_concurrent_single_requests_with_broken_photos(
    client: ClipClient, mixed: list[tuple[bytes, int | str]], wanted: Embedding
) -> None:
    with ThreadPoolExecutor(32) as pool:
        outcomes = list(pool.map(lambda pair: client.request([pair[0]])[0], mixed))
    assert_right(outcomes, mixed, wanted)


def test_the_async_client_returns_the_same(
    server: TritonServer, mixed: list[tuple[bytes, int | str]], wanted: Embedding
) -> None:
    async def run() -> list[Embedding | ItemError]:
        async with AsyncClipClient(server.grpc_url) as client:
            return await client.embed([data for data, _ in mixed], on_error="return")

    assert_right(asyncio.run(run()), mixed, wanted)


def test_raising_names_the_first_broken_photo(client: ClipClient, photos: list[bytes]) -> None:
    with pytest.raises(ItemError) as caught:
        client.embed([photos[0], b"", photos[1]])
    assert caught.value.code == "empty"


def test_notices_and_facts_of_each_photo(client: ClipClient) -> None:
    picture = source_picture("chelsea.png")
    wide, turned = encoded(picture.resize((1600, 1200)), "JPEG"), encoded(picture, "PNG")
    flat = encoded(Image.new("RGB", (8, 5), "white"), "WEBP", lossless=True)
    photos = [wide, turned, wide[: len(wide) // 2], b"no photo", flat]
    results = client.embed_photos(photos)
    facts = [(each.format, each.width, each.height, each.decode_scale) for each in results]
    assert facts == [
        ("JPEG", 1600, 1200, 1),
        ("PNG", *picture.size, 1),
        ("JPEG", 1600, 1200, None),
        (None, None, None, None),
        ("WebP", 8, 5, 1),
    ]
    notice = Notice("single_color", "all pixels are #ffffff after preprocessing")
    assert [each.notices for each in results] == [(), (), (), (), (notice,)]
    assert [each.error.code if each.error else "" for each in results] == [
        "", "", "truncated", "unsupported_format", "",
    ]  # fmt: skip


@pytest.fixture(scope="module", params=["exact", "high", "fast"])
def client_of_quality(
    request: pytest.FixtureRequest, small_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ClipClient]:
    root = tmp_path_factory.mktemp(request.param) / "repository"
    linked_repository(small_repository, root, quality=request.param)
    with (
        short_lived(root) as running,
        ClipClient(running.grpc_url) as client,
    ):
        yield client


def test_odd_jpegs_in_every_quality(client_of_quality: ClipClient) -> None:
    """A file whose pixels are all there has the intact file's vector and a notice; others have an error."""
    odd = odd_jpegs()
    results = client_of_quality.embed_photos([each.data for each in odd.values()])
    intact = {each.like for each in odd.values()}
    wanted = dict(zip(intact, client_of_quality.embed(intact), strict=True))
    for (name, each), result in zip(odd.items(), results, strict=True):
        assert result.embedding is not None, f"{name}: {result.error}"
        assert float(result.embedding @ wanted[each.like]) > 0.9999, name
        assert [notice.code for notice in result.notices] == ([each.notice] if each.notice else []), name
    unsupported = {name: (data, "unsupported_format") for name, (data, _) in unsupported_jpegs().items()}
    broken = broken_jpegs() | unsupported
    outcomes = client_of_quality.embed([data for data, _ in broken.values()], on_error="return")
    codes = [outcome.code if isinstance(outcome, ItemError) else "" for outcome in outcomes]
    assert dict(zip(broken, codes, strict=True)) == {name: code for name, (_, code) in broken.items()}


def test_no_photos_return_an_empty_array(client: ClipClient) -> None:
    assert client.embed([]).shape == (0, client.info.dimension)


def test_vectors_are_normalized(wanted: Embedding) -> None:
    assert wanted.dtype == np.float32
    assert np.linalg.norm(wanted, axis=1) == pytest.approx(1.0, abs=1e-5)


class ServerOf01(TritonServer):
    """Serves configs as release 0.1 rendered them, with the code of today."""

    def _stage(self) -> None:
        super()._stage()
        for path in self._folder.rglob("*.pbtxt"):
            config = text_format.Parse(path.read_text(), pb.ModelConfig())
            without_additions(config)
            path.write_text(text_format.MessageToString(config))


@pytest.fixture(scope="module")
def older_server(small_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    # The small tower is never busy for long, so its requests meet in the queue only if it waits for more.
    root = tmp_path_factory.mktemp("older")
    linked_repository(small_repository, root, max_queue_delay_us=200_000)
    with ServerOf01(root, ServerOptions(supervise=False)) as running:
        yield running


def test_configs_of_an_older_release_are_served_as_they_are(
    older_server: TritonServer, photos: list[bytes], wanted: Embedding
) -> None:
    with ClipClient(older_server.grpc_url) as client:
        assert client.info.notice_output is client.info.dimensions_output is None
        good, bad = client.embed_photos([photos[0], b"no photo"])
    assert good.embedding is not None
    assert float(good.embedding @ wanted[0]) > 0.9999
    assert (good.notices, good.format, good.width) == ((), None, None)
    assert bad.error is not None
    assert bad.error.code == "unsupported_format"
    with (
        ClipClient(older_server.grpc_url, decode="client") as client,
        pytest.raises(ServerMismatch, match="does not state its pixels_version"),
    ):
        client.embed([photos[0]])


def test_concurrent_requests_share_the_encoders_batches(
    older_server: TritonServer, photos: list[bytes]
) -> None:
    server = older_server
    with ClipClient(server.grpc_url, concurrency=64) as client, ThreadPoolExecutor(64) as pool:
        before = _executions(server)
        list(pool.map(lambda i: client.request([photos[i % len(photos)]]), range(64)))
        # Triton counts an execution only after its responses have left.
        wait_until(lambda: _executions(server)[0] - before[0] >= 64, "64 counted inferences")
        count, executions = np.subtract(_executions(server), before)
    assert count / executions > 1.5


def test_the_reference_picture_is_embedded_correctly(server: TritonServer) -> None:
    result = check(server.grpc_url)
    assert result.ok, result.message


def test_the_servers_metadata_reaches_the_client(client: ClipClient) -> None:
    assert (client.info.dimension, client.info.max_batch_size) == (512, 64)
    assert client.info.parameters["random_weights"] == "true"
    assert len(client.info.parameters["weights_sha256"]) == 64


def _executions(server: TritonServer) -> tuple[int, int]:
    triton = InferenceServerClient(server.grpc_url)
    (stats,) = triton.get_inference_statistics("clip_image_encoder").model_stats
    triton.close()
    return int(stats.inference_count), int(stats.execution_count)
