"""Where decoding runs, side by side: `python -m benchmarks.placement --repository DIR [--photos DIR]`.

In turn, pass by pass, on the same cores and photos: decoding on the server, in the client, and on a server of
its own, each with the null encoder and with the model, eight photos a request as `clip-embed` sends them; and
the functions that all call, in one process per core without a server (the ceiling). Client and servers share
the cores, so the figures say what a placement costs, not what more hosts gain.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.clients import CEILING_BATCH
from benchmarks.results import Results, Window
from benchmarks.results_page import spread_text, table
from benchmarks.run import OWN_PHOTOS, Plan, Run
from benchmarks.systems import Load, System, Workspace, no_service, ours, tiers
from clip_client.defaults import IMAGES_PER_REQUEST
from clip_profile.console import Console
from clip_serving.defaults import Precision
from clip_serving.encoder.cpu import Cpu
from clip_serving.repository.spec import SPEC_FILE, ModelSpec
from clip_serving.repository.stage import available_cores
from clip_serving.repository.versions import served_version
from testing.photos import own_photos, photo_names
from testing.repositories import Work

CEILING = "ceiling"
PLACEMENTS = {"server": "triton-bytes", "client": "triton-pixels"}
TIER = "triton-tier"
CALLS = 8
"""Requests in flight."""
WORKS: tuple[Work, ...] = ("null", "whole")


Measure = Callable[[Window], float]


def key_of(placement: str, work: Work) -> str:
    return f"{placement}-{work}"


def systems(cores: int, cpu: Cpu) -> list[System]:
    """One server for both placements without a tier, so that they are measured right after each other."""
    precision: Precision = "bf16" if cpu.has_bf16 else "fp32"
    found = []
    for work in WORKS:
        encoder = "null encoder" if work == "null" else precision
        loads = tuple(
            Load(key_of(name, work), f"decode={name}, {encoder}", client, CALLS, IMAGES_PER_REQUEST)
            for name, client in PLACEMENTS.items()
        )
        start = partial(ours, work, None if work == "null" else precision)
        found.append(System(f"placement-{work}", work, start, loads))
        load = Load(key_of("tier", work), f"decode=host:port, {encoder}", TIER, CALLS, IMAGES_PER_REQUEST)
        start = partial(tiers, work, None if work == "null" else precision)
        found.append(System(load.key, work, start, (load,)))
    ceiling = Load(CEILING, "its functions, in process", "ceiling", cores, CEILING_BATCH)
    return [*found, System(CEILING, "null", no_service, (ceiling,))]


def cpu_ms(window: Window) -> float:
    """Per photo, of both sides."""
    return window.service_cpu_ms + window.client_cpu_ms


def ratios(results: Results) -> list[tuple[str, str, str]]:
    """(what, median and range over the passes, aim)."""

    def over(key: str, other: str, measure: Measure = lambda window: window.images_per_s) -> str:
        pairs = zip(results.of(key), results.of(other), strict=True)
        return spread_text([measure(mine) / measure(its) for mine, its in pairs], ".2f")

    return [
        ("images/s, null encoder: client / ceiling", over("client-null", CEILING), ">= 0.93"),
        ("images/s, null encoder: server / ceiling", over("server-null", CEILING), ""),
        ("images/s, null encoder: client / server", over("client-null", "server-null"), ">= 1.10"),
        ("images/s, model: client / server", over("client-whole", "server-whole"), ">= 1.08"),
        ("images/s, null encoder: tier / server", over("tier-null", "server-null"), ""),
        ("images/s, model: tier / server", over("tier-whole", "server-whole"), ""),
        ("CPU per photo, null encoder: client / server", over("client-null", "server-null", cpu_ms), ""),
        ("CPU per photo, model: client / server", over("client-whole", "server-whole", cpu_ms), ""),
    ]


def row(load: Load, windows: list[Window], sizes: dict[str, float]) -> tuple[str, ...]:
    """Label, images/s, CPU ms per photo of the servers and of the client, bytes per photo on the network."""
    columns = [
        spread_text([each.images_per_s for each in windows], ".1f"),
        spread_text([each.service_cpu_ms for each in windows], ".1f"),
        spread_text([each.client_cpu_ms for each in windows], ".1f"),
    ]
    return (load.label, *columns, f"{sizes.get(load.client, 0.0):,.0f}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.placement", description=__doc__)
    add = parser.add_argument
    add("--repository", type=Path, required=True, help="an exported one")
    add("--photos", type=Path, help="a folder of JPEGs (default: our own, 7 megapixels)")
    add("--minutes", type=float, default=5.0, help="for all passes (default: %(default)g)")
    add("--seconds", type=float, default=10.0, help="of each of the seven per pass (default: %(default)g)")
    options = parser.parse_args()
    photos, cores = options.photos or own_photos(OWN_PHOTOS), available_cores()
    version = served_version(options.repository)
    results, chosen = Results({}, {}), systems(cores, Cpu.here())
    plan = Plan(options.repository, photos, options.seconds, warm_up_s=3.0, minutes=options.minutes)
    with tempfile.TemporaryDirectory(prefix="clip-bench-") as scratch:
        workspace = Workspace(version, Path(sys.executable), Path(scratch), cores)
        Run(plan, workspace, photos, results, Console()).passes(chosen)
    height, width = ModelSpec.load(version / SPEC_FILE).image_size
    mean = float(np.mean([(photos / name).stat().st_size for name in photo_names(photos)]))
    pixels = float(height * width * 3)
    sizes = {"triton-bytes": mean, "triton-pixels": pixels, TIER: mean + 2 * pixels}
    header = ("placement", "images/s", "servers' CPU ms", "client CPU ms", "bytes a photo")
    print(table(header, [row(load, results.of(load.key), sizes) for one in chosen for load in one.loads]))
    print()
    print(table(("ratio", "in this run", "aim"), ratios(results)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
