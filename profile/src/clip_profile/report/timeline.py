"""The report's charts of CPU, memory and GPU while the recommended setting ran."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest

from markupsafe import Markup

from clip_profile.answer.recommend import Recommendation
from clip_profile.records.measurement import Sample
from clip_profile.report import chart
from clip_profile.report.chart import Line
from clip_profile.report.sections import Section


def timeline(found: Recommendation) -> Section | None:
    """CPU, memory and GPU of the last run; None if nothing was sampled."""
    used = (found.best or found.nearest).closed[-1].resources
    samples = used.samples
    if not samples:
        return None
    # A server that was already running may be elsewhere: then this machine's GPUs are not its own.
    own = used.server_busy is not None
    figures = [
        _figure(_cpu(samples, own=own), "cores in use", 220),
        _figure(_one(samples, lambda s: s.server_rss_mb, "memory", "the server's memory"), "MB (RSS)", 180),
    ]
    gpu = [
        _figure(_gpu(samples), "% of the GPU", 180),
        _figure(_one(samples, lambda s: s.gpu_memory_mb, "accent", "memory of all GPUs"), "MB (GPU)", 180),
    ]
    figures += gpu if own else []
    what = "CPU and memory" if own else "CPU of the client's machine"
    title = f"{'CPU, memory and GPU' if own and any(gpu) else what} over time"
    note = "The last run of the setting above, from the start of perf_analyzer to its end."
    return Section(title, note, [("", figure) for figure in figures if figure])


def _cpu(samples: Sequence[Sample], *, own: bool) -> list[Line]:
    whole = "the whole machine" if own else "the client's machine"
    return [
        Line([(s.at_s, s.machine_cpu) for s in samples], "dim", whole),
        *_one(samples, lambda s: s.server_cpu, "embed", "the server"),
        Line([(s.at_s, s.client_cpu) for s in samples], "queue", "perf_analyzer"),
    ]


def _one(
    samples: Sequence[Sample], value: Callable[[Sample], float | None], kind: str, label: str
) -> list[Line]:
    """Empty if no sample has the value."""
    points = [(sample.at_s, known) for sample in samples if (known := value(sample)) is not None]
    return [Line(points, kind, label)] if points else []


def _gpu(samples: Sequence[Sample]) -> list[Line]:
    """The busiest last, so that it lies over the others."""
    each = [
        [(s.at_s, 100 * use) for s, use in zip(samples, uses, strict=True) if use is not None]
        for uses in zip_longest(*(s.gpus for s in samples))
    ]
    known = sorted(filter(None, each), key=lambda points: sum(use for _, use in points) / len(points))
    lines = [Line(points, "dim", "the other GPUs") for points in known[:-1]]
    return lines + [
        Line(points, "accent", "the busiest GPU" if lines else "the GPU") for points in known[-1:]
    ]


def _figure(lines: Sequence[Line], y_title: str, height: int) -> Markup | None:
    """With a legend; None without lines."""
    if not lines:
        return None

    def draw(width: int) -> Markup:
        return chart.xy([], lines, width=width, height=height, x_title="seconds", y_title=y_title)

    return chart.figure(draw, legend=list(dict.fromkeys((line.kind, line.label) for line in lines)))
