"""The stages as text: a table with one row per stage, then the use of the machines."""

from __future__ import annotations

from collections.abc import Sequence

from clip_client.terminal import counted
from clip_profile.observe.usage import GpuUsage, Level, MachineUsage, Resources, Usage
from clip_profile.stages.result import FIGURES, Distribution, Report

_NAME, _CELL = 27, 10


def table(report: Report) -> str:
    """Unknown cells are empty; rows of which nothing is known are left out."""
    images = report.load["images_per_request"]
    lines = [*_head(report), "", _row("milliseconds", FIGURES)]
    if images > 1:
        lines += [_rule("per photo (times of a request are divided by its photos)")]
        lines += _stages(report.per_photo)
    title = "per request of one photo" if images == 1 else f"per request of {images} photos"
    lines += [_rule(title), *_stages(report.per_request), "", *_resources(report)]
    if report.notes:
        lines += ["", *(f"note: {note}" for note in report.notes)]
    return "\n".join(lines)


def _head(report: Report) -> list[str]:
    about, load = report.about, report.load
    failed = ", ".join(f"{n} {code}" for code, n in report.failed.items())
    batches = ", ".join(f"{stage} {mean:.1f}" for stage, mean in report.mean_batch.items())
    photos = f"{counted(report.photos, 'photo')} in {counted(report.requests, 'request')}"
    if report.photos:
        photos += f" of {report.bytes / report.requests / 1e6:.2f} MB, {report.photos_per_s:.1f} photos/s"
    return [
        f"{about['model']} at {about['server']}; photos from {about['photos']}" + _decoded(report),
        f"{counted(load['concurrency'], 'request')} in flight for {report.seconds:.1f} s, after a warm-up of "
        f"{load['warm_up_s']:.1f} s" + (f"; {report.ended}" if report.ended else ""),
        photos + (f"; mean batch: {batches}" if batches else "") + (f"; failed: {failed}" if failed else ""),
    ]


def _decoded(report: Report) -> str:
    """Files of earlier versions do not say."""
    where = report.load.get("decode", "server")
    if where == "server":
        return ""
    return f", decoded by {'this client' if where == 'client' else where}"


def _stages(stages: dict[str, Distribution]) -> list[str]:
    return [_row(name, [_number(value, 2) for value in one.figures()]) for name, one in stages.items()]


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _row(name: str, cells: Sequence[str]) -> str:
    return f"{name:<{_NAME}}{''.join(f'{cell:>{_CELL}}' for cell in cells)}".rstrip()


def _rule(title: str) -> str:
    return f"--- {title} ".ljust(_NAME + _CELL * len(FIGURES), "-")


def _resources(report: Report) -> list[str]:
    rows = resource_rows(report.resources).items()
    shown = [_row(name, [_number(value, 1) for value in values]) for name, values in rows]
    return [_row("meanwhile", ["mean", "peak"]), *shown] if shown else []


def resource_rows(used: Resources) -> dict[str, tuple[float, float | None]]:
    """Mean and peak (None if there is none) by name, of those that are known."""
    server, client = used.server or Usage(), used.client
    far, gpu = used.server_machine or MachineUsage(), used.gpu or GpuUsage("", None, None, None)
    rows = {
        "server: CPU, ms per photo": server.cpu_ms_per_photo,
        "server: CPU, %": server.cpu_percent,
        "server: memory, MB": server.rss_mb,
        "client: CPU, ms per photo": client.cpu_ms_per_photo,
        "client: CPU, %": client.cpu_percent,
        "client: memory, MB": client.rss_mb,
        "server's machine: CPU, %": far.cpu_percent,
        "server's machine: memory, %": far.memory_percent,
        "this machine: CPU, %": used.machine.cpu_percent,
        "this machine: memory, %": used.machine.memory_percent,
        "GPU: in use, %": gpu.percent,
        "GPU: memory, MB": gpu.memory_mb,
        "GPU: memory, %": gpu.memory_percent,
    }
    return {
        name: (value.mean, value.peak) if isinstance(value, Level) else (value, None)
        for name, value in rows.items()
        if value is not None
    }
