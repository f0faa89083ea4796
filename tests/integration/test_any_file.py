"""Files of every kind through a real server: deadlines, refusals, metrics, and no death of a process."""

from __future__ import annotations

import re
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from benchmarks.overload import refusals
from clip_client import ClipClient, ItemError, ServerUnavailable
from clip_client.requests.wire import Embedding
from clip_serving.repository.stage import InstanceLayout
from clip_serving.server.embedded import ServerOptions, TritonServer
from testing.mutate import mutations
from testing.pictures import camera_photos, encoded, noise
from testing.repositories import linked_repository

_CODES = {"empty", "unsupported_format", "corrupt", "truncated", "too_many_bytes", "too_many_pixels"}
_CODES |= {"too_complex", "decode_timeout"}


@pytest.fixture
def strict(small_repository: Path, tmp_path: Path) -> Iterator[TritonServer]:
    """A server in a hurry, with one process for photos and room for two requests."""
    folder = linked_repository(
        small_repository, tmp_path / "repository", decode_timeout_s=0.4, quality="exact", max_queue_size=2
    )
    layout = InstanceLayout(
        preprocess_instances=1, preprocess_threads=1, encoder_instances=1, encoder_threads=1
    )
    with TritonServer(folder, ServerOptions(layout=layout)) as running:
        yield running


@pytest.fixture(scope="module")
def slow() -> bytes:
    """98 megapixels in several passes: seconds of work in half a megabyte."""
    return encoded(Image.new("RGB", (9900, 9900), (1, 2, 3)), "JPEG", progressive=True, quality=50)


def test_a_photo_that_hangs_costs_itself_and_then_the_process(strict: TritonServer, slow: bytes) -> None:
    small = encoded(noise(64, 48), "PNG")
    with ClipClient(strict.grpc_url) as client:
        wanted = client.embed([small])[0]
        outcomes = client.request([small, slow, small, slow, small])
        codes = [outcome.code if isinstance(outcome, ItemError) else "" for outcome in outcomes]
        assert codes == ["", "decode_timeout", "", "decode_timeout", ""]
        # Two threads hang: the process ends itself, and the supervisor starts a fresh one.
        end = time.monotonic() + 60
        while strict.restarts == 0 and time.monotonic() < end:
            time.sleep(0.05)
        assert strict.restarts == 1
        assert is_near(client.embed([small])[0], wanted)


def test_a_full_queue_refuses_at_the_first_step_and_the_client_comes_again(
    strict: TritonServer, slow: bytes
) -> None:
    small = encoded(noise(64, 48), "PNG")
    with ClipClient(strict.grpc_url) as client, ThreadPoolExecutor(13) as pool:
        wanted = client.embed([small])[0]
        hanging = pool.submit(client.request, [slow])
        rows = list(pool.map(lambda _: client.request([small])[0], range(12)))
        (outcome,) = hanging.result()
    assert isinstance(outcome, ItemError)
    assert outcome.code == "decode_timeout"
    assert all(is_near(row, wanted) for row in rows)
    refused = [
        count
        for name, count in metrics(strict).items()
        if name.startswith('nv_inference_request_failure{model="clip_image",')
    ]
    assert sum(refused) > 0


def test_a_refusal_is_one_and_giving_up_is_none(strict: TritonServer, slow: bytes) -> None:
    """The counts that benchmarks.overload and the chart of refusals in docs/how-to/monitor.md read."""

    def ask(number: int) -> str:
        image = InferInput("image", [1, 1], "BYTES")
        image.set_data_from_numpy(np.array([[slow if number == 0 else small]], object))
        timeout_s = 0.2 if number in (1, 2) else None
        try:
            triton.infer("clip_image", [image], client_timeout=timeout_s)
        except InferenceServerException as error:
            return str(error.status())
        return ""

    small = encoded(noise(64, 48), "PNG")
    before = refusals(strict.grpc_url)
    with InferenceServerClient(strict.grpc_url) as triton, ThreadPoolExecutor(24) as pool:
        ends = Counter(pool.map(ask, range(24)))
    end = time.monotonic() + 60
    while any(n for name, n in metrics(strict).items() if "_pending_" in name) and time.monotonic() < end:
        time.sleep(0.05)  # what was given up is still waiting there; to ask for more could be refused
    refused, given_up = ends["StatusCode.UNAVAILABLE"], ends["StatusCode.DEADLINE_EXCEEDED"]
    assert refused > 2
    # A client that gave up may have been refused a moment later.
    assert refused <= refusals(strict.grpc_url) - before <= refused + given_up <= refused + 2


