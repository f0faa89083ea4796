"""`clip-profile`: measure the service under your own photos, choose its settings, show why."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from functools import partial
from pathlib import Path
from types import FrameType

from clip_client.errors import ClipClientError
from clip_profile.answer import apply, compare
from clip_profile.answer.recommend import recommend
from clip_profile.answer.serve_command import serve_command
from clip_profile.arguments import positive
from clip_profile.errors import ProfileError
from clip_profile.records.objective import Objective
from clip_profile.records.run_folder import RunFolder
from clip_profile.records.setting import Setting
from clip_profile.report.page import write_report
from clip_profile.stages.command import add_stages
from clip_profile.stages.compare import are_reports, compare_reports
from clip_profile.sweep.command import add_sweep
from clip_serving.errors import ClipServingError

_EPILOG = """\
examples:
  clip-profile sweep --photos my_photos/ --repository model_repository --budget 15 --out run
  clip-profile recommend run --p95-ms 500
  clip-profile recommend run --p95-ms 500 --apply --repository model_repository
  clip-profile compare run other_run
  clip-profile report run --html report.html
  clip-profile stages --photos gs://my-album/2024/ --repository model_repository --out stages.json

exit status:
  0    done
  1    measured, but no answer: no setting works, none meets the objective, or the server of --url died
       meanwhile, with what was measured kept
  2    nothing could be done: no photos, no server, no perf_analyzer, another version's run
  130  stopped by Ctrl-C; what was measured is kept, and the same command goes on
"""


def main(argv: list[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    # Python leaves Ctrl-C's signal ignored when a shell started it in the background.
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        status: int = options.command(options)
        return status
    except (ProfileError, ClipServingError, ClipClientError) as error:
        print(f"clip-profile: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""  # a full disk names no file
        print(f"clip-profile: error: {where}{error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nclip-profile: stopped; what was measured is kept", file=sys.stderr)
        return 130
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    del signum, frame
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "clip-profile",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    add_sweep(commands.add_parser("sweep", help="measure settings with perf_analyzer over your photos"))
    _add_recommend(commands.add_parser("recommend", help="the best settings under an objective, and why"))
    _add_compare(commands.add_parser("compare", help="runs or settings side by side"))
    _add_report(commands.add_parser("report", help="a run as one HTML file"))
    add_stages(
        commands.add_parser("stages", help="what load, transport, queue, decode, preprocess, embed cost")
    )
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder that sweep wrote")


def _add_objective(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--p95-ms", type=positive, metavar="MS", help="the 95th percentile of the latency may not exceed it")
    add("--min-throughput", type=positive, default=0.0, metavar="N", help="photos a second at least")


def _objective(options: argparse.Namespace) -> Objective:
    return Objective(options.p95_ms, options.min_throughput)


def _add_recommend(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_recommend)
    _add_run(parser)
    _add_objective(parser)
    add = parser.add_argument
    change = parser.add_mutually_exclusive_group()
    change.add_argument(
        "--apply",
        action="store_true",
        help="write it to the repository's deployment.json and render its configs",
    )
    change.add_argument("--undo", action="store_true", help="take back what was applied from this RUN")
    add("--repository", type=Path, default=Path("model_repository"), metavar="DIR", help="of --apply, --undo")
    add("--json", action="store_true", help="print JSON")


def _recommend(options: argparse.Namespace) -> int:
    if options.undo:
        paths = apply.undo(options.repository, options.run)
        print(f"restored in {options.repository}: {', '.join(paths)}")
        return 0
    found = recommend(RunFolder.load(options.run), _objective(options))
    if found is None:
        print(f"clip-profile: {options.run} has no measurements yet", file=sys.stderr)
        return 1
    print(json.dumps(found.to_dict(), indent=2) if options.json else "\n".join(found.sentences()))
    if found.best is None:
        return 1
    if options.apply:
        _apply(found.best.setting, options)
    return 0


def _apply(setting: Setting, options: argparse.Namespace) -> None:
    changed = apply.apply(setting, options.repository, options.run)
    say = partial(print, file=sys.stderr)
    say(f"\napplied to {options.repository}: {', '.join(changed) or 'it was so already'}")
    say("A running server takes it up at its next start.")
    if serve := serve_command(setting, options.repository):
        say(f"clip-serve fits instances to the cores by itself; to hold it to these: {serve}")
    if changed:
        say(f"undo: clip-profile recommend {options.run} --undo --repository {options.repository}")


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_compare)
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN[:SETTING]",
        help="a run (its best under the objective) or a setting of it; of a single RUN its best three; or "
        "files of stages --out",
    )
    _add_objective(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _compare(options: argparse.Namespace) -> int:
    if are_reports(options.runs):
        print(compare_reports(options.runs, as_json=options.json))
        return 0
    objective = _objective(options)
    columns = compare.columns_of(options.runs, objective)
    rows = compare.rows_of(columns)
    if options.json:
        print(json.dumps(compare.to_dict(columns, rows, objective), indent=2))
    else:
        print(compare.to_text(columns, rows, objective))
    return 0


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_report)
    _add_run(parser)
    _add_objective(parser)
    parser.add_argument("--html", type=Path, default=Path("report.html"), metavar="FILE",
                        help="default: %(default)s")  # fmt: skip


def _report(options: argparse.Namespace) -> int:
    size = write_report(RunFolder.load(options.run), _objective(options), options.html)
    print(f"{options.html}: {size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
