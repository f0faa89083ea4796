"""Time and memory of clip-batch on many small objects: `python -m benchmarks.batch --repository DIR`.

Generates a folder of small JPEGs, and plans, runs (null encoder), compacts and verifies it, each command in a
process of its own. Then plans a list of many more names alone. The overhead of a partition is the difference
between two runs over the same objects with small and large partitions.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from clip_serving import defaults as serving
from clip_serving.server.embedded import ServerOptions, TritonServer
from testing.pictures import encoded
from testing.repositories import make_repository

_PER_FOLDER = 1000
_LIST_ROWS = 100_000


def main() -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.batch", description=__doc__)
    parser.add_argument("--repository", type=Path, required=True, help="an exported model")
    parser.add_argument("--objects", type=int, default=100_000, metavar="N")
    parser.add_argument("--listed", type=int, default=1_000_000, metavar="N", help="names in the list")
    parser.add_argument("--partition-size", type=int, default=1000, metavar="N")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        repository = work / "repository"
        make_repository(repository, options.repository.resolve() / serving.ENCODER / "1", "null")
        print(f"{'step':34}{'seconds':>10}{'CPU s':>10}{'peak MB':>10}")
        photos = work / "photos"
        generate(photos, options.objects)
        size = str(options.partition_size)
        job(repository, photos, work / "out", size)
        overhead(repository, work, min(options.objects, 10_000))
        names = work / "names.parquet"
        write_list(names, options.listed)
        out = str(work / "listed")
        show(f"plan a list of {options.listed:,}", batch("plan", str(names), "--out", out))
        show("plan it again", batch("plan", str(names), "--out", out))
    return 0


def job(repository: Path, photos: Path, out: Path, size: str) -> None:
    """A job from its plan to its compacted output."""
    show("plan", batch("plan", str(photos), "--out", str(out), "--partition-size", size))
    with TritonServer(repository, ServerOptions(check_reference=False)) as server:
        done = batch("run", str(out), "--url", server.grpc_url, "--quiet")
    show(f"run, {done.result['objects_per_second']:.0f} objects/s", done)
    show("verify", batch("verify", str(out)))
    show("plan again, nothing is new", batch("plan", str(photos), "--out", str(out)))
    show("status", batch("status", str(out)))
    show("compact", batch("compact", str(out)))
    show("verify the compacted output", batch("verify", str(out)))


def overhead(repository: Path, work: Path, objects: int) -> None:
    """Prints what one more partition costs in a run."""
    photos = work / "few"
    generate(photos, objects)
    seconds: dict[int, float] = {}
    with TritonServer(repository, ServerOptions(check_reference=False)) as server:
        for size in (objects // 10, objects // 100, objects // 10, objects // 100):
            out = str(work / f"few-{size}-{len(seconds)}-{time.monotonic_ns()}")
            batch("plan", str(photos), "--out", out, "--partition-size", str(size))
            done = batch("run", out, "--url", server.grpc_url, "--quiet")
            seconds[size] = min(seconds.get(size, float("inf")), done.result["seconds"])
    few, many = (seconds[objects // count] for count in (10, 100))
    print(
        f"overhead of a partition: {(many - few) / 90 * 1000:.1f} ms (100 and 10 partitions of {objects:,})"
    )


@dataclass(frozen=True)
class Done:
    """A command's result and what it cost."""

    result: Any
    seconds: float
    cpu_s: float
    peak_mb: float


def batch(*arguments: str) -> Done:
    command = [sys.executable, "-m", "clip_batch.cli", *arguments, "--json"]
    begin = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}")
    seconds = time.monotonic() - begin
    return Done(json.loads(said), seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def show(step: str, done: Done) -> None:
    print(f"{step:34}{done.seconds:10.1f}{done.cpu_s:10.1f}{done.peak_mb:10.0f}", flush=True)


def generate(folder: Path, count: int) -> None:
    """Small JPEGs, each of another color."""
    for number in range(count):
        path = folder / f"{number // _PER_FOLDER:04}" / f"{number:07}.jpg"
        if not number % _PER_FOLDER:
            path.parent.mkdir(parents=True)
        color = number * 2654435761 % 2**24
        picture = Image.new("RGB", (16, 16), (color >> 16, color >> 8 & 255, color & 255))
        path.write_bytes(encoded(picture, "JPEG"))


def write_list(path: Path, count: int) -> None:
    """Names with generations and sizes, as in an inventory report."""
    columns = {"bucket": pa.string(), "name": pa.string(), "generation": pa.int64(), "size": pa.int64()}
    with pq.ParquetWriter(path, pa.schema(columns.items())) as writer:
        for begin in range(0, count, _LIST_ROWS):
            numbers = range(begin, min(begin + _LIST_ROWS, count))
            names = [f"2024/{number // _PER_FOLDER:06}/IMG_{number:09}.jpg" for number in numbers]
            rows = [
                ["albums"] * len(names),
                names,
                [number + 10**15 for number in numbers],
                [2_300_000] * len(names),
            ]
            writer.write_table(pa.table(rows, schema=writer.schema))


if __name__ == "__main__":
    sys.exit(main())
