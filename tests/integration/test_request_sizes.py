"""One call is split into requests by the number of photos and their bytes, as the server counts them."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient

from clip_client import AsyncClipClient, ClipClient
from clip_client.requests.wire import Embedding
from clip_serving.server.embedded import TritonServer
from testing.pictures import encoded, noise
from testing.waiting import PATIENCE_S


def photo(seed: int) -> bytes:
    return encoded(noise(300, 260, seed=seed), "JPEG")


class Statistics:
    """Requests that the ensemble answers from here on, and the photos in them."""

    def __init__(self, server: TritonServer) -> None:
        self._url = server.grpc_url
        self._before = self._read()
        # The server counts a request just after it was answered: let those of earlier tests come in.
        while self._before != (now := self._later()):
            self._before = now

    def after(self, photos: int) -> int:
        """The requests that `photos` photos came in, as soon as all of them are counted."""
        requests, counted = np.subtract(self._read(), self._before)
        end = time.monotonic() + PATIENCE_S
        while counted < photos and time.monotonic() < end:
            requests, counted = np.subtract(self._later(), self._before)
        assert counted == photos
        return int(requests)

    def _later(self) -> tuple[int, int]:
        time.sleep(0.2)
        return self._read()

    def _read(self) -> tuple[int, int]:
        with InferenceServerClient(self._url) as triton:
            (stats,) = triton.get_inference_statistics("clip_image").model_stats
        return int(stats.inference_stats.success.count), int(stats.inference_count)


def embed_with_client(url: str, photos: list[bytes], **options: Any) -> Embedding:
    with ClipClient(url, **options) as client:
        return client.embed(photos)


def embed_with_async_client(url: str, photos: list[bytes], **options: Any) -> Embedding:
    async def run() -> Embedding:
        async with AsyncClipClient(url, **options) as client:
            return await client.embed(photos)

    return asyncio.run(run())


_TWO = len(photo(0)) + len(photo(1))


@pytest.mark.parametrize("embed", [embed_with_client, embed_with_async_client])
@pytest.mark.parametrize(
    ("options", "requests"),
    [
        pytest.param({"images_per_request": 1000}, 1, id="whole"),
        pytest.param({"images_per_request": 2}, 3, id="by count"),
        pytest.param({"images_per_request": 1000, "bytes_per_request": _TWO}, 3, id="by bytes"),
        pytest.param(
            {"images_per_request": 1000, "bytes_per_request": 1}, 5, id="each larger than the bound"
        ),
    ],
)
def test_one_call_is_split_into_requests(
    server: TritonServer, embed: Any, options: dict[str, int], requests: int
) -> None:
    photos = [photo(index % 2) for index in range(5)]
    statistics = Statistics(server)
    rows = embed(server.grpc_url, photos, **options)
    assert statistics.after(photos=5) == requests
    np.testing.assert_allclose(rows[2:], rows[:-2], atol=1e-5)


def test_more_photos_than_the_models_largest_batch(server: TritonServer) -> None:
    photos = [photo(index % 2) for index in range(66)]
    statistics = Statistics(server)
    rows = embed_with_client(server.grpc_url, photos, images_per_request=1000)
    assert statistics.after(photos=66) == 2
    np.testing.assert_allclose(rows[2:], rows[:-2], atol=1e-5)
