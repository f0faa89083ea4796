"""Reading datasets: layouts, failed rows, folders of parts, and mixed models."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clip_search import DatasetError, Row, build_index, read_dataset
from tests.unit.search.datasets import MODEL, clusters, units, write, write_0_1


def test_rows_and_vectors(tmp_path: Path) -> None:
    vectors = clusters(30_001, 8)
    names = [f"{number}.jpg" for number in range(len(vectors))]
    data = read_dataset(write(tmp_path / "e.parquet", names, vectors, width=[640] * len(names)))
    assert len(data) == 30_001
    assert data.dimension == 8
    assert data.model == MODEL
    np.testing.assert_array_equal(data.vectors, vectors)
    assert data.row(20_000) == Row("20000.jpg", "gs://album", width=640)
    assert [row.name for row in data.rows()] == names


def test_a_file_of_0_1(tmp_path: Path) -> None:
    vectors = clusters(4, 8)
    vectors[1] = np.nan
    data = read_dataset(write_0_1(tmp_path / "e.parquet", ["a", "bad", "c", "d"], vectors))
    assert [row.name for row in data.rows()] == ["a", "c", "d"]
    np.testing.assert_array_equal(data.vectors, vectors[[0, 2, 3]])
    assert data.row(0) == Row("a", None, 1, 10, "AAAAAA==")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_vectors_that_are_not_finite_do_not_count(bad: float, tmp_path: Path) -> None:
    vectors = clusters(3, 8)
    vectors[2, 5] = bad
    data = read_dataset(write(tmp_path / "e.parquet", ["a", "b", "c"], vectors))
    assert [row.name for row in data.rows()] == ["a", "b"]


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.list_(pa.float64())])
def test_null_vectors_and_what_other_programs_write(kind: pa.DataType, tmp_path: Path) -> None:
    vectors = units([[1, 0, 0, 0], [0, 1, 0, 0]])
    values = [None, list(vectors[0]), None, list(vectors[1]), None]
    path = tmp_path / "e.parquet"
    pq.write_table(pa.table({"name": list("abcde"), "embedding": pa.array(values, kind)}), path)
    data = read_dataset(path)
    assert [row.name for row in data.rows()] == ["b", "d"]
    assert data.vectors.dtype == np.float32
    np.testing.assert_array_equal(data.vectors, vectors)


def test_a_folder_where_later_parts_replace_rows(tmp_path: Path) -> None:
    old, new = clusters(3, 8), clusters(2, 8, seed=1)
    (tmp_path / "day=1").mkdir()
    write(tmp_path / "day=1" / "part-0.parquet", ["a", "b", "c"], old)
    write(tmp_path / "part-1.parquet", ["b", "d"], new)
    write(tmp_path / ".hidden.parquet", ["x"], new[:1])
    pq.write_table(pa.table({"name": ["bad"], "error_code": ["corrupt"]}), tmp_path / "part.errors.parquet")
    data = read_dataset(tmp_path)
    assert [row.name for row in data.rows()] == ["a", "c", "b", "d"]
    np.testing.assert_array_equal(data.vectors, np.concatenate([old[[0, 2]], new]))


def test_the_output_of_clip_batch(tmp_path: Path) -> None:
    """Shards of two plans, of which the second replaces a row, beside failed rows and the plans' files."""
    old, new = clusters(3, 8), clusters(2, 8, seed=1)
    for folder in ("_plans", "embeddings", "errors"):
        (tmp_path / folder).mkdir()
    failed = pa.table({"name": ["bad"], "error_code": ["corrupt"]})
    for name in ("000001-0000000-1a2b", "000001-0000001-3c4d"):
        pq.write_table(failed, tmp_path / "errors" / f"{name}.parquet")
    with pytest.raises(DatasetError, match="no row with an embedding"):
        read_dataset(tmp_path)
    pq.write_table(pa.table({"name": ["a"]}), tmp_path / "_plans" / "000001-1a2b-00000.parquet")
    write(tmp_path / "embeddings" / "000001-0000000.parquet", ["a", "b"], old[:2])
    write(tmp_path / "embeddings" / "000001-0000001.parquet", ["c"], old[2:])
    write(tmp_path / "embeddings" / "000002-0000000.parquet", ["b", "d"], new)
    write(tmp_path / "embeddings" / "000002-0000001.parquet", [], np.empty((0, 8), np.float32))
    data = read_dataset(tmp_path)
    assert [row.name for row in data.rows()] == ["a", "c", "b", "d"]
    np.testing.assert_array_equal(data.vectors, np.concatenate([old[[0, 2]], new]))


