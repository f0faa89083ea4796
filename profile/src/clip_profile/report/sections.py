"""The parts of the report, each a function from the run's results to a piece of HTML."""

from __future__ import annotations

import html
import shlex
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from clip_profile.answer import metrics
from clip_profile.answer.metrics import Metric, with_spread
from clip_profile.answer.recommend import Recommendation
from clip_profile.answer.serve_command import serve_command
from clip_profile.records.measurement import EMBED, PREPROCESS, Failure, Measurement
from clip_profile.records.results import Result, frontier
from clip_profile.records.run_folder import About, RunFolder
from clip_profile.records.setting import LEGEND
from clip_profile.records.statistics import Spread
from clip_profile.report import chart, pieces
from clip_serving import defaults

_BARS = 8
_STAGES = ("transport", "queue", "decode", "preprocess", "embed")
_BOTH = "decode + preprocess"
_USED = (metrics.CPU, metrics.RSS, metrics.GPU, metrics.GPU_MEMORY, metrics.BATCH)
_TILES = (metrics.THROUGHPUT, metrics.P95, *_USED)
_COLUMNS = (metrics.THROUGHPUT, metrics.P50, metrics.P95, metrics.P99, *_USED)


def subtitle(run: RunFolder) -> str:
    about = run.about
    photos = f"{about.photos['count']} photos of {about.photos['mean_bytes'] / 1e6:.2f} MB on average"
    own = about.target == "embedded"
    where = "the embedded server" if own else f"the server at {about.target}"
    machine = about.machine.describe() if own else f"the client on {about.machine.describe()}"
    return f"{about.created[:16].replace('T', ' ')} UTC · {where} · {photos} · {machine}"


def answer(found: Recommendation) -> str:
    """The recommendation in words, and its main figures."""
    shown = found.best or found.nearest
    words = "".join(f"<p>{html.escape(text)}</p>" for text in found.sentences())
    terms = "".join(_tile(shown, one) for one in _TILES)
    return f'<section class="answer"><h2>Recommendation</h2>{words}<dl>{terms}</dl></section>'


def _tile(shown: Result, figure: Metric) -> str:
    spread = shown.spread(figure.of)
    if spread is None:
        return ""
    mean, plus_minus, half = figure.text(spread).partition(" ± ")
    value = f"{mean}<small>{plus_minus}{half} {html.escape(figure.unit)}</small>"
    return f"<div><dt>{html.escape(figure.name)}</dt><dd>{value}</dd></div>"


def scatter(results: Sequence[Result], found: Recommendation) -> str:
    """Throughput against p95 of every setting, with the frontier."""
    best = found.best
    points = [_point(result, best) for result in sorted(results, key=lambda one: _is(one, best))]
    line = [(one.p95_ms, one.photos_per_s) for one in frontier(results)]
    bound = found.objective.p95_ms
    mark = (bound, f"bound: {bound:g} ms") if bound is not None else None

    def draw(width: int) -> str:
        return chart.xy(
            points, [chart.Line(line, "accent", "frontier")],
            width=width, height=340 if width == pieces.WIDE else 300,
            x_title="p95 latency of a request, ms", y_title="photos/s", x_mark=mark,
        )  # fmt: skip

    legend = pieces.legend(
        ("accent", "recommended, and the frontier"), ("preprocess", "repeated"), ("dim", "once")
    )
    note = "Each dot is a setting; none on the frontier is beaten in both. Bars: 95 % interval of repeats."
    return pieces.figure("Throughput against latency", note, legend, draw)


def _is(result: Result, other: Result | None) -> bool:
    return other is not None and result.setting == other.setting


def _point(result: Result, best: Result | None) -> chart.Point:
    rate = result.spread(lambda one: one.photos_per_s)
    kind = "best" if _is(result, best) else "repeated" if result.repeated else "single"
    label = f"{result.setting.label}: {result.photos_per_s:.1f} photos/s, p95 {result.p95_ms:.0f} ms"
    return chart.Point(result.p95_ms, result.photos_per_s, kind, label, y_half=rate.half if rate else None)


def breakdown(results: Sequence[Result], found: Recommendation) -> str:
    """Where a request's time goes, for the settings that were repeated, then the fastest others."""
    shown = found.best or found.nearest
    order = sorted(results, key=lambda one: (not _is(one, shown), not one.repeated, -one.photos_per_s))
    rows = [_bar(one, marked=_is(one, shown)) for one in order[:_BARS]]
    split = any(kind == "decode" for row in rows for kind, _, _ in row.parts)
    kinds = [stage for stage in _STAGES if split or stage != "decode"]
    names = {} if split else {"preprocess": _BOTH}
    legend = pieces.legend(*((stage, names.get(stage, stage)) for stage in kinds))

    def draw(width: int) -> str:
        return chart.bars(rows, width=width, unit="ms")

    note = (
        f"Mean milliseconds of a request in each stage, closed loop; ±: 95 % interval of the whole. {LEGEND}."
    )
    return pieces.figure("Stages of a request", note, legend, draw)


def _bar(result: Result, *, marked: bool) -> chart.Bar:
    whole = result.spread(metrics.MEAN.of)
    return chart.Bar(result.setting.label, _parts(result), whole.half if whole else None, marked)


