"""How a CPU's cores are best shared out: `python -m benchmarks.layouts --repository DIR`.

The whole server under 16 uploads at a time, in turn with each layout, pass by pass: processes that decode,
encoder instances and their threads, on cores of their own (`apart`: the encoder has half of them, decoding
the others) or on all cores together (`shared`, as it is served). The client runs on the same cores.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import psutil

from clip_client import ClipClient
from clip_profile.observe.processes import pids_by_role
from clip_profile.records.measurement import EMBED, PREPROCESS
from clip_serving import defaults
from clip_serving.errors import ClipServingError
from clip_serving.repository.stage import InstanceLayout, available_cores
from clip_serving.server.embedded import ServerOptions, TritonServer
from testing.pictures import camera_photos
from testing.processes import cpu_seconds

IN_FLIGHT = 16


@dataclass(frozen=True)
class Plan:
    """A layout, and whether decoding and encoder have cores of their own."""

    layout: InstanceLayout
    apart: bool

    def __str__(self) -> str:
        at = self.layout
        cores = "apart" if self.apart else "shared"
        return f"{at.preprocess_instances} | {at.encoder_instances} x {at.encoder_threads} | {cores}"


def plans(cores: int) -> list[Plan]:
    """One thread an instance, one instance with many threads, and both halves of the cores."""
    half = max(1, cores // 2)
    found = [
        Plan(InstanceLayout(decoders, 1, encoders, threads), False)
        for decoders in sorted({half, cores})
        for encoders, threads in sorted({(1, 1), (1, cores), (cores, 1)})
    ]
    if cores > 1:
        found.append(Plan(InstanceLayout(cores - half, 1, half, 1), True))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.layouts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--repository", type=Path, required=True, metavar="DIR", help="an exported one")
    add("--encoder-precision", choices=get_args(defaults.EncoderPrecision), default="auto",
        help="default: %(default)s")  # fmt: skip
    add("--passes", type=int, default=3, metavar="N", help="default: %(default)s")
    add("--seconds", type=float, default=8.0, help="measured, of each layout and pass (default: %(default)g)")
    options = parser.parse_args()
    photos, found = camera_photos(16), plans(available_cores())
    rates: dict[Plan, list[tuple[float, float]]] = {plan: [] for plan in found}
    try:
        for number, plan in itertools.product(range(1, options.passes + 1), found):
            rates[plan].append(measure(options, plan, photos))
            print(f"pass {number}: {plan}: {rates[plan][-1][0]:.1f} photos/s", file=sys.stderr, flush=True)
    except ClipServingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("| decoders | encoder | cores | photos/s: median (least to largest) | server's CPU ms a photo |")
    print("|---|---|---|---|---|")
    for plan, values in rates.items():
        speed, busy = np.array(values).T
        spread = f"{np.median(speed):.1f} ({speed.min():.1f} to {speed.max():.1f})"
        print(f"| {plan} | {spread} | {np.median(busy):.0f} |")
    return 0


def measure(options: argparse.Namespace, plan: Plan, photos: list[bytes]) -> tuple[float, float]:
    """Photos a second, and the server's CPU milliseconds a photo."""
    server_options = ServerOptions(
        layout=plan.layout, encoder_precision=options.encoder_precision, supervise=False
    )
    with (
        TritonServer(options.repository, server_options) as server,
        ClipClient(server.grpc_url, concurrency=IN_FLIGHT) as client,
        ThreadPoolExecutor(IN_FLIGHT) as pool,
    ):
        if plan.apart:
            _keep_apart(server)

        def ask(until: float) -> int:
            done = 0
            while time.monotonic() < until:
                client.request([photos[done % len(photos)]])
                done += 1
            return done

        list(pool.map(ask, [time.monotonic() + 2.0] * IN_FLIGHT))
        begin, before = time.monotonic(), cpu_seconds([server.pid])
        done = sum(pool.map(ask, [begin + options.seconds] * IN_FLIGHT))
        busy = cpu_seconds([server.pid]) - before
        return done / (time.monotonic() - begin), 1000 * busy / done


def _keep_apart(server: TritonServer) -> None:
    cores = sorted(os.sched_getaffinity(0))
    half = len(cores) // 2
    roles = pids_by_role(server.pid, server.stub_pids)
    for role, own in ((EMBED, cores[:half]), (PREPROCESS, cores[half:])):
        for pid in roles[role]:
            for thread in psutil.Process(pid).threads():
                os.sched_setaffinity(thread.id, own)


if __name__ == "__main__":
    sys.exit(main())
