"""How a server behaves under overload: `python -m benchmarks.overload --repository DIR`.

First the peak, in a closed loop; then photos that arrive at random (Poisson) at 1, 2 and 4 times the peak,
whether earlier ones are answered or not, each with a deadline. A server with an unbounded queue would accept
all of them, and answer later and later. Prints goodput (photos embedded per second), its ratio to the peak,
latency, what the server refused at its first step, and what its client gave up on.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import numpy as np
from tritonclient.grpc import InferenceServerClient

from clip_client import AsyncClipClient, ClipClient, ItemError, ServerUnavailable
from clip_profile.load.closed_loop import ClosedLoop, photos_per_s
from clip_serving import defaults
from clip_serving.server.embedded import ServerOptions, TritonServer
from testing.photos import read_photos
from testing.pictures import camera_photos

CLIENTS = 32
IN_FLIGHT = 256
"""The client's limit under overload: four times what the server queues."""
FACTORS = (1.0, 2.0, 4.0)


@dataclass
class Outcome:
    """The photos of one run of `seconds`; latencies are in seconds, of those that were embedded."""

    seconds: float
    offered: int = 0
    given_up: int = 0
    latencies: list[float] = field(default_factory=list)

    @property
    def goodput(self) -> float:
        return len(self.latencies) / self.seconds

    def percentile(self, percent: float) -> float:
        return float(np.percentile(self.latencies, percent)) if self.latencies else float("nan")


def peak_rate(url: str, photos: list[bytes], seconds: float) -> float:
    """Photos per second of CLIENTS requests in flight."""
    endless = cycle(photos)
    with (
        ClipClient(url, concurrency=CLIENTS) as client,
        ClosedLoop(lambda: lambda: _sound(client.request([next(endless)])), CLIENTS) as loop,
    ):
        loop.warm_up(5.0)
        begin, end = loop.measure(seconds)
    return photos_per_s(loop.rows(), begin, end)


def _sound(rows: Sequence[object]) -> int:
    if isinstance(rows[0], ItemError):
        raise SystemExit(f"a sound photo failed: {rows[0]}")
    return len(rows)


async def open_loop(url: str, photos: list[bytes], rate: float, seconds: float, deadline_s: float) -> Outcome:
    """Photos at a mean `rate` per second, at random times, each in a request of its own."""
    outcome = Outcome(seconds)
    gaps = np.random.default_rng(0).exponential(1 / rate, int(rate * seconds * 2) + 10)
    async with AsyncClipClient(url, concurrency=IN_FLIGHT, deadline_s=deadline_s) as client:
        begin = time.monotonic()
        tasks = []
        for index, moment in enumerate(np.cumsum(gaps)):
            if moment >= seconds:
                break
            await asyncio.sleep(max(0.0, begin + float(moment) - time.monotonic()))
            photo = photos[index % len(photos)]
            tasks.append(asyncio.create_task(_embed(client, photo, outcome, begin + seconds)))
        await asyncio.gather(*tasks)
    return outcome


async def _embed(client: AsyncClipClient, photo: bytes, outcome: Outcome, end: float) -> None:
    """One photo; what is answered after `end` does not count."""
    outcome.offered += 1
    begin = time.monotonic()
    try:
        _sound(await client.request([photo]))
    except ServerUnavailable:
        outcome.given_up += 1
        return
    if time.monotonic() <= end:
        outcome.latencies.append(time.monotonic() - begin)


def refusals(url: str) -> int:
    """Requests that the server has refused at its first step so far.

    Triton counts a request that fails in one of its steps twice on the ensemble. One that was refused was in
    no step yet; one whose client gave up counts on the step that it was in.
    """
    with InferenceServerClient(url) as triton:
        stats = triton.get_inference_statistics().model_stats
    fails = {each.name: int(each.inference_stats.fail.count) for each in stats}
    in_steps = fails[defaults.PREPROCESS] + fails[defaults.ENCODER]
    return fails[defaults.ENSEMBLE] // 2 - in_steps


def settle(url: str, photos: list[bytes]) -> None:
    """Waits until the queues of an earlier run are empty."""
    with ClipClient(url, deadline_s=120) as client:
        client.embed(photos[:1])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload", description=__doc__)
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--photos", type=Path, help="a folder of JPEGs (default: the tests' photos)")
    parser.add_argument("--seconds", type=float, default=30, help="per load (default: %(default)g)")
    parser.add_argument(
        "--deadline", type=float, default=20, help="seconds that a client waits (default: %(default)g)"
    )
    options = parser.parse_args()
    photos = read_photos(options.photos) if options.photos else camera_photos(20)
    with TritonServer(options.repository, ServerOptions()) as server:
        url = server.grpc_url
        peak = peak_rate(url, photos, options.seconds)
        print(f"{CLIENTS} requests in flight: {peak:.1f} photos/s is the peak\n")
        print("| load | photos/s offered | goodput | to the peak | p50 s | p99 s | refused | given up |")
        print("|---|---|---|---|---|---|---|---|")
        for factor in FACTORS:
            settle(url, photos)
            before = refusals(url)
            run = open_loop(url, photos, peak * factor, options.seconds, options.deadline)
            found = asyncio.run(run)
            print(
                f"| {factor:g} x | {found.offered / found.seconds:.1f} | {found.goodput:.1f} | "
                f"{found.goodput / peak:.2f} | {found.percentile(50):.2f} | "
                f"{found.percentile(99):.2f} | {refusals(url) - before} | {found.given_up} |",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
