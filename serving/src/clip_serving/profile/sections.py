"""The parts of the report, each a function from the run's results to a piece of HTML."""

from __future__ import annotations

import html
import shlex
from collections import Counter
from collections.abc import Sequence

from clip_serving import defaults
from clip_serving.profile import chart, pieces
from clip_serving.profile.measurement import EMBED, PREPROCESS, Measurement
from clip_serving.profile.recommend import Recommendation
from clip_serving.profile.results import Figure, Result, frontier
from clip_serving.profile.run_folder import RunFolder
from clip_serving.profile.setting import LEGEND

_BARS = 8
_STAGES = ("transport", "queue", "decode", "preprocess", "embed")
_BOTH = "decode + preprocess"


def subtitle(run: RunFolder) -> str:
    about = run.about
    photos = f"{about.photos['count']} photos of {about.photos['mean_bytes'] / 1e6:.2f} MB on average"
    where = "the embedded server" if about.target == "embedded" else about.target
    return f"{about.created[:16].replace('T', ' ')} UTC · {where} · {photos} · {about.machine.describe()}"


def answer(found: Recommendation) -> str:
    """The recommendation in words, and its main figures."""
    shown = found.best or found.nearest
    words = "".join(f"<p>{html.escape(text)}</p>" for text in found.sentences())
    tiles: list[tuple[str, Figure, int, str]] = [
        ("throughput", lambda one: one.photos_per_s, 1, "photos/s"),
        ("p95", lambda one: one.p95_ms, 0, "ms"),
        ("CPU", lambda one: one.resources.cpu_ms_per_photo, 0, "ms a photo"),
        ("memory (RSS)", lambda one: one.resources.rss_mb, 0, "MB"),
        ("GPU in use", lambda one: None if one.resources.gpu is None else 100 * one.resources.gpu, 0, "%"),
        ("mean batch, embed", lambda one: one.stages[EMBED].mean_batch, 1, "photos"),
    ]
    terms = "".join(_tile(shown, *tile) for tile in tiles)
    return f'<section class="answer"><h2>Recommendation</h2>{words}<dl>{terms}</dl></section>'


def _tile(shown: Result, name: str, figure: Figure, digits: int, unit: str) -> str:
    spread = shown.spread(figure)
    if spread is None:
        return ""
    half = f" ± {spread.half:.{digits}f}" if spread.half is not None else ""
    value = f"{spread.mean:.{digits}f}<small>{half} {unit}</small>"
    return f"<div><dt>{html.escape(name)}</dt><dd>{value}</dd></div>"


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
    rows = [chart.Bar(one.setting.label, _parts(one), marked=_is(one, shown)) for one in order[:_BARS]]
    split = any(kind == "decode" for row in rows for kind, _, _ in row.parts)
    kinds = [stage for stage in _STAGES if split or stage != "decode"]
    names = {} if split else {"preprocess": _BOTH}
    legend = pieces.legend(*((stage, names.get(stage, stage)) for stage in kinds))

    def draw(width: int) -> str:
        return chart.bars(rows, width=width, unit="ms")

    note = f"Mean milliseconds of a request in each stage, closed loop. {LEGEND}."
    return pieces.figure("Stages of a request", note, legend, draw)


def _parts(result: Result) -> list[tuple[str, float, str]]:
    def queue(one: Measurement) -> float:
        return sum(stage.queue_ms for stage in one.stages.values())

    transport = result.mean(lambda one: one.transport_ms) or 0.0
    both = result.mean(lambda one: one.stages[PREPROCESS].compute_ms) or 0.0
    embed = result.mean(lambda one: one.stages[EMBED].compute_ms) or 0.0
    # The model's time, divided as its photos' own times are.
    share = result.mean(_decode_share)
    own = (
        [("preprocess", both)]
        if share is None
        else [("decode", both * share), ("preprocess", both * (1 - share))]
    )
    name = {"preprocess": _BOTH} if share is None else {}
    parts = [("transport", transport), ("queue", result.mean(queue) or 0.0), *own, ("embed", embed)]
    return [(kind, value, f"{name.get(kind, kind)}: {value:.0f} ms") for kind, value in parts]


def _decode_share(one: Measurement) -> float | None:
    if one.decode_ms is None or one.preprocess_ms is None:
        return None
    return one.decode_ms / (one.decode_ms + one.preprocess_ms)


def batches(found: Recommendation) -> str:
    """How large the encoder's and preprocess's batches were."""
    shown = found.best or found.nearest
    figures = ""
    for stage, name in ((EMBED, "embed"), (PREPROCESS, "decode + preprocess")):
        counts: Counter[int] = Counter()
        for one in shown.closed:
            counts.update(one.stages[stage].batches)
        total = sum(counts.values())
        if not total:
            continue
        shares = [(size, counts[size] / total) for size in sorted(counts)]
        mean = sum(size * share for size, share in shares)

        def draw(
            width: int, shares: list[tuple[int, float]] = shares, stage: str = stage, name: str = name
        ) -> str:
            title = f"photos in a batch, {name}"
            return chart.columns(shares, width=width, height=190, kind=stage, x_title=title)

        figures += f"<p><b>{name}</b>: {mean:.1f} photos on average</p>{pieces.both(draw)}"
    note = "Executions by the number of photos that Triton put together, of the setting above."
    return pieces.section("Batch sizes", pieces.soft(note) + figures)


