"""Good and bad photos for minutes: `make soak MINUTES=10`.

Each request holds a photo whose embedding is known, beside one that is sound, mutated or broken. Memory and
threads of the preprocess processes are sampled and charted (build/soak/soak.html, soak.json). The exit status
is 1 if a known photo came out wrong or without its embedding, if a client failed, if no photo came back for a
minute, if a server process died, or if memory kept growing: more than 1.2 times after ten times as many
photos.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from statistics import median

import psutil
from markupsafe import Markup

from clip_client import ClipClient, ItemError
from clip_client.requests.wire import Embedding
from clip_profile.console import Console, duration
from clip_profile.load.closed_loop import ClosedLoop, Request
from clip_profile.observe.processes import pids_by_role
from clip_profile.records.measurement import PREPROCESS
from clip_profile.report import chart
from clip_profile.report.html import render
from clip_serving.server.embedded import ServerOptions, TritonServer
from testing.mutate import corpus, mutations
from testing.pictures import camera_photos

CLIENTS = 8
MOST_GROWTH = 1.2
FEW, MANY = 200, 2000
"""Numbers of photos after which memory is compared."""
WINDOW = 15
"""Samples, one per second."""
STALL = 60
"""Samples without another photo, after which nothing is being tested."""


@dataclass(frozen=True)
class Sample:
    """The preprocess processes together, `seconds` after the start. `shared_mb` is part of `rss_mb`:
    libraries, and the memory in which photos come from Triton."""

    seconds: float
    photos: int
    rss_mb: float
    shared_mb: float
    threads: int


class Load:
    """Clients that send until they are stopped, and check what comes back."""

    def __init__(self, url: str) -> None:
        self._client = ClipClient(url, concurrency=CLIENTS, deadline_s=120)
        self._known = camera_photos(16, seed=1)
        self._wanted = [self._client.embed([photo])[0] for photo in self._known]
        self._sound = corpus()
        self._seeds = count()
        self._lock = threading.Lock()
        self.wrong = 0
        self.ends: Counter[str] = Counter()
        self.loop = ClosedLoop(self._connect, CLIENTS)

    def __enter__(self) -> Load:
        self.loop.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.stop()
        self._client.close()

    def _connect(self) -> Request:
        seed = next(self._seeds)
        others = enumerate(self._others(seed))

        def send() -> int:
            index, other = next(others)
            known = (index * CLIENTS + seed) % len(self._known)
            row, end = self._client.request([self._known[known], other])
            with self._lock:
                self.wrong += not _is(row, self._wanted[known])
                self.ends[end.code if isinstance(end, ItemError) else "embedded"] += 1
            return 2

        return send

    def _others(self, seed: int) -> Iterator[bytes]:
        """Sound and mutated files in turn, without end."""
        while True:
            for index, mutated in enumerate(mutations(1000, seed)):
                yield self._sound[index % len(self._sound)]
                yield mutated
            seed += CLIENTS


def _is(row: Embedding | ItemError, wanted: Embedding) -> bool:
    return not isinstance(row, ItemError) and float(row @ wanted) > 0.9999


def sample(begin: float, photos: int, processes: list[psutil.Process]) -> Sample:
    memory = [process.memory_info() for process in processes]
    return Sample(
        seconds=time.monotonic() - begin,
        photos=photos,
        rss_mb=sum(each.rss for each in memory) / 1e6,
        shared_mb=sum(each.shared for each in memory) / 1e6,
        threads=sum(process.num_threads() for process in processes),
    )


def soak(repository: Path, minutes: float, console: Console) -> tuple[list[Sample], Load, int]:
    """Runs the load; returns the samples, what came back, and how often the server was restarted."""
    samples: list[Sample] = []
    with TritonServer(repository, ServerOptions()) as server, Load(server.grpc_url) as load:
        pids = pids_by_role(server.pid, server.stub_pids)[PREPROCESS]
        processes, begin = [psutil.Process(pid) for pid in pids], time.monotonic()
        try:
            while time.monotonic() - begin < minutes * 60 and not (server.restarts or load.loop.error):
                time.sleep(1)
                now = sample(begin, load.loop.photos, processes)
                samples.append(now)
                console.doing(
                    f"{duration(now.seconds)} of {duration(minutes * 60)}  {now.photos} photos  "
                    f"{now.rss_mb:.0f} MB  {now.threads} threads  {load.wrong} wrong"
                )
                if stalled(samples):
                    break
        except KeyboardInterrupt:
            console.line("stopped")
        except psutil.NoSuchProcess:  # seen here before the server's supervisor saw it
            return samples, load, max(1, server.restarts)
        console.clear()
        return samples, load, server.restarts


def stalled(samples: list[Sample]) -> bool:
    return len(samples) > STALL and samples[-1].photos == samples[-1 - STALL].photos


def complaints(samples: list[Sample], load: Load, restarts: int) -> list[str]:
    """What went wrong, in words; empty if all went well."""
    grown = growth(samples)
    found = {
        f"{load.wrong} known photos came out wrong": load.wrong > 0,
        "no photo came back": load.loop.photos == 0,
        f"no photo came back for {STALL} s": stalled(samples),
        f"memory grew {grown or 0:.2f} times": (grown or 0) > MOST_GROWTH,
        "a server process died": restarts > 0,
        f"a client failed: {type(load.loop.error).__name__}: {load.loop.error}": load.loop.error is not None,
    }
    return [text for text, true in found.items() if true]


def growth(samples: list[Sample]) -> float | None:
    """Memory after MANY photos, or at the end, relative to that after FEW; None if there were fewer.

    Medians of WINDOW samples: a single one depends on the photo that is being decoded at that moment.
    """
    early = [each.rss_mb for each in samples if each.photos >= FEW][:WINDOW]
    if len(early) < WINDOW or samples[-1].photos < 2 * FEW:
        return None
    many = [each.rss_mb for each in samples if each.photos >= MANY][:WINDOW]
    end = [each.rss_mb for each in samples[-WINDOW:]]
    late = max(median(each) for each in (many, end) if len(each) == WINDOW)
    return late / median(early)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--out", type=Path, default=Path("build/soak"))
    options = parser.parse_args()
    samples, load, restarts = soak(options.repository, options.minutes, Console())
    if not samples:
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    summary = {
        "photos": load.loop.photos,
        "wrong": load.wrong,
        "restarts": restarts,
        "growth": growth(samples),
        "complaints": complaints(samples, load, restarts),
        "ends": dict(load.ends.most_common()),
    }
    report = {**summary, "samples": [asdict(each) for each in samples]}
    (options.out / "soak.json").write_text(json.dumps(report, indent=1))
    page = options.out / "soak.html"
    title = "Preprocess processes under mixed load"
    page.write_text(render("charts.html", title=title, charts=charts(samples)), encoding="utf-8")
    print(json.dumps(summary, indent=1) + f"\ncharts: {page}")
    return 1 if summary["complaints"] else 0


def charts(samples: list[Sample]) -> list[Markup]:
    """Memory and threads over time."""
    memory = [
        chart.Line([(each.seconds, each.rss_mb) for each in samples], "memory", "all memory"),
        chart.Line(
            [(each.seconds, each.shared_mb) for each in samples], "dim", "shared with Triton and libraries"
        ),
    ]
    threads = [chart.Line([(each.seconds, float(each.threads)) for each in samples], "accent", "threads")]
    return [chart.over_time(memory, "MB (RSS)", 220), chart.over_time(threads, "threads", 220)]


if __name__ == "__main__":
    sys.exit(main())
