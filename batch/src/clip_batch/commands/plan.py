"""`clip-batch plan` and `clip-batch retry`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import time

from clip_batch import defaults
from clip_batch.commands.arguments import (
    add_common,
    add_server_options,
    describe,
    in_bytes,
    model_of,
    planned,
    progress,
    say,
    writable,
)
from clip_batch.errors import BatchError
from clip_batch.lists import open_listing
from clip_batch.plan import PlanOptions, make_plan
from clip_batch.retry import retry
from clip_client.arguments import add_source_options, count, source_options
from clip_client.errors import CLIENT_CODES, SERVER_CODES
from clip_client.terminal import counted


def add_plan(parser: argparse.ArgumentParser) -> None:
    describe(
        parser,
        _plan,
        "plan gs://albums/2024/ --out embeddings\n"
        "plan photos --out embeddings --include '*.jpg'\n"
        "plan names.csv --base gs://albums/2024/ --out gs://my-embeddings/2024/",
        "Lists the sources and plans the objects that are new or have changed since earlier plans of OUT. A "
        "source is a bucket's prefix, a folder, an object, or a list of names or URIs: a file .txt (lines), "
        ".csv or .parquet (with columns such as uri, or bucket and name, generation, size, crc32c, as in an "
        "inventory report of Cloud Storage), or - for lines on standard input. "
        "Asks a server only if --url is given: then its model must be that of OUT.",
    )
    add = parser.add_argument
    add("source", nargs="+", metavar="SOURCE", help="gs://bucket/prefix, a folder, or a list")
    add_common(parser, "--out")
    add("--partition-size", type=count, default=defaults.PARTITION_SIZE, metavar="N",
        help="objects per partition (default: %(default)s)")  # fmt: skip
    for name, text in (("include", "plan only"), ("exclude", "leave out")):
        add(f"--{name}", action="append", default=[], metavar="PATTERN",
            help=f"{text} objects that match, such as '*.jpg' or '2024/*'; can be repeated")  # fmt: skip
    add("--base", metavar="SOURCE", help="the bucket, prefix or folder that names in lists are relative to")
    add("--source-name", metavar="NAME", help="record NAME instead of the folder's path or the bucket")
    add("--prune", action="store_true", help="mark rows of objects that the sources no longer have, for "
        "compact to remove them")  # fmt: skip
    add("--replace-model", action="store_true", help="embed everything again with the model of --url; rows "
        "of the old model are removed by compact")  # fmt: skip
    add_source_options(parser)
    add_server_options(parser)


def _plan(options: argparse.Namespace) -> int:
    if options.source_name is not None and len(options.source) > 1:
        raise BatchError("--source-name stands for one source. Plan each source with a command of its own")
    storage = writable(options.out)
    begin = time.monotonic()
    model = model_of(options) if options.url else None
    listings = [
        open_listing(
            text,
            source_options(options, 2),
            out=storage.uri,
            base=options.base,
            source_name=options.source_name,
        )
        for text in options.source
    ]
    with progress("objects listed") as show:
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
                on_listed=lambda listed: show(listed, None),
            ),
        )
    seconds = time.monotonic() - begin
    if options.json:
        print(json.dumps({**dataclasses.asdict(plan), "seconds": round(seconds, 3)}))
    if plan.objects:
        size = f" ({in_bytes(plan.size)})" if plan.size else ""
        say(
            f"plan {plan.number}: {counted(plan.objects, 'object')}{size} in "
            f"{counted(plan.partitions, 'partition')}, in {seconds:.1f} s; {plan.skipped} planned before, "
            f"{plan.excluded} excluded, {plan.repeated} listed twice"
        )
    elif plan.skipped or plan.excluded:
        say(f"nothing to embed: {plan.skipped} planned before, {plan.excluded} excluded")
    else:
        say(f"nothing to embed: no photos in {', '.join(plan.sources)}")
    if plan.outputs:
        say(f"left out {counted(plan.outputs, 'file')} of other jobs' outputs in the sources")
    if plan.gone:
        then = "compact removes their rows" if plan.prune else "--prune removes their rows"
        say(f"{counted(plan.gone, 'object')} no longer in the sources: {then}")
    return 0


def add_retry(parser: argparse.ArgumentParser) -> None:
    describe(
        parser,
        _retry,
        "retry embeddings --failed load_timeout,load_failed",
        "Plans objects again that failed. `run` then embeds them.",
    )
    add_common(parser)
    add = parser.add_argument
    add("--failed", metavar="CODES", type=_codes, help="objects that failed with these error codes, "
        "separated by commas, or 'all' (default: codes of errors that may pass). With request_failed, photos "
        "that crashed servers are sent again, too")  # fmt: skip
    add("--partition-size", type=count, default=defaults.PARTITION_SIZE, metavar="N",
        help="objects per partition (default: %(default)s)")  # fmt: skip


def _retry(options: argparse.Namespace) -> int:
    plan = retry(planned(writable(options.out)), options.failed, options.partition_size)
    if options.json:
        print(json.dumps(dataclasses.asdict(plan)))
    if plan.objects:
        objects, partitions = counted(plan.objects, "object"), counted(plan.partitions, "partition")
        say(f"plan {plan.number}: {objects} in {partitions}, to be run again")
    else:
        say(
            "nothing to retry: no object's newest row has such an error. Errors by code: clip-batch status "
            f"{options.out}; others are retried with --failed CODES"
        )
    return 0


def _codes(text: str) -> frozenset[str]:
    known = SERVER_CODES | CLIENT_CODES
    if text == "all":
        return known
    codes = frozenset(text.split(","))
    if unknown := codes - known:
        raise argparse.ArgumentTypeError(
            f"no such error code: {', '.join(sorted(unknown))}. Give 'all' or some of "
            f"{', '.join(sorted(known))}"
        )
    return codes
