"""`make bench`: all systems on the same photos, in turn, pass by pass; writes benchmarks/RESULTS.md.

    python -m benchmarks.run --minutes 30
    python -m benchmarks.run --photos DIR --only origin-1 ours-fp32 ceiling

A pass starts each system, loads it, and ends it before the next one starts, so that no two share the machine.
Passes go on until the next one would not fit into --minutes; there is always one. Ctrl-C ends everything that
was started, and what was measured so far is written.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import bad_input, machine, results_page
from benchmarks.clients import Job
from benchmarks.results import Results, Window, difference
from benchmarks.systems import (
    ROOT,
    BenchmarkError,
    Load,
    Service,
    System,
    Workspace,
    last_line,
    peers_python,
    systems,
)
from clip_profile.console import Console, duration
from clip_profile.load.closed_loop import latencies_ms, photos_per_s
from clip_profile.observe.observer import Observer
from clip_profile.observe.processes import ProcessGroup
from clip_profile.observe.usage import Level
from clip_serving import defaults
from clip_serving.encoder.cpu import Cpu
from clip_serving.errors import ClipServingError
from clip_serving.repository.stage import available_cores
from clip_serving.repository.versions import served_version
from testing.fake_gcs import FakeGcs
from testing.photos import own_photos, photo_names
from testing.processes import interrupt_once, running

BUCKET = "photos"
DATA = ROOT / "build" / "bench" / "results.json"
OWN_PHOTOS = ROOT / "build" / "bench" / "photos"
OUT = ROOT / "benchmarks" / "RESULTS.md"


@dataclass(frozen=True)
class Plan:
    """`photos` is a folder of JPEGs, None for our own. Passes go on for `minutes`, or `passes` times."""

    repository: Path
    photos: Path | None = None
    seconds: float = 12.0
    warm_up_s: float = 4.0
    minutes: float = 30.0
    passes: int | None = None


def main(argv: list[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    interrupt_once()
    console = Console()
    found = systems(available_cores(), Cpu.here())
    try:
        if options.render:
            results = Results.load(DATA)
        else:
            chosen = able(choose(found, options.only), console)
            plan = Plan(
                options.repository, options.photos, options.seconds, options.warm_up, options.minutes,
                options.passes,
            )  # fmt: skip
            results = measure(plan, chosen, console, DATA)
    except (BenchmarkError, ClipServingError, OSError, ValueError) as error:
        console.line(f"bench: error: {error}")
        return 2
    except KeyboardInterrupt:
        console.line("bench: stopped; nothing is left running")
        return 130
    options.out.write_text(results_page.render(results, found), encoding="utf-8")
    console.line(f"{options.out} is written from {len(results.windows)} measurements")
    return 130 if results.interrupted else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--photos", type=Path, metavar="DIR", help="JPEGs of your own (default: ours are made)")
    add("--repository", type=Path, default=ROOT / "build" / "test" / "model_repository", metavar="DIR",
        help="an exported one (default: %(default)s)")  # fmt: skip
    add("--minutes", type=float, default=Plan.minutes, help="time for all passes (default: %(default).0f)")
    add("--passes", type=int, metavar="N", help="this many passes, however long they take")
    add("--seconds", type=float, default=Plan.seconds, help="measured per load (default: %(default).0f)")
    add("--warm-up", type=float, default=Plan.warm_up_s, metavar="SECONDS", help="default: %(default).0f")
    add("--only", nargs="+", metavar="KEY", help="the systems to measure")
    add("--out", type=Path, default=OUT, metavar="FILE", help="default: benchmarks/RESULTS.md")
    add("--render", action="store_true", help="write the page again from the last run's figures")
    return parser


def choose(found: Sequence[System], keys: Sequence[str] | None) -> list[System]:
    """Raises BenchmarkError for a key that no system has."""
    known = {system.key for system in found}
    if wrong := sorted(set(keys or ()) - known):
        raise BenchmarkError(f"unknown: {', '.join(wrong)}. Choose from {', '.join(sorted(known))}")
    return [system for system in found if not keys or system.key in keys]


def able(chosen: Sequence[System], console: Console) -> list[System]:
    """Those that this machine can run. Raises BenchmarkError without any."""
    for system in chosen:
        if system.cannot:
            console.line(f"{system.key} is left out: {system.cannot}")
    found = [system for system in chosen if not system.cannot and system.loads]
    if not found:
        raise BenchmarkError("nothing is left to measure. Choose other systems")
    return found


def measure(plan: Plan, chosen: Sequence[System], console: Console, data: Path | None = None) -> Results:
    """All passes and, with `data`, the bad input, saved there.

    After Ctrl-C it returns what was measured, or raises KeyboardInterrupt if that is nothing. Raises
    BenchmarkError and ConfigurationError.
    """
    peers = peers_python()
    folder = plan.photos or own_photos(OWN_PHOTOS, lambda done, of: console.doing(f"photo {done} of {of}"))
    names = photo_names(folder)
    if len(names) < 8:
        raise BenchmarkError(f"{folder} holds {len(names)} JPEGs; at least 8 are needed")
    version, cores = served_version(plan.repository), available_cores()
    results = Results(machine.describe(peers, cores), _settings(plan, folder, names))
    with tempfile.TemporaryDirectory(prefix="clip-bench-") as scratch, FakeGcs() as bucket:
        os.environ["STORAGE_EMULATOR_HOST"] = bucket.url
        for name in names:
            bucket.upload(BUCKET, name, (folder / name).read_bytes())
        workspace = Workspace(version, peers, Path(scratch), cores)
        with kept(results, data):
            Run(plan, workspace, folder, results, console).passes(chosen)
            if data is not None:
                console.line("one bad photo among eight")
                photo = (folder / names[0]).read_bytes()
                results.bad_input = bad_input.ask_all(chosen, workspace, bucket, photo)
    return results


@contextmanager
def kept(results: Results, path: Path | None) -> Iterator[None]:
    """Whatever ends the block, what was measured in it is saved. Ctrl-C ends it, if anything was measured,
    without an exception."""
    try:
        yield
    except KeyboardInterrupt:
        if not results.windows:
            raise
        results.interrupted = True
    finally:
        if results.windows and path is not None:
            results.save(path)


def _settings(plan: Plan, folder: Path, names: Sequence[str]) -> dict[str, str]:
    sizes = [(folder / name).stat().st_size for name in names]
    kind = "a folder" if plan.photos else "scikit-image's pictures enlarged to 7 megapixels"
    return {
        "when": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "photos": f"{len(names)} ({kind}), {np.mean(sizes) / 1e6:.1f} MB on average",
        "model": "ViT-B-32, seeded random weights (what it costs does not depend on them)",
        "quality of ours": defaults.QUALITY,
        "measured": f"{plan.seconds:.0f} s per load and pass, after {plan.warm_up_s:.0f} s of warm-up",
    }


class Run:
    """The passes of one run; fills `results` as it goes."""

    def __init__(
        self, plan: Plan, workspace: Workspace, photos: Path, results: Results, console: Console
    ) -> None:
        self._plan, self._workspace, self._photos = plan, workspace, photos
        self._results, self._console = results, console

    def passes(self, chosen: Sequence[System]) -> None:
        began, longest, number = time.monotonic(), 0.0, 0
        load_averages: list[str] = []
        while number == 0 or self._another(number, time.monotonic() - began + longest):
            number += 1
            start = time.monotonic()
            load_averages.append(f"{os.getloadavg()[0]:.1f}")
            self._results.settings["load average, pass by pass"] = ", ".join(load_averages)
            for system in chosen:
                self._measure(system, number)
            longest = max(longest, time.monotonic() - start)
            self._console.line(f"pass {number} took {duration(time.monotonic() - start)}")

    def _another(self, done: int, seconds: float) -> bool:
        """`seconds`: how long all passes will have taken after another one."""
        return done < self._plan.passes if self._plan.passes else seconds < self._plan.minutes * 60

    def _measure(self, system: System, number: int) -> None:
        try:
            with system.start(self._workspace) as service:
                for load in system.loads:
                    self._console.doing(f"pass {number}: {load.key} ...")
                    window = self._window(system, load, service, number)
                    self._results.windows.append(window)
                    self._console.line(f"pass {number}: {load.key}: {window.images_per_s:.1f} images/s")
        except (BenchmarkError, ClipServingError, OSError) as error:
            self._console.line(f"pass {number}: {system.key} could not be measured: {error}")
            self._results.failures.append((system.key, number, str(error)))

    def _window(self, system: System, load: Load, service: Service, number: int) -> Window:
        job = Job(
            kind=load.client,
            address=service.address,
            photos=str(self._photos),
            bucket=BUCKET,
            in_flight=load.in_flight,
            photos_per_request=load.photos_per_request,
            warm_up_s=self._plan.warm_up_s,
            seconds=self._plan.seconds * load.share,
            encoder=str(self._workspace.version) if system.encoder else "",
            quality=defaults.QUALITY,
        )
        everything = ProcessGroup([os.getpid()], children=True)  # all of the benchmark descends from here
        with _client(job, self._workspace.scratch / "client.log") as client:
            client.wait_for("measuring")
            roots = service.roots()
            with Observer(None, {"service": roots} if roots else {}, children=True) as observer:
                observer.client(client.process.pid)
                begin, before, own_s = time.monotonic(), service.totals(), everything.cpu_s()
                client.wait_for("measured")
                seconds, after, own_s = time.monotonic() - begin, service.totals(), everything.cpu_s() - own_s
            log = json.loads(client.last_line())
        images = photos_per_s(log["rows"], log["begin"], log["end"])
        if not images:
            raise BenchmarkError(f"no photo was embedded in {job.seconds:.0f} s")
        used = observer.resources(round(images * seconds), seconds, local=False)
        busy = used.machine.cpu_percent.mean / 100 if used.machine.cpu_percent else 0.0
        stages = difference(before, after)
        if log["loads"]:
            stages["load"] = (1000 * float(np.mean(log["loads"])), len(log["loads"]))
        return Window(
            key=load.key,
            number=number,
            images_per_s=images,
            service_cpu_ms=(used.server.cpu_ms_per_photo or 0.0) if used.server else 0.0,
            client_cpu_ms=used.client.cpu_ms_per_photo or 0.0,
            peak_rss=_peak_bytes(used.server.rss_mb if used.server else None),
            client_peak_rss=_peak_bytes(used.client.rss_mb),
            latencies_ms=latencies_ms(log["rows"], log["begin"], log["end"]),
            others=max(0.0, busy - own_s / seconds / (os.cpu_count() or 1)),
            stages=stages,
            busy=busy,
            photos_per_request=load.photos_per_request,
        )


def _peak_bytes(rss_mb: Level | None) -> int:
    return round(rss_mb.peak * 2**20) if rss_mb else 0


class Client:
    """A benchmarks.clients process and what it says."""

    def __init__(self, process: Any, log: Path) -> None:
        self.process, self._log = process, log

    def wait_for(self, word: str) -> None:
        if self._read() != word:
            raise self._failed()

    def last_line(self) -> str:
        line = self._read()
        if self.process.wait(60) != 0 or not line:
            raise self._failed()
        return line

    def _read(self) -> str:
        line: bytes = self.process.stdout.readline()
        return line.decode().strip()

    def _failed(self) -> BenchmarkError:
        return BenchmarkError(f"its client failed: {last_line(self._log)}")


@contextmanager
def _client(job: Job, log: Path) -> Iterator[Client]:
    command = [sys.executable, "-m", "benchmarks.clients", json.dumps(dataclasses.asdict(job))]
    with (
        log.open("wb") as errors,
        running(command, stdout=subprocess.PIPE, stderr=errors, cwd=ROOT) as process,
    ):
        yield Client(process, log)


if __name__ == "__main__":
    sys.exit(main())
