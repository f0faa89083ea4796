"""Time and memory of clip-search on clustered synthetic vectors: `python -m benchmarks.search`.

Each size runs in a process of its own, on a Parquet file as clip-embed writes it. A cold start is the time
from the start of the process to the first answer, with the file in the page cache.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clip_client import defaults as client_defaults
from clip_client.requests.wire import Embedding

_QUERIES = 20
_COLUMNS = ("cold start s", "its CPU s", "query ms", "worst ms", "peak / vectors")


def main() -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.search", description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], metavar="N")
    parser.add_argument("--dimension", type=int, default=512, metavar="D")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return 0
    print(_line("rows", *_COLUMNS))
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "embeddings.parquet"
            write(path, rows, options.dimension)
            path.read_bytes()  # into the page cache
            found = in_its_own_process(path)
        print(_line(f"{rows:,}", *(f"{found[name]:.2f}" for name in _COLUMNS)), flush=True)
    return 0


def _line(*cells: str) -> str:
    return "".join(cell.rjust(16) for cell in cells)


def write(path: Path, rows: int, dimension: int) -> None:
    """A file of unit vectors around rows / 100 centers."""
    schema = pa.schema([("name", pa.string()), ("embedding", pa.list_(pa.float32(), dimension))])
    with pq.ParquetWriter(path, schema) as writer:
        for begin, vectors in clustered(rows, dimension):
            names = [f"{begin + row:09}.jpg" for row in range(len(vectors))]
            column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), dimension)
            writer.write_table(pa.table([pa.array(names), column], schema=schema))


def clustered(rows: int, dimension: int) -> Iterator[tuple[int, Embedding]]:
    random = np.random.default_rng(0)
    centers = random.standard_normal((max(1, rows // 100), dimension), np.float32)
    step = client_defaults.ROW_GROUP_ROWS
    for begin in range(0, rows, step):
        count = min(step, rows - begin)
        noise = 0.5 * random.standard_normal((count, dimension), np.float32)
        vectors = centers[random.integers(len(centers), size=count)] + noise
        yield begin, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def in_its_own_process(path: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.search", "--measure", str(path)]
    started = time.time()
    done = subprocess.run(
        command, env={**os.environ, "STARTED": repr(started)}, stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure(path: Path) -> dict[str, float]:
    """Cold start, times of single queries, and the peak above the imports as a multiple of the vectors."""
    from clip_search import read_dataset, top_k

    before = _peak_bytes()
    dataset = read_dataset(path)
    top_k(dataset.vectors, dataset.vectors[:1], 10)
    cold = time.time() - float(os.environ["STARTED"])
    cold_cpu = time.process_time()
    times = []
    for query in dataset.vectors[:: max(1, len(dataset) // _QUERIES)]:
        begin = time.perf_counter()
        top_k(dataset.vectors, query[None], 10)
        times.append(1000 * (time.perf_counter() - begin))
    return {
        "cold start s": cold,
        "its CPU s": cold_cpu,
        "query ms": statistics.median(times),
        "worst ms": max(times),
        "peak / vectors": (_peak_bytes() - before) / dataset.vectors.nbytes,
    }


def _peak_bytes() -> int:
    """This program's own peak: getrusage() counts that of the parent before exec, too."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    assert found
    return 1024 * int(found[1])


if __name__ == "__main__":
    sys.exit(main())
