"""One measurement: runs perf_analyzer, observes server and machine, and combines the results."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from pathlib import Path

import psutil

from clip_profile.errors import ProfileError, WindowTooShort
from clip_profile.load.perf_analyzer import Load, Outcome, PerfAnalyzer
from clip_profile.load.server import Server
from clip_profile.observe.observer import Observer
from clip_profile.observe.server_stats import photos_served
from clip_profile.records.measurement import EMBED, PREPROCESS, Measurement, Stage, Trial
from clip_profile.records.statistics import percentile
from clip_serving.errors import ServerError

_LONGER = 3.0


def measure(analyzer: PerfAnalyzer, server: Server, trial: Trial, load: Load) -> Measurement:
    """Runs `load` on the server; if its windows are too short for it, once more with longer ones.

    Raises ProfileError or ServerError if nothing was measured.
    """
    try:
        return _measure(analyzer, server, trial, load)
    except WindowTooShort:
        longer = dataclasses.replace(load, seconds=_LONGER * load.seconds)
        return _measure(analyzer, server, trial, longer)


def _measure(analyzer: PerfAnalyzer, server: Server, trial: Trial, load: Load) -> Measurement:
    at = time.time()
    try:
        with (
            tempfile.TemporaryDirectory(prefix="clip-profile-") as folder,
            Observer(server.triton, server.pids, server.metrics_url) as observer,
        ):
            outcome = analyzer.run(server.url, load, Path(folder), observer.client)
    except psutil.Error as error:
        raise ServerError(f"a process of the server, or perf_analyzer, is gone: {error}") from error
    if not photos_served(observer.statistics) or not outcome.report.photos_per_s:
        raise ProfileError("no photo was embedded while perf_analyzer ran")
    return _put_together(trial, load, at, outcome, observer)


def _put_together(trial: Trial, load: Load, at: float, outcome: Outcome, observer: Observer) -> Measurement:
    report, latencies = outcome.report, outcome.latencies_ms
    counts, cpu_s = observer.statistics, observer.cpu_s
    photos = photos_served(counts)
    # perf_analyzer also starts, ends and is idle in between: how long it pressed follows from its rate.
    pressed_s = photos / report.photos_per_s
    instances = {PREPROCESS: trial.setting.preprocess_instances, EMBED: trial.setting.encoder_instances}
    stages = {
        name: Stage(
            queue_ms=times.queue_ms,
            compute_ms=times.compute_ms,
            instances=instances[name],
            busy=min(1.0, counts[name].busy_s / instances[name] / pressed_s),
            batches=counts[name].batches,
            cpu_ms_per_photo=1000 * cpu_s[name] / photos if name in cpu_s else None,
        )
        for name, times in report.stages.items()
    }
    return Measurement(
        setting=trial.setting,
        round=trial.round,
        arrival=trial.arrival,
        phase=trial.phase,
        rate=load.rate if load.arrival == "poisson" else None,
        at=at,
        seconds=load.seconds,
        requests=len(latencies) or photos // load.request_batch,
        photos_per_s=report.photos_per_s,
        mean_ms=report.mean_ms,
        p50_ms=percentile(latencies, 50) if latencies else report.p50_ms,
        p90_ms=percentile(latencies, 90) if latencies else report.p90_ms,
        p95_ms=percentile(latencies, 95) if latencies else report.p95_ms,
        p99_ms=percentile(latencies, 99) if latencies else report.p99_ms,
        transport_ms=report.transport_ms,
        stages=stages,
        resources=observer.resources(photos, pressed_s, local=bool(observer.cpu_s)),
        samples=observer.samples,
        command=outcome.command,
        decode_ms=observer.photo_ms.get("decode"),
        preprocess_ms=observer.photo_ms.get("preprocess"),
        latencies_ms=tuple(round_ms(value) for value in latencies),
    )


def round_ms(value: float) -> float:
    """To a hundredth: a file of thousands of latencies stays readable."""
    return float(f"{value:.2f}")
