"""What a server does with more than it can: `python -m benchmarks.overload --repository DIR`.

First the peak, with as many clients as it takes; then photos that arrive at random (Poisson) at 1, 2 and
4 times the peak, whether answered or not, each with a deadline. A server without a bound would take all
in, and answer ever later. Prints goodput (photos embedded a second), its ratio to the peak, latency,
what was refused by the server at its first step, and what its client gave up on.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tritonclient.grpc import InferenceServerClient

from clip_client import AsyncClipClient, ClipClient, ItemError, ServerUnavailable
from clip_serving import defaults
from clip_serving.server.embedded import ServerOptions, TritonServer

CLIENTS = 32
IN_FLIGHT = 256
"""What the client under load may have in flight: four times what the server lets wait."""
FACTORS = (1.0, 2.0, 4.0)


@dataclass
class Outcome:
    """What became of the photos of one run of `seconds`; latencies are of those embedded, in seconds."""

    seconds: float
    offered: int = 0
    given_up: int = 0
    latencies: list[float] = field(default_factory=list)

    @property
    def goodput(self) -> float:
        return len(self.latencies) / self.seconds

    def percentile(self, percent: float) -> float:
        return float(np.percentile(self.latencies, percent)) if self.latencies else float("nan")


async def closed_loop(url: str, photos: list[bytes], seconds: float) -> Outcome:
    """CLIENTS that send one photo after the other."""
    outcome = Outcome(seconds)
    async with AsyncClipClient(url, concurrency=CLIENTS) as client:
        end = time.monotonic() + seconds

        async def send(start: int) -> None:
            index = start
            while time.monotonic() < end:
                await _embed(client, photos[index % len(photos)], outcome, end)
                index += CLIENTS

        await asyncio.gather(*(send(start) for start in range(CLIENTS)))
    return outcome


async def open_loop(url: str, photos: list[bytes], rate: float, seconds: float, deadline_s: float) -> Outcome:
    """Photos at `rate` a second, at random times, each in a request of its own."""
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
    """One photo; what is answered after `end` is no goodput of the run."""
    outcome.offered += 1
    begin = time.monotonic()
    try:
        (row,) = await client.request([photo])
    except ServerUnavailable:
        outcome.given_up += 1
        return
    if isinstance(row, ItemError):
        raise SystemExit(f"a sound photo failed: {row}")
    if time.monotonic() <= end:
        outcome.latencies.append(time.monotonic() - begin)


def refusals(url: str) -> int:
    """Requests that the server has refused at its first step so far.

    Triton counts a request that ends in one of its steps twice on the ensemble. One that was refused was in
    no step yet; one whose client gave up on it counts on the step in which it was.
    """
    with InferenceServerClient(url) as triton:
        stats = triton.get_inference_statistics().model_stats
    fails = {each.name: int(each.inference_stats.fail.count) for each in stats}
    in_steps = fails[defaults.PREPROCESS] + fails[defaults.ENCODER]
    return fails[defaults.ENSEMBLE] // 2 - in_steps


def settle(url: str, photos: list[bytes]) -> None:
    """Waits until what an earlier run left in the queues is done."""
    with ClipClient(url, deadline_s=120) as client:
        client.embed(photos[:1])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload", description=__doc__)
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--photos", type=Path, help="a folder of JPEGs; without it: the tests' photos")
    parser.add_argument("--seconds", type=float, default=30, help="for each load (default: %(default)g)")
    parser.add_argument("--deadline", type=float, default=20, help="seconds a client waits (%(default)g)")
    options = parser.parse_args()
    if options.photos is None:
        from testing.pictures import camera_photos

        photos = camera_photos(20)
    else:
        photos = [path.read_bytes() for path in sorted(options.photos.rglob("*.jp*g"))]
    with TritonServer(options.repository, ServerOptions()) as server:
        url = server.grpc_url
        asyncio.run(closed_loop(url, photos, 5))
        peak = asyncio.run(closed_loop(url, photos, options.seconds))
        print(f"{CLIENTS} clients in a closed loop: {peak.goodput:.1f} photos/s is the peak\n")
        print("| load | photos/s offered | goodput | of the peak | p50 s | p99 s | refused | given up |")
        print("|---|---|---|---|---|---|---|---|")
        for factor in FACTORS:
            settle(url, photos)
            before = refusals(url)
            run = open_loop(url, photos, peak.goodput * factor, options.seconds, options.deadline)
            found = asyncio.run(run)
            print(
                f"| {factor:g} x | {found.offered / found.seconds:.1f} | {found.goodput:.1f} | "
                f"{found.goodput / peak.goodput:.2f} | {found.percentile(50):.2f} | "
                f"{found.percentile(99):.2f} | {refusals(url) - before} | {found.given_up} |",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
