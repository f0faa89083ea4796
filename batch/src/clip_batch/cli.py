"""`clip-batch`: CLIP embeddings of millions of objects, with any number of workers."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from types import FrameType
from typing import Any

from tqdm import tqdm

from clip_batch import defaults
from clip_batch.budget import Budget, Meter
from clip_batch.dataset import Dataset, ShardCounts
from clip_batch.engines import ENGINES, open_engine
from clip_batch.engines.base import ClientOptions, Job
from clip_batch.errors import BatchError, BudgetExceeded
from clip_batch.layout import Partition
from clip_batch.lists import open_listing
from clip_batch.plan import PlanOptions, make_plan
from clip_batch.status import read_status
from clip_batch.storage import Storage, open_storage
from clip_batch.verify import verify
from clip_client import SourceOptions
from clip_client import defaults as client_defaults
from clip_client.arguments import add_connection_options, connection_of
from clip_client.errors import ClipClientError
from clip_client.memory import keep_freed_memory
from clip_client.sinks.base import EmbeddedObject, describe_model
from clip_client.terminal import printable

_DESCRIPTION = """\
Embeds millions of objects with any number of workers. `plan` lists sources and cuts them into partitions,
`run` embeds the partitions that are not done yet. OUT is a folder: OUT/embeddings/ is a Parquet dataset with
the columns of clip-embed's output, OUT/errors/ has the rows of failed photos.

Every partition is written whole or not at all. Run any command again after an interruption.
"""
_EPILOG = """\
examples:
  clip-batch plan gs://albums/2024/ --out embeddings
  clip-batch run embeddings --url 127.0.0.1:8001
  clip-batch run embeddings --partition 17
  clip-batch status embeddings --price-per-hour 4.20
  clip-batch verify embeddings

exit status:
  0    done
  1    run: all partitions are done, and some objects failed; verify: OUT is not complete and right
  2    fatal error: server, bucket or disk unavailable, or an internal error; finished partitions are kept
  3    run: more objects failed than --max-failed or --max-failed-share allows; finished partitions are kept
  130  stopped by Ctrl-C or SIGTERM; finished partitions are kept
"""
OVER_BUDGET = 3


def main(argv: list[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    # Python ignores SIGINT if a shell started it in the background.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        return int(options.command(options))
    except BudgetExceeded as error:
        _say(f"stopped: {error}")
        return OVER_BUDGET
    except (BatchError, ClipClientError) as error:
        _say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        _say("stopped: finished partitions are kept. Run the same command again to continue")
        return 130
    except Exception:
        # Without this, Python would exit with status 1, which means that all partitions are done.
        print(printable(traceback.format_exc()), end="", file=sys.stderr)
        return 2


def _say(text: str) -> None:
    print(f"clip-batch: {printable(text, keep='')}", file=sys.stderr)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    del signum, frame
    raise KeyboardInterrupt


class _Parser(argparse.ArgumentParser):
    def _print_message(self, message: str, file: Any = None) -> None:
        """Every message, errors included, goes through here."""
        super()._print_message(printable(message), file)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        "clip-batch",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_plan(commands.add_parser("plan", help="list the sources, and plan what is new or has changed"))
    _add_run(commands.add_parser("run", help="embed the partitions that are not done"))
    _add_status(commands.add_parser("status", help="done, failed, rate, time left and cost"))
    _add_verify(commands.add_parser("verify", help="check that OUT has every object of its plans once"))
    return parser


def _add_common(parser: argparse.ArgumentParser, out: str = "out") -> None:
    add = parser.add_argument
    if out.startswith("-"):
        add(out, required=True, metavar="OUT", help="the folder of the job")
    else:
        add(out, metavar="OUT", help="the folder of the job, as given to plan")
    add("--json", action="store_true", help="print the result as one line of JSON on standard output")


def _add_source_options(parser: argparse.ArgumentParser) -> None:
    """The fields of SourceOptions."""
    add = parser.add_argument_group("buckets").add_argument
    add("--user-project", metavar="PROJECT", help="the project to bill for a requester-pays bucket")
    add("--anonymous", action="store_true", help="read a public bucket without credentials")
    add("--load-timeout", type=_seconds, default=client_defaults.LOAD_TIMEOUT_S, metavar="SECONDS",
        help="time limit for loading one object, retries included (default: %(default).0f)")  # fmt: skip
    add("--stall-timeout", type=_seconds, default=client_defaults.STALL_TIMEOUT_S, metavar="SECONDS",
        help="longest wait for the next bytes of an object (default: %(default).0f)")  # fmt: skip


def _source_options(options: argparse.Namespace, connections: int) -> SourceOptions:
    return SourceOptions(
        connections=connections,
        load_timeout_s=options.load_timeout,
        stall_timeout_s=options.stall_timeout,
        user_project=options.user_project,
        anonymous=options.anonymous,
    )


def _add_server_options(parser: argparse.ArgumentParser, url: str | None) -> None:
    """The fields of ClientOptions."""
    add = parser.add_argument_group("server").add_argument
    add("--url", default=url, help="the server's gRPC address" + (" (default: %(default)s)" if url else ""))
    add("--model", default=client_defaults.MODEL,
        help="the model's name on the server (default: %(default)s)")  # fmt: skip
    add("--wait", type=_seconds, default=client_defaults.WAIT_FOR_SERVER_S, metavar="SECONDS",
        help="how long to wait for the server to start (default: %(default).0f)")  # fmt: skip
    add_connection_options(parser)


def _client_options(options: argparse.Namespace, **more: Any) -> ClientOptions:
    return ClientOptions(options.url, options.model, connection_of(options), wait_s=options.wait, **more)


def _model_of(options: argparse.Namespace) -> dict[str, str] | None:
    """The description of the server's model; None without --url."""
    if options.url is None:
        return None
    with _client_options(options).open() as client:
        return describe_model(client.info)


