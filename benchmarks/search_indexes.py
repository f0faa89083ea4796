"""Compares index libraries for clip-search: FAISS, USearch and LanceDB, on synthetic unit vectors.

Each candidate runs in a process of its own. Queries are vectors of the same distribution that are not in the
index. The effort of a candidate (its efSearch, probes or refinement) rises until the recall@10 against exact
search is 0.99, and the table shows the query times there. `clusters` are separate clusters, as
benchmarks.search has them; `smooth` vectors lie on a curved surface of 32 dimensions without clusters, which
is harder.

USearch and LanceDB are not dependencies of clip-search. Install them into a folder of their own, and remove
that afterwards:

    python3 -m pip install --target build/indexes -c constraints.txt usearch lancedb
    PYTHONPATH=build/indexes .venv/bin/python -m benchmarks.search_indexes --rows 100000
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.search import clustered, peak_bytes
from clip_client.requests.wire import Embedding
from clip_search.exact import top_k

K = 10
ENOUGH = 0.99
QUERIES = 200
_COLUMNS = (
    "build s",
    "its CPU s",
    "peak/vectors",
    "file/vectors",
    "open ms",
    "effort",
    "recall",
    "query ms",
    "p95 ms",
)

Search = Callable[[Embedding], Sequence[int]]


@dataclass(frozen=True)
class Built:
    """`open()` reads the index from its path, `search(effort)` gives a function for one query."""

    open: Callable[[], None]
    search: Callable[[int], Search]
    efforts: Sequence[int]


def faiss_hnsw(vectors: Embedding, path: Path) -> Built:
    return _faiss_graph(vectors, path, half=False)


def faiss_hnsw_half(vectors: Embedding, path: Path) -> Built:
    return _faiss_graph(vectors, path, half=True)


def _faiss_graph(vectors: Embedding, path: Path, *, half: bool) -> Built:
    import faiss

    library: Any = faiss
    product, dimension = library.METRIC_INNER_PRODUCT, vectors.shape[1]
    if half:
        index = library.IndexHNSWSQ(dimension, library.ScalarQuantizer.QT_fp16, 16, product)
    else:
        index = library.IndexHNSWFlat(dimension, 16, product)
    index.hnsw.efConstruction = 64
    for begin in range(0, len(vectors), 20_000):
        index.add(vectors[begin : begin + 20_000])

    def effort(index: Any, value: int) -> None:
        index.hnsw.efSearch = value

    return _faiss(index, path, effort, (32, 64, 128, 256, 512, 1024))


def faiss_ivf(vectors: Embedding, path: Path) -> Built:
    return _faiss_lists(vectors, path, "Flat")


def faiss_ivf_half(vectors: Embedding, path: Path) -> Built:
    return _faiss_lists(vectors, path, "SQfp16")


def faiss_ivf_bytes(vectors: Embedding, path: Path) -> Built:
    return _faiss_lists(vectors, path, "SQ8")


def _faiss_lists(vectors: Embedding, path: Path, kind: str) -> Built:
    import faiss

    library: Any = faiss
    lists = int(4 * len(vectors) ** 0.5)
    index = library.index_factory(vectors.shape[1], f"IVF{lists},{kind}", library.METRIC_INNER_PRODUCT)
    index.train(vectors[:: max(1, len(vectors) // (64 * lists))])
    index.add(vectors)

    def effort(index: Any, value: int) -> None:
        index.nprobe = value

    return _faiss(index, path, effort, (4, 8, 16, 32, 64, 128, 256, 512))


def _faiss(index: Any, path: Path, effort: Callable[[Any, int], None], efforts: Sequence[int]) -> Built:
    import faiss

    library: Any = faiss
    library.write_index(index, str(path))
    opened: list[Any] = []

    def search(value: int) -> Search:
        effort(opened[0], value)
        return lambda query: list(opened[0].search(query[None], K)[1][0])

    flags = library.IO_FLAG_MMAP if "IVF" in type(index).__name__ else library.IO_FLAG_MMAP_IFC
    return Built(lambda: opened.append(library.read_index(str(path), flags)), search, efforts)


def usearch_half(vectors: Embedding, path: Path) -> Built:
    from usearch.index import Index

    index = Index(ndim=vectors.shape[1], metric="ip", dtype="f16")
    index.add(np.arange(len(vectors)), vectors)
    index.save(str(path))
    opened: list[Any] = []

    def search(value: int) -> Search:
        opened[0].expansion_search = value
        return lambda query: list(opened[0].search(query, K).keys)

    return Built(
        lambda: opened.append(Index.restore(str(path), view=True)), search, (64, 128, 256, 512, 1024)
    )


def lancedb_hnsw(vectors: Embedding, path: Path) -> Built:
    from lancedb.index import HnswSq

    return _lancedb(vectors, path, HnswSq(distance_type="cosine"))


def lancedb_flat(vectors: Embedding, path: Path) -> Built:
    from lancedb.index import IvfFlat

    return _lancedb(vectors, path, IvfFlat(distance_type="cosine"))


def _lancedb(vectors: Embedding, path: Path, config: Any) -> Built:
    """The effort is the number of probes; refinement takes 5 x 10 candidates."""
    import lancedb
    import pyarrow as pa

    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    table = lancedb.connect(path).create_table(
        "t", pa.table({"id": np.arange(len(vectors)), "vector": column})
    )
    table.create_index("vector", config=config)
    opened: list[Any] = []

    def search(value: int) -> Search:
        def one(query: Embedding) -> Sequence[int]:
            found = opened[0].search(query).distance_type("cosine").limit(K).nprobes(value).refine_factor(5)
            return list(found.select(["id", "_distance"]).to_arrow()["id"].to_pylist())

        return one

    return Built(
        lambda: opened.append(lancedb.connect(path).open_table("t")), search, (1, 2, 4, 8, 16, 32, 64)
    )


CANDIDATES: dict[str, Callable[[Embedding, Path], Built]] = {
    "faiss-hnsw-fp16": faiss_hnsw_half,
    "faiss-hnsw": faiss_hnsw,
    "faiss-ivf-fp16": faiss_ivf_half,
    "faiss-ivf": faiss_ivf,
    "faiss-ivf-bytes": faiss_ivf_bytes,
    "usearch-fp16": usearch_half,
    "lancedb-hnsw": lancedb_hnsw,
    "lancedb-ivf": lancedb_flat,
}


def clusters(rows: int, dimension: int) -> Embedding:
    return np.concatenate([vectors for _, vectors in clustered(rows, dimension)])


def smooth(rows: int, dimension: int) -> Embedding:
    """A linear and a curved image of 32 numbers of falling variance, and a little noise."""
    random = np.random.default_rng(0)
    inner = random.standard_normal((rows, 32), np.float32) / np.sqrt(1 + np.arange(32) / 4, dtype=np.float32)
    flat, bent = (random.standard_normal((size, dimension), np.float32) for size in (32, 64))
    bend = random.standard_normal((32, 64), np.float32) / 6
    found = np.empty((rows, dimension), np.float32)
    for part in _slices(rows):
        found[part] = inner[part] @ flat + np.tanh(inner[part] @ bend) @ bent
        found[part] += 0.5 * random.standard_normal(found[part].shape, np.float32)
        found[part] /= np.linalg.norm(found[part], axis=1, keepdims=True)
    return found


def _slices(rows: int) -> Iterator[slice]:
    for begin in range(0, rows, 20_000):
        yield slice(begin, begin + 20_000)


DATA = {"clusters": clusters, "smooth": smooth}


def measure(candidate: str, data: str, rows: int, dimension: int) -> dict[str, float]:
    everything = DATA[data](rows + QUERIES, dimension)
    chosen = np.random.default_rng(1).choice(len(everything), QUERIES, replace=False)
    queries = everything[chosen]
    vectors = np.delete(everything, chosen, axis=0)
    del everything
    truth, _ = top_k(vectors, queries, K)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index"
        before, started, cpu = peak_bytes(reset=True), time.perf_counter(), time.process_time()
        built = CANDIDATES[candidate](vectors, path)
        found = {
            "build s": time.perf_counter() - started,
            "its CPU s": time.process_time() - cpu,
            "peak/vectors": 1 + (peak_bytes() - before) / vectors.nbytes,
            "file/vectors": _size(path) / vectors.nbytes,
        }
        started = time.perf_counter()
        built.open()
        built.search(built.efforts[0])(queries[0])
        found["open ms"] = 1000 * (time.perf_counter() - started)
        return {**found, **_best(built, queries, truth)}


def _best(built: Built, queries: Embedding, truth: npt.NDArray[np.int64]) -> dict[str, float]:
    """At the first effort whose recall is enough, or at the last."""
    found: dict[str, float] = {}
    for effort in built.efforts:
        search, times, hits = built.search(effort), [], 0
        for query, exact in zip(queries, truth, strict=True):
            begin = time.perf_counter()
            rows = search(query)
            times.append(1000 * (time.perf_counter() - begin))
            hits += len({int(row) for row in rows} & {int(row) for row in exact})
        found = {
            "effort": effort,
            "recall": hits / truth.size,
            "query ms": statistics.median(times),
            "p95 ms": float(np.percentile(times, 95)),
        }
        if found["recall"] >= ENOUGH:
            break
    return found


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")))


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.search_indexes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--rows", type=int, nargs="+", default=[100_000], metavar="N")
    add("--dimension", type=int, default=512, metavar="D")
    add("--data", nargs="+", choices=DATA, default=list(DATA))
    add("--candidates", nargs="+", choices=CANDIDATES, default=list(CANDIDATES))
    add("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.candidates[0], options.data[0], options.rows[0], options.dimension)))
        return 0
    print(f"| rows | data | candidate | {' | '.join(_COLUMNS)} |\n|{'---|' * (len(_COLUMNS) + 3)}")
    for rows in options.rows:
        for data in options.data:
            for candidate in options.candidates:
                found = _in_its_own_process(candidate, data, rows, options.dimension)
                cells = [
                    f"{found[name]:.3g}" if name != "recall" else f"{found[name]:.4f}" for name in _COLUMNS
                ]
                print(f"| {rows:,} | {data} | {candidate} | {' | '.join(cells)} |", flush=True)
    return 0


def _in_its_own_process(candidate: str, data: str, rows: int, dimension: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.search_indexes", "--measure"]
    command += ["--candidates", candidate, "--data", data, "--rows", str(rows), "--dimension", str(dimension)]
    done = subprocess.run(
        command, env={**os.environ, "RUST_LOG": "error"}, stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    sys.exit(main())
