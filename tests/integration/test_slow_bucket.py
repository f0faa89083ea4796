"""A bucket that drips, stalls or wants to be paid: objects end in time, and Ctrl-C ends the run at once."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clip_client import ItemError, SourceError, SourceOptions
from clip_client.sources.gcs import GcsSource
from clip_serving.server.embedded import TritonServer
from testing.bucket_stub import OBJECTS, BucketStub, bucket_stub
from testing.waiting import PATIENCE_S
from tests.integration.embed_command import clip_embed, embed_command, rows_of


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[BucketStub]:
    with bucket_stub() as stub:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", stub.url)
        yield stub


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_that_never_ends(slow: BucketStub, name: str) -> None:
    del slow
    source = GcsSource("slow", "", SourceOptions(load_timeout_s=1.5))
    item = {item.name: item for item in source.list()}[name]
    begin = time.monotonic()
    with pytest.raises(ItemError, match=rf"load_timeout: gs://slow/{name} was not loaded within 1.5 s"):
        source.load(item)
    assert 1.4 < time.monotonic() - begin < PATIENCE_S


def test_an_object_that_sends_nothing(slow: BucketStub) -> None:
    del slow
    source = GcsSource("slow", "silent", SourceOptions(stall_timeout_s=0.3, load_timeout_s=2))
    with pytest.raises(ItemError, match="load_timeout"):
        source.load(next(iter(source.list())))


def test_a_listing_that_never_ends(slow: BucketStub) -> None:
    slow.is_listing_slow = True
    source = GcsSource("slow", "", SourceOptions(load_timeout_s=1))
    with pytest.raises(SourceError, match="cannot list gs://slow: no answer within 1 s"):
        source.check()


def test_a_requester_pays_bucket(slow: BucketStub) -> None:
    slow.must_bill = "project-one"
    with pytest.raises(SourceError, match=r"requester-pays bucket.*--user-project"):
        GcsSource("slow").check()
    source = GcsSource("slow", "", SourceOptions(user_project="project-one", load_timeout_s=0.5))
    item = next(iter(source.list()))
    with pytest.raises(ItemError, match="load_timeout"):
        source.load(item)
    assert slow.loading.is_set()


def test_slow_objects_are_rows(server: TritonServer, slow: BucketStub, tmp_path: Path) -> None:
    del slow
    out = tmp_path / "out.parquet"
    done = clip_embed(
        "gs://slow", "--out", str(out), "--url", server.grpc_url, "--load-timeout", "1", env=os.environ
    )
    assert done.returncode == 1, done.stderr
    assert {name: row["error_code"] for name, row in rows_of(out).items()} == dict.fromkeys(
        OBJECTS, "load_timeout"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_does_not_wait_for_loaders(
    server: TritonServer, slow: BucketStub, tmp_path: Path, number: signal.Signals
) -> None:
    """Objects would load for a day; nothing in the run ends before that."""
    command = embed_command("gs://slow", "--out", str(tmp_path / "out.parquet"), "--url", server.grpc_url)
    with subprocess.Popen(
        [*command, "--load-timeout", "86400", "--stall-timeout", "86400"], stderr=subprocess.PIPE, text=True
    ) as process:
        assert slow.loading.wait(PATIENCE_S)
        process.send_signal(number)
        _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, said
    assert "Traceback" not in said