# --- plan ------------------------------------------------------------------------------------------


def _add_plan(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_plan)
    parser.description = (
        "Lists the sources and plans the objects that are new or have changed since earlier plans of OUT. A "
        "source is a bucket's prefix, a folder, an object, or a list of names or URIs: a file .txt (lines), "
        ".csv or .parquet (with columns such as uri, or bucket and name, generation, size, crc32c, as in an "
        "inventory report of Cloud Storage), or - for lines on standard input."
    )
    add = parser.add_argument
    add("source", nargs="+", metavar="SOURCE", help="gs://bucket/prefix, a folder, or a list")
    _add_common(parser, "--out")
    add("--partition-size", type=_count, default=defaults.PARTITION_SIZE, metavar="N",
        help="objects per partition (default: %(default)s)")  # fmt: skip
    for name, text in (("include", "plan only"), ("exclude", "leave out")):
        add(f"--{name}", action="append", default=[], metavar="PATTERN",
            help=f"{text} objects that match, such as '*.jpg' or '2024/*'; can be repeated")  # fmt: skip
    add("--base", metavar="SOURCE", help="the bucket or folder of names in lists that are no URIs")
    add("--source-name", metavar="NAME", help="record NAME instead of the folder's path or the bucket")
    add("--prune", action="store_true", help="mark rows of objects that the sources no longer have, for "
        "compact to remove them")  # fmt: skip
    add("--replace-model", action="store_true", help="embed everything again with the model of --url; rows "
        "of the old model are removed by compact")  # fmt: skip
    _add_source_options(parser)
    _add_server_options(parser, None)


def _plan(options: argparse.Namespace) -> int:
    storage = open_storage(options.out)
    storage.check()
    begin = time.monotonic()
    model = _model_of(options)
    listings = [
        open_listing(
            text,
            _source_options(options, 1),
            out=storage.local_path,
            base=options.base,
            source_name=options.source_name,
        )
        for text in options.source
    ]
    with tqdm(unit=" objects", desc="listed", disable=None, delay=0.5, leave=False) as bar:

        def show(count: int) -> None:
            bar.update(count - bar.n)

        plan = make_plan(
            storage,
            listings,
            PlanOptions(
                include=options.include,
                exclude=options.exclude,
                partition_size=options.partition_size,
                prune=options.prune,
                model=model,
                replace_model=options.replace_model,
                on_listed=show,
            ),
        )
    seconds = time.monotonic() - begin
    if options.json:
        print(json.dumps({**dataclasses.asdict(plan), "seconds": round(seconds, 3)}))
    if not plan.objects:
        _say(f"nothing to embed: {plan.skipped} objects are planned already, {plan.excluded} are excluded")
    else:
        _say(
            f"plan {plan.number}: {plan.objects} objects ({plan.size / 1e9:.2f} GB) in {plan.partitions} "
            f"partitions, in {seconds:.1f} s; {plan.skipped} planned before, {plan.excluded} excluded, "
            f"{plan.repeated} listed twice"
        )
    if plan.gone:
        then = "compact removes their rows" if plan.prune else "--prune removes their rows"
        _say(f"{plan.gone} objects are no longer in the sources: {then}")
    return 0


