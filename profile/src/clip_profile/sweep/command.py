"""The options of `clip-profile sweep`."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
import tempfile
import time
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import get_args

from clip_client import ConnectionOptions
from clip_client.arguments import add_connection_options, count, positive
from clip_client.terminal import counted
from clip_profile import defaults
from clip_profile.console import Console
from clip_profile.errors import ProfileError
from clip_profile.load.connection import connection_for, redacted
from clip_profile.load.perf_analyzer import VERSION, PerfAnalyzer
from clip_profile.load.photos import Photos, read_photos
from clip_profile.records.machine import Machine, versions
from clip_profile.records.objective import Objective
from clip_profile.records.run_folder import About, RunFolder
from clip_profile.records.setting import Setting, Space
from clip_profile.sweep.measure import measure
from clip_profile.sweep.sweep import Sweep, SweepOptions
from clip_profile.sweep.target import EmbeddedTarget, RemoteTarget, Target
from clip_profile.sweep.variant import require_servable
from clip_serving import defaults as serving_defaults
from clip_serving.encoder.choice import servable
from clip_serving.repository.stage import available_cores
from clip_serving.server import perf_analyzer

_LOAD_AXES = ("concurrency", "request_batch")


def add_sweep(parser: argparse.ArgumentParser) -> None:
    parser.description = "Finds the best settings for your photos on this machine."
    parser.set_defaults(command=_sweep)
    add = parser.add_argument
    add("--photos", type=Path, required=True, metavar="DIR", help="a folder of photos like yours")
    add("--out", type=Path, required=True, metavar="RUN", help="the run folder; an existing one is resumed")
    add("--repository", type=Path, default=Path("model_repository"), metavar="DIR",
        help="what the embedded server serves; it is not changed (default: %(default)s)")  # fmt: skip
    add("--url", help="gRPC address of a running server to measure instead: only the load is varied")
    add("--metrics-url", help="its metrics, as http://host:8002/metrics, for decode times and GPU figures")
    add("--budget", type=positive, default=defaults.SWEEP_BUDGET_MIN, metavar="MIN",
        help="minutes (default: %(default)g)")  # fmt: skip
    add("--seconds", type=positive, metavar="S",
        help="length of one measurement (default: the RUN's, or 1%% of the budget)")  # fmt: skip
    add("--p95-ms", type=positive, metavar="MS", help="search for the best setting under this p95 latency")
    add("--finalists", type=count, default=defaults.SWEEP_FINALISTS, metavar="N",
        help="settings to repeat in rounds (default: %(default)s)")  # fmt: skip
    add("--rounds", type=partial(count, least=0), default=defaults.SWEEP_ROUNDS, metavar="N",
        help="interleaved repeats of the finalists (default: %(default)s)")  # fmt: skip
    add("--share", type=positive, default=defaults.SWEEP_LOAD_SHARE, metavar="X",
        help="Poisson arrivals at this share of a finalist's throughput (default: %(default)s)")  # fmt: skip
    add("--exhaustive", action="store_true", help="measure every setting instead of searching")
    add("--retry-failed", action="store_true", help="measure the RUN's failed settings again")
    add_connection_options(parser, "TLS and headers, for --url")
    axes = parser.add_argument_group("values to choose from, as N,N,... (default: from the cores)")
    for field in dataclasses.fields(Setting):
        kind = {"model_config_name": _names, "encoder_precision": _precisions}.get(field.name, _counts)
        axes.add_argument(f"--{field.name.replace('_', '-')}", type=kind, metavar="V,V")


def _counts(text: str) -> tuple[int, ...]:
    values = tuple(int(part) for part in text.split(","))
    if min(values) < 0:
        raise argparse.ArgumentTypeError(f"{text}: counts must not be negative")
    return values


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _precisions(text: str) -> tuple[str, ...]:
    names, known = _names(text), get_args(serving_defaults.Precision)
    if not set(names) <= set(known):
        raise argparse.ArgumentTypeError(f"{text}: choose from {', '.join(known)}")
    return names


def _sweep(options: argparse.Namespace) -> int:
    console = Console()
    connection = connection_for(options)
    photos = read_photos(options.photos)
    if photos.left_out:
        console.line(f"skipped files that are too large or cannot be decoded: {photos.left_out}")
    with tempfile.TemporaryDirectory(prefix="clip-profile-") as folder:
        data = Path(folder) / "photos.json"
        data.write_text(perf_analyzer.input_data(list(photos.data)), encoding="utf-8")
        analyzer = PerfAnalyzer(data, photos.mean_bytes, connection)
        with _target(options, photos, connection) as target:
            space, start = _space(options, target)
            about = _about(options, target, photos, space)
            with RunFolder.create_or_resume(options.out, about) as run:
                _announce(console, run, photos, options.budget)
                sweep_options = SweepOptions(
                    start=start,
                    budget_s=options.budget * 60,
                    objective=Objective(options.p95_ms),
                    finalists=options.finalists,
                    rounds=options.rounds,
                    exhaustive=options.exhaustive,
                    retry_failed=options.retry_failed,
                )
                done = Sweep(run, target, partial(measure, analyzer), sweep_options, console).run()
    console.line(next_commands(options.out, options.p95_ms))
    return 0 if done else 1


def next_commands(run: Path, p95_ms: float | None) -> str:
    """With the bound that the sweep searched under: another one has another answer."""
    arguments = shlex.join([str(run), *([] if p95_ms is None else ["--p95-ms", f"{p95_ms:g}"])])
    return f"next: clip-profile recommend {arguments}; clip-profile report {arguments}"


def _target(options: argparse.Namespace, photos: Photos, connection: ConnectionOptions) -> Target:
    if options.url:
        return RemoteTarget(options.url, photos.data, options.metrics_url, connection)
    return EmbeddedTarget(options.repository, photos.data)


def _space(options: argparse.Namespace, target: Target) -> tuple[Space, Setting]:
    """The values to choose from, and the setting to start with: the server's default."""
    chosen = {field.name: getattr(options, field.name) for field in dataclasses.fields(Setting)}
    if isinstance(target, RemoteTarget):
        fixed = [name for name in chosen if chosen[name] and name not in _LOAD_AXES]
        if fixed:
            raise ProfileError(f"{', '.join(fixed)} cannot be changed on a running server")
        own = {name: (value,) for name, value in vars(target.setting).items() if name not in _LOAD_AXES}
        space = Space.for_cores(4, **{**chosen, **own})
        return space, space.nearest(target.setting)
    for name in chosen["model_config_name"] or ():
        require_servable(options.repository, name)
    cores = available_cores()
    version = options.repository / serving_defaults.ENCODER / target.identity.encoder_version
    precisions = chosen["encoder_precision"] or servable(version)
    space = Space.for_cores(cores, **{**chosen, "encoder_precision": precisions})
    return space, space.nearest(Setting.usual(cores, "bf16" if "bf16" in precisions else "fp32"))


