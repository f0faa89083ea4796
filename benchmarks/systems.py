"""The systems that are measured: how each is started, and which loads it gets."""

from __future__ import annotations

import os
import re
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tritonclient.grpc import InferenceServerClient

from clip_profile.observe.metrics import Metrics, photo_seconds, read_metrics
from clip_profile.observe.server_stats import read_statistics
from clip_profile.records.measurement import EMBED, PREPROCESS
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
    """Stops a benchmark, or one of its measurements; the text says what to do."""


@dataclass(frozen=True)
class Workspace:
    """The exported encoder, the peers' Python, a folder for logs and repositories, and the usable cores."""

    version: Path
    peers: Path
    scratch: Path
    cores: int


@dataclass(frozen=True)
class Service:
    """A system that runs. The processes `roots` and their descendants are the service; `totals` reads its
    stage timings."""

    address: str
    roots: Callable[[], Sequence[int]]
    totals: Callable[[], Totals] = dict


@dataclass(frozen=True)
class Load:
    """A load on a system; `key` is the row's in the results, `share` of the usual time is measured."""

    key: str
    label: str
    client: str
    in_flight: int
    photos_per_request: int = 1
    share: float = 1.0


@dataclass(frozen=True)
class System:
    """`encoder` says whether a ceiling runs the encoder; `cannot` why this machine cannot run the system."""

    key: str
    work: Work
    start: Callable[[Workspace], AbstractContextManager[Service]]
    loads: tuple[Load, ...]
    encoder: bool = False
    cannot: str = ""


# --- the peers -------------------------------------------------------------------------------


