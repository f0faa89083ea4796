"""`clip-batch`: CLIP embeddings of millions of objects, with any number of workers."""

from __future__ import annotations

import argparse
import sys
import traceback

from clip_batch.commands.arguments import say
from clip_batch.commands.estimate import add_estimate
from clip_batch.commands.output import add_compact, add_stale, add_status, add_verify
from clip_batch.commands.plan import add_plan, add_retry
from clip_batch.commands.run import add_run
from clip_batch.errors import BatchError, BudgetExceeded
from clip_client.errors import ClipClientError
from clip_client.terminal import Parser, interrupts, printable

_DESCRIPTION = """\
Embeds millions of objects with any number of workers. `plan` lists sources and cuts them into partitions,
`run` embeds the partitions that are not done yet. OUT is a folder: OUT/embeddings/ is a Parquet dataset with
the columns of clip-embed's output, OUT/errors/ has the rows of failed photos.

Every partition is written whole or not at all. Run any command again after an interruption.
"""
_EPILOG = """\
examples:
  clip-batch estimate --photos 1000000000 --days 7 --cpu-ms 40 --gpu-rate 2000
  clip-batch plan gs://albums/2024/ --out embeddings
  clip-batch run embeddings --url 127.0.0.1:8001
  clip-batch run embeddings --partition 17
  clip-batch status embeddings --price-per-hour 4.20
  clip-batch verify embeddings

exit status:
  0    done
  1    run: all partitions are done, and some objects of this run failed;
       verify: OUT is not complete and right; stale: there are stale rows
  2    fatal error: server, bucket or disk unavailable, or an internal error; finished partitions are kept
  3    run: more objects failed than --max-failed or --max-failed-share allows; finished partitions are kept
  130  stopped by Ctrl-C or SIGTERM; finished partitions are kept
"""
OVER_BUDGET = 3


def main(argv: list[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    try:
        with interrupts():
            return int(options.command(options))
    except BudgetExceeded as error:
        say(f"stopped: {error}")
        return OVER_BUDGET
    except (BatchError, ClipClientError) as error:
        say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        kept = ": finished partitions are kept" if options.name == "run" else ""
        say(f"stopped{kept}. Run the same command again to continue")
        return 130
    except Exception:
        # Without this, Python would exit with status 1, which means that all partitions are done.
        print(printable(traceback.format_exc()), end="", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        "clip-batch",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", dest="name", required=True)
    add_plan(commands.add_parser("plan", help="list the sources, and plan what is new or has changed"))
    add_run(commands.add_parser("run", help="embed the partitions that are not done"))
    add_status(commands.add_parser("status", help="done, failed, rate, time left and cost"))
    add_retry(commands.add_parser("retry", help="plan failed objects again"))
    add_compact(commands.add_parser("compact", help="merge shards, and remove rows that were replaced"))
    add_verify(commands.add_parser("verify", help="check that OUT has every object of its plans once"))
    add_stale(commands.add_parser("stale", help="rows of another model or setting than the server's"))
    add_estimate(commands.add_parser("estimate", help="cores, GPUs, network and cost, before you start"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
