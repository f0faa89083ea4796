"""An index of a dataset: the nearest rows without reading all vectors. Needs the extra `index`.

It is the folder DATASET.index beside the dataset, whose files the system maps into memory: `vectors.faiss`,
the vectors in half precision, in lists around centers; `rows.arrow`, the other columns; and `index.json`,
which says what the index was made from. A query compares the rows of the lists whose centers are nearest. An
index of an earlier state of the dataset is refused.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clip_client.files import FileLock
from clip_search import defaults, exact
from clip_search.dataset import OpenDataset, Rows, files_of, open_dataset
from clip_search.digest import DatasetDigest, digest_of
from clip_search.errors import SearchError, UnusableIndexError
from clip_search.vectors import Vectors, open_part

FORMAT = 1
"""Of the folder. An index of another format is built again."""
_DESCRIPTION = "index.json"
_VECTORS = "vectors.faiss"
_ROWS = "rows.arrow"
_SAME = 1e-6
"""How much the products of equal vectors differ: BLAS adds in an order that depends on the row."""

Progress = Callable[[str, int, int], None]
"""Gets what is being done, and how many of how many rows are done."""


@dataclass(frozen=True)
class IndexSummary:
    """`recall` of the exact 10 nearest rows, over sampled rows of the dataset that were not indexed yet.

    `probes` of all `lists` are compared in a query: the least with a recall of defaults.RECALL.
    """

    path: Path
    rows: int
    recall: float
    probes: int
    lists: int
    bytes: int


@dataclass(frozen=True)
class Index(Rows):
    """Answers queries like a Dataset, from files that the system maps into memory."""

    dimension: int
    recall: float
    probes: int
    lists: Any

    def nearest(self, queries: Vectors, k: int) -> tuple[npt.NDArray[np.int64], Vectors]:
        """About the k nearest rows of each query, as exact.top_k(), with products in half precision."""
        k = min(k, len(self))
        scores, rows = _search(self.lists, queries, k, self.probes)
        if (rows < 0).any():  # the lists have fewer than k rows
            scores, rows = _search(self.lists, queries, k, self.lists.nlist)
        return rows, scores

    def vector(self, index: int) -> Vectors:
        return np.asarray(self.lists.reconstruct(index), np.float32)


def index_path(dataset: Path) -> Path:
    dataset = Path(os.path.abspath(dataset))
    return dataset.with_name(f"{dataset.name}.index")


def open_index(dataset: Path | str) -> Index:
    """Opens the index beside the dataset. Raises UnusableIndexError without one that is whole and current."""
    dataset = Path(os.path.abspath(dataset))
    folder = index_path(dataset)
    again = f"To build it: clip-search index {dataset}"
    try:
        described = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UnusableIndexError(
            f"{dataset} has no index. To build one: clip-search index {dataset}"
        ) from error
    except (OSError, ValueError) as error:
        raise UnusableIndexError(f"cannot read {folder / _DESCRIPTION}: {error}. {again}") from error
    faiss = _faiss()
    try:
        if described["format"] != FORMAT:
            raise UnusableIndexError(f"{folder} has the format of another version. {again}")
        if change := DatasetDigest.from_dict(described["dataset"]).difference(dataset, files_of(dataset)):
            raise UnusableIndexError(f"{folder} is out of date: {change}. {again}")
        # FAISS trusts what a file says about its length.
        if (folder / _VECTORS).stat().st_size != described["bytes"]:
            raise UnusableIndexError(f"{folder / _VECTORS} is damaged: its size is wrong. {again}")
        lists = faiss.read_index(str(folder / _VECTORS), faiss.IO_FLAG_MMAP)
        table = pa.ipc.open_file(pa.memory_map(str(folder / _ROWS))).read_all()
        return Index(
            dataset, table, described["model"], lists.d, described["recall"], described["probes"], lists
        )
    except (OSError, LookupError, TypeError, ValueError, RuntimeError, pa.ArrowException) as error:
        raise UnusableIndexError(f"cannot read {folder}: {error}. {again}") from error


def build_index(dataset: Path | str, on_progress: Progress = lambda *_: None) -> IndexSummary:
    """Builds or replaces the index of the dataset. Raises SearchError.

    Reads the dataset three times, a block at a time: for the centers, to add the rows, and to measure the
    recall. Peak memory is that of the index, a little more than half the vectors' bytes, and the other
    columns.
    """
    dataset = Path(os.path.abspath(dataset))
    _faiss()
    parts = files_of(dataset)
    for part in parts:
        open_part(part)  # if it cannot be read, says so before anything is written
    folder = index_path(dataset)
    try:
        with _replacing_folder(folder) as temporary:
            return _build(dataset, parts, temporary, on_progress)
    except (OSError, RuntimeError) as error:  # FAISS raises RuntimeError when the disk is full
        place = f"cannot write {folder}"
        if isinstance(error, OSError) and error.filename and Path(error.filename) in parts:
            place = f"cannot read {error.filename}"
        reason = re.search(r"\(([^()]+)\)$", str(error))  # after the place in the source of FAISS
        why = getattr(error, "strerror", None) or (reason[1] if reason else error)
        raise SearchError(f"{place}: {why}") from error


def _build(dataset: Path, files: Sequence[Path], folder: Path, on_progress: Progress) -> IndexSummary:
    digest = digest_of(dataset, files)
    opened = open_dataset(dataset)
    builder = _Builder(opened, on_progress)
    builder.train()
    builder.add_all()
    recall, probes = builder.tune()
    builder.add_held_out()
    size = builder.write(folder)
    described = {
        "format": FORMAT,
        "model": dict(opened.model),
        "recall": recall,
        "probes": probes,
        "bytes": size,
        "dataset": digest.to_dict(),
    }
    (folder / _DESCRIPTION).write_text(json.dumps(described, indent=1), encoding="utf-8")
    return IndexSummary(index_path(dataset), len(builder.order), recall, probes, builder.lists.nlist, size)


class _Builder:
    """Adds rows to lists. A few are held out until the recall has been measured with them as queries."""

    def __init__(self, opened: OpenDataset, on_progress: Progress) -> None:
        self._opened = opened
        self._on_progress = on_progress
        rows = len(opened.table)
        count = max(1, min(defaults.HELD_OUT_ROWS, rows // 10))
        self._held_out = np.zeros(rows, bool)
        self._held_out[np.random.default_rng(0).choice(rows, count, replace=False)] = True
        self._queries: Vectors = np.empty((0, 0), np.float32)
        self._query_rows = np.empty(0, np.int64)
        self.lists: Any = None
        self.order = np.empty(0, np.int64)
        """The dataset's row number of each vector in the lists."""

    def train(self) -> None:
        """Chooses the centers of about 4 sqrt(N) lists, by k-means on a sample."""
        faiss = _faiss()
        rows = len(self._opened.table)
        count = max(1, min(int(4 * rows**0.5), rows // defaults.LIST_ROWS))
        chosen = np.random.default_rng(1).random(rows) < count * defaults.TRAINING_ROWS / rows
        sample, filled = np.empty((0, 0), np.float32), 0
        for numbers, vectors in self._blocks("choosing centers"):
            if not filled:
                sample = np.empty((int(chosen.sum()) + 1, vectors.shape[1]), np.float32)
                sample[0], filled = vectors[0], 1
            taken = vectors[chosen[numbers]]
            sample[filled : filled + len(taken)] = taken
            filled += len(taken)
        sample = sample[:filled]
        count = min(count, filled)  # few rows may have a vector
        self.lists = faiss.index_factory(sample.shape[1], f"IVF{count},SQfp16", faiss.METRIC_INNER_PRODUCT)
        self.lists.by_residual = False  # half precision is enough without, and takes no copy of the sample
        self.lists.cp.niter = defaults.TRAINING_ROUNDS
        self.lists.cp.spherical = True
        self.lists.cp.min_points_per_centroid = 1
        self.lists.train(sample)

    def add_all(self) -> None:
        """Adds all rows but those held out, whose vectors it keeps."""
        order, query_rows, queries = [], [], []
        for rows, vectors in self._blocks("indexing"):
            held_out = self._held_out[rows]
            self.lists.add(vectors[~held_out])
            order.append(rows[~held_out])
            query_rows.append(rows[held_out])
            queries.append(vectors[held_out])
        self.order, self._query_rows = np.concatenate(order), np.concatenate(query_rows)
        self._queries = np.concatenate(queries)
        self.lists.make_direct_map()  # for vectors by number

    def tune(self) -> tuple[float, int]:
        """The recall, and the least number of probes with a recall of defaults.RECALL."""
        truth = self._exact()
        recall, probes = 1.0, min(defaults.LEAST_PROBES, self.lists.nlist)
        while truth.size:
            _, found = _search(self.lists, self._queries, truth.shape[1], probes)
            shares = [self._hits(*each) for each in zip(self._queries, found, truth, strict=True)]
            recall = float(np.mean(shares))
            if recall >= defaults.RECALL or probes == self.lists.nlist:
                break
            probes = min(probes + (probes + 1) // 2, self.lists.nlist)
        return recall, probes

    def add_held_out(self) -> None:
        if len(self._queries):
            self.lists.add(self._queries)
        self.order = np.concatenate([self.order, self._query_rows])

    def write(self, folder: Path) -> int:
        """Writes vectors and rows; returns the bytes of the vectors' file."""
        _faiss().write_index(self.lists, str(folder / _VECTORS))
        table = self._opened.table.take(pa.array(self.order))
        with pa.OSFile(str(folder / _ROWS), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table, defaults.BLOCK_ROWS)
        return (folder / _VECTORS).stat().st_size

    def _exact(self) -> npt.NDArray[np.int64]:
        """The numbers in the lists of the rows nearest to each query, int64 [Q, up to 10]."""
        best = exact.Best(len(self._queries), min(defaults.COUNT, len(self.order)))
        begin = 0
        for rows, vectors in self._blocks("measuring recall"):
            indexed = vectors[~self._held_out[rows]]
            best.add(self._queries @ indexed.T, begin)
            begin += len(indexed)
        return best.rows

    def _hits(self, query: Vectors, found: npt.NDArray[np.int64], truth: npt.NDArray[np.int64]) -> float:
        """The share of the truth that was found. A row as near as the last of the truth is as good."""
        found = found[found >= 0]
        products = self.lists.reconstruct_batch(found) @ query
        least = (self.lists.reconstruct_batch(truth) @ query).min()
        return int(np.sum(np.isin(found, truth) | (products >= least - _SAME))) / len(truth)

    def _blocks(self, what: str) -> Iterator[tuple[npt.NDArray[np.int64], Vectors]]:
        """Row numbers and vectors of about defaults.ADD_ROWS rows that have a finite vector, in order."""
        done, total = 0, len(self._opened.table)
        for rows, vectors in self._opened.blocks(defaults.ADD_ROWS):
            yield rows, vectors
            done += len(rows)
            self._on_progress(what, done, total)


def _search(lists: Any, queries: Vectors, k: int, probes: int) -> tuple[Vectors, npt.NDArray[np.int64]]:
    """Scores and numbers of the k nearest vectors in `probes` lists; the number -1 where there are fewer."""
    parameters = _faiss().SearchParametersIVF(nprobe=probes)
    scores, rows = lists.search(np.ascontiguousarray(queries, np.float32), k, params=parameters)
    return scores, rows


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise UnusableIndexError(
            "an index needs FAISS. In a clone of clip-triton: pip install './search[index]'"
        ) from error
    return faiss


@contextmanager
def _replacing_folder(folder: Path) -> Iterator[Path]:
    """Yields a new folder that takes the place of `folder` if the block succeeds. Raises OSError.

    Raises SearchError while another process is in the block. Removes what a killed process left behind.
    """
    if folder.exists() and not (folder / _DESCRIPTION).is_file():
        raise SearchError(f"{folder} exists, and is not an index of clip-search. Rename or remove it")
    temporary, old = (folder.with_name(f".{folder.name}.{state}") for state in ("new", "old"))
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    if not lock.acquire():
        raise SearchError(f"another process is building {folder}. Wait until it has finished")
    try:
        for leftover in (temporary, old):
            shutil.rmtree(leftover, ignore_errors=True)
        temporary.mkdir()
        yield temporary
        if folder.exists():
            folder.rename(old)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
        lock.release()