# --- run -------------------------------------------------------------------------------------------


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_run)
    parser.description = "Embeds the partitions of OUT's plans that are not done yet."
    _add_common(parser)
    add = parser.add_argument
    add("--engine", choices=list(ENGINES), default="local", help="who runs partitions (default: %(default)s)")
    add("--workers", type=_count, default=defaults.WORKERS, metavar="N",
        help="partitions at a time (default: %(default)s)")  # fmt: skip
    add("--plan", type=_count, metavar="N", help="this plan alone (default: all; with --partition: the last)")
    index = os.environ.get("JOB_COMPLETION_INDEX")
    add("--partition", type=int, metavar="N", default=int(index) if index and index.isdigit() else None,
        help="this partition alone, counted from 0 (default: JOB_COMPLETION_INDEX, which an Indexed Job of "
        "Kubernetes sets)")  # fmt: skip
    add("--concurrency", type=_count, default=client_defaults.CONCURRENCY, metavar="N",
        help="photos in flight (default: %(default)s)")  # fmt: skip
    add("--decode", default=client_defaults.DECODE, metavar="SIDE", help="which side decodes photos, as for "
        "clip-embed (default: %(default)s)")  # fmt: skip
    add("--deadline", type=_seconds, default=client_defaults.DEADLINE_S, metavar="SECONDS",
        help="time limit for one photo, retries included (default: %(default).0f)")  # fmt: skip
    add("--max-failed", type=int, metavar="N", help="stop if more objects than this fail")
    add("--max-failed-share", type=_share, metavar="SHARE", help="stop if a larger share fails, 0 to 1; "
        f"counts after {defaults.BUDGET_MIN_OBJECTS} objects")  # fmt: skip
    add("--quiet", action="store_true", help="no progress bar")
    _add_source_options(parser)
    _add_server_options(parser, client_defaults.URL)


def _run(options: argparse.Namespace) -> int:
    keep_freed_memory()
    storage = open_storage(options.out)
    partitions = _partitions(storage, options)
    job = Job(
        options.out,
        _client_options(
            options, deadline_s=options.deadline, concurrency=options.concurrency, decode=options.decode
        ),
        _source_options(options, options.concurrency),
        Budget(options.max_failed, options.max_failed_share),
    )
    meter = _meter(storage, job.budget) if options.partition is None else Meter(job.budget)
    begin = time.monotonic()
    done: list[ShardCounts] = []
    engine = open_engine(options.engine, options.workers)
    total = _objects(storage, partitions)
    with (
        _progress(total, quiet=options.quiet) as show,
        closing(engine.run(job, partitions, meter, show)) as results,
    ):
        for counts in results:
            done.append(counts)
    failed = _report(done, time.monotonic() - begin, as_json=options.json)
    return 1 if failed and options.partition is None else 0


def _partitions(storage: Storage, options: argparse.Namespace) -> list[Partition]:
    """Those to run, in order."""
    dataset = Dataset.read(storage)
    if not dataset.plans:
        raise BatchError(
            f"{storage.uri} has no plan. Make one with: clip-batch plan SOURCE --out {storage.uri}"
        )
    plans = dataset.plans
    if options.plan is not None:
        plans = [plan for plan in plans if plan.number == options.plan]
        if not plans:
            raise BatchError(f"{storage.uri} has no plan {options.plan}, but {len(dataset.plans)} plans")
    if options.partition is None:
        return dataset.undone(plans)
    plan = plans[-1]
    if not 0 <= options.partition < plan.partitions:
        raise BatchError(
            f"plan {plan.number} has {plan.partitions} partitions, numbered from 0: there is no "
            f"{options.partition}"
        )
    return [Partition(plan.number, options.partition)]


def _objects(storage: Storage, partitions: Sequence[Partition]) -> int | None:
    """About how many objects these are."""
    dataset = Dataset.read(storage)
    sizes = {plan.number: plan.objects / max(1, plan.partitions) for plan in dataset.plans}
    return round(sum(sizes[partition.plan] for partition in partitions))


