"""Who is measured, how each is started, and by which client it is asked."""

from __future__ import annotations

import os
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from tritonclient.grpc import InferenceServerClient

from clip_profile.observe.metrics import parse_metrics, photo_seconds
from clip_serving import defaults
from clip_serving.defaults import Precision
from clip_serving.encoder.cpu import Cpu
from clip_serving.server.embedded import ServerOptions, TritonServer
from testing.processes import running
from testing.repositories import Work, make_repository

ROOT = Path(__file__).resolve().parent.parent
Totals = dict[str, tuple[float, int]]
"""Of each stage: seconds since the start, and how often it was timed."""
_START_TIMEOUT_S = 240.0


class BenchmarkError(Exception):
    """What the benchmark cannot go on with; the text says what to do."""


@dataclass(frozen=True)
class Place:
    """Where things are: the exported encoder, the peers' Python, a folder for logs and repositories."""

    version: Path
    peers: Path
    scratch: Path
    cores: int


@dataclass(frozen=True)
class Service:
    """What runs. `roots` are pids whose families are the service; `totals` reads its stage timings."""

    address: str
    roots: Callable[[], Sequence[int]]
    totals: Callable[[], Totals] = dict


@dataclass(frozen=True)
class Drive:
    """One way of asking a service; `key` is the row's in the results."""

    key: str
    label: str
    client: str
    in_flight: int
    photos_per_request: int = 1
    share: float = 1.0
    """Of the usual measuring time."""


@dataclass(frozen=True)
class Contender:
    key: str
    work: Work
    start: Callable[[Place], AbstractContextManager[Service]]
    drives: tuple[Drive, ...]
    encoder: bool = field(default=False)
    """Whether a ceiling runs the encoder."""
    cannot: str = ""
    """Why it cannot be measured on this machine; empty where it can."""


# --- the peers -------------------------------------------------------------------------------


