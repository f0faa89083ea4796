"""The index: answers, recall, what it was made from, and damage."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from clip_client.files import FileLock
from clip_search import (
    Row,
    SearchError,
    UnusableIndexError,
    build_index,
    defaults,
    find,
    open_index,
    read_dataset,
)
from clip_search.cli import main
from clip_search.index import index_path
from clip_search.query import row_number
from tests.unit.search.datasets import MODEL, clusters, write

ROWS = 3000


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with one row without a vector, and its index."""
    path = tmp_path_factory.mktemp("index") / "e.parquet"
    vectors = clusters(ROWS, 32)
    vectors[17] = np.nan
    write(path, [f"{number}.jpg" for number in range(ROWS)], vectors, size=list(range(ROWS)))
    summary = build_index(path)
    assert (summary.path, summary.rows) == (path.with_name("e.parquet.index"), ROWS - 1)
    assert summary.recall >= defaults.RECALL
    return path


def test_answers_are_those_of_an_exact_search(indexed: Path) -> None:
    index, dataset = open_index(indexed), read_dataset(indexed)
    assert (len(index), index.dimension, index.model) == (ROWS - 1, 32, MODEL)
    queries = clusters(50, 32, seed=3)  # of other centers, as texts are not like photos
    found = [[match.row.name for match in find(index, query, 10)] for query in queries]
    exact = [[match.row.name for match in find(dataset, query, 10)] for query in queries]
    shares = [len(set(a) & set(b)) / 10 for a, b in zip(found, exact, strict=True)]
    assert np.mean(shares) > 0.95
    first = find(index, queries[0], 1)[0]
    assert first.score == pytest.approx(find(dataset, queries[0], 1)[0].score, abs=1e-3)
    assert len(find(index, queries[0], ROWS)) == ROWS - 1


def test_rows_and_vectors_belong_together(indexed: Path) -> None:
    index, dataset = open_index(indexed), read_dataset(indexed)
    for name in ("0.jpg", "1234.jpg", f"{ROWS - 1}.jpg"):
        number = row_number(index, name)
        assert index.row(number) == Row(name, "gs://album", size=int(name.removesuffix(".jpg")))
        np.testing.assert_allclose(index.vector(number), dataset.vector(row_number(dataset, name)), atol=1e-3)
        assert find(index, index.vector(number), 1)[0].row.name == name
    with pytest.raises(Exception, match="no embedded row is called"):
        row_number(index, "17.jpg")


def test_a_query_uses_the_index_unless_it_is_told_not_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "e.parquet", ["a", "b", "c"], clusters(3, 8))
    assert main(["index", str(path), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["rows"], summary["path"]) == (3, f"{path}.index")
    command = ["query", str(path), "--like-row", "a", "--json"]
    assert main([*command, "--exact"]) == 0
    expected = [found["name"] for found in json.loads(capsys.readouterr().out)]
    with monkeypatch.context() as patched:
        patched.setattr("clip_search.commands.common.read_dataset", None)
        assert main(command) == 0
    assert [found["name"] for found in json.loads(capsys.readouterr().out)] == expected


def test_an_index_of_an_earlier_state_is_refused_and_the_answer_is_exact(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "e.parquet", ["a", "b"], clusters(2, 8))
    build_index(path)
    write(path, ["a", "b", "c"], clusters(3, 8))
    with pytest.raises(UnusableIndexError, match=r"out of date: .*e\.parquet has changed"):
        open_index(path)
    assert main(["query", str(path), "--like-row", "a", "--json"]) == 0
    output = capsys.readouterr()
    assert len(json.loads(output.out)) == 2
    assert "out of date" in output.err
    assert f"clip-search index {path}" in output.err
    assert main(["index", str(path)]) == 0
    assert len(open_index(path)) == 3


def test_the_same_bytes_are_the_same_dataset(tmp_path: Path) -> None:
    folder = tmp_path / "day"
    folder.mkdir()
    write(folder / "a.parquet", ["a"], clusters(1, 8))
    write(folder / "b.parquet", ["b"], clusters(1, 8))
    build_index(folder)
    os.utime(folder / "a.parquet", (1, 1))
    assert len(open_index(folder)) == 2
    write(folder / "c.parquet", ["c"], clusters(1, 8))
    with pytest.raises(UnusableIndexError, match=r"c\.parquet is new"):
        open_index(folder)
    (folder / "c.parquet").unlink()
    (folder / "b.parquet").unlink()
    with pytest.raises(UnusableIndexError, match=r"b\.parquet is gone"):
        open_index(folder)


def test_damaged_indexes_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "e.parquet", ["a", "b"], clusters(2, 8))
    with pytest.raises(UnusableIndexError, match=f"has no index.*{re.escape(str(path))}"):
        open_index(path)
    build_index(path)
    folder = index_path(path)
    for name in ("vectors.faiss", "rows.arrow", "index.json"):
        whole = (folder / name).read_bytes()
        for damaged in (b"", whole[: len(whole) // 2]):
            (folder / name).write_bytes(damaged)
            with pytest.raises(UnusableIndexError, match="clip-search index"):
                open_index(path)
        (folder / name).write_bytes(whole)
    assert len(open_index(path)) == 2


def test_a_build_that_fails_keeps_the_old_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "e.parquet", ["a", "b"], clusters(2, 8))
    build_index(path)
    monkeypatch.setattr("clip_search.index._Builder.write", _interrupted)
    with pytest.raises(KeyboardInterrupt):
        build_index(path)
    assert len(open_index(path)) == 2
    assert sorted(found.name for found in tmp_path.iterdir()) == ["e.parquet", "e.parquet.index"]


def test_two_processes_do_not_build_one_index(tmp_path: Path) -> None:
    path = write(tmp_path / "e.parquet", ["a", "b"], clusters(2, 8))
    lock = FileLock(tmp_path / ".e.parquet.index.lock")
    assert lock.acquire()
    with pytest.raises(SearchError, match="another process is building"):
        build_index(path)
    lock.release()
    (tmp_path / ".e.parquet.index.new").mkdir()  # of a build that was killed
    build_index(path)
    assert sorted(found.name for found in tmp_path.iterdir()) == ["e.parquet", "e.parquet.index"]


def test_what_is_no_index_is_not_replaced(tmp_path: Path) -> None:
    path = write(tmp_path / "e.parquet", ["a", "b"], clusters(2, 8))
    index_path(path).mkdir()
    (index_path(path) / "notes.txt").write_text("mine")
    with pytest.raises(SearchError, match="is not an index of clip-search"):
        build_index(path)
    assert (index_path(path) / "notes.txt").exists()


def _interrupted(*_: object) -> int:
    raise KeyboardInterrupt


def test_copies_of_one_photo_do_not_lower_the_recall(tmp_path: Path) -> None:
    """More than ten rows are equally near, so any ten of them are the exact answer."""
    vectors = np.repeat(clusters(20, 16), 30, axis=0)
    path = write(tmp_path / "e.parquet", [str(number) for number in range(600)], vectors)
    assert build_index(path).recall >= defaults.RECALL
