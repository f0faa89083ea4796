"""What a photo of each size takes: `python -m benchmarks.bill --repository DIR`.

`clip-embed --decode client` from a real fake-gcs-server to Parquet, as a worker of a batch job runs it: load,
CRC32C, decode, preprocess and the request. The null encoder answers, because on a GPU the encoder takes no
cores. CPU is the difference between a run over many objects and one over few, so that it leaves out the start
of Python. Photos are scikit-image's pictures, enlarged; the smallest are as large as ImageNet's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.client_cost import FEW, MANY, embed, upload
from benchmarks.results_page import table
from clip_profile.observe.processes import ProcessGroup
from clip_serving.repository.versions import served_version
from clip_serving.server.embedded import ServerOptions, TritonServer
from testing.fake_gcs import FakeGcs
from testing.repositories import make_repository
from testing.scenes import SCENES, SHOTS, take

MEGAPIXELS = (0.19, 2.0, 7.0, 12.0)
QUALITIES = ("exact", "high", "fast")


@dataclass(frozen=True)
class Line:
    """One size at one quality: `bytes` of a photo, and medians of CPU milliseconds a photo."""

    megapixels: float
    quality: str
    bytes: int
    worker_ms: float
    server_ms: float

    @property
    def images_per_vcpu_s(self) -> float:
        return 1000 / (self.worker_ms + self.server_ms)


def photos(megapixels: float) -> list[bytes]:
    return [take(scene, SHOTS[0], seed, megapixels) for seed, scene in enumerate(SCENES)]


def measure(server: TritonServer, folder: Path, prefix: str) -> tuple[float, float]:
    """CPU milliseconds a photo: of the worker, and of the server."""
    processes = ProcessGroup([server.pid], children=True)
    few = embed(f"{prefix}few/", server.grpc_url, folder, "--decode", "client")
    before = processes.cpu_s()
    many = embed(f"{prefix}many/", server.grpc_url, folder, "--decode", "client")
    return (many.cpu_s - few.cpu_s) / (MANY - FEW) * 1000, (processes.cpu_s() - before) / MANY * 1000


def report(lines: list[Line]) -> str:
    header = ("megapixels", "quality", "MB a photo", "worker CPU ms", "server CPU ms", "images/s per vCPU")
    rows = [
        (
            f"{line.megapixels:g}", line.quality, f"{line.bytes / 1e6:.2f}", f"{line.worker_ms:.1f}",
            f"{line.server_ms:.1f}", f"{line.images_per_vcpu_s:.0f}",
        )
        for line in lines
    ]  # fmt: skip
    return table(header, rows)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bill", description=__doc__)
    parser.add_argument("--repository", type=Path, required=True, help="an exported one")
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--megapixels", type=float, nargs="+", default=MEGAPIXELS, metavar="N")
    parser.add_argument("--qualities", nargs="+", default=QUALITIES, choices=QUALITIES)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    version, lines = served_version(options.repository), []
    with tempfile.TemporaryDirectory() as name, FakeGcs() as bucket:
        os.environ["STORAGE_EMULATOR_HOST"] = bucket.url
        sizes = {}
        for megapixels in options.megapixels:
            made = photos(megapixels)
            sizes[megapixels] = round(statistics.mean(map(len, made)))
            upload(bucket, made, f"{megapixels:g}/")
        for quality in options.qualities:
            repository = Path(name) / quality
            make_repository(repository, version, "null", quality=quality)
            with TritonServer(repository, ServerOptions(check_reference=False)) as server:
                for megapixels, size in sizes.items():
                    prefix = f"gs://cost/{megapixels:g}/"
                    passes = [measure(server, Path(name), prefix) for _ in range(options.passes)]
                    worker, service = (statistics.median(each) for each in zip(*passes, strict=True))
                    lines.append(Line(megapixels, quality, size, worker, service))
    if options.json:
        print(json.dumps([asdict(line) for line in lines], indent=2))
    else:
        print(report(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
