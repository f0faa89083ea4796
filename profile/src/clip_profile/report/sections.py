"""The sections of the report: from a run's results to what the page shows."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import compress
from pathlib import Path

from clip_client.terminal import counted
from clip_profile.answer import metrics
from clip_profile.answer.metrics import with_spread
from clip_profile.answer.recommend import recommend
from clip_profile.answer.serve_command import serve_command
from clip_profile.records.measurement import EMBED, PREPROCESS, Failure, Measurement
from clip_profile.records.objective import Objective
from clip_profile.records.results import Result, frontier, results_of
from clip_profile.records.run_folder import About, RunFolder
from clip_profile.records.setting import LEGEND, Setting
from clip_profile.records.statistics import Spread
from clip_profile.report import chart
from clip_profile.report.html import Section
from clip_profile.report.timeline import timeline
from clip_serving import defaults

_BARS = 8
_STAGES = ("transport", "queue", "decode", "preprocess", "embed")
_BOTH = "decode + preprocess"
_USED = (metrics.CPU, metrics.RSS, metrics.GPU, metrics.GPU_MEMORY, metrics.BATCH)
_TILES = (metrics.THROUGHPUT, metrics.P95, *_USED)
_COLUMNS = (metrics.THROUGHPUT, metrics.P50, metrics.P95, metrics.P99, *_USED)


def names_of(settings: Sequence[Setting]) -> tuple[dict[Setting, str], str]:
    """Settings in words, without what all of them have in common; and a sentence with that."""
    parts = {setting: setting.describe().split(", ") for setting in settings}
    differs = [len(set(column)) > 1 for column in zip(*parts.values(), strict=True)]
    if not any(differs):
        return {setting: ", ".join(each) for setting, each in parts.items()}, ""
    names = {setting: ", ".join(compress(each, differs)) for setting, each in parts.items()}
    common = ", ".join(compress(parts[settings[0]], [not one for one in differs]))
    return names, f"All have in common: {common}." if common else ""


class View:
    """A run with measurements, as its report shows it: `shown` is the recommended setting, or the nearest."""

    def __init__(self, run: RunFolder, objective: Objective) -> None:
        self._run, self.found = run, recommend(run, objective)
        self.shown, self._results = self.found.nearest, results_of(run)
        self._names, self._common = names_of([result.setting for result in self._results])

    def sections(self) -> list[Section]:
        """In the order of the page."""
        own = [
            self._scatter(), self._breakdown(), timeline(self.shown), self._batches(), self._open_loop(),
            self._placement(), self._table(), self._failures(), reproduction(self._run.about, self.shown),
        ]  # fmt: skip
        return [section for section in own if section is not None]

    def subtitle(self) -> str:
        about = self._run.about
        megabytes = about.photos["mean_bytes"] / 1e6
        photos = f"{counted(about.photos['count'], 'photo')} of {megabytes:.2f} MB on average"
        own = about.target == "embedded"
        where = "the embedded server" if own else f"the server at {about.target}"
        machine = about.machine.describe() if own else f"the client on {about.machine.describe()}"
        return f"{about.created[:16].replace('T', ' ')} UTC · {where} · {photos} · {machine}"

    def tiles(self) -> list[tuple[str, str, str]]:
        """The main figures of the recommendation: name, mean, and interval with unit."""
        spreads = [(metric, self.shown.spread(metric.of)) for metric in _TILES]
        texts = [(metric, metric.text(spread).partition(" ± ")) for metric, spread in spreads if spread]
        return [(metric.name, mean, f"{sign}{half} {metric.unit}") for metric, (mean, sign, half) in texts]

    def _is_shown(self, result: Result) -> bool:
        return result.setting == self.shown.setting

    def _scatter(self) -> Section:
        """Throughput against p95 of every setting, with the frontier."""
        points = [self._point(result) for result in sorted(self._results, key=self._is_shown)]
        line = [(one.p95_ms, one.photos_per_s) for one in frontier(self._results)]
        bound = self.found.objective.p95_ms
        legend = [
            ("accent", "recommended, and the frontier"), ("preprocess", "repeated"), ("dim", "measured once"),
        ]  # fmt: skip
        note = (
            "Each dot is a setting. No setting beats one on the frontier in both throughput and latency. "
            "Vertical bars: 95 % interval over repeats."
        )
        drawn = chart.figure(
            chart.xy, points, [chart.Line(line, "accent", "frontier")], legend=legend, height=320,
            x_title="p95 latency of a request, ms", y_title="photos/s",
            x_mark=None if bound is None else (bound, f"bound: {bound:g} ms"),
        )  # fmt: skip
        return Section("Throughput against latency", note, [("", drawn)])

    def _point(self, result: Result) -> chart.Point:
        rate, best = result.spread(metrics.THROUGHPUT.of), self.found.best and self._is_shown(result)
        kind = "best" if best else "repeated" if result.repeated else "single"
        name = self._names[result.setting]
        label = f"{name}: {result.photos_per_s:.1f} photos/s, p95 {result.p95_ms:.0f} ms"
        return chart.Point(result.p95_ms, result.photos_per_s, kind, label, rate.half if rate else None)

    def _breakdown(self) -> Section:
        """Where a request's time goes: of the shown, the repeated, then the fastest other settings."""
        order = sorted(
            self._results, key=lambda one: (not self._is_shown(one), not one.repeated, -one.photos_per_s)
        )
        rows = []
        for one in order[:_BARS]:
            whole, name = one.spread(metrics.MEAN.of), self._names[one.setting]
            rows.append(chart.Bar(name, _parts(one), whole.half if whole else None, self._is_shown(one)))
        split = any(kind == "decode" for row in rows for kind, _, _ in row.parts)
        texts = {} if split else {"preprocess": _BOTH}
        legend = [(stage, texts.get(stage, stage)) for stage in _STAGES if split or stage != "decode"]
        note = (
            "Mean milliseconds of a request in each stage, in a closed loop; ± is half of the total's 95 % "
            f"interval. {self._common}"
        )
        drawn = chart.figure(chart.bars, rows, unit="ms", legend=legend)
        return Section("Stages of a request", note, [("", drawn)])

    def _batches(self) -> Section:
        """How large the encoder's and preprocess's batches were."""
        figures = []
        for stage, name in ((EMBED, "embed"), (PREPROCESS, _BOTH)):
            counts = Counter[int]()
            for one in self.shown.closed:
                counts.update(one.stages[stage].batches)
            mean, total = self.shown.spread(partial(_mean_batch, stage)), sum(counts.values())
            if total and mean is not None:
                shares = [(size, counts[size] / total) for size in sorted(counts)]
                title = f"photos in a batch, {name}"
                drawn = chart.figure(chart.columns, shares, height=190, kind=stage, x_title=title)
                figures.append((f"{name}: {with_spread(mean, 1)} photos on average", drawn))
        note = "How many photos Triton batched in each execution, of the setting above."
        return Section("Batch sizes", note, figures)

    def _open_loop(self) -> Section | None:
        """Latencies with Poisson arrivals, for the finalists; None without any."""
        percents = (50, 90, 95, 99)
        rows = [
            [
                self._names[result.setting],
                with_spread(Spread.of([one.rate or 0.0 for one in result.poisson]), 1),
                *(metrics.P95.text(metrics.open_loop(result.poisson, percent)) for percent in percents),
                str(sum(one.requests for one in result.poisson)),
            ]
            for result in self._results
            if result.poisson
        ]
        heads = ["setting", "requests/s", *(f"p{percent} ms" for percent in percents), "requests"]
        note = (
            "Requests arrive at random and do not wait for each other, as users' requests do. Percentiles "
            "are over the requests of all runs, ± is their spread from run to run. A p99 needs at least 100 "
            "requests."
        )
        return Section("Open loop, Poisson arrivals", note, heads=heads, rows=rows) if rows else None

    def _placement(self) -> Section | None:
        """Where to decode; None if nothing is known about it."""
        found = self.found.placement
        if found is None:
            return None
        heads = ["--decode", "decodes", "bytes to the encoder's server", "bytes of the client"]
        rows = [[name, where, f"{there:,}", f"{here:,}"] for name, where, there, here in found.rows]
        note = "" if self.found.best else " ".join(found.sentences())  # else the recommendation has them
        return Section("Where to decode", note, heads=heads, rows=rows)

    def _table(self) -> Section:
        """Every setting, fastest first."""
        results = self._results
        present = [one for one in _COLUMNS if any(result.mean(one.of) is not None for result in results)]
        rows = [
            [
                f"{self._names[result.setting]}\n{result.setting.label}",
                *(one.text(result.spread(one.of)) for one in present),
                str(len(result.closed)),
            ]
            for result in results
        ]
        marked = next(number for number, result in enumerate(results) if self._is_shown(result))
        heads = ["setting, and its label", *(one.head for one in present), "runs"]
        note = f"{self._common} A label is what clip-profile compare RUN:LABEL takes: {LEGEND}."
        return Section("All settings", note, heads=heads, rows=rows, marked=marked)

    def _failures(self) -> Section | None:
        """Runs that failed, and why; None without any."""
        items = [(_run_of(one), one.text) for one in self._run.failures]
        return Section("Runs that failed", items=items) if items else None


