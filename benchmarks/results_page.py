"""RESULTS.md from Results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.results import Results, Spread, Window, best, percentile, ratio, stage_means
from benchmarks.systems import CONCURRENCIES, Load, System
from testing.repositories import Work

NOT_MEASURED = "not measured"
QUIET = 0.05
"""The largest share of other work on the machine at which images a second are compared."""
TITLES: dict[Work, str] = {
    "whole": "Whole: photo to ViT-B/32 embedding",
    "null": "Null encoder: all but the model",
}


@dataclass(frozen=True)
class Aim:
    """A ratio to reach: at least `least` of `ours` to `theirs`, or to the best of them."""

    text: str
    ours: str
    theirs: tuple[str, ...]
    least: float


_ORIGIN = tuple(f"origin-{workers}" for workers in (1, 2, 3))
_ORIGIN_NULL = tuple(f"{key}-null" for key in _ORIGIN)
AIMS = (
    Aim("null, uploads / in-process ceiling", "ours-null-bytes", ("ceiling-null",), 0.93),
    Aim("null, uploads / LitServe", "ours-null-bytes", ("litserve-null",), 2.2),
    Aim("null, from the bucket / origin's best", "ours-null", _ORIGIN_NULL, 1.0),
    Aim("null, from the bucket / origin, open_clip's transform", "ours-null", ("origin-right-null",), 1.8),
    Aim("fp32, uploads / in-process ceiling", "ours-fp32-bytes", ("ceiling",), 0.93),
    Aim("fp32, uploads / LitServe", "ours-fp32-bytes", ("litserve",), 1.4),
    Aim("fp32, from the bucket / origin's best", "ours-fp32", _ORIGIN, 1.15),
    Aim("bf16, uploads / LitServe", "ours-bf16-bytes", ("litserve",), 2.3),
    Aim("bf16, from the bucket / origin's best", "ours-bf16", _ORIGIN, 1.7),
    Aim("int8, uploads / LitServe", "ours-int8-bytes", ("litserve",), 3.0),
    Aim("int8, from the bucket / origin's best", "ours-int8", _ORIGIN, 2.2),
)


def render(results: Results, systems: Sequence[System]) -> str:
    """The whole page."""
    parts = [
        "# Benchmark results",
        "Written by `make bench` (`python -m benchmarks.run`); do not edit. Compare ratios within this run: "
        "images per second depend on the machine and on its other load.",
        _facts("Machine", results.machine),
        _facts("Run", {**results.settings, "passes": str(results.passes)}),
        *(_throughput(results, systems, work) for work in ("whole", "null")),
        _NOTES,
        _aims(results),
        _concurrency(results),
        _stages(results, systems),
        _bad_input(results),
        _failures(results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


_NOTES = """\
- Figures are medians over passes (smallest to largest). CPU is milliseconds of CPU time per photo. The bucket
  (fake-gcs-server) is in no column, but runs on the same cores whenever photos come from it.
- Peak RSS is that of all processes of the service, with shared pages counted in each. The ceiling has no
  service; its figures are those of its own processes.
- p50, p95 and p99 are milliseconds per request, over all passes. "request" is the photos in a request x the
  requests in flight. A request of the origin holds eight photos, so compare its latencies with no other row.
  A cell is empty if the requests are too few for the percentile.
- From the bucket: the origin loads photos in its service, ours loads them in its client; both are counted.
  Uploads: the client has the photo's bytes in memory, for LitServe and for ours alike.
- "Others" is the share of the CPU that went to none of these: other work, and time that the host took.
- The origin squashes photos to 224 x 224, which is not how open_clip was trained: its pixels are cheap and
  wrong. The row with open_clip's transform is the same service with the right pixels.
- bf16 is what ours selects by itself on a CPU with BF16 instructions. int8 is opt-in: it is less exact, and
  its results vary a little with the photos that share a batch.
