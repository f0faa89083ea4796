"""Loading into files, and what every loader shares. tests/databases has the databases."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from clip_search import Row, read_dataset
from clip_search.cli import main
from clip_search.load import LoadSummary, load
from clip_search.loaders import open_loader
from clip_search.loaders.base import id_of, state_of
from tests.unit.search.datasets import clusters, write


def test_npy_is_clip_retrievals_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vectors = clusters(2500, 8)
    names = [f"{row}.jpg" for row in range(2500)]
    path = write(tmp_path / "e.parquet", names, vectors)
    target = tmp_path / "out"
    for _ in range(2):
        assert main(["load", str(path), "--to", f"npy:{target}", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["written"] == 2500
    np.testing.assert_array_equal(np.load(target / "img_emb" / "img_emb_0.npy"), vectors)
    rows = pq.read_table(target / "metadata" / "metadata_0.parquet")
    assert rows["image_path"].to_pylist() == [f"gs://album/{name}" for name in names]
    assert sorted(path.name for path in target.iterdir()) == ["clip_triton.json", "img_emb", "metadata"]


def test_a_folder_of_other_files_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "e.parquet", ["a"], clusters(1, 8))
    assert main(["load", str(path), "--to", f"npy:{tmp_path}"]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [path]
    for text in ("{", "[]"):
        (tmp_path / "clip_triton.json").write_text(text)
        assert main(["load", str(path), "--to", f"npy:{tmp_path}"]) == 2
        assert "clip-search did not create it. Choose another folder" in capsys.readouterr().err


def test_rows_of_one_key_are_one_record(tmp_path: Path) -> None:
    vectors = clusters(3, 8)
    data = read_dataset(write(tmp_path / "e.parquet", ["a", "a", "b"], vectors))
    loader = open_loader(f"npy:{tmp_path / 'out'}", "")
    assert load(data, loader) == LoadSummary(2, 0, 0, 2)
    np.testing.assert_array_equal(np.load(tmp_path / "out/img_emb/img_emb_0.npy"), vectors[1:])


@pytest.mark.parametrize(
    "uri", ["", "lancedb", "lancedb:", "postgresql://", "s3://bucket/x", "out.parquet", "npy:"]
)
def test_wrong_places(uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "e.parquet", ["a"], clusters(1, 8))
    assert main(["load", str(path), "--to", uri]) == 2
    assert "cannot load into" in capsys.readouterr().err


def test_ids_and_states() -> None:
    first = Row("a", "gs://x", 1)
    assert id_of(first) == id_of(Row("a", "gs://x", 1, width=5))
    assert len({id_of(row) for row in (first, Row("a", "gs://x", 2), Row("a", "gs://y", 1), Row("b"))}) == 4
    vectors = clusters(2, 8)
    assert state_of(first, vectors[0]) != state_of(first, vectors[1])
    assert state_of(first, vectors[0]) != state_of(Row("a", "gs://x", 1, width=5), vectors[0])