def open_loop(results: Sequence[Result]) -> str:
    """Latencies with Poisson arrivals, for the finalists; nothing where there were none."""
    rows = [
        [
            result.setting.label,
            f"{_mean(result.poisson, lambda one: one.rate):.1f}",
            *(
                f"{_mean(result.poisson, figure):.0f}"
                for figure in (_p50, lambda one: one.p90_ms, lambda one: one.p95_ms, lambda one: one.p99_ms)
            ),
            str(sum(one.requests for one in result.poisson)),
        ]
        for result in results
        if result.poisson
    ]
    if not rows:
        return ""
    heads = ["setting", "requests/s", "p50 ms", "p90 ms", "p95 ms", "p99 ms", "requests"]
    note = "Requests arrive as they like and wait for nobody, as users do: these are the honest tails."
    return pieces.section("Open loop, Poisson arrivals", pieces.soft(note) + pieces.table(heads, rows))


def _p50(one: Measurement) -> float:
    return one.p50_ms


def _mean(measurements: Sequence[Measurement], figure: Figure) -> float:
    values = [value for one in measurements if (value := figure(one)) is not None]
    return sum(values) / len(values) if values else 0.0


def table(results: Sequence[Result], found: Recommendation) -> str:
    """Every setting, fastest first."""
    shown = found.best or found.nearest
    figures: list[tuple[str, Figure, int]] = [
        ("photos/s", lambda one: one.photos_per_s, 1),
        ("p50 ms", lambda one: one.p50_ms, 0),
        ("p95 ms", lambda one: one.p95_ms, 0),
        ("p99 ms", lambda one: one.p99_ms, 0),
        ("CPU ms", lambda one: one.resources.cpu_ms_per_photo, 0),
        ("RSS MB", lambda one: one.resources.rss_mb, 0),
        ("GPU %", lambda one: None if one.resources.gpu is None else 100 * one.resources.gpu, 0),
        ("batch", lambda one: one.stages[EMBED].mean_batch, 1),
    ]
    present = [entry for entry in figures if any(result.mean(entry[1]) is not None for result in results)]
    rows = [
        [result.setting.label, *(_number(result, figure, digits) for _, figure, digits in present),
         str(len(result.closed))]
        for result in results
    ]  # fmt: skip
    marked = [number for number, result in enumerate(results) if _is(result, shown)]
    heads = ["setting", *(name for name, _, _ in present), "runs"]
    return pieces.section("All settings", pieces.soft(LEGEND + ".") + pieces.table(heads, rows, marked))


def _number(result: Result, figure: Figure, digits: int) -> str:
    value = result.mean(figure)
    return "-" if value is None else f"{value:.{digits}f}"


def failures(run: RunFolder) -> str:
    """Settings that could not be measured; nothing where all could."""
    if not run.failures:
        return ""
    items = "".join(
        f"<li><b>{html.escape(one.setting.label)}</b>: {html.escape(one.text)}</li>" for one in run.failures
    )
    return pieces.section("Not measured", f"<ul>{items}</ul>")


def reproduction(run: RunFolder, found: Recommendation) -> str:
    """The commands and versions that made the figures."""
    shown = found.best or found.nearest
    setting = shown.setting
    serve = (
        f"clip-serve --repository model_repository --model-config-name {setting.model_config_name} "
        f"--preprocess-instances {setting.preprocess_instances} "
        f"--encoder-instances {setting.encoder_instances} --encoder-threads {setting.encoder_threads}"
        + f" --encoder-precision {setting.encoder_precision}"
        * setting.on_cpu
    )
    press = list(shown.closed[-1].command)
    if run.about.target == "embedded" and "-u" in press:
        press[press.index("-u") + 1] = f"127.0.0.1:{defaults.GRPC_PORT}"  # clip-serve's, not the sweep's
    versions = ", ".join(f"{name} {version}" for name, version in run.about.versions.items())
    commands = [
        ("The sweep", shlex.join(run.about.command)),
        ("One run of the setting above", "clip-perf-input my_photos/ --out photos.json"),
        ("", shlex.join(press)),
    ]
    if run.about.target == "embedded":
        commands.insert(2, ("", serve))
    body = "".join(
        (f"<p>{html.escape(name)}</p>" if name else "") + f"<pre>{html.escape(command)}</pre>"
        for name, command in commands
    )
    body += pieces.soft(
        "The largest batch and the queue delay are the repository's: `recommend --apply` writes them."
    )
    return pieces.section("Reproduce", f"{body}{pieces.soft('Versions: ' + versions + '.')}")
