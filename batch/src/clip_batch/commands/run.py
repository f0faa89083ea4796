"""`clip-batch run`."""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, redirect_stdout

from tqdm import tqdm

from clip_batch import defaults
from clip_batch.budget import Budget, Meter, by_code
from clip_batch.commands.arguments import (
    add_common,
    add_server_options,
    client_options,
    describe,
    planned,
    say,
    writable,
)
from clip_batch.dataset import Dataset, ShardCounts
from clip_batch.engines import ENGINES, open_engine
from clip_batch.engines.base import Job, OnProgress
from clip_batch.errors import BatchError
from clip_batch.layout import Partition
from clip_client import defaults as client_defaults
from clip_client.arguments import (
    add_decode_option,
    add_source_options,
    count,
    decode,
    seconds,
    source_options,
    urls,
)
from clip_client.errors import PERMANENT_CODES
from clip_client.memory import keep_freed_memory
from clip_client.terminal import counted


def add_run(parser: argparse.ArgumentParser) -> None:
    describe(
        parser,
        _run,
        "run embeddings --url 127.0.0.1:8001",
        "Embeds the partitions of OUT's plans that are not done yet.",
    )
    add_common(parser)
    add = parser.add_argument
    add("--engine", choices=list(ENGINES), default="local", help="what runs partitions: threads of this "
        "process, or actors of a Ray cluster (default: %(default)s)")  # fmt: skip
    add("--workers", type=count, default=defaults.WORKERS, metavar="N",
        help="partitions at a time (default: %(default)s)")  # fmt: skip
    add("--plan", type=count, metavar="N", help="this plan alone (default: all; with --partition: the last)")
    add("--partition", type=whole, metavar="N", default=os.environ.get("JOB_COMPLETION_INDEX") or None,
        help="this partition alone, counted from 0 (default: JOB_COMPLETION_INDEX, which an Indexed Job of "
        "Kubernetes sets)")  # fmt: skip
    add("--concurrency", type=count, default=client_defaults.CONCURRENCY, metavar="N",
        help="photos in flight to each server (default: %(default)s)")  # fmt: skip
    add("--deadline", type=seconds, default=client_defaults.DEADLINE_S, metavar="SECONDS",
        help="time limit for one photo, retries included (default: %(default).0f)")  # fmt: skip
    add("--max-failed", type=whole, metavar="N", help="stop if more objects than this fail")
    add("--max-failed-share", type=share, metavar="SHARE", help="stop if a larger share fails, 0 to 1; "
        f"counts after {defaults.BUDGET_MIN_OBJECTS} objects")  # fmt: skip
    add("--quiet", action="store_true", help="no progress bar")
    add_source_options(parser)
    add_decode_option(parser)
    add_server_options(parser)


def _run(options: argparse.Namespace) -> int:
    keep_freed_memory()
    dataset = Dataset.read(planned(writable(options.out)))
    partitions = _partitions(dataset, options)
    random.shuffle(partitions)  # several workers on one OUT rarely embed the same one
    job = Job(
        options.out,
        client_options(
            options, deadline_s=options.deadline, concurrency=options.concurrency, decode=decode(options)
        ),
        source_options(options, options.concurrency * len(urls(options))),
        Budget(options.max_failed, options.max_failed_share),
    )
    meter = _meter(dataset, job.budget) if options.partition is None else Meter(job.budget)
    begin = time.monotonic()
    done: list[ShardCounts] = []
    engine = open_engine(options.engine, options.workers)
    total = _objects(dataset, partitions)
    with (
        redirect_stdout(sys.stderr),  # Ray prints messages of its cluster; the result is alone on stdout
        _progress(total, quiet=options.quiet) as show,
        closing(engine.run(job, partitions, meter, show)) as results,
    ):
        for counts in results:
            done.append(counts)
    failed = _report(options.out, done, time.monotonic() - begin, as_json=options.json)
    return 1 if failed and options.partition is None else 0


def _partitions(dataset: Dataset, options: argparse.Namespace) -> list[Partition]:
    """Those to run, in order."""
    uri = dataset.storage.uri
    plans = dataset.plans
    if options.plan is not None:
        plans = [plan for plan in plans if plan.number == options.plan]
        if not plans:
            last = dataset.plans[-1].number
            raise BatchError(f"{uri} has no plan {options.plan}; the last is plan {last}")
    if options.partition is None:
        return dataset.undone(plans)
    partition = plans[-1].partition(options.partition)
    return [] if dataset.is_done(partition) else [partition]


def _objects(dataset: Dataset, partitions: Sequence[Partition]) -> int:
    """About how many objects these are."""
    sizes = {plan.number: plan.objects / max(1, plan.partitions) for plan in dataset.plans}
    return round(sum(sizes[partition.plan] for partition in partitions))


def _meter(dataset: Dataset, budget: Budget) -> Meter:
    """With the failures of the partitions that are done, if there is a budget."""
    meter = Meter(Budget())
    if budget != Budget():
        meter = Meter(budget)
        for info in Dataset.reading(dataset.storage, lambda dataset: list(dataset.infos())):
            if info.counts is not None:
                meter.add(info.counts.objects, info.counts.failed)
    return meter


@contextmanager
def _progress(total: int, *, quiet: bool) -> Iterator[OnProgress]:
    """A function that counts objects on a progress bar, which is drawn only on a terminal."""
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

        def show(objects: int, failures: int) -> None:
            nonlocal failed
            bar.update(objects)
            if failures:
                failed += failures
                bar.set_postfix(failed=failed, refresh=False)

        yield show


def _report(out: str, done: Sequence[ShardCounts], seconds: float, *, as_json: bool) -> int:
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
    if not done:
        say("all partitions are done. Plan what is new with: clip-batch plan")
        return 0
    say(
        f"{counted(len(new), 'partition')}, {counted(objects, 'object')} in {seconds:.1f} s, "
        f"{objects / seconds:.1f} objects/s" + (f"; failed: {by_code(failed)}" if failed else "")
    )
    if failed:
        say(f"{out}/errors has the rows of failed objects, with the reasons")
    if not failed.keys() <= PERMANENT_CODES:
        say(f"some errors may pass. Plan their objects again with: clip-batch retry {out}")
    return failed.total()


def whole(text: str) -> int:
    """A number from 0; argparse calls this for JOB_COMPLETION_INDEX, too."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 0, not {text!r}")
    return int(text)


def share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError("must be from 0 to 1")
    return value