def _parts(result: Result) -> list[tuple[str, float, str]]:
    both = result.mean(metrics.BOTH.of) or 0.0
    share = result.mean(_decode_share)
    if share is None:
        own = [("preprocess", _BOTH, both)]
    else:  # the model's time, divided as its photos' own times are
        own = [("decode", "decode", both * share), ("preprocess", "preprocess", both * (1 - share))]
    parts = [
        ("transport", "transport", result.mean(metrics.TRANSPORT.of) or 0.0),
        ("queue", "queue", result.mean(metrics.QUEUE.of) or 0.0),
        *own,
        ("embed", "embed", result.mean(metrics.EMBEDDING.of) or 0.0),
    ]
    return [(kind, value, f"{name}: {value:.0f} ms") for kind, name, value in parts]


def _decode_share(one: Measurement) -> float | None:
    if one.decode_ms is None or one.preprocess_ms is None:
        return None
    return one.decode_ms / (one.decode_ms + one.preprocess_ms)


def _mean_batch(stage: str, one: Measurement) -> float:
    return one.stages[stage].mean_batch


def _run_of(one: Failure) -> str:
    round_ = [f"round {one.round.number}"] if one.round else []
    arrival = ["Poisson arrivals"] if one.arrival == "poisson" else []
    return ", ".join([one.setting.describe(), *round_, *arrival])


