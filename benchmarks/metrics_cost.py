"""What counting photos for Prometheus costs: `python -m benchmarks.metrics_cost --repository DIR`.

The served preprocess model, with a watch around its reports to Triton, under 16 clients and with an encoder
that does nothing. Wall time of a report holds this process's part and Triton's, so it is an upper bound of
both; it stands beside the wall time of decode and preprocess of the same photos, and beside the CPU of all.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from clip_client import ClipClient
from clip_serving import defaults
from clip_serving.repository.versions import served_version
from clip_serving.server.embedded import ServerOptions, TritonServer
from testing.pictures import camera_photos
from testing.processes import cpu_seconds
from testing.repositories import make_repository

_WATCHED = """
import json, os, time
from pathlib import Path
from clip_serving.triton_models.preprocess import TritonPythonModel as Served

class TritonPythonModel(Served):
    def initialize(self, args):
        super().initialize(args)
        self._seconds, record = 0.0, self._metrics.record
        def watched(images, outcomes):
            begin = time.perf_counter()
            record(images, outcomes)
            self._seconds += time.perf_counter() - begin
            Path({folder!r}, str(os.getpid())).write_text(json.dumps(self._seconds))
        self._metrics.record = watched
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.metrics_cost", description=__doc__)
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--photos", type=int, default=600, metavar="N")
    options = parser.parse_args()
    photos = camera_photos(20)
    version = served_version(options.repository)
    with tempfile.TemporaryDirectory() as name:
        repository, watched = Path(name) / "repository", Path(name) / "watched"
        watched.mkdir()
        make_repository(repository, version, "null")
        model = repository / defaults.PREPROCESS / "1" / "model.py"
        model.write_text(_WATCHED.format(folder=str(watched)))
        with TritonServer(repository, ServerOptions(check_reference=False)) as server:
            with ClipClient(server.grpc_url) as client, ThreadPoolExecutor(16) as pool:
                client.embed(photos)
                before, reported = cpu_seconds([server.pid]), _total(watched)
                list(pool.map(lambda i: client.request([photos[i % len(photos)]]), range(options.photos)))
            busy = (cpu_seconds([server.pid]) - before) / options.photos * 1000
            spent = (_total(watched) - reported) / options.photos * 1000
    print(f"reports {spent:.3f} ms a photo, of {busy:.1f} ms of the server's CPU: {spent / busy:.2%}")
    return 0


def _total(folder: Path) -> float:
    return sum(float(json.loads(path.read_text())) for path in folder.iterdir())


if __name__ == "__main__":
    sys.exit(main())
