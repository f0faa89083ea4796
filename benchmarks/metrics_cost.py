"""What counting photos for Prometheus costs: `python -m benchmarks.metrics_cost --repository DIR`.

The served preprocess model, with a stopwatch around its reports to Triton, under 16 requests in flight and
with the null encoder. The wall time of a report includes this process's part and Triton's, so it is an upper
bound of both; it is shown beside the server's CPU time per photo.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from itertools import cycle
from pathlib import Path

from clip_client import ClipClient
from clip_profile.load.closed_loop import ClosedLoop
from clip_profile.observe.observer import Observer
from clip_serving import defaults
from clip_serving.repository.versions import served_version
from clip_serving.server.embedded import ServerOptions, TritonServer
from testing.pictures import camera_photos
from testing.repositories import make_repository

IN_FLIGHT = 16
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
    parser.add_argument("--seconds", type=float, default=20.0, help="measured (default: %(default)g)")
    options = parser.parse_args()
    photos = camera_photos(20)
    version = served_version(options.repository)
    with tempfile.TemporaryDirectory() as name:
        repository, watched = Path(name) / "repository", Path(name) / "watched"
        watched.mkdir()
        make_repository(repository, version, "null")
        model = repository / defaults.PREPROCESS / "1" / "model.py"
        model.write_text(_WATCHED.format(folder=str(watched)))
        with (
            TritonServer(repository, ServerOptions(check_reference=False)) as server,
            ClipClient(server.grpc_url, concurrency=IN_FLIGHT) as client,
        ):
            endless = cycle(photos)
            with ClosedLoop(lambda: lambda: len(client.request([next(endless)])), IN_FLIGHT) as loop:
                loop.warm_up(2.0)
                reported, before = _total(watched), loop.photos
                with Observer(None, {"server": [server.pid]}, children=True) as observer:
                    loop.measure(options.seconds)
                    spent, done = _total(watched) - reported, loop.photos - before
    spent_ms, busy_ms = 1000 * spent / done, 1000 * observer.cpu_s["server"] / done
    print(f"reports {spent_ms:.3f} ms per photo, of {busy_ms:.1f} ms of server CPU: {spent_ms / busy_ms:.2%}")
    return 0


def _total(folder: Path) -> float:
    return sum(float(json.loads(path.read_text())) for path in folder.iterdir())


if __name__ == "__main__":
    sys.exit(main())