def reproduction(about: About, shown: Result) -> Section:
    """The commands and versions that made the figures."""
    embedded = about.target == "embedded"
    press = list(shown.closed[-1].command)
    if embedded and "-u" in press:
        press[press.index("-u") + 1] = f"127.0.0.1:{defaults.GRPC_PORT}"  # clip-serve's, not the sweep's
    serve = serve_command(shown.setting, Path("model_repository")) if embedded else None
    commands: list[tuple[str, Sequence[str]]] = [
        ("The sweep", about.command),
        ("One run of the setting above", ["clip-perf-input", "my_photos/", "--out", "photos.json"]),
        *([("", shlex.split(serve))] if serve else []),
        ("", press),
    ]
    quoted = [(title, [shlex.quote(word) for word in words]) for title, words in commands]
    after = [
        "The largest batch and the queue delay are in the repository: recommend --apply writes them.",
        _versions(about),
    ]
    return Section("Reproduce", commands=quoted, after=after)


def _versions(about: About) -> str:
    known = dict(about.versions)
    if about.target == "embedded":
        whose, server = "Versions", ""
    else:
        triton = known.pop("tritonserver", "unknown")
        whose, server = "Versions on the client's machine", f" On the server: Triton {triton}."
    return f"{whose}: {', '.join(f'{name} {version}' for name, version in known.items())}.{server}"
