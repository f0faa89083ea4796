"""`clip-batch run --engine ray` beside the local engine, two workers each on the same cores:
`python -m benchmarks.batch_engines --repository DIR`.

Runs the same job with both in turn: camera photos and the null encoder, then small objects in 10 and in 100
partitions, whose difference is the overhead of a partition. A run is timed from its first object to its end,
without the start of Python and Ray, which has a column of its own. Needs `make setup-engines`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from clip_batch import Dataset, LocalStorage
from clip_serving import defaults as serving
from clip_serving.server.embedded import ServerOptions, TritonServer
from testing.pictures import camera_photos, encoded, noise
from testing.repositories import make_repository

ENGINES = ("local", "ray")
_PYTHON = Path(".venv-engines/bin/python")
_PARTITIONS = 20
_FEW, _MANY = 10, 100


def main() -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.batch_engines", description=__doc__)
    parser.add_argument("--repository", type=Path, required=True, help="an exported model")
    parser.add_argument("--photos", type=int, default=800, metavar="N", help="camera photos in a run")
    parser.add_argument("--objects", type=int, default=2000, metavar="N", help="small objects in a run")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    options = parser.parse_args()
    if not _PYTHON.exists():
        sys.exit("there is no environment with Ray. Create it with: make setup-engines")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        repository = work / "repository"
        make_repository(repository, options.repository.resolve() / serving.ENCODER / "1", "null")
        photos = write(work / "photos", camera_photos(10, seed=3), options.photos)
        small = write(work / "small", [encoded(noise(32, 32), "JPEG")], options.objects)
        with TritonServer(repository, ServerOptions(check_reference=False)) as server:
            bench = Bench(work, server.grpc_url, options.rounds)
            bench.throughput(photos, options.photos)
            bench.overhead(small, options.objects)
    return 0


def write(folder: Path, photos: Sequence[bytes], count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:05}.jpg").write_bytes(photos[number % len(photos)])
    return folder


@dataclass(frozen=True)
class Run:
    """A run's time, and the time before its first object."""

    seconds: float
    start_s: float


@dataclass(frozen=True)
class Bench:
    work: Path
    url: str
    rounds: int

    def throughput(self, photos: Path, count: int) -> None:
        """Prints each engine's rate, and their ratio in each round."""
        ratios = []
        print(f"{'engine':10}{'photos/s':>10}{'start, s':>10}")
        for number in range(self.rounds):
            runs = {engine: self._run(engine, photos, count // _PARTITIONS) for engine in _in_turn(number)}
            for engine in ENGINES:
                run = runs[engine]
                print(f"{engine:10}{count / run.seconds:10.1f}{run.start_s:10.1f}", flush=True)
            ratios.append(runs["local"].seconds / runs["ray"].seconds)
        each = ", ".join(f"{ratio:.3f}" for ratio in ratios)
        print(f"ray / local: {median(ratios):.3f} (median of {each})")

    def overhead(self, photos: Path, count: int) -> None:
        """Prints what one more partition costs with each engine."""
        seconds: dict[tuple[str, int], float] = {}
        for number in range(self.rounds):
            for engine in _in_turn(number):
                for partitions in (_FEW, _MANY):
                    run = self._run(engine, photos, count // partitions)
                    key = engine, partitions
                    seconds[key] = min(run.seconds, seconds.get(key, run.seconds))
        for engine in ENGINES:
            more = seconds[engine, _MANY] - seconds[engine, _FEW]
            print(f"overhead of a partition, {engine}: {more / (_MANY - _FEW) * 1000:.1f} ms")

    def _run(self, engine: str, photos: Path, size: int) -> Run:
        out = self.work / f"out-{time.monotonic_ns()}"
        command("plan", str(photos), "--out", str(out), "--partition-size", str(size))
        begin = time.time()
        command("run", str(out), "--engine", engine, "--workers", "2", "--url", self.url, "--quiet")
        shards = [info.counts for info in Dataset.read(LocalStorage(out)).infos() if info.counts is not None]
        start = min(counts.finished - counts.seconds for counts in shards)
        return Run(max(counts.finished for counts in shards) - start, start - begin)


def _in_turn(number: int) -> Sequence[str]:
    return ENGINES if number % 2 else ENGINES[::-1]


def command(*arguments: str) -> None:
    done = subprocess.run(
        [_PYTHON, "-m", "clip_batch.cli", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr)


if __name__ == "__main__":
    sys.exit(main())
