"""The clients of the benchmark, each run a process of its own: `python -m benchmarks.drive JOB`.

JOB is a Job as JSON; STORAGE_EMULATOR_HOST says where the bucket is. Every client is a closed loop: so
many requests are kept in flight, from before the time that is measured until after it, so that requests
that cross its borders meet the same load. Standard output says `measuring` when the warm-up is over,
`measured` when the time is up, and ends with one line of JSON, a Log.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import multiprocessing
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import requests

from clip_client import ClipClient, ItemError, ObjectInfo, open_source
from clip_client.memory import keep_freed_memory
from clip_client.stream import stream
from testing.photos import photo_names

CEILING_BATCH = 8


@dataclass(frozen=True)
class Job:
    """What to ask of whom: `kind` is a key of CLIENTS, `address` what its client calls."""

    kind: str
    address: str
    photos: str
    """The folder of the photos; their names there are those in the bucket."""
    bucket: str
    in_flight: int
    photos_per_request: int = 1
    warm_up_s: float = 3.0
    seconds: float = 10.0
    cool_down_s: float = 2.0
    encoder: str = ""
    """The ceiling's: the folder of an exported encoder's version, or nothing for the null encoder."""
    quality: str = "high"


@dataclass
class Log:
    """Rows are (begin, end, photos), times of time.monotonic(); loads are seconds of one photo each."""

    begin: float = 0.0
    end: float = 0.0
    rows: list[tuple[float, float, int]] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)


class Clock:
    """Says when the warm-up and the time are over, to this process and to whoever reads its output."""

    def __init__(self, job: Job) -> None:
        self.begin = time.monotonic() + job.warm_up_s
        self.end = self.begin + job.seconds
        self.stop = self.end + job.cool_down_s
        self._timers = [
            threading.Timer(moment - time.monotonic(), print, [word], {"flush": True})
            for moment, word in ((self.begin, "measuring"), (self.end, "measured"))
        ]
        for timer in self._timers:
            timer.daemon = True
            timer.start()

    @property
    def running(self) -> bool:
        return time.monotonic() < self.stop

    def join(self) -> None:
        for timer in self._timers:
            timer.join()

    def cancel(self) -> None:
        for timer in self._timers:
            timer.cancel()


def main() -> int:
    job = Job(**json.loads(sys.argv[1]))
    keep_freed_memory()
    log = CLIENTS[job.kind](job)
    print(json.dumps(dataclasses.asdict(log)), flush=True)
    return 0


def origin(job: Job) -> Log:
    """Names go to the service, which loads them itself; a connection a request, so that workers share."""
    endless = itertools.cycle(photo_names(Path(job.photos)))

    def request() -> int:
        wanted = list(itertools.islice(endless, job.photos_per_request))
        answer = requests.post(
            f"{job.address}/embed",
            json={"bucket": job.bucket, "names": wanted},
            timeout=120,
        )
        answer.raise_for_status()
        if len(answer.json()["embeddings"]) != len(wanted):
            raise RuntimeError("the service answered with another count of embeddings")
        return len(wanted)

    return closed_loop(job, lambda: request)


def litserve(job: Job) -> Log:
    """A photo's bytes as a form's file, over connections that are kept."""
    endless = itertools.cycle(photos(job))

    def client() -> Callable[[], int]:
        session = requests.Session()

        def request() -> int:
            answer = session.post(
                f"{job.address}/predict", files={"content": ("photo.jpg", next(endless))}, timeout=120
            )
            answer.raise_for_status()
            return len([answer.json()["embedding"]])

        return request

    return closed_loop(job, client)


def triton_bytes(job: Job) -> Log:
    """A photo's bytes in a gRPC request, by our client."""
    endless = itertools.cycle(photos(job))
    with ClipClient(job.address, concurrency=job.in_flight) as client:

        def request() -> int:
            (row,) = client.request([next(endless)])
            if isinstance(row, ItemError):
                raise row
            return 1

        return closed_loop(job, lambda: request)


def triton_bucket(job: Job) -> Log:
    """Objects of the bucket, loaded and sent by our client as `clip-embed` does."""
    log, started = Log(), threading.local()
    with ClipClient(job.address, concurrency=job.in_flight) as client:
        source = Endless(job, log, started)

        def embed(data: bytes) -> Any:
            (row,) = client.request([data])
            if isinstance(row, ItemError):
                raise row
            log.rows.append((started.time, time.monotonic(), 1))
            return row

        client.wait(60)
        source.clock = Clock(job)
        log.begin, log.end = source.clock.begin, source.clock.end
        for item in stream(source, embed, job.in_flight, 256 << 20):
            if isinstance(item.outcome, ItemError):
                raise item.outcome
        source.clock.join()
    return log