@contextmanager
def origin(workers: int, transform: str, work: Work, workspace: Workspace) -> Iterator[Service]:
    port, log = free_port(), workspace.scratch / "origin.log"
    environment = {
        "ORIGIN_TRANSFORM": transform,
        "ORIGIN_ENCODER": "null" if work == "null" else "torch",
        # One worker embeds on all cores; more workers share them.
        "ORIGIN_TORCH_THREADS": str(max(1, workspace.cores // workers)),
    }
    arguments = ["benchmarks.origin.service:app", "--workers", str(workers), "--port", str(port)]
    command = [str(workspace.peers), "-m", "uvicorn", *arguments, "--log-level", "warning"]
    with (
        log.open("wb") as output,
        running(command, environment=environment, stderr=output, cwd=ROOT) as process,
    ):
        _wait(lambda: log.read_text().count("worker ready") >= workers, process, log)
        yield Service(f"http://127.0.0.1:{port}", lambda: [process.pid], partial(origin_totals, log))


_STAGE = re.compile(r"stage=(\S+) n=(\d+) min=\S+ mean=(\S+)")


def origin_totals(log: Path) -> Totals:
    """From the log lines, as the origin's team read them."""
    totals: Totals = {}
    for stage, number, mean in _STAGE.findall(log.read_text()):
        seconds, count = totals.get(stage, (0.0, 0))
        totals[stage] = (seconds + float(mean) * int(number) / 1000, count + int(number))
    return totals


@contextmanager
def litserve(work: Work, workspace: Workspace) -> Iterator[Service]:
    port, log = free_port(), workspace.scratch / "litserve.log"
    command = [str(workspace.peers), "-m", "benchmarks.litserve.service", "--port", str(port)]
    command += ["--workers", "2", "--encoder", "null" if work == "null" else "torch"]
    with log.open("wb") as output, running(command, stderr=output) as process:
        _wait(lambda: _answers(f"http://127.0.0.1:{port}/health"), process, log)
        yield Service(f"http://127.0.0.1:{port}", lambda: [process.pid])


# --- ours --------------------------------------------------------------------------------------


def _repository(work: Work, workspace: Workspace) -> Path:
    repository = workspace.scratch / f"ours-{work}"
    if not repository.exists():
        make_repository(repository, workspace.version, work)
    return repository


def _options(work: Work, precision: Precision | None) -> ServerOptions:
    return ServerOptions(
        check_reference=work == "whole",  # a constant vector is not the reference embedding
        encoder_precision=precision,
        ready_timeout_s=_START_TIMEOUT_S,
    )


@contextmanager
def ours(work: Work, precision: Precision | None, workspace: Workspace) -> Iterator[Service]:
    """A `precision` that cannot be served fails; it never becomes another one under its name."""
    with TritonServer(_repository(work, workspace), _options(work, precision)) as server:
        yield Service(server.grpc_url, lambda: [server.pid], partial(triton_totals, server))


@contextmanager
def tiers(work: Work, precision: Precision | None, workspace: Workspace) -> Iterator[Service]:
    """A server that decodes and one that encodes; the address names both, the encoder first."""
    repository, options = _repository(work, workspace), _options(work, precision)
    with (
        TritonServer(repository, replace(options, tier="decode")) as decode,
        TritonServer(repository, replace(options, tier="encode")) as encode,
    ):
        yield Service(f"{encode.grpc_url} {decode.grpc_url}", lambda: [encode.pid, decode.pid])


def triton_totals(server: TritonServer) -> Totals:
    """A photo's decode and preprocess, an execution of the encoder, and both queues."""
    totals = photo_totals(read_metrics(server.metrics_url))
    with InferenceServerClient(server.grpc_url) as client:
        statistics = read_statistics(client)
    for stage, name in ((PREPROCESS, "queue before decode"), (EMBED, "queue before embed")):
        times = statistics[stage].times
        totals[name] = (times.queue_ns / 1e9, times.requests)
    encoder = statistics[EMBED]
    totals["embed"] = (encoder.busy_s, encoder.executions)
    # Not a time: photos an execution, written as seconds so that it is averaged like the others.
    totals["batch"] = (encoder.photos / 1000, encoder.executions)
    return totals


def photo_totals(metrics: Metrics) -> Totals:
    return {stage: photo_seconds(metrics, stage) for stage in ("decode", "preprocess")}


@contextmanager
def no_service(workspace: Workspace) -> Iterator[Service]:
    """The ceiling's: its client does the work."""
    yield Service(str(workspace.version), list)


# --- the list ----------------------------------------------------------------------------------

ORIGIN_PHOTOS, ORIGIN_REQUESTS, IN_FLIGHT = 8, 4, 16
CONCURRENCIES = (1, 4, 32)
_ORIGIN = ("origin", ORIGIN_REQUESTS, ORIGIN_PHOTOS)


def systems(cores: int, cpu: Cpu) -> list[System]:
    """All of them, in the order in which a pass measures them; those that `cpu` cannot run are marked."""
    return [*_systems("whole", cores, cpu), *_systems("null", cores, cpu)]


def _systems(work: Work, cores: int, cpu: Cpu) -> Iterator[System]:
    end = "" if work == "whole" else "-null"
    for workers in (1, 2, 3):
        load = Load(f"origin-{workers}{end}", f"origin, {workers} worker{'s' * (workers > 1)}", *_ORIGIN)
        yield System(load.key, work, partial(origin, workers, "squash", work), (load,))
    if work == "null":
        load = Load("origin-right-null", "origin, 2 workers, open_clip's transform", *_ORIGIN)
        yield System(load.key, work, partial(origin, 2, "open_clip", work), (load,))
    load = Load(f"litserve{end}", "LitServe, 2 workers (uploads)", "litserve", IN_FLIGHT)
    yield System(load.key, work, partial(litserve, work), (load,))
    if work == "whole":
        uploads = (
            Load(f"ours-fp32-bytes-{n}", f"ours, uploads, {n} in flight", "triton-bytes", n, share=0.75)
            for n in CONCURRENCIES
        )
        yield _ours("ours-fp32", "ours", work, "fp32", *uploads)
        cannot = "" if cpu.has_bf16 else "this CPU has no BF16 instructions"
        yield replace(_ours("ours-bf16", "ours, bf16 (OpenVINO)", work, "bf16"), cannot=cannot)
        yield _ours("ours-int8", "ours, int8 (onnxruntime)", work, "int8")
    else:
        yield _ours("ours-null", "ours", work, None)
    load = Load(f"ceiling{end}", "in-process ceiling", "ceiling", cores, 8)
    yield System(load.key, work, no_service, (load,), encoder=work == "whole")


def _ours(key: str, label: str, work: Work, precision: Precision | None, *more: Load) -> System:
    loads = (
        Load(key, f"{label}, from the bucket", "triton-bucket", IN_FLIGHT),
        Load(f"{key}-bytes", f"{label}, uploads", "triton-bytes", IN_FLIGHT),
        *more,
    )
    return System(key, work, partial(ours, work, precision), loads)


def only_from_bucket(system: System) -> System:
    """Without the loads that upload photos which their client has in memory."""
    loads = tuple(load for load in system.loads if load.client in ("origin", "triton-bucket"))
    return replace(system, loads=loads)


# --- starting ----------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _wait(ready: Callable[[], bool], process: Any, log: Path) -> None:
    end = time.monotonic() + _START_TIMEOUT_S
    while not ready():
        if process.poll() is not None or time.monotonic() > end:
            raise BenchmarkError(f"it did not start: {last_line(log)}")
        time.sleep(0.1)


def last_line(log: Path) -> str:
    said = log.read_text(errors="replace").strip().splitlines()
    return said[-1] if said else "no message"


def peers_python() -> Path:
    """The Python that has the peers' packages; raises BenchmarkError if it is missing."""
    given = os.environ.get("CLIP_BENCH_PYTHON")
    python = Path(given) if given else ROOT / ".venv-bench" / "bin" / "python"
    if not os.access(python, os.X_OK):
        source = "named by CLIP_BENCH_PYTHON" if given else "CLIP_BENCH_PYTHON can name another one"
        raise BenchmarkError(
            f"the Python of the origin's service and of LitServe, {python}, is missing ({source}). "
            "`make setup-bench` creates it: torch included, several GB, once"
        )
    return python
