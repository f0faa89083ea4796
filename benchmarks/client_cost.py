"""What the client costs: `python -m benchmarks.client_cost --repository DIR [--photos DIR]`.

`clip-embed` as it is, from a real fake-gcs-server (CRC32C checked) through a real server with the null
encoder to a Parquet file. CPU per photo is the difference between a run over many objects and one over few,
so that it does not include starting Python; memory is the peak of each.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from clip_serving.repository.versions import served_version
from clip_serving.server.embedded import ServerOptions, TritonServer
from testing.fake_gcs import FakeGcs
from testing.photos import own_photos, read_photos
from testing.repositories import make_repository

FEW, MANY = 40, 240


@dataclass(frozen=True)
class Run:
    """CPU seconds and peak megabytes of one clip-embed."""

    cpu_s: float
    peak_mb: float


def embed(prefix: str, url: str, folder: Path, *options: str) -> Run:
    """One clip-embed of the objects under `prefix`, with more `options`."""
    out = folder / "out.parquet"
    command = [sys.executable, "-m", "clip_client.cli", prefix, "--out", str(out), "--overwrite"]
    process = subprocess.Popen([*command, "--url", url, "--quiet", *options], stderr=subprocess.PIPE)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        said = process.stderr.read().decode() if process.stderr else ""
        raise SystemExit(f"clip-embed failed: {said}")
    return Run(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def upload(bucket: FakeGcs, photos: list[bytes], folder: str = "") -> None:
    """MANY objects under many/ and FEW under few/, in a folder of the bucket such as "large/"."""
    for index in range(MANY):
        bucket.upload("cost", f"{folder}many/{index:04}.jpg", photos[index % len(photos)])
        if index < FEW:
            bucket.upload("cost", f"{folder}few/{index:04}.jpg", photos[index % len(photos)])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.client_cost", description=__doc__)
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--photos", type=Path, help="a folder of JPEGs (default: our own, 7 megapixels)")
    parser.add_argument("--passes", type=int, default=3)
    options = parser.parse_args()
    photos = read_photos(options.photos or own_photos(Path("build/bench/photos")))
    version = served_version(options.repository)
    with tempfile.TemporaryDirectory() as name, FakeGcs() as bucket:
        os.environ["STORAGE_EMULATOR_HOST"] = bucket.url
        upload(bucket, photos)
        repository = Path(name) / "repository"
        make_repository(repository, version, "null")
        with TritonServer(repository, ServerOptions(check_reference=False)) as server:
            url = server.grpc_url
            runs = [
                (embed("gs://cost/few/", url, Path(name)), embed("gs://cost/many/", url, Path(name)))
                for _ in range(options.passes)
            ]
    costs = [(many.cpu_s - few.cpu_s) / (MANY - FEW) * 1000 for few, many in runs]
    size = sum(map(len, photos)) / len(photos) / 1e6
    print(f"photos of {size:.2f} MB on average, {options.passes} passes")
    print(f"client CPU per photo: {statistics.median(costs):.2f} ms ({min(costs):.2f} to {max(costs):.2f})")
    for count, run in ((FEW, [few for few, _ in runs]), (MANY, [many for _, many in runs])):
        print(f"peak memory over {count} photos: {max(each.peak_mb for each in run):.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
