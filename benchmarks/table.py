"""RESULTS.md out of Results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.contenders import SWEEP, Contender, Drive
from benchmarks.results import Results, Spread, Window, best, percentile, ratio, stage_means
from testing.repositories import Work

NOT_MEASURED = "not measured"
QUIET = 0.05
"""Other work's share of the machine up to which images a second are compared at all."""
TITLES: dict[Work, str] = {
    "whole": "Whole: photo to ViT-B/32 embedding",
    "null": "Null encoder: all but the model",
}


@dataclass(frozen=True)
class Aim:
    """A ratio that we want to reach: `least` of `ours` over `theirs`, or of its best."""

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


def render(results: Results, contenders: Sequence[Contender]) -> str:
    """The whole page."""
    passes = max((window.number for window in results.windows), default=0)
    parts = [
        "# Benchmark results",
        "Made by `make bench` (`python -m benchmarks.run`): do not edit. Ratios within this run are what "
        "counts; images a second depend on the machine and on what else ran on it.",
        _facts("Machine", results.machine),
        _facts("Run", {**results.settings, "passes": str(passes)}),
        *(_throughput(results, contenders, work) for work in ("whole", "null")),
        _NOTES,
        _aims(results),
        _sweep(results),
        _stages(results, contenders),
        _bad_input(results),
        _failures(results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


_NOTES = """\
- Figures over passes: median (least to largest). CPU is milliseconds of CPU time a photo; the bucket's
  (fake-gcs-server) is in no column, though it runs on the same cores whenever photos come from it.
- Peak RSS is the service's, all its processes together; pages that processes share count in each. The
  ceiling has no service: its figures are those of its processes.
- p50, p95 and p99 are of one request, in milliseconds, over all passes; "request" says how many photos
  one holds x how many are in flight. A request of the origin holds eight photos: its latencies stand beside
  no one else's. Empty where there were too few requests to say.
- From the bucket: the origin loads inside its service, ours in its client; both are counted. Uploads: the
  client has the photo's bytes in memory, for LitServe and for ours alike.
- "Others" is the share of the machine's CPU that went to none of these: other work, and what the host took.
- The origin squashes photos to 224 x 224, which is not what open_clip was trained on: its pixels are cheap
  and wrong. The row with open_clip's transform is the same service with the right pixels.
- bf16 is ours where the CPU has BF16 instructions, without being told. int8 has to be asked for; it is less
  exact, and which photos share a batch changes it a little.
- Ours serves the default quality. The ceiling is the same functions in one process a core, one thread each,
  batches of eight, photos in memory, no server."""


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


def _throughput(results: Results, contenders: Sequence[Contender], work: Work) -> str:
    rows = [
        row_of(drive, results.of(drive.key), contender.cannot)
        for contender in contenders
        if contender.work == work
        for drive in contender.drives
        if drive.share == 1.0
    ]
    return f"## {TITLES[work]}\n\n{table(HEADER, rows)}"


def row_of(drive: Drive, windows: Sequence[Window], cannot: str = "") -> list[str]:
    """The cells below HEADER; `cannot` says why there are no windows."""
    if not windows:
        return [drive.label, NOT_MEASURED + f": {cannot}" * bool(cannot), *[""] * 8]
    latencies = [value for window in windows for value in window.latencies_ms]
    alone = drive.client in ("ceiling", "floor")
    service = [w.client_cpu_ms if alone else w.service_cpu_ms for w in windows]
    memory = max(w.client_peak_rss if alone else w.peak_rss for w in windows)
    return [
        drive.label,
        spread_text([w.images_per_s for w in windows], ".1f"),
        f"{np.median(service):.0f}",
        "" if alone else f"{np.median([w.client_cpu_ms for w in windows]):.1f}",
        f"{memory / 1e6:,.0f}",
        f"{drive.photos_per_request} x {drive.in_flight}",
        *("" if (p := percentile(latencies, n)) is None else f"{p:,.0f}" for n in (50, 95, 99)),
        f"{np.mean([w.others for w in windows]):.0%}",
    ]


def spread_text(values: Sequence[float], layout: str) -> str:
    spread = Spread.over(values)
    if spread is None:
        return ""
    if len(values) == 1:
        return format(spread.median, layout)
    return f"{spread.median:{layout}} ({spread.least:{layout}} to {spread.largest:{layout}})"


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
            row += [_spread(spread), "machine shared" if shared else verdict(spread, aim.least)]
        rows.append(row)
    memory = ratio(results, "ours-fp32", "origin-1", "peak_rss")
    if memory:
        met = "reached" if memory.median < 1 else "missed"
        rows.append(["fp32: peak RSS / origin's with one worker", "< 1.00", _spread(memory), met, "", ""])
    return (
        "## Ratios and aims\n\nPass by pass, ours over theirs: images a second, which other work on the "
        "machine falsifies, and images for a second of CPU time (service and client together), which it "
        "hardly does and which is the same on cores that are all ours and busy. Where others took more than "
        "5 % of the machine from either, images a second are not judged. One pass has no spread.\n\n"
        + table(("ratio", "aim", "images/s", "", "images/CPU s", ""), rows)
    )


def _others(results: Results, ours: str, theirs: str | None) -> float:
    """The larger share of other work, of the two that are compared."""
    return max(window.others for window in results.windows if window.key in (ours, theirs))


def _spread(spread: Spread) -> str:
    if spread.least == spread.largest:
        return f"{spread.median:.2f}"
    return f"{spread.median:.2f} ({spread.least:.2f} to {spread.largest:.2f})"


def _named(aim: Aim, theirs: str | None) -> str:
    return aim.text if len(aim.theirs) == 1 or theirs is None else f"{aim.text} ({theirs})"


def verdict(spread: Spread, least: float) -> str:
    """`within noise` where passes disagree."""
    if spread.least >= least:
        return "reached"
    if spread.largest < least:
        return "missed"
    return "within noise: " + ("reached" if spread.median >= least else "missed")


def _sweep(results: Results) -> str:
    """Throughput of ours over concurrent clients, against the best with fewer of them."""
    rows, most = [], 0.0
    for count in sorted((*SWEEP, 16)):
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
    header = ("in flight", "images/s", "against the best with fewer", "p50 ms", "p95 ms")
    return (
        "## Concurrency: ours, fp32, uploads\n\nThe aim: never more than 5 % below the best with fewer "
        "clients.\n\n" + table(header, rows)
    )


STAGES = ("load", "decode", "load+decode", "preprocess", "embed")
QUEUES = ("queue before decode", "queue before embed")


def _stages(results: Results, contenders: Sequence[Contender]) -> str:
    found = []
    for contender in contenders:
        drive = contender.drives[0]
        means = stage_means(results.of(drive.key))
        if means:
            found.append((contender.work, drive, means))
    if not found:
        return ""
    rows = []
    for work, drive, means in found:
        cells = [f"{means[name]:.1f}" if name in means else "" for name in (*STAGES, *QUEUES)]
        batch = f"{means['batch']:.1f}" if "batch" in means else ""
        rows.append([f"{drive.label}{', null' * (work == 'null')}", *cells, batch])
    return (
        "## Stages\n\nMean milliseconds. Load and decode: one photo. Of the origin, load+decode, preprocess "
        "and embed: a request of eight, as its log lines have them. Of ours, preprocess: one photo; embed: "
        "one execution of the encoder, of so many photos on average (batch). Times on a loaded machine hold "
        "waiting for a core.\n\n" + table(("what", *STAGES, *QUEUES, "batch"), rows)
    )


def _bad_input(results: Results) -> str:
    if not results.bad_input:
        return ""
    return "## One bad photo among eight\n\n" + table(("service", "the bad one", "answer"), results.bad_input)


def _failures(results: Results) -> str:
    if not results.failures:
        return ""
    rows = [(key, str(number), why) for key, number, why in results.failures]
    return "## What could not be measured\n\n" + table(("what", "pass", "why"), rows)
