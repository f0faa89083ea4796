"""The report's charts of CPU, memory and GPU while the recommended setting ran."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest

from clip_profile.records.measurement import Sample
from clip_profile.records.results import Result
from clip_profile.report import chart
from clip_profile.report.chart import Line
from clip_profile.report.html import Section


def timeline(shown: Result) -> Section | None:
    """CPU, memory and GPU of the last run; None if nothing was sampled."""
    last = shown.closed[-1]
    samples = last.samples
    if not samples:
        return None
    # A server that was already running may be elsewhere: then this machine's GPUs are not its own.
    own = last.resources.server is not None
    memory = _one(samples, lambda s: s.server_rss_mb, "memory", "the server's memory")
    gpu_memory = _one(samples, lambda s: s.gpu_memory_mb, "accent", "memory of all GPUs")
    drawn = [(_cpu(samples, own=own), "cores in use", 220), (memory, "MB (RSS)", 180)]
    if own:
        drawn += [(_gpu(samples), "% of the GPU", 180), (gpu_memory, "MB (GPU)", 180)]
    figures = [("", chart.over_time(*each)) for each in drawn if each[0]]
    what = "CPU and memory" if own else "CPU of the client's machine"
    title = f"{'CPU, memory and GPU' if len(figures) > 2 else what} over time"
    note = "The last run of the setting above, from the start of perf_analyzer to its end."
    return Section(title, note, figures)


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
    """The busiest last, so that it is drawn over the others."""
    each = [
        [(s.at_s, 100 * use) for s, use in zip(samples, uses, strict=True) if use is not None]
        for uses in zip_longest(*(s.gpus for s in samples))
    ]
    known = sorted(filter(None, each), key=lambda points: sum(use for _, use in points) / len(points))
    lines = [Line(points, "dim", "the other GPUs") for points in known[:-1]]
    label = "the busiest GPU" if lines else "the GPU"
    return lines + [Line(points, "accent", label) for points in known[-1:]]
