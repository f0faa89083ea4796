"""CPU per object of two libraries that load from Google Cloud Storage: google-cloud-storage and obstore.

Both load the same object from fake-gcs-server, in turn, and the better of several rounds counts:

python -m benchmarks.load_stores
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from obstore.store import GCSStore

from clip_client.sources.base import Source, SourceOptions, crc32c
from clip_client.sources.gcs import GcsSource
from clip_client.sources.object_store import ObjectStoreSource
from testing.fake_gcs import FakeGcs

_BUCKET, _NAME = "photos", "photo.jpg"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=2.5)
    parser.add_argument("--objects", type=int, default=200, help="per round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=8)
    options = parser.parse_args()
    with FakeGcs() as bucket:
        os.environ["STORAGE_EMULATOR_HOST"] = bucket.url
        bucket.upload(_BUCKET, _NAME, os.urandom(int(options.megabytes * 1e6)))
        sources = {"google-cloud-storage": _google(options.threads), "obstore": _obstore(bucket.url)}
        best = dict.fromkeys(sources, (float("inf"), float("inf")))
        for _ in range(options.rounds):
            for name, source in sources.items():
                best[name] = min(best[name], _measure(source, options.objects, options.threads))
    for name, (cpu_s, wall_s) in best.items():
        print(f"{name:<22}{cpu_s * 1000:8.2f} ms of CPU and {wall_s * 1000:8.2f} ms per object")


def _google(threads: int) -> Source:
    return GcsSource(_BUCKET, "", SourceOptions(connections=threads))


def _obstore(url: str) -> Source:
    account = {"gcs_base_url": url, "disable_oauth": True, "client_email": "", "private_key": "",
               "private_key_id": ""}  # fmt: skip
    store = GCSStore(_BUCKET, service_account_key=json.dumps(account), client_options={"allow_http": True})
    return _Checked(f"gs://{_BUCKET}", "", store, SourceOptions())


class _Checked(ObjectStoreSource):
    """Compares each object's CRC32C, as GcsSource does."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self._seen: set[str] = set()

    def load(self, item: object) -> bytes:
        data = super().load(item)  # type: ignore[arg-type]
        self._seen.add(crc32c(data))
        assert len(self._seen) == 1
        return data


def _measure(source: Source, objects: int, threads: int) -> tuple[float, float]:
    """CPU and wall-clock seconds per object."""
    (item,) = source.list()
    load: Callable[[int], int] = lambda _: len(source.load(item))  # noqa: E731
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(load, range(threads)))  # connects
        cpu, wall = time.process_time(), time.perf_counter()
        list(pool.map(load, range(objects)))
        return (time.process_time() - cpu) / objects, (time.perf_counter() - wall) / objects


if __name__ == "__main__":
    main()
