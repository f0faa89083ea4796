"""The options of `clip-profile compare --origin`, and what it prints."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from clip_serving.profile import origin, origin_run
from clip_serving.profile.arguments import at_least, positive
from clip_serving.profile.console import Console


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--origin",
        action="store_true",
        help="instead of runs: the service that this project answers, with 1, 2 and 3 workers, and ours, "
        "measured now; needs a clone of the repository and its `make setup-bench`",
    )
    only = parser.add_argument_group("with --origin")
    add = only.add_argument
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


def run(options: argparse.Namespace) -> int:
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
