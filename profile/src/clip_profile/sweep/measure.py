"""One measurement: perf_analyzer presses, Triton counts, the machine is watched, and it is put together."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from pathlib import Path

import psutil

from clip_profile.errors import ProfileError, WindowTooShort
from clip_profile.load.perf_analyzer import Load, Outcome, PerfAnalyzer
from clip_profile.observe.gpu import busiest
from clip_profile.observe.server_stats import Counts, photos_served, read_counts, read_photo_seconds
from clip_profile.observe.watch import Watch
from clip_profile.records.measurement import Measurement, Resources, Stage
from clip_profile.records.setting import Setting
from clip_profile.records.statistics import percentile
from clip_profile.sweep.target import Served
from clip_serving.errors import ServerError
from clip_serving.repository.stage import available_cores

_ROUND_TRIPS = 4.0
"""A window that holds fewer turns of all requests in flight says little about any of them."""

_LONGER = 3.0


def measure(analyzer: PerfAnalyzer, served: Served, setting: Setting, load: Load, round: int) -> Measurement:
    """Runs `load` on the server, once more and longer where its windows turn out too short for it.

    Raises ProfileError or ServerError when there is nothing to show for it.
    """
    try:
        return _measure(analyzer, served, setting, load, round)
    except WindowTooShort:
        longer = dataclasses.replace(load, seconds=_LONGER * load.seconds)
        return _measure(analyzer, served, setting, longer, round)


def _measure(analyzer: PerfAnalyzer, served: Served, setting: Setting, load: Load, round: int) -> Measurement:
    at = time.time()
    before, seconds = read_counts(served.client), read_photo_seconds(served.metrics_url)
    try:
        with tempfile.TemporaryDirectory(prefix="clip-profile-") as folder, Watch(served.pids) as watch:
            outcome = analyzer.run(served.url, load, Path(folder), watch.client)
    except psutil.Error as error:
        raise ServerError(f"a process of the server, or perf_analyzer, is gone: {error}") from error
    after = read_counts(served.client)
    counts = {name: after[name].since(before.get(name, Counts())) for name in after}
    photos = photos_served(counts)
    if not photos or not outcome.report.photos_per_s:
        raise ProfileError("not one photo was embedded while perf_analyzer ran")
    one = _put_together(setting, load, round, at, outcome, counts, photos, watch)
    split = read_photo_seconds(served.metrics_url).mean_ms_since(seconds)
    if split is None:
        return one
    return dataclasses.replace(one, decode_ms=split[0], preprocess_ms=split[1])


def closed(setting: Setting, photos_per_s: float, seconds: float) -> Load:
    """All requests of the setting in flight, long enough for each of them to come round some times."""
    turns = _ROUND_TRIPS * setting.concurrency * setting.request_batch / max(photos_per_s, 0.1)
    return Load("closed", max(seconds, turns), setting.request_batch, concurrency=setting.concurrency)


def poisson(setting: Setting, photos_per_s: float, share: float, seconds: float, seed: int) -> Load:
    """Arrivals at `share` of what the closed loop achieved, long enough for some dozens of them."""
    rate = share * photos_per_s / setting.request_batch
    return Load("poisson", max(seconds, 30 / rate), setting.request_batch, rate=rate, seed=seed)


def _put_together(
    setting: Setting,
    load: Load,
    round: int,
    at: float,
    outcome: Outcome,
    counts: dict[str, Counts],
    photos: int,
    watch: Watch,
) -> Measurement:
    report, requests = outcome.report, outcome.requests
    # perf_analyzer also starts, ends and is idle in between: how long it pressed follows from its rate.
    pressed_s = photos / report.photos_per_s
    instances = {"preprocess": setting.preprocess_instances, "embed": setting.encoder_instances}
    stages = {
        name: Stage(
            queue_ms=times.queue_ms,
            compute_ms=times.compute_ms,
            instances=instances[name],
            busy=min(1.0, counts[name].busy_s / instances[name] / pressed_s),
            batches=counts[name].batches,
            cpu_ms_per_photo=1000 * watch.cpu_s[name] / photos if name in watch.cpu_s else None,
        )
        for name, times in report.stages.items()
    }
    latencies = requests.latencies_ms if requests else ()
    return Measurement(
        setting=setting,
        round=round,
        arrival=load.arrival,
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
        resources=_resources(watch, photos, pressed_s, report.gpu, report.gpu_memory_mb),
        command=outcome.command,
        latencies_ms=tuple(round_ms(value) for value in latencies),
    )


def round_ms(value: float) -> float:
    """To a hundredth: a file of thousands of latencies stays readable."""
    return float(f"{value:.2f}")


def _resources(
    watch: Watch, photos: int, pressed_s: float, gpu: float | None, gpu_memory_mb: float | None
) -> Resources:
    samples, every = watch.samples(), watch.samples(sys.maxsize)
    cores = available_cores()
    own = bool(watch.cpu_s)
    server_s = sum(watch.cpu_s.values())
    # Between its first and its last quarter second the load is on.
    inner = [sample.machine_cpu for sample in samples[1:-1]] or [sample.machine_cpu for sample in samples]
    if gpu is None and gpu_memory_mb is None and own:
        local = busiest([sample.gpus for sample in every])
        gpu = sum(local) / len(local) if local else None
        gpu_memory_mb = max((s.gpu_memory_mb for s in every if s.gpu_memory_mb is not None), default=None)
    return Resources(
        cpu_ms_per_photo=1000 * server_s / photos if own else None,
        rss_mb=max((s.server_rss_mb for s in every if s.server_rss_mb is not None), default=None),
        server_busy=min(1.0, server_s / pressed_s / cores) if own else None,
        client_busy=min(1.0, watch.client_cpu_s / pressed_s / cores),
        machine_busy=min(1.0, sum(inner) / len(inner) / (psutil.cpu_count() or 1)) if inner else 0.0,
        gpu=gpu,
        gpu_memory_mb=gpu_memory_mb,
        samples=samples,
    )
