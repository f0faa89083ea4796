"""`clip-batch estimate`."""

from __future__ import annotations

import argparse
import dataclasses
import json

from clip_batch.commands.arguments import describe, price
from clip_batch.estimate import Estimate, Prices, Workload, estimate, figure
from clip_client.arguments import count, positive

_DESCRIPTION = """\
Computes what a job takes from figures that you measured and from list prices. The defaults are an example:
measure your own photos, and look up today's prices.
"""


def add_estimate(parser: argparse.ArgumentParser) -> None:
    describe(
        parser, _estimate, "estimate --photos 1000000000 --days 7 --cpu-ms 40 --gpu-rate 2000", _DESCRIPTION
    )
    add = parser.add_argument
    add("--photos", type=count, required=True, metavar="N", help="how many to embed")
    add("--days", type=positive, default=7.0, metavar="N", help="to finish in (default: %(default)g)")
    add("--megabytes", type=positive, default=2.1, metavar="N", help="of a photo (default: %(default)g)")
    add("--cpu-ms", type=positive, default=40.0, metavar="MS",
        help="CPU time to load and decode one (default: %(default)g)")  # fmt: skip
    add("--gpu-rate", type=positive, default=2000.0, metavar="N",
        help="photos per second that one GPU embeds (default: %(default)g, which is a guess)")  # fmt: skip
    add("--dimension", type=count, default=512, metavar="N", help="of a vector (default: %(default)s)")
    for name, default, text in (
        ("vcpu-hour", 0.042, "a vCPU per hour"),
        ("gpu-hour", 0.71, "a GPU with its host per hour"),
        ("reads-10k", 0.004, "10,000 reads of the bucket"),
        ("egress-gb", 0.0, "a GB out of the bucket's region"),
        ("storage-gb-month", 0.02, "a GB of vectors per month"),
    ):
        add(f"--price-{name}", type=price, default=default, metavar="PRICE",
            help=f"{text} (default: %(default)g)")  # fmt: skip
    add("--json", action="store_true", help="print JSON")


def _estimate(options: argparse.Namespace) -> int:
    names = [field.name for field in dataclasses.fields(Workload)]
    job = Workload(**{name: getattr(options, name) for name in names})
    prices = Prices(
        **{each.name: getattr(options, f"price_{each.name}") for each in dataclasses.fields(Prices)}
    )
    found = estimate(job, prices)
    if options.json:
        per_million = found.cost / job.photos * 1e6
        print(json.dumps({**dataclasses.asdict(found), "cost": found.cost, "per_million": per_million}))
    else:
        print(_text(job, found))
    return 0


def _text(job: Workload, found: Estimate) -> str:
    lines = [f"{job.photos:,} photos in {job.days:g} days: {figure(found.photos_per_s, 0)} photos/s", ""]
    lines += [f"{'':10}{'need':46}{'cost':>12}{'per million':>14}"]
    rows = [*((each.name, each.need, each.cost) for each in found.items), ("job", "", found.cost)]
    lines += [
        f"{name:10}{need:46}{cost:>12,.2f}{cost / job.photos * 1e6:>14,.2f}" for name, need, cost in rows
    ]
    lines += ["", f"One GPU needs {figure(found.vcpus_per_gpu, 0)} vCPUs to stay busy."]
    return "\n".join(lines)