def test_models_are_not_mixed(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", ["a"], clusters(1, 8))
    write(tmp_path / "b.parquet", ["b"], clusters(1, 8), model={**MODEL, "weights_sha256": "b" * 64})
    with pytest.raises(DatasetError, match=r"mixes .* different models: .*, in a\.parquet and b\.parquet"):
        read_dataset(tmp_path)


def test_what_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="does not exist"):
        read_dataset(tmp_path / "missing.parquet")
    with pytest.raises(DatasetError, match="no Parquet files"):
        read_dataset(tmp_path)
    (tmp_path / "text.parquet").write_text("no Parquet")
    with pytest.raises(DatasetError, match="cannot read"):
        read_dataset(tmp_path / "text.parquet")
    pq.write_table(pa.table({"name": ["a"]}), tmp_path / "names.parquet")
    with pytest.raises(DatasetError, match="no columns name and embedding"):
        read_dataset(tmp_path / "names.parquet")
    vectors = np.full((2, 8), np.nan, np.float32)
    failed = write(tmp_path / "failed.parquet", ["a", "b"], vectors)
    empty = write(tmp_path / "empty.parquet", [], np.empty((0, 8), np.float32))
    for path in (failed, empty):
        for read in (read_dataset, build_index):
            with pytest.raises(DatasetError, match="no row with an embedding"):
                read(path)
    with pytest.raises(DatasetError, match="does not exist"):
        build_index(tmp_path / "missing.parquet")
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".parquet"] * 4


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        path = write(tmp_path / f"{name}.parquet", [name], clusters(1, 8))
    columns = pq.read_metadata(path).row_group(0)
    pages = {
        columns.column(n).path_in_schema: columns.column(n).data_page_offset
        for n in range(columns.num_columns)
    }
    data = bytearray(path.read_bytes())
    begin = pages["embedding.list.element"]
    data[begin : begin + 16] = b"\xff" * 16
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=r"cannot read .*b\.parquet"):
        read_dataset(tmp_path)


_VECTORS = [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize(
    ("columns", "metadata", "reason"),
    [
        ({"embedding": ["a", "b"]}, {}, "embedding of string, not of lists of numbers"),
        ({"embedding": [["a"], ["b"]]}, {}, "not of lists of numbers"),
        ({"embedding": [{"x": 1.0}] * 2}, {}, "not of lists of numbers"),
        ({"embedding": pa.array([[], []], pa.list_(pa.float32()))}, {}, "no row with an embedding"),
        ({"embedding": [[1.0], [1.0, 0.0, 0.0]]}, {}, "vectors of different lengths"),
        ({"name": ["a", None]}, {}, "rows without a name"),
        ({"name": pa.array([b"a", b"\xff"]).view(pa.string())}, {}, "UTF8"),
        ({"width": [1, 2**40]}, {}, "not in range"),
        ({}, {"clip_triton": "{"}, "is not a JSON object"),
        ({}, {"clip_triton": "[]"}, "is not a JSON object"),
    ],
)
def test_what_other_programs_write_wrong(
    columns: dict[str, object], metadata: dict[str, str], reason: str, tmp_path: Path
) -> None:
    table = pa.table({"name": ["a", "b"], "embedding": _VECTORS, **columns})
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "e.parquet")
    with pytest.raises(DatasetError, match=rf"e\.parquet.*{reason}"):
        read_dataset(tmp_path / "e.parquet")
    with pytest.raises(DatasetError, match=rf"e\.parquet.*{reason}"):
        build_index(tmp_path / "e.parquet")


def test_a_folder_of_lists_of_any_length_must_agree(tmp_path: Path) -> None:
    kind = pa.list_(pa.float32())
    for name, vector in (("a", [1.0, 0.0]), ("b", [1.0, 0.0, 0.0])):
        pq.write_table(
            pa.table({"name": [name], "embedding": pa.array([vector], kind)}), tmp_path / f"{name}.parquet"
        )
    with pytest.raises(DatasetError, match="mixes vectors of 2 and 3 numbers"):
        read_dataset(tmp_path)


def test_a_search_does_not_wait_for_pandas(tmp_path: Path) -> None:
    """pyarrow imports it for most conversions to numpy."""
    path = write(tmp_path / "e.parquet", ["a", "b"], clusters(2, 8))
    code = (
        "import sys; from clip_search import find, read_dataset; dataset = read_dataset(sys.argv[1]); "
        "print([match.row.name for match in find(dataset, dataset.vectors[0], 1)], 'pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == "['a'] False\n"


def test_a_folder_may_have_more_files_than_can_be_open(tmp_path: Path) -> None:
    vectors = clusters(60, 4)
    for number in range(60):
        write(tmp_path / f"{number:02}.parquet", [f"{number}.jpg"], vectors[number : number + 1])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 30, hard))
    try:
        data = read_dataset(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    np.testing.assert_array_equal(data.vectors, vectors)
