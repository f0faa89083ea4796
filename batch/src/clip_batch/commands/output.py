"""`clip-batch status`, `verify`, `compact` and `stale`."""

from __future__ import annotations

import argparse
import dataclasses
import json

from clip_batch import defaults
from clip_batch.budget import by_code
from clip_batch.commands.arguments import (
    add_common,
    add_server_options,
    describe,
    model_of,
    planned,
    price,
    progress,
    say,
    writable,
)
from clip_batch.compact import compact
from clip_batch.stale import find_stale
from clip_batch.status import read_status
from clip_batch.storage import open_storage
from clip_batch.verify import verify
from clip_client import defaults as client_defaults
from clip_client.arguments import count, positive, urls
from clip_client.terminal import counted


def add_status(parser: argparse.ArgumentParser) -> None:
    describe(
        parser,
        _status,
        "status embeddings --price-per-hour 4.20",
        "Shows how far a job is. Workers may be running.",
    )
    add_common(parser)
    parser.add_argument("--price-per-hour", type=price, metavar="PRICE",
        help="what all machines of the job cost together, for an estimate")  # fmt: skip


def _status(options: argparse.Namespace) -> int:
    status = read_status(planned(open_storage(options.out)))
    cost = status.cost(options.price_per_hour) if options.price_per_hour is not None else {}
    if options.json:
        values = {**dataclasses.asdict(status), "seconds_left": status.seconds_left, "cost": cost}
        print(json.dumps(values))
        return 0
    print(f"partitions  {status.done} of {status.partitions} done, {counted(status.plans, 'plan')}")
    print(f"objects     {status.finished_objects} of {status.objects}")
    print(f"failed      {by_code(status.failed) or 'none'}")
    if status.gone:
        print(f"gone        {counted(status.gone, 'object')} no longer in the sources, as of the last plan")
    if status.other_model:
        print(f"other model {counted(status.other_model, 'row')} of a replaced model, which compact removes")
    if status.rate is not None:
        print(f"rate        {status.rate:.1f} objects/s by all workers")
    if status.seconds_left is not None:
        print(f"left        {_duration(status.seconds_left)}")
    for name, amount in cost.items():
        if amount is not None:
            print(f"cost        {amount:.2f} {name.replace('_', ' ')}")
    return 0


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def add_verify(parser: argparse.ArgumentParser) -> None:
    describe(
        parser,
        _verify,
        "verify embeddings",
        "Checks that every object of the plans is there once, with a vector of length 1 or a typed error, "
        "and that all vectors are of one model.",
    )
    add_common(parser)


def _verify(options: argparse.Namespace) -> int:
    with progress("rows") as show:
        report = verify(planned(open_storage(options.out)), show)
    if options.json:
        print(json.dumps({**dataclasses.asdict(report), "ok": report.ok}))
    for problem in report.problems:
        say(f"WRONG: {problem}")
    if report.problem_count > len(report.problems):
        say(f"and {counted(report.problem_count - len(report.problems), 'more problem')}")
    say(
        f"{'right' if report.ok else 'not complete and right'}: {counted(report.objects, 'object')} in "
        f"{counted(report.partitions, 'partition')}, {report.undone} of them not done; "
        f"{counted(report.embedded, 'row')} with a vector, {report.failed} with an error, "
        f"{report.superseded} superseded by newer rows, {report.other_model} of a model that was replaced, "
        f"{counted(report.unused, 'unused file')}"
    )
    return 0 if report.ok else 1


def add_compact(parser: argparse.ArgumentParser) -> None:
    describe(
        parser,
        _compact,
        "compact embeddings",
        "Merges the shards of finished plans into large files, without rows that newer ones replace, of "
        "objects marked by plan --prune, and of a model that was replaced. Workers may be running.",
    )
    add_common(parser)
    parser.add_argument("--rows", type=count, default=defaults.COMPACT_ROWS, metavar="N",
        help="rows per file (default: %(default)s)")  # fmt: skip


def _compact(options: argparse.Namespace) -> int:
    with progress("rows") as show:
        done = compact(planned(writable(options.out)), options.rows, show)
    if options.json:
        print(json.dumps(dataclasses.asdict(done)))
    waiting = f"; {counted(done.waiting, 'later plan')} not finished" if done.waiting else ""
    say(
        f"merged {counted(done.files_before, 'file')} into {done.files}, with {counted(done.rows, 'row')} "
        f"of the plans up to {done.through}{waiting}; removed {counted(done.superseded, 'superseded row')}, "
        f"{done.pruned} of objects that are gone, {done.other_model} of a model that was replaced"
    )
    return 0


def add_stale(parser: argparse.ArgumentParser) -> None:
    describe(
        parser,
        _stale,
        "stale embeddings --url 127.0.0.1:8001 --price-per-hour 4.20",
        "Compares the model and settings behind each shard with those of a server: how many photos it would "
        "embed differently, and what it takes to do so (`plan --replace-model`).",
    )
    add_common(parser)
    add = parser.add_argument
    add("--rate", type=positive, metavar="N", help="objects per second of all workers (default: as in the "
        "job's last partitions)")  # fmt: skip
    add("--price-per-hour", type=price, metavar="PRICE", help="what all machines of the job cost together")
    add_server_options(parser)


def _stale(options: argparse.Namespace) -> int:
    storage = planned(open_storage(options.out))
    found = find_stale(storage, model_of(options))
    hours = found.hours(options.rate)
    hourly = options.price_per_hour
    cost = None if hourly is None or hours is None else hourly * hours
    if options.json:
        print(json.dumps({**dataclasses.asdict(found), "hours": hours, "cost": cost}))
    say(f"{counted(found.current, 'photo')} with vectors of the server's model and settings")
    for reason, photos in found.reasons.items():
        say(f"{counted(photos, 'photo')}: {reason}")
    if found.photos:
        time_left = f" in {_duration(hours * 3600)}" if hours is not None else ""
        model = f"--model {options.model} " * (options.model != client_defaults.MODEL)
        price_text = f", for {cost:.2f}" if cost is not None else ""
        say(
            f"stale: {counted(found.photos, 'photo')} in {counted(len(found.shards), 'shard')}. Embed them "
            f"again{time_left}{price_text} with: clip-batch plan SOURCE --out {options.out} "
            f"--url {urls(options)[0]} {model}--replace-model"
        )
    return 1 if found.photos else 0
