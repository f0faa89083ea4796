"""Files of every kind through a real server: deadlines, refusals, metrics, and no death of a process."""

from __future__ import annotations

import re
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
from testing.hanging import HANGING_PHOTO, Gate, hanging_repository
from testing.mutate import mutations
from testing.odd_files import broken_files, named_files, odd_files
from testing.pictures import camera_photos, encoded, noise
from testing.servers import short_lived
from testing.tiffs import camera_raw_tiffs, odd_tiffs, undecodable_tiffs
from testing.waiting import PATIENCE_S, wait_until

_CODES = {"empty", "unsupported_format", "corrupt", "truncated", "too_many_bytes", "too_many_pixels"}
_CODES |= {"too_complex", "decode_timeout"}


_ONE_PROCESS_EACH = InstanceLayout(1, 1, 1, 1)


@dataclass(frozen=True)
class Strict:
    """A server with one process for photos, room for two requests, and a gate for photos that hang."""

    server: TritonServer
    gate: Gate


@pytest.fixture(scope="module")
def strict(small_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Strict]:
    root = tmp_path_factory.mktemp("strict") / "repository"
    gate = hanging_repository(small_repository, root, decode_timeout_s=PATIENCE_S, max_queue_size=2)
    with short_lived(root, ServerOptions(layout=_ONE_PROCESS_EACH)) as running:
        yield Strict(running, gate)


@pytest.fixture(scope="module")
def small() -> bytes:
    return encoded(noise(64, 48), "PNG")


def test_a_photo_that_hangs_fails_and_ends_the_process(
    small_repository: Path, small: bytes, tmp_path: Path
) -> None:
    gate = hanging_repository(small_repository, tmp_path / "repository", decode_timeout_s=2.0)
    with (
        TritonServer(tmp_path / "repository", ServerOptions(layout=_ONE_PROCESS_EACH)) as server,
        ClipClient(server.grpc_url, deadline_s=PATIENCE_S) as client,
        gate.closed(),
    ):
        wanted = client.embed([small])[0]
        outcomes = client.request([small, HANGING_PHOTO, small, HANGING_PHOTO, small])
        codes = [outcome.code if isinstance(outcome, ItemError) else "" for outcome in outcomes]
        assert codes == ["", "decode_timeout", "", "decode_timeout", ""]
        # Two threads hang: the process ends itself, and the supervisor starts another one.
        wait_until(lambda: server.restarts > 0, "a restart")
        assert server.restarts == 1
        assert is_near(client.embed([small])[0], wanted)


def test_a_full_queue_rejects_at_the_first_step_and_the_client_retries(strict: Strict, small: bytes) -> None:
    with (
        ClipClient(strict.server.grpc_url, deadline_s=PATIENCE_S) as client,
        ThreadPoolExecutor(13) as pool,
    ):
        wanted = client.embed([small])[0]
        with strict.gate.closed():
            hanging = pool.submit(client.request, [HANGING_PHOTO])
            strict.gate.wait_for_hanging()
            before = refused_requests(strict.server)
            sent = [pool.submit(client.request, [small]) for _ in range(12)]
            wait_until(lambda: refused_requests(strict.server) > before, "a refusal")
        assert not isinstance(hanging.result()[0], ItemError)
        assert all(is_near(future.result()[0], wanted) for future in sent)


def refused_requests(server: TritonServer) -> float:
    failures = 'nv_inference_request_failure{model="clip_image",'
    return sum(count for name, count in metrics(server).items() if name.startswith(failures))


def pending_requests(server: TritonServer) -> float:
    return sum(count for name, count in metrics(server).items() if "_pending_" in name)


def test_a_rejection_is_counted_once_and_a_cancellation_is_not(strict: Strict, small: bytes) -> None:
    """The counts that benchmarks.overload and the queries in docs/how-to/monitor.md read."""

    def ask(number: int) -> str:
        image = InferInput("image", [1, 1], "BYTES")
        image.set_data_from_numpy(np.array([[small]], object))
        try:
            triton.infer("clip_image", [image], client_timeout=0.2 if number < 2 else None)
        except InferenceServerException as error:
            return str(error.status())
        return ""

    url = strict.server.grpc_url
    with ClipClient(url) as client, InferenceServerClient(url) as triton, ThreadPoolExecutor(24) as pool:
        client.embed([small])
        before = refusals(url)
        with strict.gate.closed():
            hanging = pool.submit(client.request, [HANGING_PHOTO])
            strict.gate.wait_for_hanging()
            sent = [pool.submit(ask, number) for number in range(23)]
            wait_until(lambda: sum(future.done() for future in sent) >= 21, "answers to all but two")
        ends = Counter(future.result() for future in sent)
        hanging.result()
    # A request that its client gave up still waits in the queue, and could make the server refuse another.
    wait_until(
        lambda: not any(n for name, n in metrics(strict.server).items() if "_pending_" in name), "rest"
    )
    refused, given_up = ends["StatusCode.UNAVAILABLE"], ends["StatusCode.DEADLINE_EXCEEDED"]
    assert refused > 2
    # A client that gave up may have been refused a moment later.
    assert refused <= refusals(url) - before <= refused + given_up <= refused + 2


