"""The load clients of the benchmark, each run in a process of its own: `python -m benchmarks.clients JOB`.

JOB is a Job as JSON; STORAGE_EMULATOR_HOST says where the bucket is. Every client is a closed loop that
starts before the measured time and continues until after it, so that requests that cross its borders
meet the same load. Standard output says `measuring` when the warm-up is over, `measured` when the time is
up, and ends with one line of JSON, a Log.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import numpy as np
import requests

from clip_client import ClipClient, ItemError
from clip_client.memory import keep_freed_memory
from clip_client.sources import open_source
from clip_client.sources.base import SourceOptions
from clip_profile.load.closed_loop import ClosedLoop, Request, Row
from testing.photos import photo_names, read_photos

CEILING_BATCH = 8
_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Job:
    """`kind` is a key of CLIENTS, `address` the system under test; `photos` is a folder, whose files have
    the same names in `bucket`. `encoder` is the ceiling's: the folder of an exported encoder's version, or
    nothing for no encoder."""

    kind: str
    address: str
    photos: str
    bucket: str
    in_flight: int
    photos_per_request: int = 1
    warm_up_s: float = 3.0
    seconds: float = 10.0
    cool_down_s: float = 2.0
    encoder: str = ""
    quality: str = "high"


@dataclass
class Log:
    """Start and end of the time measured, all requests, and the seconds that each photo took to load."""

    begin: float
    end: float
    rows: list[Row]
    loads: list[float] = field(default_factory=list)


Loads = list[float]
Client = AbstractContextManager[Callable[[], Request]]
"""Yields what a closed loop calls once in every thread."""


def main() -> int:
    job = Job(**json.loads(sys.argv[1]))
    keep_freed_memory()
    loads: Loads = []
    with CLIENTS[job.kind](job, loads) as connect:
        log = press(job, connect)
    print(json.dumps(dataclasses.asdict(dataclasses.replace(log, loads=loads))), flush=True)
    return 0


def press(job: Job, connect: Callable[[], Request]) -> Log:
    """Raises the error of the first request that failed."""
    with ClosedLoop(connect, job.in_flight) as loop:
        loop.warm_up(job.warm_up_s)
        print("measuring", flush=True)
        begin, end = loop.measure(job.seconds)
        print("measured", flush=True)
        loop.measure(job.cool_down_s)
    return Log(begin, end, loop.rows())


@contextmanager
def origin(job: Job, loads: Loads) -> Iterator[Callable[[], Request]]:
    """Names go to the service, which loads them itself; one connection per request, so that workers share."""
    del loads
    names = cycle(photo_names(Path(job.photos)))

    def request() -> int:
        wanted = [next(names) for _ in range(job.photos_per_request)]
        body = {"bucket": job.bucket, "names": wanted}
        answer = requests.post(f"{job.address}/embed", json=body, timeout=_TIMEOUT_S)
        answer.raise_for_status()
        if len(answer.json()["embeddings"]) != len(wanted):
            raise RuntimeError("the service returned a different number of embeddings")
        return len(wanted)

    yield lambda: request


@contextmanager
def litserve(job: Job, loads: Loads) -> Iterator[Callable[[], Request]]:
    """A photo's bytes as a form's file, over persistent connections."""
    del loads
    photos = cycle(read_photos(Path(job.photos)))

    def connect() -> Request:
        session = requests.Session()

        def request() -> int:
            files = {"content": ("photo.jpg", next(photos))}
            answer = session.post(f"{job.address}/predict", files=files, timeout=_TIMEOUT_S)
            answer.raise_for_status()
            return len([answer.json()["embedding"]])

        return request

    yield connect


@contextmanager
def triton_bytes(job: Job, loads: Loads) -> Iterator[Callable[[], Request]]:
    """Photos' bytes in a gRPC request by our client; or their pixels, which the client or a tier decodes.

    The address is `url`, or `url decode-url` with a tier.
    """
    del loads
    photos = cycle(read_photos(Path(job.photos)))
    url, *tier = job.address.split()
    decode = tier or ("client" if job.kind == "triton-pixels" else "server")
    with ClipClient(url, concurrency=job.in_flight, decode=decode) as client:
        yield lambda: lambda: _embed(client, [next(photos) for _ in range(job.photos_per_request)])


@contextmanager
def triton_bucket(job: Job, loads: Loads) -> Iterator[Callable[[], Request]]:
    """Objects of the bucket, each loaded and sent by one thread of our client, as in `clip-embed`."""
    source = open_source(f"gs://{job.bucket}", SourceOptions(connections=job.in_flight))
    items = cycle(list(source.list()))
    with ClipClient(job.address, concurrency=job.in_flight) as client:

        def request() -> int:
            begin = time.monotonic()
            data = source.load(next(items))
            loads.append(time.monotonic() - begin)
            return _embed(client, [data])

        yield lambda: request


def _embed(client: ClipClient, photos: list[bytes]) -> int:
    rows = client.request(photos)
    for row in rows:
        if isinstance(row, ItemError):
            raise row
    return len(rows)


@contextmanager
def in_process(job: Job, loads: Loads) -> Iterator[Callable[[], Request]]:
    """No server: our own functions (or the floor's), in `in_flight` processes of one thread."""
    del loads
    context = multiprocessing.get_context("spawn")
    with ExitStack() as pools:

        def connect() -> Request:
            pool = pools.enter_context(ProcessPoolExecutor(1, context, _prepare, (job,)))
            return lambda: pool.submit(_process_batch).result()

        yield connect


_batch: Callable[[], int]
"""Of a process of the ceiling."""


def _prepare(job: Job) -> None:
    global _batch
    work = _floor() if job.kind == "floor" else _own_functions(job)
    photos = cycle(read_photos(Path(job.photos)))

    def batch() -> int:
        work([next(photos) for _ in range(CEILING_BATCH)])
        return CEILING_BATCH

    _batch = batch


def _process_batch() -> int:
    return _batch()


def _own_functions(job: Job) -> Callable[[list[bytes]], None]:
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


CLIENTS: dict[str, Callable[[Job, Loads], Client]] = {
    "origin": origin,
    "litserve": litserve,
    "triton-bytes": triton_bytes,
    "triton-pixels": triton_bytes,
    "triton-tier": triton_bytes,
    "triton-bucket": triton_bucket,
    "ceiling": in_process,
    "floor": in_process,
}


if __name__ == "__main__":
    sys.exit(main())