def test_a_client_that_cannot_wait_is_told_that_the_server_is_busy(strict: TritonServer, slow: bytes) -> None:
    small = encoded(noise(64, 48), "PNG")

    def impatient(_: int) -> str:
        try:
            hurried.request([small])
        except ServerUnavailable as error:
            return type(error).__name__
        return ""

    with (
        ClipClient(strict.grpc_url) as client,
        ClipClient(strict.grpc_url, deadline_s=0.15) as hurried,
        ThreadPoolExecutor(13) as pool,
    ):
        client.embed([small])
        assert hurried.info.max_batch_size
        hanging = pool.submit(client.request, [slow])
        time.sleep(0.1)
        ends = set(pool.map(impatient, range(12)))
        hanging.result()
    assert "ServerBusy" in ends


def test_mutated_files_reach_the_right_end(server: TritonServer) -> None:
    """Ten at a time between two sound neighbours, four requests at once."""
    photo = camera_photos(1, seed=5)[0]
    files = list(mutations(200, seed=42))
    stubs = list(server.stub_pids)
    with ClipClient(server.grpc_url) as client, ThreadPoolExecutor(4) as pool:
        wanted = client.embed([photo])[0]
        batches = [[photo, *files[start : start + 10], photo] for start in range(0, 200, 10)]
        answers = list(pool.map(client.request, batches))
    ends: Counter[str] = Counter()
    for first, *rows, last in answers:
        assert is_near(first, wanted)
        assert is_near(last, wanted)
        ends.update(row.code if isinstance(row, ItemError) else "embedded" for row in rows)
    assert sum(ends.values()) == 200
    assert set(ends) - {"embedded"} <= _CODES
    assert ends["embedded"] > 10
    assert len(ends) > 3
    assert server.stub_pids == stubs


def is_near(row: Embedding | ItemError, wanted: Embedding) -> bool:
    return not isinstance(row, ItemError) and float(row @ wanted) > 0.9999


def metrics(server: TritonServer) -> dict[str, float]:
    text = urllib.request.urlopen(server.metrics_url, timeout=10).read().decode()
    return {
        name: float(value) for name, value in re.findall(r"^([a-z]\w+(?:{.*})?) (\S+)$", text, re.MULTILINE)
    }


def test_photos_are_counted_by_format_and_code_over_all_processes(server: TritonServer) -> None:
    photo, png = camera_photos(1, seed=6)[0], encoded(noise(64, 48), "PNG")
    with ClipClient(server.grpc_url) as client, ThreadPoolExecutor(8) as pool:
        client.embed([photo])
        before = metrics(server)
        batch = [photo, png, photo[: len(photo) // 2]]
        list(pool.map(lambda _: client.request(batch), range(10)))
    after = metrics(server)
    grown = {name: after[name] - before.get(name, 0.0) for name in after}
    assert grown['clip_photos{format="JPEG"}'] == 20
    assert grown['clip_photos{format="PNG"}'] == 10
    assert grown['clip_photo_errors{code="truncated"}'] == 10
    assert grown["clip_photo_bytes"] == 10 * sum(map(len, batch))
    assert grown["clip_decode_seconds_count"] == 30
    assert grown["clip_preprocess_seconds_count"] == 20
    assert grown["clip_decode_seconds_sum"] > 0
