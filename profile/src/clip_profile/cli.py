"""`clip-profile`: measure the service with your own photos, choose its settings, and show why."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path

from clip_client.arguments import positive
from clip_client.errors import ClipClientError
from clip_client.terminal import Parser, interrupts, printable
from clip_profile.answer import apply, compare
from clip_profile.answer.recommend import Recommendation, recommend
from clip_profile.answer.serve_command import serve_command
from clip_profile.errors import ProfileError
from clip_profile.records.objective import Objective
from clip_profile.records.run_folder import RunFolder
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
  1    measured, but without a result: no setting works, none meets the objective, or the server of --url
       died; the measurements so far are kept
  2    nothing was measured: no photos, server or perf_analyzer, or a run folder of another version
  130  stopped by Ctrl-C; the measurements so far are kept, and the same command continues
"""


def main(argv: list[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    try:
        with interrupts():
            return int(options.command(options))
    except (ProfileError, ClipServingError, ClipClientError) as error:
        _say(f"error: {error}")
        return 2
    except OSError as error:
        _say(f"error: {error.filename}: {error.strerror}" if error.filename else f"error: {error.strerror}")
        return 2
    except KeyboardInterrupt:
        _say("stopped; the measurements so far are kept")
        return 130


def _say(text: str) -> None:
    print(f"clip-profile: {printable(text)}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        "clip-profile",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    add_sweep(commands.add_parser("sweep", help="measure settings with perf_analyzer and your photos"))
    _add_recommend(commands.add_parser("recommend", help="the best setting under an objective, and why"))
    _add_compare(commands.add_parser("compare", help="runs or settings side by side"))
    _add_report(commands.add_parser("report", help="a run as one HTML file"))
    add_stages(commands.add_parser("stages", help="measure each stage, from load to embed"))
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder that sweep wrote")


def _add_objective(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--p95-ms", type=positive, metavar="MS", help="upper bound on the 95th percentile of the latency")
    add("--min-throughput", type=positive, default=0.0, metavar="N", help="lower bound on photos per second")


def _objective(options: argparse.Namespace) -> Objective:
    return Objective(options.p95_ms, options.min_throughput)


def _add_recommend(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_recommend)
    _add_run(parser)
    _add_objective(parser)
    change = parser.add_mutually_exclusive_group()
    change.add_argument(
        "--apply", action="store_true", help="write the setting to deployment.json, and render the configs"
    )
    change.add_argument("--undo", action="store_true", help="undo what was applied from this RUN")
    add = parser.add_argument
    add("--repository", type=Path, default=Path("model_repository"), metavar="DIR",
        help="the model repository for --apply and --undo (default: %(default)s)")  # fmt: skip
    add("--json", action="store_true", help="print JSON")


def _recommend(options: argparse.Namespace) -> int:
    if options.undo:
        paths = apply.undo(options.repository, options.run)
        print(f"restored in {options.repository}: {', '.join(paths)}")
        return 0
    found = recommend(RunFolder.load(options.run), _objective(options))
    print(json.dumps(found.to_dict(), indent=2) if options.json else "\n".join(found.sentences()))
    if options.apply:
        _apply(found, options)
    return 0 if found.best else 1


def _apply(found: Recommendation, options: argparse.Namespace) -> None:
    if found.best is None:
        return
    changed = apply.apply(found.best.setting, options.repository, options.run)
    said = [f"applied to {options.repository}: {', '.join(changed) or 'nothing to change'}"]
    said.append("A running server uses it after a restart.")
    if serve := serve_command(found.best.setting, options.repository):
        said.append(f"clip-serve fits instances to the cores by default. To serve this setting: {serve}")
    if changed:
        arguments = [str(options.run), "--undo", "--repository", str(options.repository)]
        said.append(f"undo: clip-profile recommend {shlex.join(arguments)}")
    print("", *said, sep="\n", file=sys.stderr)


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_compare)
    parser.add_argument("runs", nargs="+", metavar="RUN[:SETTING]",
        help="a run (its best setting under the objective) or a setting of it, by its label; one RUN alone "
        "gives its best three; or files of stages --out")  # fmt: skip
    _add_objective(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _compare(options: argparse.Namespace) -> int:
    if are_reports(options.runs):
        print(printable(compare_reports(options.runs, as_json=options.json)))
        return 0
    objective = _objective(options)
    columns = compare.columns_of(options.runs, objective)
    rows = compare.rows_of(columns)
    if options.json:
        print(json.dumps(compare.to_dict(columns, rows, objective), indent=2))
    else:
        print(printable(compare.to_text(columns, rows, objective)))
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