class Endless:
    """A source that lists its objects again and again until the clock says stop, and times loading."""

    clock: Clock

    def __init__(self, job: Job, log: Log, started: threading.local) -> None:
        self._source = open_source(f"gs://{job.bucket}", job.in_flight)
        self._items = list(self._source.list())
        self._log, self._started = log, started

    def list(self) -> Iterator[ObjectInfo]:
        return itertools.takewhile(lambda _: self.clock.running, itertools.cycle(self._items))

    def load(self, item: ObjectInfo) -> bytes:
        self._started.time = time.monotonic()
        data = self._source.load(item)
        self._log.loads.append(time.monotonic() - self._started.time)
        return data


def ceiling(job: Job) -> Log:
    """Our own functions (or the floor's) with nothing around them: `in_flight` processes of one thread."""
    context = multiprocessing.get_context("spawn")
    loaded, answers = context.Barrier(job.in_flight + 1), context.SimpleQueue()
    stop = context.Value("d")
    workers = [
        context.Process(target=ceiling_worker, args=(job, loaded, stop, answers), daemon=True)
        for _ in range(job.in_flight)
    ]
    for worker in workers:
        worker.start()
    loaded.wait(120)
    clock = Clock(job)
    stop.value = clock.stop
    loaded.wait(120)
    log = Log(clock.begin, clock.end)
    for _ in workers:
        log.rows.extend(answers.get())
    for worker in workers:
        worker.join()
    clock.join()
    return log


def ceiling_worker(job: Job, loaded: Any, stop: Any, answers: Any) -> None:
    work = _floor() if job.kind == "floor" else _all_of_ours(job)
    endless, rows = itertools.cycle(photos(job)), []
    loaded.wait(120)
    loaded.wait(120)
    while time.monotonic() < stop.value:
        begin = time.monotonic()
        work([next(endless) for _ in range(CEILING_BATCH)])
        rows.append((begin, time.monotonic(), CEILING_BATCH))
    answers.put(rows)


def _all_of_ours(job: Job) -> Callable[[list[bytes]], None]:
    from clip_preprocess.pipeline import preprocess_one
    from clip_preprocess.settings import PreprocessSettings, Quality, one_of
    from clip_serving import defaults
    from clip_serving.encoder.engines import OnnxEncoder

    settings = PreprocessSettings((224, 224), quality=one_of(Quality, job.quality))
    encoder = OnnxEncoder(Path(job.encoder) / defaults.ONNX_FP32_FILE, 1) if job.encoder else None
    valid = np.ones((CEILING_BATCH, 1), np.bool_)

    def work(batch: list[bytes]) -> None:
        pixels = np.stack([preprocess_one(photo, settings) for photo in batch])
        if encoder is not None:
            encoder.embed(pixels, valid)

    return work


def _floor() -> Callable[[list[bytes]], None]:
    from benchmarks.preprocess import floor_of

    def work(batch: list[bytes]) -> None:
        for photo in batch:
            floor_of(photo)

    return work


def photos(job: Job) -> list[bytes]:
    root = Path(job.photos)
    return [(root / name).read_bytes() for name in photo_names(root)]


def closed_loop(job: Job, client: Callable[[], Callable[[], int]]) -> Log:
    """`in_flight` threads, each with a client of its own, whose call makes a request of so many photos."""
    clock = Clock(job)
    log = Log(clock.begin, clock.end)
    errors: list[Exception] = []

    def work() -> None:
        try:
            request = client()
            while clock.running and not errors:
                begin = time.monotonic()
                count = request()
                log.rows.append((begin, time.monotonic(), count))
        except Exception as error:  # shown by the main thread
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(job.in_flight)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        clock.cancel()
        raise errors[0]
    clock.join()
    return log


CLIENTS: dict[str, Callable[[Job], Log]] = {
    "origin": origin,
    "litserve": litserve,
    "triton-bytes": triton_bytes,
    "triton-bucket": triton_bucket,
    "ceiling": ceiling,
    "floor": ceiling,
}


if __name__ == "__main__":
    sys.exit(main())
