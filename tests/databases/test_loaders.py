"""clip-search load into real databases: `make test-databases`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import psycopg
import pyarrow.parquet as pq
import pytest
from qdrant_client import QdrantClient

from clip_client.requests.wire import Embedding
from clip_search import defaults, read_dataset
from clip_search.cli import main
from clip_search.load import LoadSummary, load
from clip_search.loaders import open_loader
from clip_search.loaders.base import Loader, Records
from tests.unit.search.datasets import MODEL, clusters, write


def _in_lancedb(place: str, table: str, vector: Embedding) -> str:
    found = lancedb.connect(place.partition(":")[2]).open_table(table).search(vector).limit(1).to_list()
    return str(found[0]["name"])


def _in_postgres(place: str, table: str, vector: Embedding) -> str:
    with psycopg.connect(place) as connection:
        query = f'SELECT name FROM "{table}" ORDER BY embedding <=> %s::vector LIMIT 1'
        row: Any = connection.execute(query, [str(vector.tolist())]).fetchone()
        return str(row[0])


def _in_qdrant(place: str, table: str, vector: Embedding) -> str:
    client = QdrantClient(path=place.partition(":")[2])
    name = str(client.query_points(table, query=vector.tolist(), limit=1).points[0].payload["name"])
    client.close()
    return name


def _in_npy(place: str, table: str, vector: Embedding) -> str:
    del table
    folder = Path(place.partition(":")[2])
    vectors = np.load(folder / "img_emb" / "img_emb_0.npy")
    paths = pq.read_table(folder / "metadata" / "metadata_0.parquet")["image_path"]
    return str(paths[int(np.argmax(vectors @ vector))]).removeprefix("gs://album/")


@dataclasses.dataclass(frozen=True)
class Engine:
    place: str
    nearest: Callable[[str, str, Embedding], str]
    table: str = "photos"

    def load(self, path: Path) -> LoadSummary:
        loader = open_loader(self.place, self.table)
        try:
            return load(read_dataset(path), loader)
        finally:
            loader.close()


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defaults, "LOAD_ROWS", 100)


@pytest.fixture(params=["lancedb", "postgresql", "qdrant", "npy"])
def engine(request: pytest.FixtureRequest, tmp_path: Path, postgres: str) -> Engine:
    if request.param == "postgresql":
        table = f'Photos of "{tmp_path.name}"'[:50].replace('"', "'")
        return Engine(postgres, _in_postgres, table)
    nearest = {"lancedb": _in_lancedb, "qdrant": _in_qdrant, "npy": _in_npy}[request.param]
    return Engine(f"{request.param}:{tmp_path / 'database'}", nearest)


NAMES = ["it's.jpg", 'quoted".jpg', "new\nline.jpg", "tab\t\\.jpg", "'); DROP TABLE photos; --", "é漢🙂.jpg"]


def test_load_again_change_and_prune(engine: Engine, tmp_path: Path) -> None:
    vectors = clusters(250, 32)
    names = NAMES + [f"{number}.jpg" for number in range(250 - len(NAMES))]
    path = write(tmp_path / "e.parquet", names, vectors, size=[7] * 250)
    assert engine.load(path) == LoadSummary(250, 0, 0, 250)
    assert [engine.nearest(engine.place, engine.table, vectors[row]) for row in range(6)] == NAMES

    always_whole = engine.place.startswith("npy")
    again = engine.load(path)
    assert again == (LoadSummary(250, 0, 0, 250) if always_whole else LoadSummary(0, 250, 0, 250))

    vectors[4] = -vectors[4]
    write(path, names[1:], vectors[1:], size=[7] * 249)
    changed = engine.load(path)
    assert changed.deleted == (0 if always_whole else 1)
    assert changed.written == (249 if always_whole else 1)
    assert engine.nearest(engine.place, engine.table, vectors[4]) == NAMES[4]
    assert engine.nearest(engine.place, engine.table, vectors[0]) != NAMES[0]


def test_generations_and_sources_are_rows_of_their_own(engine: Engine, tmp_path: Path) -> None:
    path = write(
        tmp_path / "e.parquet",
        ["a", "a", "a"],
        clusters(3, 8),
        source=["gs://x", "gs://x", "gs://y"],
        generation=[1, 2, 1],
    )
    assert engine.load(path).written == 3


def test_other_models_and_dimensions_are_refused(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.load(write(tmp_path / "e.parquet", ["a", "b"], clusters(2, 8)))
    command = ["--to", engine.place, "--table", engine.table]
    for model in ({**MODEL, "weights_sha256": "b" * 64}, {}):
        other = write(tmp_path / "other.parquet", ["c"], clusters(1, 8), model=model)
        assert main(["load", str(other), *command]) == 2
        assert "another model" in capsys.readouterr().err
    wide = write(tmp_path / "wide.parquet", ["c"], clusters(1, 16))
    if not engine.place.startswith("npy"):  # which is written whole
        assert main(["load", str(wide), *command]) == 2
        assert "another length" in capsys.readouterr().err
    same = tmp_path / "e.parquet"
    assert main(["load", str(same), *command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["deleted"] == 0


class _Interrupted:
    """A loader that stops after one batch, as a killed process does."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._batches = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def upsert(self, records: Records) -> None:
        if self._batches:
            raise KeyboardInterrupt
        self._batches += 1
        self._loader.upsert(records)


