"""`clip-batch run --engine ray` with real Ray and a real server: what is killed costs no row."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import psutil
import pytest

from clip_batch import Dataset, open_storage, verify
from clip_serving.server.ports import reserve
from testing.processes import all_gone, running
from testing.waiting import PATIENCE_S, wait_until
from tests.engines import nodes
from tests.engines.conftest import BROKEN, OBJECTS

SIZE = 4


@contextmanager
def run(out: Path, url: str, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """The command, two workers at most."""
    options = ["--url", url, "--deadline", str(PATIENCE_S), "--workers", "2", "--json"]
    command = [sys.executable, "-m", "clip_batch.cli", "run", str(out), "--engine", "ray", *options]
    with running(command, environment=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        yield process


def done(out: Path) -> int:
    """Partitions."""
    return OBJECTS // SIZE - len(Dataset.read(open_storage(str(out))).undone())


def actors(process: psutil.Process) -> list[psutil.Process]:
    return [each for each in process.children(recursive=True) if "ray::_Actor" in " ".join(each.cmdline())]


def check(out: Path) -> None:
    report = verify(open_storage(str(out)))
    assert report.ok, report.problems
    assert (report.objects, report.failed, report.unused) == (OBJECTS, BROKEN, 0)


def test_ctrl_c_and_a_killed_actor(
    server: str, plan: Callable[[int], Path], ray_environment: dict[str, str]
) -> None:
    out = plan(SIZE)
    with run(out, server, ray_environment) as process:
        wait_until(lambda: done(out) or process.poll() is not None, "a shard")
        members = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 130, said
        assert b"stopped: finished partitions are kept" in said
        assert b"Traceback" not in said
        assert all_gone(members, PATIENCE_S), "Ray ends with the command that started it"
    before = done(out)
    assert 0 < before < OBJECTS // SIZE
    with run(out, server, ray_environment) as process:
        wait_until(lambda: done(out) > before or process.poll() is not None, "another shard")
        actors(psutil.Process(process.pid))[0].kill()
        printed, said = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 1, said
    summary = json.loads(printed)
    assert summary["partitions"] + summary["done_before"] == OBJECTS // SIZE - before
    check(out)


@pytest.mark.skipif(nodes.why_no_namespaces() is not None, reason=str(nodes.why_no_namespaces()))
def test_a_node_dies_and_another_takes_over(
    server: str, plan: Callable[[int], Path], ray_environment: dict[str, str], tmp_path: Path
) -> None:
    """The only node with a CPU is killed, on a machine of its own; the run waits for another node."""
    out = plan(SIZE)
    logs = tmp_path / "logs"
    logs.mkdir()
    node = partial(nodes.node, folder=logs, environment=ray_environment)
    with ExitStack() as stack:
        machine = stack.enter_context(nodes.second_machine())
        session = stack.enter_context(tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True))
        port, forward = reserve(machine.here, (0, 0))
        url = stack.enter_context(nodes.forwarded(machine.here, forward, server))
        cluster = f"{machine.here}:{port}"
        head = ["--head", f"--port={port}", f"--node-ip-address={machine.here}", f"--temp-dir={session}"]
        stack.enter_context(node(*head, "--num-cpus=0", "--include-dashboard=false"))
        wait_until(lambda: nodes.answers(cluster), "Ray's head")
        join = [f"--address={cluster}", "--num-cpus=1"]
        there = [f"--node-ip-address={machine.address}"]
        first = stack.enter_context(node(*join, *there, inside=machine.inside))
        process = stack.enter_context(run(out, url, {**ray_environment, "RAY_ADDRESS": cluster}))
        wait_until(lambda: done(out) or process.poll() is not None, "a shard")
        nodes.kill(first)
        finished = done(out)
        assert 0 < finished < OBJECTS // SIZE
        stack.enter_context(node(*join, f"--node-ip-address={machine.here}"))
        _, said = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 1, said
    check(out)