- Ours serves the default quality. The ceiling is the same functions in one single-threaded process per core,
  in batches of eight, with photos in memory and without a server."""


def _facts(title: str, facts: dict[str, str]) -> str:
    return f"## {title}\n\n" + table(("", ""), facts.items())


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(header)]
    lines.append(["---"] * len(lines[0]))
    lines += [list(row) for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


HEADER = (
    *("what", "images/s", "CPU ms: service", "+ client", "peak RSS MB", "request"),
    *("p50 ms", "p95 ms", "p99 ms", "others"),
)


def _throughput(results: Results, systems: Sequence[System], work: Work) -> str:
    rows = [
        row_of(load, results.of(load.key), system.cannot)
        for system in systems
        if system.work == work
        for load in system.loads
        if load.share == 1.0
    ]
    return f"## {TITLES[work]}\n\n{table(HEADER, rows)}"


def row_of(load: Load, windows: Sequence[Window], cannot: str = "") -> list[str]:
    """The cells below HEADER; `cannot` says why there are no windows."""
    if not windows:
        return [load.label, NOT_MEASURED + f": {cannot}" * bool(cannot), *[""] * 8]
    latencies = [value for window in windows for value in window.latencies_ms]
    alone = load.client in ("ceiling", "floor")
    service = [w.client_cpu_ms if alone else w.service_cpu_ms for w in windows]
    memory = max(w.client_peak_rss if alone else w.peak_rss for w in windows)
    return [
        load.label,
        spread_text([w.images_per_s for w in windows], ".1f"),
        f"{np.median(service):.0f}",
        "" if alone else f"{np.median([w.client_cpu_ms for w in windows]):.1f}",
        f"{memory / 1e6:,.0f}",
        f"{load.photos_per_request} x {load.in_flight}",
        *("" if (p := percentile(latencies, n)) is None else f"{p:,.0f}" for n in (50, 95, 99)),
        f"{np.mean([w.others for w in windows]):.0%}",
    ]


def spread_text(values: Sequence[float], layout: str) -> str:
    spread = Spread.over(values)
    return spread.text(layout) if spread else ""


def _aims(results: Results) -> str:
    rows = []
    for aim in AIMS:
        theirs = best(results, aim.theirs)
        row = [_named(aim, theirs), f">= {aim.least:.2f}"]
        for measure in ("images_per_s", "images_per_cpu_s"):
            spread = ratio(results, aim.ours, theirs, measure) if theirs else None
            if spread is None:
                row += [NOT_MEASURED, ""]
                continue
            shared = measure == "images_per_s" and _others(results, aim.ours, theirs) > QUIET
            row += [spread.text(".2f"), "machine shared" if shared else verdict(spread, aim.least)]
        rows.append(row)
    memory = ratio(results, "ours-fp32", "origin-1", "peak_rss")
    if memory:
        met = "reached" if memory.median < 1 else "missed"
        rows.append(["fp32: peak RSS / origin's with one worker", "< 1.00", memory.text(".2f"), met, "", ""])
    return (
        "## Ratios and aims\n\nOurs to theirs, pass by pass: images per second, which other work on the "
        "machine distorts, and images per second of CPU time (service and client together), which it hardly "
        "does. Images per second are not judged if other work took more than 5 % of the machine from either. "
        "A single pass has no spread.\n\n" + table(("ratio", "aim", "images/s", "", "images/CPU s", ""), rows)
    )


def _others(results: Results, ours: str, theirs: str | None) -> float:
    """The larger share of other work, of the two that are compared."""
    return max(window.others for window in results.windows if window.key in (ours, theirs))


def _named(aim: Aim, theirs: str | None) -> str:
    return aim.text if len(aim.theirs) == 1 or theirs is None else f"{aim.text} ({theirs})"


def verdict(spread: Spread, least: float) -> str:
    """`within noise` if the passes disagree."""
    if spread.least >= least:
        return "reached"
    if spread.largest < least:
        return "missed"
    return "within noise: " + ("reached" if spread.median >= least else "missed")


def _concurrency(results: Results) -> str:
    """Throughput of ours by requests in flight, relative to the best with fewer of them."""
    rows, most = [], 0.0
    for count in sorted((*CONCURRENCIES, 16)):
        key = "ours-fp32-bytes" if count == 16 else f"ours-fp32-bytes-{count}"
        windows = results.of(key)
        if not windows:
            continue
        latencies = [value for window in windows for value in window.latencies_ms]
        rates = [window.images_per_s for window in windows]
        median = float(np.median(rates))
        change = f"{median / most - 1:+.0%}" if most else ""
        percentiles = (percentile(latencies, n) for n in (50, 95))
        texts = ("" if value is None else f"{value:,.0f}" for value in percentiles)
        rows.append((str(count), spread_text(rates, ".1f"), change, *texts))
        most = max(most, median)
    if not rows:
        return ""
    header = ("in flight", "images/s", "relative to the best with fewer", "p50 ms", "p95 ms")
    return (
        "## Concurrency: ours, fp32, uploads\n\nThe aim: never more than 5 % below the best with fewer "
        "requests in flight.\n\n" + table(header, rows)
    )


STAGES = ("load", "decode", "load+decode", "preprocess", "embed")
QUEUES = ("queue before decode", "queue before embed")


def _stages(results: Results, systems: Sequence[System]) -> str:
    rows = []
    for system in systems:
        load = system.loads[0]
        if means := stage_means(results.of(load.key)):
            cells = [f"{means[name]:.1f}" if name in means else "" for name in (*STAGES, *QUEUES, "batch")]
            rows.append([f"{load.label}{', null' * (system.work == 'null')}", *cells])
    if not rows:
        return ""
    return (
        "## Stages\n\nMean milliseconds. Load and decode are per photo. The origin's load+decode, preprocess "
        "and embed are per request of eight, as in its log lines. Our preprocess is per photo, our embed per "
        "execution of the encoder, whose mean batch is in the last column. On a loaded machine the times "
        "include waiting for a core.\n\n" + table(("what", *STAGES, *QUEUES, "batch"), rows)
    )


def _bad_input(results: Results) -> str:
    if not results.bad_input:
        return ""
    return "## One bad photo among eight\n\n" + table(
        ("service", "the bad photo", "answer"), results.bad_input
    )


def _failures(results: Results) -> str:
    if not results.failures:
        return ""
    rows = [(key, str(number), why) for key, number, why in results.failures]
    return "## What could not be measured\n\n" + table(("what", "pass", "why"), rows)
