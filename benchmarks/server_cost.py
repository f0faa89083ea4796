"""What the server costs beyond its own functions: `python -m benchmarks.server_cost --repository DIR`.

In turn, pass by pass, on the same cores and photos: the running service with the null encoder (its client on
the same cores), the functions that it calls in one process per core without a server, and the Huffman floor
(a gray decode at an eighth, which no way of reading the files can undercut).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.clients import CEILING_BATCH
from benchmarks.results import Results, Window
from benchmarks.results_page import HEADER, row_of, spread_text, table
from benchmarks.run import OWN_PHOTOS, Plan, Run
from benchmarks.systems import IN_FLIGHT, Load, System, Workspace, no_service, ours
from clip_profile.console import Console
from clip_serving.repository.stage import available_cores
from clip_serving.repository.versions import served_version
from testing.photos import own_photos

SERVICE, FUNCTIONS, FLOOR = "service", "functions", "floor"
Measure = Callable[[Window], float]


def systems(cores: int) -> list[System]:
    """The three of a pass."""
    service = Load(SERVICE, "service, null encoder, uploads", "triton-bytes", IN_FLIGHT)
    functions = Load(FUNCTIONS, "its functions, in process", "ceiling", cores, CEILING_BATCH)
    floor = Load(FLOOR, "Huffman floor, in process", "floor", cores, CEILING_BATCH)
    return [
        System(SERVICE, "null", partial(ours, "null", None), (service,)),
        System(FUNCTIONS, "null", no_service, (functions,)),
        System(FLOOR, "null", no_service, (floor,)),
    ]


def cpu_ms(window: Window) -> float:
    """CPU milliseconds per photo: of the server without its client, or of the functions."""
    return window.service_cpu_ms if window.key == SERVICE else window.client_cpu_ms


def ratios(results: Results) -> list[tuple[str, str, str]]:
    """(what, median and range over the passes, aim)."""

    def over(ours: str, theirs: str, measure: Measure) -> str:
        pairs = zip(results.of(ours), results.of(theirs), strict=True)
        return spread_text([measure(mine) / measure(other) for mine, other in pairs], ".2f")

    return [
        ("images/s: service / functions", over(SERVICE, FUNCTIONS, lambda w: w.images_per_s), ">= 0.93"),
        ("CPU per photo: server / functions", over(SERVICE, FUNCTIONS, cpu_ms), ""),
        ("CPU per photo: server / floor", over(SERVICE, FLOOR, cpu_ms), "<= 2.0"),
        ("CPU per photo: functions / floor", over(FUNCTIONS, FLOOR, cpu_ms), ""),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.server_cost", description=__doc__)
    add = parser.add_argument
    add("--repository", type=Path, required=True, help="an exported one")
    add("--photos", type=Path, help="a folder of JPEGs (default: our own, 7 megapixels)")
    add("--minutes", type=float, default=3.0, help="for all passes (default: %(default)g)")
    add("--seconds", type=float, default=10.0, help="of each of the three per pass (default: %(default)g)")
    options = parser.parse_args()
    photos, cores = options.photos or own_photos(OWN_PHOTOS), available_cores()
    results, chosen = Results({}, {}), systems(cores)
    plan = Plan(options.repository, photos, options.seconds, warm_up_s=3.0, minutes=options.minutes)
    with tempfile.TemporaryDirectory(prefix="clip-bench-") as scratch:
        version = served_version(options.repository)
        workspace = Workspace(version, Path(sys.executable), Path(scratch), cores)
        Run(plan, workspace, photos, results, Console()).passes(chosen)
    print(table(HEADER, [row_of(load, results.of(load.key)) for one in chosen for load in one.loads]))
    print()
    print(table(("ratio", "in this run", "aim"), ratios(results)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
