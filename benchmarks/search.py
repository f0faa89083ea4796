"""Time and memory of clip-search on clustered synthetic vectors: `python -m benchmarks.search`.

Each size runs in a process of its own, on a Parquet file as clip-embed writes it. A cold start is the time
from the start of the process to the first answer, with the file in the page cache. With --index, an index is
built, too, and its queries are measured. With --duplicates, near duplicates are searched: as clip-search
does, in cells, and by comparing all pairs, which counts the share of them that the cells find; from a million
rows on, all pairs would take hours and are left out.
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
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clip_client import defaults as client_defaults
from clip_client.requests.wire import Embedding
from clip_search.query import Searchable

_QUERIES = 20
_EXACT = ("cold start s", "its CPU s", "query ms", "worst ms", "peak / vectors")
_INDEX = ("build s", "build CPU s", "peak / vectors", "file / vectors", "recall@10", *_EXACT[:4])
_DUPLICATES = ("cells s", "cells CPU s", "peak / vectors", "pairs", "all pairs s", "all CPU s", "found")
_ALL_PAIRS_ROWS = 300_000
_COPIES = 0.02
"""Of the rows, replaced by near copies of others."""


def main() -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.search", description=__doc__)
    add = parser.add_argument
    add("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], metavar="N")
    add("--dimension", type=int, default=512, metavar="D")
    add("--index", action="store_true", help="measure an index, too")
    add("--duplicates", action="store_true", help="measure the search for near duplicates, too")
    add("--measure", nargs=2, metavar=("WHAT", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        what, path = options.measure
        print(json.dumps(MEASURES[what](Path(path))))
        return 0
    _table("exact search", _EXACT, options, ["exact"])
    if options.index:
        _table("index", _INDEX, options, ["build", "index"])
    if options.duplicates:
        _table("near duplicates", _DUPLICATES, options, ["duplicates"])
    return 0


def _table(title: str, columns: Sequence[str], options: argparse.Namespace, steps: Sequence[str]) -> None:
    print(title)
    print(_line("rows", *columns))
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "embeddings.parquet"
            write(path, rows, options.dimension)
            path.read_bytes()  # into the page cache
            found: dict[str, float] = {}
            for step in steps:
                found = in_its_own_process(step, path) | found
        print(
            _line(f"{rows:,}", *(f"{found[name]:.4g}" if name in found else "-" for name in columns)),
            flush=True,
        )


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


def in_its_own_process(what: str, path: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.search", "--measure", what, str(path)]
    started = time.time()
    done = subprocess.run(
        command, env={**os.environ, "STARTED": repr(started)}, stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure_exact(path: Path) -> dict[str, float]:
    """Cold start, times of single queries, and the peak above the imports as a multiple of the vectors."""
    from clip_search import read_dataset

    before = peak_bytes()
    dataset = read_dataset(path)
    found = _queries(dataset, dataset.vectors[:1])
    return {**found, "peak / vectors": (peak_bytes() - before) / dataset.vectors.nbytes}


def measure_build(path: Path) -> dict[str, float]:
    from clip_search import build_index

    before, started = peak_bytes(), time.perf_counter()
    summary = build_index(path)
    nbytes = 4 * pq.ParquetFile(path).schema_arrow.field("embedding").type.list_size * summary.rows
    return {
        "build s": time.perf_counter() - started,
        "build CPU s": time.process_time(),
        "peak / vectors": (peak_bytes() - before) / nbytes,
        "file / vectors": summary.bytes / nbytes,
        "recall@10": summary.recall,
    }


def measure_index(path: Path) -> dict[str, float]:
    """Cold start, and times of single queries for vectors that no earlier query has touched."""
    from clip_search import open_index

    index = open_index(path)
    return _queries(index, index.vector(0)[None])


def measure_duplicates(path: Path) -> dict[str, float]:
    """Pairs of a cosine of 0.95 or more, of which a few were put among the rows."""
    from clip_search import defaults, read_dataset
    from clip_search.near import near_pairs

    before = peak_bytes()
    vectors = read_dataset(path).vectors
    _put_copies(vectors)
    defaults.ALL_PAIRS_ROWS = min(defaults.ALL_PAIRS_ROWS, len(vectors) // 2)  # cells at any size
    started, cpu = time.perf_counter(), time.process_time()
    pairs = near_pairs(vectors, defaults.THRESHOLD)
    found = {
        "cells s": time.perf_counter() - started,
        "cells CPU s": time.process_time() - cpu,
        "peak / vectors": (peak_bytes() - before) / vectors.nbytes,
        "pairs": len(pairs),
    }
    if len(vectors) > _ALL_PAIRS_ROWS:
        return found
    defaults.ALL_PAIRS_ROWS = len(vectors)
    started, cpu = time.perf_counter(), time.process_time()
    exact = {tuple(pair) for pair in near_pairs(vectors, defaults.THRESHOLD).tolist()}
    return {
        **found,
        "all pairs s": time.perf_counter() - started,
        "all CPU s": time.process_time() - cpu,
        "found": len(exact & {tuple(pair) for pair in pairs.tolist()}) / len(exact),
    }


def _put_copies(vectors: Embedding) -> None:
    """Replaces rows by others, turned to a cosine between 0.95 and 1."""
    random = np.random.default_rng(1)
    count = int(_COPIES * len(vectors))
    rows = random.permutation(len(vectors))[: 2 * count]
    originals = vectors[rows[:count]]
    cosines = random.uniform(0.95, 1, (count, 1)).astype(np.float32)
    aside = random.standard_normal(originals.shape, np.float32)
    aside -= (aside * originals).sum(axis=1, keepdims=True) * originals
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    vectors[rows[count:]] = cosines * originals + np.sqrt(1 - cosines**2) * aside


def _queries(dataset: Searchable, first: Embedding) -> dict[str, float]:
    dataset.nearest(first, 10)
    found = {"cold start s": time.time() - float(os.environ["STARTED"]), "its CPU s": time.process_time()}
    times = []
    for row in range(0, len(dataset), max(1, len(dataset) // _QUERIES)):
        query = dataset.vector(row)[None]
        begin = time.perf_counter()
        dataset.nearest(query, 10)
        times.append(1000 * (time.perf_counter() - begin))
    return {**found, "query ms": statistics.median(times), "worst ms": max(times)}


def peak_bytes(*, reset: bool = False) -> int:
    """This program's own peak: getrusage() counts that of the parent before exec, too.

    With `reset`, the peak is counted from now on, and is what the program has now.
    """
    if reset:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    assert found
    return 1024 * int(found[1])


MEASURES = {
    "exact": measure_exact,
    "build": measure_build,
    "index": measure_index,
    "duplicates": measure_duplicates,
}

if __name__ == "__main__":
    sys.exit(main())