def _parts(result: Result) -> list[tuple[str, float, str]]:
    both = result.mean(metrics.BOTH.of) or 0.0
    # The model's time, divided as its photos' own times are.
    share = result.mean(_decode_share)
    own = (
        [("preprocess", both)]
        if share is None
        else [("decode", both * share), ("preprocess", both * (1 - share))]
    )
    name = {"preprocess": _BOTH} if share is None else {}
    stages = [("transport", metrics.TRANSPORT), ("queue", metrics.QUEUE)]
    parts = [(kind, result.mean(figure.of) or 0.0) for kind, figure in stages]
    parts += [*own, ("embed", result.mean(metrics.EMBEDDING.of) or 0.0)]
    return [(kind, value, f"{name.get(kind, kind)}: {value:.0f} ms") for kind, value in parts]


def _decode_share(one: Measurement) -> float | None:
    if one.decode_ms is None or one.preprocess_ms is None:
        return None
    return one.decode_ms / (one.decode_ms + one.preprocess_ms)


def batches(found: Recommendation) -> str:
    """How large the encoder's and preprocess's batches were."""
    shown = found.best or found.nearest
    drawn = ""
    for stage, name in ((EMBED, "embed"), (PREPROCESS, "decode + preprocess")):
        counts: Counter[int] = Counter()
        for one in shown.closed:
            counts.update(one.stages[stage].batches)
        total = sum(counts.values())
        mean = shown.spread(partial(_mean_batch, stage))
        if not total or mean is None:
            continue
        shares = [(size, counts[size] / total) for size in sorted(counts)]

        def draw(
            width: int, shares: list[tuple[int, float]] = shares, stage: str = stage, name: str = name
        ) -> str:
            title = f"photos in a batch, {name}"
            return chart.columns(shares, width=width, height=190, kind=stage, x_title=title)

        drawn += f"<p><b>{name}</b>: {with_spread(mean, 1)} photos on average</p>{pieces.both(draw)}"
    note = "Executions by the number of photos that Triton put together, of the setting above."
    return pieces.section("Batch sizes", pieces.soft(note) + drawn)


def _mean_batch(stage: str, one: Measurement) -> float:
    return one.stages[stage].mean_batch


def open_loop(results: Sequence[Result]) -> str:
    """Latencies with Poisson arrivals, for the finalists; nothing where there were none."""
    percents = (50, 90, 95, 99)
    rows = [
        [
            result.setting.label,
            with_spread(Spread.of([one.rate or 0.0 for one in result.poisson]), 1),
            *(metrics.P95.text(metrics.open_loop(result.poisson, percent)) for percent in percents),
            str(sum(one.requests for one in result.poisson)),
        ]
        for result in results
        if result.poisson
    ]
    if not rows:
        return ""
    heads = ["setting", "requests/s", *(f"p{percent} ms" for percent in percents), "requests"]
    note = (
        "Requests arrive as they like and wait for nobody, as users do. A percentile is of all runs' "
        "requests together, its ± from run to run (p99: from a hundred on)."
    )
    return pieces.section("Open loop, Poisson arrivals", pieces.soft(note) + pieces.table(heads, rows))


def table(results: Sequence[Result], found: Recommendation) -> str:
    """Every setting, fastest first."""
    shown = found.best or found.nearest
    present = [one for one in _COLUMNS if any(result.mean(one.of) is not None for result in results)]
    rows = [
        [result.setting.label, *(one.text(result.spread(one.of)) for one in present), str(len(result.closed))]
        for result in results
    ]
    marked = [number for number, result in enumerate(results) if _is(result, shown)]
    heads = ["setting", *(one.head for one in present), "runs"]
    return pieces.section("All settings", pieces.soft(LEGEND + ".") + pieces.table(heads, rows, marked))


def failures(run: RunFolder) -> str:
    """Runs that failed, and of what; nothing where none did."""
    if not run.failures:
        return ""
    items = "".join(
        f"<li><b>{html.escape(_run_of(one))}</b>: {html.escape(one.text)}</li>" for one in run.failures
    )
    return pieces.section("Runs that failed", f"<ul>{items}</ul>")


def _run_of(one: Failure) -> str:
    round_ = [f"round {one.round.number}"] if one.round else []
    arrival = ["Poisson arrivals"] if one.arrival == "poisson" else []
    return ", ".join([one.setting.label, *round_, *arrival])


def reproduction(run: RunFolder, found: Recommendation) -> str:
    """The commands and versions that made the figures."""
    shown = found.best or found.nearest
    press = list(shown.closed[-1].command)
    if run.about.target == "embedded" and "-u" in press:
        press[press.index("-u") + 1] = f"127.0.0.1:{defaults.GRPC_PORT}"  # clip-serve's, not the sweep's
    commands = [
        ("The sweep", shlex.join(run.about.command)),
        ("One run of the setting above", "clip-perf-input my_photos/ --out photos.json"),
        ("", shlex.join(press)),
    ]
    serve = serve_command(shown.setting, Path("model_repository"))
    if run.about.target == "embedded" and serve:
        commands.insert(2, ("", serve))
    body = "".join(
        (f"<p>{html.escape(name)}</p>" if name else "") + pieces.command(command)
        for name, command in commands
    )
    body += pieces.soft(
        "The largest batch and the queue delay are the repository's: recommend --apply writes them."
    )
    return pieces.section("Reproduce", body + pieces.soft(_versions(run.about)))


def _versions(about: About) -> str:
    told = dict(about.versions)
    server = (
        "" if about.target == "embedded" else f" The server's: Triton {told.pop('tritonserver', 'unknown')}."
    )
    whose = "Versions" if about.target == "embedded" else "Versions on the client's machine"
    return f"{whose}: {', '.join(f'{name} {version}' for name, version in told.items())}.{server}"
