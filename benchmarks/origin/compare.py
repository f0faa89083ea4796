"""`make compare-origin`: the origin's service with 1, 2 and 3 workers, and ours, side by side.

Prints the origin's published table of stages and the same stages measured here. Needs `make setup-bench`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.origin import table
from benchmarks.run import Plan, able, choose, measure
from benchmarks.systems import BenchmarkError, only_from_bucket, systems
from clip_client.arguments import count, positive
from clip_profile.console import Console, duration
from clip_profile.records.machine import Machine
from clip_serving.encoder.cpu import Cpu
from clip_serving.errors import ClipServingError
from clip_serving.repository.stage import available_cores
from testing.processes import interrupt_once

_AROUND_S = 25.0
"""Of one service in one pass: its start, warm-up and end."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.origin.compare", description=__doc__)
    add = parser.add_argument
    add("--json", action="store_true", help="print JSON")
    add("--photos", type=Path, metavar="DIR", help="your JPEGs (default: the benchmark's own)")
    add("--repository", type=Path, default=Path("model_repository"), metavar="DIR",
        help="an exported ViT-B-32, which is the origin's model (default: %(default)s)")  # fmt: skip
    add("--seconds", type=positive, default=12.0, metavar="S",
        help="measured per service and pass (default: %(default)g)")  # fmt: skip
    add("--passes", type=count, default=3, metavar="N", help="interleaved (default: %(default)s)")
    options = parser.parse_args(argv)
    interrupt_once()
    try:
        return _run(options, Console())
    except (BenchmarkError, ClipServingError, OSError) as error:
        print(f"compare-origin: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("compare-origin: stopped before anything was measured", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace, console: Console) -> int:
    """The exit status: 1 if a service could not be measured, 130 after Ctrl-C, which is shown all the
    same."""
    plan = Plan(options.repository, options.photos, options.seconds, passes=options.passes)
    chosen = [only_from_bucket(one) for one in choose(systems(available_cores(), Cpu.here()), table.KEYS)]
    console.line(
        f"passes over {len(chosen)} services: {options.passes}, "
        f"about {duration(options.passes * len(chosen) * (options.seconds + _AROUND_S))}"
    )
    results, memory_gb = measure(plan, able(chosen, console), console), Machine.here().memory_gb
    if options.json:
        print(json.dumps(table.to_dict(results, memory_gb), indent=2))
    else:
        print(table.to_text(results, memory_gb))
    if results.interrupted:
        print("compare-origin: stopped; the table holds what was complete", file=sys.stderr)
        return 130
    return 1 if table.missing(results) else 0


if __name__ == "__main__":
    sys.exit(main())