@contextmanager
def origin(workers: int, transform: str, work: Work, place: Place) -> Iterator[Service]:
    port = free_port()
    log = place.scratch / "origin.log"
    environment = {
        "ORIGIN_TRANSFORM": transform,
        "ORIGIN_ENCODER": "null" if work == "null" else "torch",
        # One worker embeds on all cores; more workers share them.
        "ORIGIN_TORCH_THREADS": str(max(1, place.cores // workers)),
    }
    arguments = ["benchmarks.origin.service:app", "--workers", str(workers), "--port", str(port)]
    command = [str(place.peers), "-m", "uvicorn", *arguments, "--log-level", "warning"]
    with (
        log.open("wb") as output,
        running(command, environment=environment, stderr=output, cwd=ROOT) as process,
    ):
        _wait(lambda: log.read_text().count("worker ready") >= workers, process, log)
        yield Service(f"http://127.0.0.1:{port}", lambda: [process.pid], partial(origin_totals, log))


_STAGE = re.compile(r"stage=(\S+) n=(\d+) min=\S+ mean=(\S+)")


def origin_totals(log: Path) -> Totals:
    """Out of the log lines, as that team read them."""
    totals: Totals = {}
    for stage, number, mean in _STAGE.findall(log.read_text()):
        seconds, count = totals.get(stage, (0.0, 0))
        totals[stage] = (seconds + float(mean) * int(number) / 1000, count + int(number))
    return totals


@contextmanager
def litserve(work: Work, place: Place) -> Iterator[Service]:
    port = free_port()
    log = place.scratch / "litserve.log"
    command = [str(place.peers), "-m", "benchmarks.litserve.service", "--port", str(port), "--workers", "2"]
    encoder = "null" if work == "null" else "torch"
    with log.open("wb") as output, running([*command, "--encoder", encoder], stderr=output) as process:
        _wait(lambda: _answers(f"http://127.0.0.1:{port}/health"), process, log)
        yield Service(f"http://127.0.0.1:{port}", lambda: [process.pid])


# --- ours --------------------------------------------------------------------------------------


@contextmanager
def ours(work: Work, precision: Precision | None, place: Place) -> Iterator[Service]:
    """A `precision` that cannot be served fails; it is never another one under its name."""
    repository = place.scratch / f"ours-{work}"
    if not repository.exists():
        make_repository(repository, place.version, work)
    # A constant vector is not the reference embedding.
    options = ServerOptions(
        check_reference=work == "whole", encoder_precision=precision, ready_timeout_s=_START_TIMEOUT_S
    )
    with TritonServer(repository, options) as server:
        yield Service(server.grpc_url, lambda: [server.pid], partial(triton_totals, server))


def triton_totals(server: TritonServer) -> Totals:
    """A photo's decode and preprocess, an execution of the encoder, and both queues."""
    with urllib.request.urlopen(server.metrics_url, timeout=10) as answer:
        totals = histogram_totals(answer.read().decode())
    with InferenceServerClient(server.grpc_url) as client:
        models = {
            name: client.get_inference_statistics(name).model_stats[0]
            for name in (defaults.PREPROCESS, defaults.ENCODER)
        }
    for name, stage in (
        (defaults.PREPROCESS, "queue before decode"),
        (defaults.ENCODER, "queue before embed"),
    ):
        queue = models[name].inference_stats.queue
        totals[stage] = (queue.ns / 1e9, queue.count)
    batches = [batch.compute_infer for batch in models[defaults.ENCODER].batch_stats]
    totals["embed"] = (sum(batch.ns for batch in batches) / 1e9, sum(batch.count for batch in batches))
    encoder = models[defaults.ENCODER]
    # Not a time: photos an execution, written as seconds so that it is averaged like the others.
    totals["batch"] = (encoder.inference_count / 1000, encoder.execution_count)
    return totals


def histogram_totals(metrics: str) -> Totals:
    """Sums and counts of the photo histograms in Prometheus' text, over all instances."""
    page = parse_metrics(metrics)
    return {stage: photo_seconds(page, stage) for stage in ("decode", "preprocess")}


@contextmanager
def nothing(place: Place) -> Iterator[Service]:
    """The ceiling has no service: its client does the work."""
    yield Service(str(place.version), list)


# --- the list ----------------------------------------------------------------------------------

ORIGIN_PHOTOS, ORIGIN_REQUESTS, IN_FLIGHT = 8, 4, 16
SWEEP = (1, 4, 32)
_ORIGIN = ("origin", ORIGIN_REQUESTS, ORIGIN_PHOTOS)


def contenders(cores: int, cpu: Cpu) -> list[Contender]:
    """All, in the order in which a pass measures them; what `cpu` cannot do among them, and marked."""
    found: list[Contender] = []
    for work in ("whole", "null"):
        end = "" if work == "whole" else "-null"
        for workers in (1, 2, 3):
            label = f"origin, {workers} worker{'s' * (workers > 1)}"
            drive = Drive(f"origin-{workers}{end}", label, *_ORIGIN)
            found.append(Contender(drive.key, work, partial(origin, workers, "squash", work), (drive,)))
        if work == "null":
            drive = Drive("origin-right-null", "origin, 2 workers, open_clip's transform", *_ORIGIN)
            found.append(Contender(drive.key, work, partial(origin, 2, "open_clip", work), (drive,)))
        drive = Drive(f"litserve{end}", "LitServe, 2 workers (uploads)", "litserve", IN_FLIGHT)
        found.append(Contender(drive.key, work, partial(litserve, work), (drive,)))
        name = "fp32" if work == "whole" else "null"
        drives = [
            Drive(f"ours-{name}", "ours, from the bucket", "triton-bucket", IN_FLIGHT),
            Drive(f"ours-{name}-bytes", "ours, uploads", "triton-bytes", IN_FLIGHT),
        ]
        if work == "whole":
            drives += [
                Drive(f"ours-fp32-bytes-{n}", f"ours, uploads, {n} in flight", "triton-bytes", n, share=0.75)
                for n in SWEEP
            ]
        precision: Precision | None = "fp32" if work == "whole" else None
        found.append(Contender(f"ours-{name}", work, partial(ours, work, precision), tuple(drives)))
        if work == "whole":
            cannot = "" if cpu.has_bf16 else "this CPU has no BF16 instructions"
            found.append(_lower("bf16", "OpenVINO", cannot))
            found.append(_lower("int8", "onnxruntime"))
        drive = Drive(f"ceiling{end}", "in-process ceiling", "ceiling", cores, 8)
        found.append(Contender(drive.key, work, nothing, (drive,), encoder=work == "whole"))
    return found


def only_from_bucket(contender: Contender) -> Contender:
    """Without the drives that upload photos which their client has in memory."""
    drives = tuple(drive for drive in contender.drives if drive.client in ("origin", "triton-bucket"))
    return replace(contender, drives=drives)


def _lower(precision: Precision, engine: str, cannot: str = "") -> Contender:
    """Ours in less than fp32."""
    key, label = f"ours-{precision}", f"ours, {precision} ({engine})"
    drives = (
        Drive(key, f"{label}, from the bucket", "triton-bucket", IN_FLIGHT),
        Drive(f"{key}-bytes", f"{label}, uploads", "triton-bytes", IN_FLIGHT),
    )
    return Contender(key, "whole", partial(ours, "whole", precision), drives, cannot=cannot)


# --- small things ------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _wait(ready: Callable[[], bool], process: Any, log: Path) -> None:
    end = time.monotonic() + _START_TIMEOUT_S
    while not ready():
        if process.poll() is not None or time.monotonic() > end:
            said = log.read_text(errors="replace").strip().splitlines()
            raise BenchmarkError(f"it did not start: {said[-1] if said else 'it said nothing'}")
        time.sleep(0.1)


def peers_python() -> Path:
    return Path(os.environ.get("CLIP_BENCH_PYTHON", ROOT / ".venv-bench" / "bin" / "python"))
