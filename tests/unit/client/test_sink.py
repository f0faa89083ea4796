"""Shards and their merge: whatever interrupts a run, a rerun gives each object exactly one row."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_client import ItemError, SinkError
from clip_client.sink import ParquetSink, key_of
from clip_client.source import ObjectInfo
from clip_client.stream import EmbeddedObject

_MODEL = {"model": "ViT-B-32", "weights_sha256": "a"}


def sink_at(out: Path, model: dict[str, str] = _MODEL) -> ParquetSink:
    return ParquetSink(out, 2, model)


def row(number: int, *, failed: bool = False, generation: int = 1) -> EmbeddedObject:
    info = ObjectInfo(f"{number:03d}.jpg", 10 + number, generation, "crc")
    error = ItemError("truncated", "cut off")
    return EmbeddedObject(info, error if failed else np.array([number, 1], np.float32))


@settings(deadline=None, max_examples=30)
@given(
    count=st.integers(1, 25),
    stops=st.lists(st.tuples(st.integers(0, 25), st.booleans()), max_size=4),
    failing=st.sets(st.integers(0, 24)),
)
def test_any_interruption_then_a_rerun(count: int, stops: list[tuple[int, bool]], failing: set[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.parquet"
        for stop, flushed in stops:  # a run that embeds `stop` objects, then dies, with or without a flush
            sink = sink_at(out)
            known = sink.open()
            todo = [n for n in range(count) if key_of(row(n).info) not in known]
            for number in todo[:stop]:
                sink.write(row(number, failed=number in failing))
            if flushed:
                sink.flush()
        sink = sink_at(out)
        known = sink.open()
        for number in range(count):
            if key_of(row(number).info) not in known:
                sink.write(row(number, failed=number in failing))
        counts = sink.finish()
        table = pq.read_table(out).to_pylist()
        assert sorted(entry["name"] for entry in table) == [f"{n:03d}.jpg" for n in range(count)]
        failed = len(failing & set(range(count)))
        assert counts == {k: v for k, v in {"": count - failed, "truncated": failed}.items() if v}
        for entry in table:
            number = int(entry["name"][:3])
            assert np.isnan(entry["embedding"]).all() == (number in failing)
            assert number in failing or entry["embedding"] == [number, 1]
        assert [path.name for path in Path(folder).iterdir()] == ["out.parquet"]


def test_a_new_generation_replaces_the_row(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    first = sink_at(out)
    first.open()
    first.write(row(1))
    first.finish()
    second = sink_at(out)
    known = second.open(resume=True)
    assert key_of(row(1, generation=2).info) not in known
    second.write(row(1, generation=2))
    second.finish()
    (entry,) = pq.read_table(out).to_pylist()
    assert entry["generation"] == 2


def test_an_existing_file_needs_a_decision(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    sink = sink_at(out)
    sink.open()
    sink.write(row(1))
    sink.finish()
    before = out.read_bytes()
    with pytest.raises(SinkError, match=r"--resume .* --overwrite"):
        sink_at(out).open()
    assert out.read_bytes() == before


def test_the_model_is_in_the_metadata_and_another_one_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    sink = sink_at(out)
    sink.open()
    sink.write(row(1))
    sink.finish()
    assert json.loads(pq.read_schema(out).metadata[b"clip_triton"]) == _MODEL
    with pytest.raises(SinkError, match="another model's"):
        sink_at(out, {"weights_sha256": "b"}).open(resume=True)
    assert out.exists()


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    parts = tmp_path / "out.parquet.parts"
    parts.mkdir()
    (parts / "shard-000001.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(SinkError, match="shard-000001"):
        sink_at(out).open()
