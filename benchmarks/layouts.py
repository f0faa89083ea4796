"""How best to divide a CPU's cores: `python -m benchmarks.layouts --repository DIR`.

The whole server under 16 uploads at a time, in turn with each layout, pass by pass: decoding processes,
encoder instances and their threads, on cores of their own (`apart`: half of them for the encoder, half for
decoding) or on all cores together (`shared`, the default). The client runs on the same cores.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import get_args

import numpy as np
import psutil

from clip_client import ClipClient
from clip_profile.load.closed_loop import ClosedLoop, photos_per_s
from clip_profile.observe.observer import Observer
from clip_profile.observe.processes import pids_by_role
from clip_profile.records.measurement import EMBED, PREPROCESS
from clip_serving import defaults
from clip_serving.errors import ClipServingError
from clip_serving.repository.stage import InstanceLayout, available_cores
from clip_serving.server.embedded import ServerOptions, TritonServer
from testing.pictures import camera_photos

IN_FLIGHT = 16


@dataclass(frozen=True)
class Plan:
    """A layout, and whether decoding and the encoder have cores of their own."""

    layout: InstanceLayout
    apart: bool

    def __str__(self) -> str:
        at = self.layout
        cores = "apart" if self.apart else "shared"
        return f"{at.preprocess_instances} | {at.encoder_instances} x {at.encoder_threads} | {cores}"


def plans(cores: int) -> list[Plan]:
    """One thread per instance, one instance with many threads, and both halves of the cores."""
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
    add("--seconds", type=float, default=8.0, help="measured per layout and pass (default: %(default)g)")
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
    print("| decoders | encoder | cores | photos/s: median (smallest to largest) | server CPU ms per photo |")
    print("|---|---|---|---|---|")
    for plan, values in rates.items():
        speed, busy = np.array(values).T
        spread = f"{np.median(speed):.1f} ({speed.min():.1f} to {speed.max():.1f})"
        print(f"| {plan} | {spread} | {np.median(busy):.0f} |")
    return 0


def measure(options: argparse.Namespace, plan: Plan, photos: list[bytes]) -> tuple[float, float]:
    """Photos per second, and the server's CPU milliseconds per photo."""
    server_options = ServerOptions(
        layout=plan.layout, encoder_precision=options.encoder_precision, supervise=False
    )
    endless = cycle(photos)
    with (
        TritonServer(options.repository, server_options) as server,
        ClipClient(server.grpc_url, concurrency=IN_FLIGHT) as client,
        ClosedLoop(lambda: lambda: len(client.request([next(endless)])), IN_FLIGHT) as loop,
    ):
        if plan.apart:
            _keep_apart(server)
        loop.warm_up(2.0)
        with Observer(None, {"server": [server.pid]}, children=True) as observer:
            begin, end = loop.measure(options.seconds)
    rate = photos_per_s(loop.rows(), begin, end)
    return rate, 1000 * observer.cpu_s["server"] / (rate * (end - begin))


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