def test_a_client_that_cannot_wait_is_told_that_the_server_is_busy(strict: Strict, small: bytes) -> None:
    url = strict.server.grpc_url

    def impatient(_: int) -> str:
        try:
            hurried.request([small])
        except ServerUnavailable as error:
            return type(error).__name__
        return ""

    with (
        ClipClient(url, deadline_s=PATIENCE_S) as client,
        ClipClient(url, deadline_s=2.0) as hurried,
        ThreadPoolExecutor(13) as pool,
    ):
        client.embed([small])
        assert hurried.info.max_batch_size
        with strict.gate.closed():
            hanging = pool.submit(client.request, [HANGING_PHOTO])
            strict.gate.wait_for_hanging()
            ends = set(pool.map(impatient, range(12)))
        hanging.result()
    assert "ServerBusy" in ends


def test_mutated_files_get_the_right_result(server: TritonServer) -> None:
    """Ten at a time between two sound neighbors, four requests at once."""
    photo = camera_photos(1, seed=5)[0]
    files = list(mutations(200, seed=42))
    stubs = list(server.stub_pids)
    with ClipClient(server.grpc_url, deadline_s=PATIENCE_S) as client, ThreadPoolExecutor(4) as pool:
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


def test_odd_files_reach_their_recorded_end(server: TritonServer) -> None:
    """Whole pictures like their clean twins and with their notice, the others with their code."""
    odd, named = odd_files() | odd_tiffs(), named_files() | camera_raw_tiffs() | undecodable_tiffs()
    rejected = broken_files() | {name: (data, "unsupported_format") for name, (data, _) in named.items()}
    with ClipClient(server.grpc_url, deadline_s=PATIENCE_S) as client:
        results = client.embed_photos([each.data for each in odd.values()])
        twins = client.embed_photos([each.like for each in odd.values()])
        failures = client.embed_photos([data for data, _ in rejected.values()])
    for (name, each), result, twin in zip(odd.items(), results, twins, strict=True):
        assert twin.embedding is not None
        assert is_near(result.outcome, twin.embedding), name
        assert [notice.code for notice in result.notices] == [each.notice] * bool(each.notice), name
    for (name, (_, code)), failure in zip(rejected.items(), failures, strict=True):
        assert failure.error is not None, name
        assert failure.error.code == code, (name, failure.error.text)


def is_near(row: Embedding | ItemError, wanted: Embedding) -> bool:
    return not isinstance(row, ItemError) and float(row @ wanted) > 0.9999


def metrics(server: TritonServer) -> dict[str, float]:
    text = urllib.request.urlopen(server.metrics_url, timeout=PATIENCE_S).read().decode()
    return {
        name: float(value) for name, value in re.findall(r"^([a-z]\w+(?:{.*})?) (\S+)$", text, re.MULTILINE)
    }


def test_photos_are_counted_by_format_and_code_over_all_processes(server: TritonServer) -> None:
    photo, png = camera_photos(1, seed=6)[0], encoded(noise(64, 48), "PNG")
    with ClipClient(server.grpc_url, deadline_s=PATIENCE_S) as client, ThreadPoolExecutor(8) as pool:
        client.embed([photo])
        before = metrics(server)
        flat = encoded(Image.new("RGB", (9, 9)), "GIF")
        batch = [photo, png, photo[: len(photo) // 2], flat]
        list(pool.map(lambda _: client.request(batch), range(10)))
    after = metrics(server)
    grown = {name: after[name] - before.get(name, 0.0) for name in after}
    assert grown['clip_photos_total{format="JPEG"}'] == 20
    assert grown['clip_photos_total{format="PNG"}'] == 10
    assert grown['clip_photo_errors_total{code="truncated"}'] == 10
    assert grown['clip_notices_total{code="single_color"}'] == 10
    assert grown["clip_photo_bytes_total"] == 10 * sum(map(len, batch))
    assert grown["clip_decode_seconds_count"] == 40
    assert grown["clip_preprocess_seconds_count"] == 30
    assert grown["clip_decode_seconds_sum"] > 0
