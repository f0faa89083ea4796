"""Good and bad photos for minutes on end: `make soak MINUTES=10`.

Each request holds a photo whose embedding is known beside one that is sound, mutated or broken. Memory
and threads of the preprocess processes are sampled and charted (build/soak/soak.svg, soak.json). Exit
status 1 when a known photo came out wrong or without its embedding, when a client failed or no photo came
back for a minute, when a process of the server died, or when memory kept growing: more than 1.2 times, after
ten times as many photos.
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
from pathlib import Path
from statistics import median

import psutil

from benchmarks.chart import Line, chart
from clip_client import ClipClient, ItemError
from clip_client.requests.wire import Embedding
from clip_serving.server.embedded import ServerOptions, TritonServer
from testing.mutate import corpus, mutations
from testing.pictures import camera_photos

CLIENTS = 8
MOST_GROWTH = 1.2
FEW, MANY = 200, 2000
"""Photos after which memory is compared."""
WINDOW = 15
"""Samples, of a second each."""
STALL = 60
"""Samples without a photo more, after which nothing is being tested."""


@dataclass(frozen=True)
class Sample:
    """The preprocess processes together, `seconds` after the start."""

    seconds: float
    photos: int
    rss_mb: float
    shared_mb: float
    """Of it: libraries, and the memory in which photos come from Triton."""
    threads: int


class Load:
    """Clients that send until they are stopped, and check what comes back."""

    def __init__(self, url: str) -> None:
        self._client = ClipClient(url, concurrency=CLIENTS, deadline_s=120)
        self._known = camera_photos(16, seed=1)
        self._wanted = [self._client.embed([photo])[0] for photo in self._known]
        self._sound = corpus()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self.photos = 0
        self.wrong = 0
        self.ends: Counter[str] = Counter()
        self.errors: list[str] = []
        """Of clients that could not go on."""
        self._threads = [threading.Thread(target=self._send, args=(seed,)) for seed in range(CLIENTS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._client.close()

    def _send(self, seed: int) -> None:
        try:
            self._send_all(seed)
        except Exception as error:  # whatever it is, a thread would end with it and tell nobody
            with self._lock:
                self.errors.append(f"{type(error).__name__}: {error}")

    def _send_all(self, seed: int) -> None:
        for index, other in enumerate(self._others(seed)):
            if self._stop.is_set():
                return
            known = (index * CLIENTS + seed) % len(self._known)
            row, end = self._client.request([self._known[known], other])
            with self._lock:
                self.photos += 2
                self.wrong += not _is(row, self._wanted[known])
                self.ends[end.code if isinstance(end, ItemError) else "embedded"] += 1

    def _others(self, seed: int) -> Iterator[bytes]:
        """Sound and mutated files in turn, for ever."""
        while True:
            for index, mutated in enumerate(mutations(1000, seed)):
                yield self._sound[index % len(self._sound)]
                yield mutated
            seed += CLIENTS


def _is(row: Embedding | ItemError, wanted: Embedding) -> bool:
    return not isinstance(row, ItemError) and float(row @ wanted) > 0.9999


def preprocess_processes(server: TritonServer) -> list[psutil.Process]:
    found = [psutil.Process(pid) for pid in server.stub_pids]
    return [
        process for process in found if any("clip_image_preprocess" in part for part in process.cmdline())
    ]


def sample(begin: float, photos: int, processes: list[psutil.Process]) -> Sample:
    memory = [process.memory_info() for process in processes]
    return Sample(
        seconds=time.monotonic() - begin,
        photos=photos,
        rss_mb=sum(each.rss for each in memory) / 1e6,
        shared_mb=sum(each.shared for each in memory) / 1e6,
        threads=sum(process.num_threads() for process in processes),
    )


def soak(repository: Path, minutes: float) -> tuple[list[Sample], Load, int]:
    """Runs the load; returns the samples, what came back, and how often the server was restarted."""
    samples: list[Sample] = []
    with TritonServer(repository, ServerOptions()) as server, Load(server.grpc_url) as load:
        processes, begin = preprocess_processes(server), time.monotonic()
        try:
            while time.monotonic() - begin < minutes * 60 and not (server.restarts or load.errors):
                time.sleep(1)
                samples.append(sample(begin, load.photos, processes))
                _show(samples[-1], minutes, load)
                if stalled(samples):
                    break
        except KeyboardInterrupt:
            print("\nstopped", file=sys.stderr)
        except psutil.NoSuchProcess:  # seen before the server's watch saw it
            return samples, load, max(1, server.restarts)
        return samples, load, server.restarts


def _show(now: Sample, minutes: float, load: Load) -> None:
    print(
        f"\r{now.seconds:5.0f} of {minutes * 60:.0f} s  {now.photos:6} photos  {now.rss_mb:6.0f} MB  "
        f"{now.threads} threads  {load.wrong} wrong ",
        end="",
        file=sys.stderr,
        flush=True,
    )


def stalled(samples: list[Sample]) -> bool:
    return len(samples) > STALL and samples[-1].photos == samples[-1 - STALL].photos


def complaints(samples: list[Sample], load: Load, restarts: int) -> list[str]:
    """What went wrong, in words; empty where all went well."""
    grown = growth(samples)
    found = {
        f"{load.wrong} known photos came out wrong": load.wrong > 0,
        "no photo came back": load.photos == 0,
        f"no photo came back for {STALL} s": stalled(samples),
        f"memory grew {grown or 0:.2f} times": (grown or 0) > MOST_GROWTH,
        "a process of the server died": restarts > 0,
    }
    return [text for text, true in found.items() if true] + [
        f"a client failed: {each}" for each in load.errors
    ]


def growth(samples: list[Sample]) -> float | None:
    """Memory after MANY photos, or at the end, to that after FEW; None where fewer were seen.

    Medians of WINDOW samples: a single one holds whatever photo was being decoded at that moment.
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
    samples, load, restarts = soak(options.repository, options.minutes)
    if not samples:
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    summary = {
        "photos": load.photos,
        "wrong": load.wrong,
        "restarts": restarts,
        "growth": growth(samples),
        "complaints": complaints(samples, load, restarts),
        "ends": dict(load.ends.most_common()),
    }
    report = {**summary, "samples": [asdict(each) for each in samples]}
    (options.out / "soak.json").write_text(json.dumps(report, indent=1))
    seconds = [each.seconds for each in samples]
    lines = [
        Line("MB of memory", seconds, [each.rss_mb for each in samples]),
        Line("MB of it shared with Triton and libraries", seconds, [each.shared_mb for each in samples]),
        Line("threads", seconds, [float(each.threads) for each in samples]),
    ]
    (options.out / "soak.svg").write_text(chart("Preprocess processes under mixed load", "seconds", lines))
    print("\n" + json.dumps(summary, indent=1) + f"\nchart: {options.out / 'soak.svg'}")
    return 1 if summary["complaints"] else 0


if __name__ == "__main__":
    sys.exit(main())
