"""Decoding in the client gives what decoding on the server gives: vectors, pixels, codes, notices, facts."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput

from clip_client import AsyncClipClient, ClipClient, PhotoResult, ServerMismatch, ServerUnavailable
from clip_client.check import check
from clip_preprocess import Preprocessor, PreprocessSettings
from clip_serving.repository.families.image import IMAGE
from clip_serving.server.embedded import ServerOptions, TritonServer
from testing.odd_files import broken_files, named_files, odd_files
from testing.odd_jpegs import broken_jpegs, odd_jpegs, unsupported_jpegs
from testing.pictures import camera_photos, corrupt_pictures, odd_pictures, other_formats
from testing.tiffs import odd_tiffs, undecodable_tiffs
from testing.transparent import with_alpha
from testing.waiting import wait_until
from tests.integration.embed_command import clip_embed, rows_of

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


@pytest.fixture(scope="module")
def corpus() -> dict[str, bytes]:
    """Good, odd and bad photos by name."""
    odd = {**odd_files(), **odd_jpegs(), **odd_tiffs()}
    broken = {
        **broken_files(), **named_files(), **broken_jpegs(), **unsupported_jpegs(), **undecodable_tiffs(),
        **corrupt_pictures(),
    }  # fmt: skip
    return {
        **{f"photo {index}": photo for index, photo in enumerate(camera_photos(6, seed=3))},
        **odd_pictures(),
        **other_formats(),
        **with_alpha(),
        **{name: each.data for name, each in odd.items()},
        **{name: data for name, (data, _) in broken.items()},
    }


@pytest.fixture(scope="module")
def server_client(server: TritonServer) -> Iterator[ClipClient]:
    with ClipClient(server.grpc_url) as connected:
        yield connected


@pytest.fixture(scope="module")
def local_client(server: TritonServer) -> Iterator[ClipClient]:
    with ClipClient(server.grpc_url, decode="client") as connected:
        yield connected


@pytest.fixture(scope="module")
def decode_tier(small_repository: Path) -> Iterator[TritonServer]:
    with TritonServer(small_repository, ServerOptions(tier="decode")) as running:
        yield running


@pytest.fixture(scope="module")
def encode_tier(small_repository: Path) -> Iterator[TritonServer]:
    options = ServerOptions(tier="encode", encoder_precision="fp32")
    with TritonServer(small_repository, options) as running:
        yield running


@pytest.fixture(scope="module")
def tier_client(decode_tier: TritonServer, server: TritonServer) -> Iterator[ClipClient]:
    """A server of the whole repository embeds the pixels of a decode tier as well as an encode tier does."""
    with ClipClient(server.grpc_url, decode=decode_tier.grpc_url) as connected:
        yield connected


@pytest.fixture(scope="module")
def decoded_here(local_client: ClipClient, corpus: dict[str, bytes]) -> dict[str, PhotoResult]:
    return dict(zip(corpus, one_by_one(local_client, corpus), strict=True))


def described(result: PhotoResult) -> dict[str, object]:
    """Everything but the vector; an error by its wire text."""
    return {**dataclasses.asdict(dataclasses.replace(result, embedding=None, error=None)),
            "error": result.error and str(result.error)}  # fmt: skip


def assert_equal(names: list[str], wanted: list[PhotoResult], found: list[PhotoResult]) -> None:
    assert len(found) == len(wanted) == len(names)
    assert dict(zip(names, map(described, found), strict=True)) == dict(
        zip(names, map(described, wanted), strict=True)
    )
    for name, here, there in zip(names, found, wanted, strict=True):
        if there.embedding is not None:
            assert here.embedding is not None
            np.testing.assert_array_equal(here.embedding, there.embedding, name)


def test_all_placements_agree_on_every_photo(
    server_client: ClipClient,
    tier_client: ClipClient,
    decoded_here: dict[str, PhotoResult],
    corpus: dict[str, bytes],
) -> None:
    wanted = one_by_one(server_client, corpus)
    assert any(result.error for result in wanted)
    assert any(result.notices for result in wanted)
    assert_equal(list(corpus), wanted, list(decoded_here.values()))
    assert_equal(list(corpus), wanted, one_by_one(tier_client, corpus))


def one_by_one(client: ClipClient, photos: dict[str, bytes]) -> list[PhotoResult]:
    """One photo a request: a vector may differ in its last bits with the size of the batch."""
    return [client.embed_photos([photo])[0] for photo in photos.values()]


def test_pixels_are_those_of_the_server(server: TritonServer, corpus: dict[str, bytes]) -> None:
    with InferenceServerClient(server.grpc_url) as client:
        config = client.get_model_config("clip_image_preprocess").config
        settings = PreprocessSettings.from_parameters(
            {key: value.string_value for key, value in config.parameters.items()}
        )
        photos = list(corpus.values())
        there: list[npt.NDArray[np.uint8]] = []
        for begin in range(0, len(photos), 32):
            batch = np.array([[photo] for photo in photos[begin : begin + 32]], np.object_)
            data = InferInput("image", list(batch.shape), "BYTES").set_data_from_numpy(batch)
            there.extend(client.infer("clip_image_preprocess", [data]).as_numpy("pixels"))
    here = np.empty((len(photos), *settings.image_size, 3), np.uint8)
    preprocessor = Preprocessor(settings)
    preprocessor.run(photos, here)
    preprocessor.close()
    for name, ours, theirs in zip(corpus, here, there, strict=True):
        np.testing.assert_array_equal(ours, theirs, name)


def test_a_group_with_bad_photos_keeps_its_order(
    local_client: ClipClient, decoded_here: dict[str, PhotoResult], corpus: dict[str, bytes]
) -> None:
    alone = list(decoded_here.values())
    together = local_client.embed_photos(corpus.values())
    assert list(map(described, together)) == list(map(described, alone))
    for one, other in zip(together, alone, strict=True):
        if other.embedding is not None:
            assert one.embedding is not None
            np.testing.assert_allclose(one.embedding, other.embedding, atol=1e-5)


def test_the_asyncio_client_gives_the_same(
    server: TritonServer, decoded_here: dict[str, PhotoResult], corpus: dict[str, bytes]
) -> None:
    names = list(corpus)[::5]

    async def embed() -> list[PhotoResult]:
        async with AsyncClipClient(server.grpc_url, decode="client") as client:
            return [(await client.embed_photos([corpus[name]]))[0] for name in names]

    assert_equal(names, [decoded_here[name] for name in names], asyncio.run(embed()))


def test_clip_embed_writes_the_same_rows(
    server: TritonServer, corpus: dict[str, bytes], tmp_path: Path
) -> None:
    source = tmp_path / "photos"
    source.mkdir()
    for index, data in enumerate(list(corpus.values())[::7]):
        (source / f"{index:03}").write_bytes(data)
    written = {}
    for placement in ("server", "client"):
        out = tmp_path / f"{placement}.parquet"
        done = clip_embed(
            str(source),
            "--out",
            str(out),
            "--url",
            server.grpc_url,
            "--decode",
            placement,
            "--concurrency",
            "1",
        )
        assert done.returncode == 1, done.stderr  # some are broken
        written[placement] = rows_of(out)
    assert written["client"] == written["server"]


def test_a_closed_client_says_so(server: TritonServer, corpus: dict[str, bytes]) -> None:
    client = ClipClient(server.grpc_url, decode="client")
    client.embed([corpus["photo 0"]])
    client.close()
    with pytest.raises(ServerUnavailable, match="closed"):
        client.request([corpus["photo 0"]])


def test_stages_are_measured_in_the_client(local_client: ClipClient, corpus: dict[str, bytes]) -> None:
    photos = [corpus[f"photo {index}"] for index in range(6)]
    with local_client.timed() as timings:
        local_client.embed(photos)
    stages = timings.stages()
    assert stages["decode"].count == 6
    assert all((stages[name].mean_s or 0) > 0 for name in ("decode", "preprocess", "embed"))


@pytest.mark.slow
def test_each_tier_serves_its_part_and_is_checked(
    decode_tier: TritonServer,
    encode_tier: TritonServer,
    server: TritonServer,
    decoded_here: dict[str, PhotoResult],
    corpus: dict[str, bytes],
) -> None:
    assert decode_tier.checked
    assert encode_tier.checked
    assert decode_tier.encoder is None
    for url, is_served in (
        (decode_tier.grpc_url, [False, True, False]),
        (encode_tier.grpc_url, [False, False, True]),
    ):
        with InferenceServerClient(url) as client:
            found = [client.is_model_ready(name) for name in IMAGE.models]
        assert found == is_served
        assert not check(url).ok, "it does not serve everything"
    assert check(decode_tier.grpc_url, tier="decode").ok
    assert check(encode_tier.grpc_url, tier="encode").ok
    assert check(server.grpc_url, decode=decode_tier.grpc_url).ok
    names = list(corpus)[::9]
    with ClipClient(encode_tier.grpc_url, decode=decode_tier.grpc_url) as client:
        found = one_by_one(client, {name: corpus[name] for name in names})
    assert_equal(names, [decoded_here[name] for name in names], found)


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["decode", "encode"])
def test_a_tier_that_is_killed_loses_no_photo(
    decode_tier: TritonServer,
    encode_tier: TritonServer,
    corpus: dict[str, bytes],
    tmp_path: Path,
    killed: str,
) -> None:
    """One of its Python processes; the server is restarted for it."""
    for index in range(60):
        (tmp_path / f"{index:02}.jpg").write_bytes(corpus[f"photo {index % 6}"])
    tier = decode_tier if killed == "decode" else encode_tier
    restarts = tier.restarts
    with ClipClient(encode_tier.grpc_url, decode=decode_tier.grpc_url, concurrency=4) as client:
        for number, (_, outcome) in enumerate(client.embed_objects(tmp_path)):
            assert isinstance(outcome, np.ndarray), outcome
            if number == 5:
                os.kill(tier.stub_pids[0], signal.SIGKILL)
    assert number == 59
    wait_until(lambda: tier.restarts > restarts, "a restart")


@pytest.mark.slow
def test_a_tier_of_another_quality_is_refused(
    encode_tier: TritonServer, small_repository: Path, corpus: dict[str, bytes]
) -> None:
    options = ServerOptions(tier="decode", quality="exact", supervise=False)
    with (
        TritonServer(small_repository, options) as exact,
        ClipClient(encode_tier.grpc_url, decode=exact.grpc_url) as client,
        pytest.raises(ServerMismatch, match="quality is exact, not high"),
    ):
        client.embed([corpus["photo 0"]])
