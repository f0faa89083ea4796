"""What the benchmark starts ends with it, whatever it is: real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pytest

from benchmarks.drive import Job, Log, closed_loop
from testing.processes import PeakMemory, cpu_seconds, family, resident_bytes, running

# A parent that ignores SIGTERM, with a child in its session and one in a session of its own.
_STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
children = [subprocess.Popen(sleep), subprocess.Popen(sleep, start_new_session=True)]
print(*(child.pid for child in children), flush=True)
time.sleep(600)
"""


def alive(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False


def test_nothing_is_left_of_a_stubborn_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("testing.processes._GRACE_S", 0.2)
    with running([sys.executable, "-c", _STUBBORN], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pids = [process.pid, *map(int, process.stdout.readline().split())]
        assert len(pids) == 3
        assert all(map(alive, pids))
        process.stdout.close()
    assert not any(map(alive, pids))


def test_a_family_counts_its_children() -> None:
    program = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    with running([sys.executable, "-c", program]) as process:
        end = time.monotonic() + 60
        while len(family([process.pid])) < 2:
            assert time.monotonic() < end, "the child never began"
            time.sleep(0.05)
        parent = psutil.Process(process.pid)
        assert resident_bytes([process.pid]) > parent.memory_info().rss
        assert cpu_seconds([process.pid]) > 0
    assert family([process.pid]) == []


def test_peak_memory_is_that_of_the_time_between() -> None:
    with PeakMemory({"here": lambda: [os.getpid()]}) as memory:
        end = time.monotonic() + 60
        while not memory.peak["here"]:
            assert time.monotonic() < end, "nothing was sampled"
            time.sleep(0.05)
    assert memory.peak["here"] > 1_000_000


_JOB = Job("test", "", "", "", in_flight=3, warm_up_s=0.2, seconds=0.1, cool_down_s=0.05)


def test_a_closed_loop_keeps_its_clients_busy(capsys: pytest.CaptureFixture[str]) -> None:
    clients = []

    def client() -> object:
        clients.append(object())
        return clients[-1]

    def request() -> int:
        time.sleep(0.01)
        return 2

    log: Log = closed_loop(_JOB, lambda: (client(), request)[1])
    assert len(clients) == 3
    assert all(photos == 2 for _, _, photos in log.rows)
    assert max(end for _, end, _ in log.rows) >= log.end, "load goes on beyond the window"
    assert capsys.readouterr().out.split() == ["measuring", "measured"]


def test_a_failing_client_fails_the_loop() -> None:
    def request() -> int:
        raise RuntimeError("refused")

    with pytest.raises(RuntimeError, match="refused"):
        closed_loop(_JOB, lambda: request)