def _meter(storage: Storage, budget: Budget) -> Meter:
    """With the failures of the partitions that are done, if there is a budget."""
    meter = Meter(Budget())
    if budget != Budget():
        meter = Meter(budget)
        for info in Dataset.read(storage).infos():
            if info.counts is not None:
                meter.add(info.counts.objects, info.counts.failed)
    return meter


@contextmanager
def _progress(total: int | None, *, quiet: bool) -> Iterator[Any]:
    """A function that counts an object on a progress bar, which is drawn only on a terminal."""
    failed = 0
    with tqdm(
        unit=" photos",
        total=total,
        disable=True if quiet else None,
        dynamic_ncols=True,
        mininterval=0.5,
        delay=0.5,
        leave=False,
    ) as bar:

        def show(item: EmbeddedObject) -> None:
            nonlocal failed
            bar.update()
            if item.error is not None:
                failed += 1
                bar.set_postfix(failed=failed, refresh=False)

        yield show


def _report(done: Sequence[ShardCounts], seconds: float, *, as_json: bool) -> int:
    """Says what was done; returns the number of failed objects."""
    new = [counts for counts in done if counts.is_new]
    failed: Counter[str] = Counter()
    for counts in done:
        failed.update(counts.failed)
    objects = sum(counts.objects for counts in new)
    summary = {
        "partitions": len(new),
        "done_before": len(done) - len(new),
        "objects": objects,
        "embedded": sum(counts.embedded for counts in done),
        "failed": dict(failed.most_common()),
        "megabytes": round(sum(counts.megabytes for counts in new), 3),
        "seconds": round(seconds, 3),
        "objects_per_second": round(objects / seconds, 3),
    }
    if as_json:
        print(json.dumps(summary))
    codes = ", ".join(f"{count} {code}" for code, count in failed.most_common())
    _say(
        f"{len(new)} partitions, {objects} objects in {seconds:.1f} s, {objects / seconds:.1f} objects/s"
        + (f"; failed: {codes}. Try them again with: clip-batch retry --failed" if failed else "")
    )
    return failed.total()


# --- status and verify -----------------------------------------------------------------------------


def _add_status(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_status)
    parser.description = "Shows how far a job is. Workers may be running."
    _add_common(parser)
    parser.add_argument("--price-per-hour", type=float, metavar="PRICE",
        help="what all machines of the job cost together, for an estimate")  # fmt: skip


def _status(options: argparse.Namespace) -> int:
    status = read_status(open_storage(options.out))
    cost = status.cost(options.price_per_hour) if options.price_per_hour is not None else {}
    if options.json:
        values = {**dataclasses.asdict(status), "seconds_left": status.seconds_left, "cost": cost}
        print(json.dumps(values))
        return 0
    print(f"partitions  {status.done} of {status.partitions} done, {status.plans} plans")
    print(f"objects     {status.finished_objects} of {status.objects}")
    codes = ", ".join(f"{count} {code}" for code, count in status.failed.items())
    print(f"failed      {codes or 'none'}")
    if status.gone:
        print(f"gone        {status.gone} objects are no longer in the sources")
    if status.rate is not None:
        print(f"rate        {status.rate:.1f} objects/s by all workers")
    if status.seconds_left is not None:
        print(f"left        {_duration(status.seconds_left)}")
    for name, price in cost.items():
        if price is not None:
            print(f"cost        {price:.2f} {name.replace('_', ' ')}")
    return 0


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def _add_verify(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_verify)
    parser.description = (
        "Checks that every object of the plans is there once, with a vector of length 1 or a typed error, "
        "and that all vectors are of one model."
    )
    _add_common(parser)


def _verify(options: argparse.Namespace) -> int:
    report = verify(open_storage(options.out))
    if options.json:
        print(json.dumps({**dataclasses.asdict(report), "ok": report.ok}))
    for problem in report.problems:
        _say(f"WRONG: {problem}")
    if report.problem_count > len(report.problems):
        _say(f"and {report.problem_count - len(report.problems)} more problems")
    _say(
        f"{'right' if report.ok else 'not complete and right'}: {report.objects} objects in "
        f"{report.partitions} partitions, {report.undone} of them not done; {report.embedded} rows with a "
        f"vector, {report.failed} with an error, {report.superseded} superseded by newer rows, "
        f"{report.unused} unused files"
    )
    return 0 if report.ok else 1


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError("must be a positive number of seconds")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError("must be from 0 to 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
