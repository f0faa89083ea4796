"""What the server costs over its own functions: `python -m benchmarks.server_tax --repository DIR`.

In turn, pass by pass, on the same cores and photos: the running service with an encoder that does nothing
(its client on the same cores), the functions that it calls in one process a core with no server, and the
Huffman floor (a grey decode at an eighth, which no way of reading the files can undercut).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.contenders import IN_FLIGHT, ROOT, Contender, Drive, Place, nothing, ours, peers_python
from benchmarks.drive import CEILING_BATCH
from benchmarks.results import Results, Window
from benchmarks.run import Run
from benchmarks.table import HEADER, row_of, spread_text, table
from clip_serving.repository.stage import available_cores
from clip_serving.repository.versions import served_version
from testing.photos import own_photos

SERVICE, FUNCTIONS, FLOOR = "service", "functions", "floor"
Measure = Callable[[Window], float]


def contenders(cores: int) -> list[Contender]:
    """The three of a pass."""
    service = Drive(SERVICE, "service, null encoder, uploads", "triton-bytes", IN_FLIGHT)
    functions = Drive(FUNCTIONS, "its functions, in process", "ceiling", cores, CEILING_BATCH)
    floor = Drive(FLOOR, "Huffman floor, in process", "floor", cores, CEILING_BATCH)
    return [
        Contender(SERVICE, "null", partial(ours, "null", None), (service,)),
        Contender(FUNCTIONS, "null", nothing, (functions,)),
        Contender(FLOOR, "null", nothing, (floor,)),
    ]


def cpu_ms(window: Window) -> float:
    """CPU milliseconds of what is measured: of the server without its client, or of the functions."""
    return window.service_cpu_ms if window.key == SERVICE else window.client_cpu_ms


def ratios(results: Results) -> list[tuple[str, str, str]]:
    """(what, median and range over the passes, aim)."""

    def over(ours: str, theirs: str, measure: Measure) -> str:
        pairs = zip(results.of(ours), results.of(theirs), strict=True)
        return spread_text([measure(mine) / measure(other) for mine, other in pairs], ".2f")

    return [
        ("images/s: service / functions", over(SERVICE, FUNCTIONS, lambda w: w.images_per_s), ">= 0.93"),
        ("CPU a photo: server / functions", over(SERVICE, FUNCTIONS, cpu_ms), ""),
        ("CPU a photo: server / floor", over(SERVICE, FLOOR, cpu_ms), "<= 2.0"),
        ("CPU a photo: functions / floor", over(FUNCTIONS, FLOOR, cpu_ms), ""),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.server_tax", description=__doc__)
    parser.add_argument("--repository", type=Path, required=True, help="an exported one")
    parser.add_argument("--photos", type=Path, help="a folder of JPEGs; without it: the demo's, 7 megapixels")
    parser.add_argument("--minutes", type=float, default=3.0, help="for all passes (default: %(default)g)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each of the three in a pass")
    parser.set_defaults(warm_up=3.0, passes=None)
    options = parser.parse_args()
    folder = options.photos or own_photos(ROOT / "build" / "bench" / "photos")
    results, chosen = Results({}, {}), contenders(available_cores())
    with tempfile.TemporaryDirectory(prefix="clip-tax-") as scratch:
        place = Place(served_version(options.repository), peers_python(), Path(scratch), available_cores())
        Run(options, place, folder, results).passes(chosen)
    print(table(HEADER, [row_of(drive, results.of(drive.key)) for c in chosen for drive in c.drives]))
    print()
    print(table(("ratio", "in this run", "aim"), ratios(results)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