def test_an_interrupted_load_continues(engine: Engine, tmp_path: Path) -> None:
    kept = 0 if engine.place.startswith("npy") else 100  # files are written whole, databases in batches
    path = write(tmp_path / "e.parquet", [f"{row}" for row in range(150)], clusters(150, 8))
    loader = open_loader(engine.place, engine.table)
    with pytest.raises(KeyboardInterrupt):
        load(read_dataset(path), _Interrupted(loader))
    loader.close()
    assert engine.load(path) == LoadSummary(150 - kept, kept, 0, 150)


def test_tables_of_other_programs_are_left_alone(
    postgres: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "e.parquet", ["a"], clusters(1, 8))
    with psycopg.connect(postgres) as connection:
        connection.execute("CREATE TABLE customers (id uuid)")
    lancedb.connect(tmp_path / "lance").create_table("customers", [{"a": 1}])
    for place in (postgres, f"lancedb:{tmp_path / 'lance'}"):
        assert main(["load", str(path), "--to", place, "--table", "customers"]) == 2
        assert "clip-search did not create it" in capsys.readouterr().err


@pytest.mark.parametrize("dimension", [2001, 4001])
def test_postgresql_indexes_long_vectors_as_it_can(dimension: int, postgres: str, tmp_path: Path) -> None:
    path = write(tmp_path / "e.parquet", ["a", "b"], clusters(2, dimension))
    assert Engine(postgres, _in_postgres, f"long{dimension}").load(path).written == 2


def test_postgresql_has_an_index(postgres: str, tmp_path: Path) -> None:
    Engine(postgres, _in_postgres, "indexed").load(write(tmp_path / "e.parquet", ["a"], clusters(1, 8)))
    with psycopg.connect(postgres) as connection:
        found = connection.execute("SELECT indexdef FROM pg_indexes WHERE tablename = 'indexed'").fetchall()
    assert any("hnsw" in definition for (definition,) in found)


def test_lancedb_gets_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defaults, "LANCEDB_INDEX_ROWS", 500)
    vectors = clusters(500, 16)
    path = write(tmp_path / "e.parquet", [str(row) for row in range(500)], vectors)
    engine = Engine(f"lancedb:{tmp_path / 'database'}", _in_lancedb)
    engine.load(path)
    table = lancedb.connect(tmp_path / "database").open_table("photos")
    assert [index.columns for index in table.list_indices()] == [["embedding"]]
    assert table.search(vectors[77]).limit(1).to_list()[0]["name"] == "77"


def test_a_database_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "e.parquet", ["a"], clusters(1, 8))
    assert main(["load", str(path), "--to", "postgresql://user:secret@127.0.0.1:9/x?connect_timeout=2"]) == 2
    assert "secret" not in (error := capsys.readouterr().err)
    assert "cannot connect to PostgreSQL" in error
    assert main(["load", str(path), "--to", "qdrant://127.0.0.1:9"]) == 2
    assert "error: cannot open" in capsys.readouterr().err