def _about(options: argparse.Namespace, target: Target, photos: Photos, space: Space) -> About:
    there = RunFolder.about_of(options.out)
    usual = there.seconds if there else min(20.0, max(3.0, options.budget * 60 / 100))
    server = {"tritonserver": target.version} if isinstance(target, RemoteTarget) else {}
    return About(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        target=target.name,
        photos=photos.identity(),
        space=space,
        model=target.identity.model,
        served=target.identity.served(),
        seconds=options.seconds or usual,
        share=options.share,
        machine=Machine.here(),
        versions=versions(perf_analyzer=VERSION, **server),
        command=("clip-profile", *redacted(sys.argv[1:], options.header)),
        pixel_bytes=target.identity.pixel_bytes,
    )


def _announce(console: Console, run: RunFolder, photos: Photos, budget: float) -> None:
    about, points = run.about, run.about.space.points()
    embedded, cores = about.target == "embedded", about.machine.cores
    place = "on" if embedded else f"at {about.target}, the client on"
    console.line(f"{about.model} {place} {about.machine.describe()}")
    console.line(f"{counted(len(photos.data), 'photo')} of {photos.mean_bytes / 1e6:.2f} MB on average")
    if embedded and any(p.encoder_instances * p.encoder_threads > cores for p in points):
        console.line(f"warning: encoder instances x threads exceed the cores ({cores})")
    done = f", {counted(len(run.measurements), 'measurement')} so far" if run.measurements else ""
    end = time.strftime("%H:%M", time.localtime(time.time() + budget * 60))
    console.line(f"{counted(len(points), 'setting')} to choose from, {budget:g} minutes (until {end}){done}")
