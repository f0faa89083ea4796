"""Made-up measurements for tests of what is done with them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from clip_profile.observe.usage import GpuUsage, Level, MachineUsage, Resources, Usage
from clip_profile.records.machine import Machine
from clip_profile.records.measurement import (
    EMBED,
    PREPROCESS,
    Arrival,
    Measurement,
    Round,
    Sample,
    Stage,
)  # fmt: skip
from clip_profile.records.run_folder import About, RunFolder
from clip_profile.records.setting import Setting, Space

BASE = Setting("cpu", "fp32", 2, 1, 2, 64, 2000, 8, 1)


def setting(**changes: Any) -> Setting:
    return dataclasses.replace(BASE, **changes)


def about(**changes: Any) -> About:
    made = About(
        created="2026-01-01T00:00:00+00:00",
        target="embedded",
        photos={"count": 4, "mean_bytes": 100_000, "sha256": "0" * 64},
        space=Space(concurrency=(4, 8)),
        model="ViT-B-32 (none)",
        served={"configs": "1" * 64, "weights_sha256": "2" * 64, "encoder_version": "1"},
        seconds=6.0,
        share=0.7,
        machine=Machine("Linux", "A CPU", 2, 16.0, (), ()),
        versions={"python": "3.11"},
        command=("clip-profile", "sweep"),
    )
    return dataclasses.replace(made, **changes)


def measurement(
    at: Setting = BASE,
    *,
    photos_per_s: float = 10.0,
    p95_ms: float = 400.0,
    round: int = 0,
    group: str = "a",
    arrival: Arrival = "closed",
    busy: tuple[float, float] = (0.5, 0.9),
    resources: dict[str, Any] | None = None,
    stages: dict[str, Stage] | None = None,
    transport_ms: float = 10.0,
    latencies_ms: tuple[float, ...] = (),
    requests: int = 60,
) -> Measurement:
    used: dict[str, Any] = {
        "cpu_ms_per_photo": 120.0, "rss_mb": 1500.0, "server_busy": 0.6, "client_busy": 0.02,
        "machine_busy": 0.65, "gpu": None, "gpu_memory_mb": None,
        "samples": (Sample(0.0, 0.0, 0.1, 0.2, 1400.0), Sample(1.0, 1.8, 0.1, 1.9, 1500.0)),
        **(resources or {}),
    }  # fmt: skip
    return Measurement(
        setting=at, round=Round(group, round) if round else None, arrival=arrival,
        rate=7.0 if arrival == "poisson" else None, at=1.7e9, seconds=6.0, requests=requests,
        photos_per_s=photos_per_s, mean_ms=p95_ms * 0.7, p50_ms=p95_ms * 0.65,
        p90_ms=p95_ms * 0.9, p95_ms=p95_ms, p99_ms=p95_ms * 1.1, transport_ms=transport_ms,
        stages=stages or {
            PREPROCESS: Stage(20.0, 60.0, at.preprocess_instances, busy[0], {1: 40, 2: 10}, 40.0),
            EMBED: Stage(30.0, 150.0, at.encoder_instances, busy[1], {1: 10, 4: 10, 8: 2}, 80.0),
        },
        resources=_resources(**used),
        samples=used["samples"],
        command=("perf_analyzer", "-m", "clip_image"),
        latencies_ms=latencies_ms,
    )  # fmt: skip


def _resources(
    *,
    cpu_ms_per_photo: float | None,
    rss_mb: float | None,
    server_busy: float | None,
    client_busy: float,
    machine_busy: float,
    gpu: float | None,
    gpu_memory_mb: float | None,
    samples: object,
) -> Resources:
    """Shares are of 1; a server of which `server_busy` is None was not seen."""
    del samples
    busy, memory = None if gpu is None else Level(100 * gpu, 100.0), _level(gpu_memory_mb)
    server = Usage(cpu_ms_per_photo, 100 * (server_busy or 0.0), _level(rss_mb))
    return Resources(
        client=Usage(cpu_percent=100 * client_busy),
        machine=MachineUsage(Level(100 * machine_busy, 100.0)),
        server=None if server_busy is None else server,
        gpu=GpuUsage("nvml", busy, memory, None) if busy or memory else None,
    )


def _level(value: float | None) -> Level | None:
    return None if value is None else Level(value, value)


def run_of(folder: Path, *measurements: Measurement) -> RunFolder:
    """A run folder with these measurements, read back."""
    with RunFolder.create_or_resume(folder / "run", about()) as run:
        for one in measurements:
            run.add(one)
    return RunFolder.load(folder / "run")
