"""One client of two real servers: one is killed and comes back, one stops answering, two differ."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tritonclient.grpc import InferenceServerClient

from clip_client import AsyncClipClient, ClipClient, ObjectInfo, ServerStatus
from clip_serving.repository.stage import InstanceLayout
from clip_serving.server.embedded import ServerOptions, TritonServer
from testing.pictures import encoded, noise
from testing.repositories import linked_repository
from testing.waiting import PATIENCE_S, wait_until
from tests.integration.embed_command import clip_embed, rows_of

_ONE_EACH = InstanceLayout(1, 1, 1, 1)


class Endless:
    """A Source that lists photos until it is told to stop."""

    uri = "endless"

    def __init__(self) -> None:
        self.stopped = False
        self.listed: list[str] = []
        self._photos = [encoded(noise(64, 48, seed=seed), "JPEG") for seed in range(8)]

    def check(self) -> None:
        """Can always be listed."""

    def covers(self, name: str) -> bool:
        return name.isdigit()

    def list(self) -> Iterator[ObjectInfo]:
        for number in itertools.takewhile(lambda _: not self.stopped, itertools.count()):
            self.listed.append(str(number))
            yield ObjectInfo(str(number), 1000)

    def load(self, item: ObjectInfo) -> bytes:
        return self._photos[int(item.name) % len(self._photos)]


class Run:
    """Embeds an Endless source, step by step."""

    def __init__(self, client: ClipClient) -> None:
        self._client, self._source = client, Endless()
        self._records = client.embed_records(self._source)
        self._seen: Counter[str] = Counter()

    @property
    def servers(self) -> tuple[ServerStatus, ...]:
        return self._client.servers

    def answered(self, number: int) -> int:
        return self.servers[number].answered

    def until(self, condition: Callable[[], object], what: str) -> None:
        def step() -> object:
            self._take(next(self._records))
            return condition()

        wait_until(step, what)

    def finish(self) -> None:
        """Every object has exactly one embedding."""
        self._source.stopped = True
        for record in self._records:
            self._take(record)
        assert self._seen == dict.fromkeys(self._source.listed, 1)

    def _take(self, record: object) -> None:
        assert record.error is None, record.error  # type: ignore[attr-defined]
        self._seen[record.name] += 1  # type: ignore[attr-defined]


@contextmanager
def second(repository: Path, *, supervise: bool) -> Iterator[TritonServer]:
    options = ServerOptions(layout=_ONE_EACH, encoder_precision="fp32", supervise=supervise)
    with TritonServer(repository, options) as running:
        yield running


@contextmanager
def running(server: TritonServer, repository: Path, *, supervise: bool) -> Iterator[tuple[Run, TritonServer]]:
    """A run on `server` and on another one, which it yields too. Both have answered when the block begins."""
    with (
        second(repository, supervise=supervise) as other,
        ClipClient([server.grpc_url, other.grpc_url], deadline_s=PATIENCE_S, concurrency=2) as client,
    ):
        run = Run(client)
        run.until(lambda: min(run.answered(0), run.answered(1)) >= 20, "both servers answer")
        yield run, other
        run.finish()


def test_a_server_that_is_killed_loses_nothing_and_works_again_after_its_restart(
    server: TritonServer, small_repository: Path
) -> None:
    with running(server, small_repository, supervise=True) as (run, other):
        os.kill(other.pid, signal.SIGKILL)
        run.until(lambda: other.restarts == 1, "the server has been restarted")
        before = run.answered(1)
        run.until(lambda: run.answered(1) >= before + 20, "the restarted server answers")
        assert all(status.is_compared for status in run.servers)


@pytest.mark.slow  # it waits for the patience with a stopped server
def test_a_server_that_stops_answering_gets_little_until_it_answers_again(
    server: TritonServer, small_repository: Path
) -> None:
    with running(server, small_repository, supervise=False) as (run, other):
        os.kill(other.pid, signal.SIGSTOP)
        try:
            run.until(lambda: run.servers[1].in_flight_limit == 1, "it is known to have stopped")
            before = [run.answered(0), run.answered(1)]
            run.until(lambda: run.answered(0) >= before[0] + 300, "the other server does the work")
            assert run.answered(1) == before[1]
        finally:
            os.kill(other.pid, signal.SIGCONT)
        run.until(lambda: run.answered(1) >= before[1] + 20, "it answers again")


async def embedded(url: str | list[str], photos: list[bytes]) -> int:
    """The number of vectors from an asyncio client."""
    async with AsyncClipClient(url, images_per_request=1, deadline_s=PATIENCE_S) as client:
        return len(await client.embed(photos))


def requests_of(*servers: TritonServer) -> list[int]:
    """Photos that each server has embedded, by its own statistics."""
    counts = []
    for each in servers:
        with InferenceServerClient(each.grpc_url) as client:
            statistics = client.get_inference_statistics("clip_image_encoder").model_stats
            counts.append(sum(model.inference_count for model in statistics))
    return counts


@pytest.mark.slow  # it starts two servers
def test_the_command_uses_equal_servers_and_refuses_different_ones(
    server: TritonServer, small_repository: Path, tmp_path: Path
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "e.parquet"
    photos.mkdir()
    for number in range(80):
        (photos / f"{number}.jpg").write_bytes(encoded(noise(64, 48, seed=number), "JPEG"))
    exact = linked_repository(small_repository, tmp_path / "exact", quality="exact")
    with second(small_repository, supervise=False) as equal, second(exact, supervise=False) as other:
        equals = ("--url", server.grpc_url, "--url", equal.grpc_url)
        done = clip_embed(str(photos), "--out", str(out), *equals, "--json")
        assert done.returncode == 0, done.stderr
        servers = json.loads(done.stdout)["servers"]
        assert sum(servers.values()) == len(rows_of(out)) == 80
        assert min(servers.values()) > 0
        checked = clip_embed("--check", server.grpc_url, "--check", equal.grpc_url)
        assert (checked.returncode, "right: " in checked.stderr) == (0, True)

        one_name = f"ipv4:{server.grpc_url},{equal.grpc_url}"  # two addresses, as of a dns:/// name
        for url in (one_name, [server.grpc_url, equal.grpc_url]):
            before = requests_of(server, equal)
            assert asyncio.run(embedded(url, [path.read_bytes() for path in photos.iterdir()])) == 80
            after = requests_of(server, equal)
            assert all(now > then for then, now in zip(before, after, strict=True)), url

        refused = clip_embed(
            str(photos), "--out", str(tmp_path / "x.parquet"), *equals, "--url", other.grpc_url
        )
        wrong = clip_embed("--check", server.grpc_url, "--check", other.grpc_url)
        assert (refused.returncode, wrong.returncode) == (2, 1)
        for text in (refused.stderr, wrong.stderr):
            assert f"servers at {server.grpc_url} and {other.grpc_url} differ" in text
            assert "quality high on the first and exact on the second" in text
