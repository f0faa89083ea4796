"""The check of the reference picture, on a server that is busy."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from tritonclient.grpc import InferenceServerClient

from clip_client import ClipClient, ItemError
from clip_serving.errors import ServerError
from clip_serving.repository.stage import InstanceLayout
from clip_serving.server.embedded import ServerOptions, TritonServer
from clip_serving.server.readiness import check_reference
from testing.hanging import HANGING_PHOTO, Gate, hanging_repository
from testing.pictures import encoded, noise
from testing.servers import short_lived
from testing.waiting import PATIENCE_S, wait_until


@pytest.fixture(scope="module")
def gate(small_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Gate:
    root = tmp_path_factory.mktemp("busy") / "repository"
    return hanging_repository(small_repository, root, decode_timeout_s=PATIENCE_S, max_queue_size=2)


@pytest.fixture(scope="module")
def busy(gate: Gate) -> Iterator[TritonServer]:
    """A server with one process for photos and room for two requests."""
    options = ServerOptions(layout=InstanceLayout(1, 1, 1, 1))
    with short_lived(gate.repository, options) as server:
        yield server


@contextmanager
def hanging(server: TritonServer, gate: Gate, waiting: int = 0) -> Iterator[None]:
    """One photo hangs, and so many others are sent behind it, until the end of the block."""
    with (
        ClipClient(server.grpc_url, deadline_s=PATIENCE_S, concurrency=8) as client,
        ThreadPoolExecutor(1 + waiting) as pool,
    ):
        with gate.closed():
            pool.submit(client.request, [HANGING_PHOTO])
            gate.wait_for_hanging()
            sent = [pool.submit(client.request, [encoded(noise(64, 48), "PNG")]) for _ in range(waiting)]
            yield
        assert not any(isinstance(future.result()[0], ItemError) for future in sent)


def refused(server: TritonServer) -> int:
    with InferenceServerClient(server.grpc_url) as triton:
        (stats,) = triton.get_inference_statistics("clip_image").model_stats
    return int(stats.inference_stats.fail.count)


def test_a_server_too_busy_for_the_check_is_not_reported_as_broken(busy: TritonServer, gate: Gate) -> None:
    with hanging(busy, gate, waiting=6):
        wait_until(lambda: refused(busy), "a full queue")
        assert check_reference(busy.grpc_url, running=lambda: True, waits_s=(2.0, 2.0)) is False


def test_a_check_queued_behind_other_requests_has_time(busy: TritonServer, gate: Gate) -> None:
    def running() -> bool:
        """Asked after the first attempt, which got no answer."""
        gate.open()
        return True

    with hanging(busy, gate):
        assert check_reference(busy.grpc_url, running=running, waits_s=(0.5, PATIENCE_S)) is True


def test_a_check_of_a_dead_server_ends_at_once(busy: TritonServer, gate: Gate) -> None:
    with hanging(busy, gate), pytest.raises(ServerError, match="became ready but cannot embed"):
        check_reference(busy.grpc_url, running=lambda: False, waits_s=(0.5, PATIENCE_S))
