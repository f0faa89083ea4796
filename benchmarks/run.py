"""`make bench`: everyone on the same photos, in turn, pass by pass; writes benchmarks/RESULTS.md.

    python -m benchmarks.run --minutes 30
    python -m benchmarks.run --photos DIR --only origin-1 ours-fp32 ceiling

A pass starts each contender, loads it, and ends it before the next begins, so that no two share the
machine. Passes go on until the next one would not fit into --minutes; there is always one. Ctrl-C ends
all that was started, and what was measured so far is written. `make compare-origin` runs this
too, with --data, and reads the figures instead of the page.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from benchmarks import bad_input, machine, table
from benchmarks.contenders import (
    ROOT,
    BenchmarkError,
    Contender,
    Drive,
    Place,
    Service,
    contenders,
    only_from_bucket,
    peers_python,
)
from benchmarks.drive import Job
from benchmarks.results import Results, Window, difference, latencies_ms, rate
from clip_serving import defaults
from clip_serving.encoder.cpu import Cpu
from clip_serving.errors import ClipServingError
from clip_serving.repository.stage import available_cores
from clip_serving.repository.versions import served_version
from testing.fake_gcs import FakeGcs
from testing.photos import own_photos, photo_names
from testing.processes import PeakMemory, cpu_seconds, machine_cpu_seconds, running

BUCKET = "photos"
DATA = ROOT / "build" / "bench" / "results.json"
OUT = ROOT / "benchmarks" / "RESULTS.md"


def main(argv: list[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="bench: %(message)s")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    found = contenders(available_cores(), Cpu.here())
    try:
        chosen = _chosen(found, options.only, from_bucket=options.from_bucket)
        results = Results.load(DATA) if options.render else measure(options, chosen)
    except (BenchmarkError, ClipServingError, OSError, ValueError) as error:
        say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        say("stopped; nothing is left running")
        return 130
    if options.data != DATA:
        return 0
    options.out.write_text(table.render(results, found), encoding="utf-8")
    say(f"{options.out} is written from {len(results.windows)} measurements")
    return 0


def _interrupt(signum: int, frame: FrameType | None) -> None:
    del signum, frame
    for number in (signal.SIGINT, signal.SIGTERM):  # ending is bounded in time: it must not be cut short
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--photos", type=Path, metavar="DIR", help="JPEGs of your own; without it, ours are made")
    add("--repository", type=Path, default=ROOT / "build" / "test" / "model_repository", metavar="DIR",
        help="an exported one (default: %(default)s)")  # fmt: skip
    add("--minutes", type=float, default=30, help="time for all passes (default: %(default).0f)")
    add("--passes", type=int, metavar="N", help="this many, whatever time they take")
    add("--seconds", type=float, default=12, help="measured, of each contender (default: %(default).0f)")
    add("--warm-up", type=float, default=4, metavar="SECONDS", help="default: %(default).0f")
    add("--only", nargs="+", metavar="KEY", help="contenders to measure")
    add("--from-bucket", action="store_true", help="no uploads: only photos that come from the bucket")
    add("--data", type=Path, default=DATA, metavar="FILE", help="write the figures here, and no page")
    add("--out", type=Path, default=OUT, metavar="FILE", help="default: benchmarks/RESULTS.md")
    add("--render", action="store_true", help="write the page again from the last run's figures")
    return parser


def _chosen(
    found: list[Contender], keys: Sequence[str] | None, *, from_bucket: bool = False
) -> list[Contender]:
    known = {contender.key for contender in found}
    wrong = sorted(set(keys or ()) - known)
    if wrong:
        raise BenchmarkError(f"{', '.join(wrong)}: not among {', '.join(sorted(known))}")
    chosen = [contender for contender in found if not keys or contender.key in keys]
    if from_bucket:
        chosen = [contender for contender in map(only_from_bucket, chosen) if contender.drives]
    for contender in chosen:
        if contender.cannot:
            say(f"{contender.key} is left out: {contender.cannot}")
    able = [contender for contender in chosen if not contender.cannot]
    if not able:
        raise BenchmarkError("nothing is left to measure: choose other contenders")
    return able


def measure(options: argparse.Namespace, chosen: list[Contender]) -> Results:
    """Everything from the photos to the last pass; also with Ctrl-C after the first measurement."""
    peers = peers_python()
    if not peers.exists():
        raise BenchmarkError(f"{peers} is missing. Run: make setup-bench")
    folder = options.photos or own_photos(ROOT / "build" / "bench" / "photos", _making)
    names = photo_names(folder)
    if len(names) < 8:
        raise BenchmarkError(f"{folder} holds {len(names)} JPEGs; at least 8 are needed")
    version, cores = served_version(options.repository), available_cores()
    results = Results(machine.describe(peers, cores), _settings(options, folder, names))
    with tempfile.TemporaryDirectory(prefix="clip-bench-") as scratch, FakeGcs() as bucket:
        os.environ["STORAGE_EMULATOR_HOST"] = bucket.url
        for name in names:
            bucket.upload(BUCKET, name, (folder / name).read_bytes())
        place = Place(version, peers, Path(scratch), cores)
        with kept(results, options.data):
            Run(options, place, folder, results).passes(chosen)
            if options.data == DATA:
                say("one bad photo among eight")
                results.bad_input = bad_input.ask_all(place, bucket, (folder / names[0]).read_bytes())
    return results


@contextmanager
def kept(results: Results, path: Path) -> Iterator[None]:
    """Whatever ends the block, what was measured in it is saved; Ctrl-C then ends nothing else."""
    try:
        yield
    except KeyboardInterrupt:
        if not results.windows:
            raise
        say("stopped: what was measured so far is written")
    finally:
        if results.windows:
            results.save(path)


def _making(done: int, of: int) -> None:
    if done == of or done % 10 == 0:
        say(f"photo {done} of {of}")


def _settings(options: argparse.Namespace, folder: Path, names: list[str]) -> dict[str, str]:
    sizes = [(folder / name).stat().st_size for name in names]
    kind = "a folder" if options.photos else "scikit-image's pictures enlarged to 7 megapixels"
    return {
        "when": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "photos": f"{len(names)} ({kind}), {np.mean(sizes) / 1e6:.1f} MB on average",
        "model": "ViT-B-32, seeded random weights (what it costs does not depend on them)",
        "quality of ours": defaults.QUALITY,
        "measured": f"{options.seconds:.0f} s a contender and pass, after {options.warm_up:.0f} s of warm-up",
    }


class Run:
    """The passes of one run; fills `results` as it goes."""

    def __init__(self, options: argparse.Namespace, place: Place, photos: Path, results: Results) -> None:
        self._options, self._place, self._photos = options, place, photos
        self._results = results

    def passes(self, chosen: list[Contender]) -> None:
        began, longest, number = time.monotonic(), 0.0, 0
        load_averages: list[str] = []
        while number == 0 or self._another(number, time.monotonic() - began + longest):
            number += 1
            start = time.monotonic()
            load_averages.append(f"{os.getloadavg()[0]:.1f}")
            self._results.settings["load average, pass by pass"] = ", ".join(load_averages)
            for contender in chosen:
                self._measure(contender, number)
            longest = max(longest, time.monotonic() - start)
            say(f"pass {number} took {longest / 60:.1f} min")

    def _another(self, done: int, seconds: float) -> bool:
        """`seconds`: what all passes will have taken with another one."""
        if self._options.passes:
            return done < int(self._options.passes)
        return seconds < float(self._options.minutes) * 60

    def _measure(self, contender: Contender, number: int) -> None:
        try:
            with contender.start(self._place) as service:
                for drive in contender.drives:
                    window = self._window(contender, drive, service, number)
                    self._results.windows.append(window)
                    say(f"pass {number}: {drive.key}: {window.images_per_s:.1f} images/s")
        except (BenchmarkError, ClipServingError, OSError) as error:
            say(f"pass {number}: {contender.key} could not be measured: {error}")
            self._results.failures.append((contender.key, number, str(error)))

    def _window(self, contender: Contender, drive: Drive, service: Service, number: int) -> Window:
        seconds = self._options.seconds * drive.share
        job = Job(
            kind=drive.client,
            address=service.address,
            photos=str(self._photos),
            bucket=BUCKET,
            in_flight=drive.in_flight,
            photos_per_request=drive.photos_per_request,
            warm_up_s=self._options.warm_up,
            seconds=seconds,
            encoder=str(self._place.version) if contender.encoder else "",
            quality=defaults.QUALITY,
        )
        with _client(job, self._place.scratch / "client.log") as client:
            families = {"service": service.roots, "client": lambda: [client.process.pid]}
            with PeakMemory(families) as memory:
                client.wait_for("measuring")
                before = self._reading(service, client.process.pid)
                client.wait_for("measured")
                after = self._reading(service, client.process.pid)
                log = json.loads(client.last_line())
        used = after - before
        images = rate(log["rows"], log["begin"], log["end"])
        photos = images * (log["end"] - log["begin"])
        if not photos:
            raise BenchmarkError(f"no photo was embedded in {seconds:.0f} s")
        stages = difference(before.totals, after.totals)
        if log["loads"]:
            stages["load"] = (1000 * float(np.mean(log["loads"])), len(log["loads"]))
        return Window(
            key=drive.key,
            number=number,
            images_per_s=images,
            service_cpu_ms=1000 * used.service / photos,
            client_cpu_ms=1000 * used.client / photos,
            peak_rss=memory.peak["service"],
            client_peak_rss=memory.peak["client"],
            latencies_ms=latencies_ms(log["rows"], log["begin"], log["end"]),
            others=max(0.0, used.others) / (used.wall * (os.cpu_count() or 1)),
            stages=stages,
            busy=used.machine / (used.wall * (os.cpu_count() or 1)),
            photos_per_request=drive.photos_per_request,
        )

    def _reading(self, service: Service, client: int) -> Reading:
        whole = machine_cpu_seconds()
        return Reading(
            wall=time.monotonic(),
            service=cpu_seconds(service.roots()),
            client=cpu_seconds([client]),
            # All that the benchmark runs is a descendant of this process.
            others=whole - cpu_seconds([os.getpid()]),
            machine=whole,
            totals=service.totals(),
        )


@dataclasses.dataclass(frozen=True)
class Reading:
    """Seconds since some beginning, of one moment; a difference of two is what a window used."""

    wall: float
    service: float
    client: float
    others: float
    machine: float
    totals: dict[str, tuple[float, int]]

    def __sub__(self, other: Reading) -> Reading:
        return Reading(
            self.wall - other.wall,
            self.service - other.service,
            self.client - other.client,
            self.others - other.others,
            self.machine - other.machine,
            {},
        )


class Client:
    """A benchmarks.drive process and what it says."""

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
        said = self._log.read_text(errors="replace").strip().splitlines()
        return BenchmarkError(f"its client failed: {said[-1] if said else 'it said nothing'}")


@contextmanager
def _client(job: Job, log: Path) -> Iterator[Client]:
    command = [sys.executable, "-m", "benchmarks.drive", json.dumps(dataclasses.asdict(job))]
    with (
        log.open("wb") as errors,
        running(command, stdout=subprocess.PIPE, stderr=errors, cwd=ROOT) as process,
    ):
        yield Client(process, log)


def say(text: str) -> None:
    print(f"bench: {time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
