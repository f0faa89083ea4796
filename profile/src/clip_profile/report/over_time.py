"""The report's charts of CPU, memory and GPU while the recommended setting ran."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from clip_profile.answer.recommend import Recommendation
from clip_profile.records.measurement import Sample
from clip_profile.report import pieces
from clip_profile.report.chart import Line, xy


def over_time(found: Recommendation) -> str:
    """CPU, memory and GPU of the last run; nothing where no one looked."""
    used = (found.best or found.nearest).closed[-1].resources
    samples = used.samples
    if not samples:
        return ""
    # A server that is not ours may be elsewhere: then this machine's GPUs are not its own.
    own = used.server_busy is not None
    gpu = _gpu(samples) + _gpu_memory(samples) if own else ""
    what = "CPU, memory and GPU" if gpu else "CPU and memory" if own else "CPU of the client's machine"
    note = "The last run of the setting above, from perf_analyzer's start to its end."
    return pieces.section(
        f"{what} over time", pieces.soft(note) + _cpu(samples, own=own) + _memory(samples) + gpu
    )


def _cpu(samples: Sequence[Sample], *, own: bool) -> str:
    server = [(s.at_s, s.server_cpu) for s in samples if s.server_cpu is not None]
    whole = "the whole machine" if own else "the client's machine"
    lines = [
        Line([(s.at_s, s.machine_cpu) for s in samples], "dim", whole),
        *([Line(server, "embed", "the server")] if server else []),
        Line([(s.at_s, s.client_cpu) for s in samples], "queue", "perf_analyzer"),
    ]
    return _chart(lines, "cores in use", 220)


def _memory(samples: Sequence[Sample]) -> str:
    memory = [(s.at_s, s.server_rss_mb) for s in samples if s.server_rss_mb is not None]
    return _chart([Line(memory, "memory", "the server's memory")] if memory else [], "MB (RSS)", 180)


def _gpu(samples: Sequence[Sample]) -> str:
    """The busiest last, so that it lies over the others."""
    each = [
        [(s.at_s, 100 * use) for s, use in zip(samples, uses, strict=True) if use is not None]
        for uses in zip_longest(*(s.gpus for s in samples))
    ]
    told = sorted(filter(None, each), key=lambda points: sum(use for _, use in points) / len(points))
    lines = [Line(points, "dim", "the other GPUs") for points in told[:-1]]
    lines += [Line(points, "accent", "the busiest GPU" if lines else "the GPU") for points in told[-1:]]
    return _chart(lines, "% of the GPU", 180)


def _gpu_memory(samples: Sequence[Sample]) -> str:
    memory = [(s.at_s, s.gpu_memory_mb) for s in samples if s.gpu_memory_mb is not None]
    return _chart([Line(memory, "accent", "memory of all GPUs")] if memory else [], "MB (GPU)", 180)


def _chart(lines: Sequence[Line], y_title: str, height: int) -> str:
    """With a legend; nothing without lines."""
    if not lines:
        return ""

    def draw(width: int) -> str:
        return xy([], lines, width=width, height=height, x_title="seconds", y_title=y_title)

    legend = pieces.legend(*dict.fromkeys((line.kind, line.label) for line in lines))
    return legend + pieces.both(draw)
