"""`make compare-origin`: the origin's service with 1, 2 and 3 workers, and ours, side by side.

Prints the origin's published table of stages and the same stages measured here. Needs `make setup-bench`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.origin import compare as origin
from benchmarks.origin import compare_run as origin_run
from clip_profile.arguments import at_least, positive
from clip_profile.console import Console
from clip_profile.errors import ProfileError
from clip_serving.errors import ClipServingError


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.origin.compare_command", description=__doc__)
    add = parser.add_argument
    add("--json", action="store_true", help="print JSON")
    add("--photos", type=Path, metavar="DIR", help="your JPEGs; without it, the benchmark's own")
    add(
        "--repository",
        type=Path,
        default=Path("model_repository"),
        metavar="DIR",
        help="an exported ViT-B-32, as the origin's is (default: %(default)s)",
    )
    add(
        "--seconds",
        type=positive,
        default=12.0,
        metavar="S",
        help="of each service and pass (default: %(default)g)",
    )
    add("--passes", type=at_least(1), default=3, metavar="N", help="interleaved (default: %(default)s)")
    try:
        return _run(parser.parse_args(argv))
    except (ClipServingError, ProfileError) as error:
        print(f"compare-origin: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ncompare-origin: stopped", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace) -> int:
    """The exit status: 1 where a service could not be measured. Ctrl-C is raised again after the table."""
    wanted = origin_run.OriginOptions(options.repository, options.photos, options.seconds, options.passes)
    stopped = False
    try:
        measured = origin_run.measure(wanted, Console())
    except origin_run.Stopped as state:
        measured, stopped = state.measured, True
    print(json.dumps(origin.to_dict(measured), indent=2) if options.json else origin.to_text(measured))
    if stopped:
        raise KeyboardInterrupt
    return 1 if measured.missing() else 0


if __name__ == "__main__":
    sys.exit(main())
