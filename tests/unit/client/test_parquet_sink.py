"""Shards and their merge: whatever interrupts a run, a rerun gives each object exactly one row."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_client import (
    EmbeddedObject,
    Existing,
    ItemError,
    Notice,
    ObjectInfo,
    PhotoResult,
    SinkError,
    StoredRow,
    defaults,
)
from clip_client.sinks.parquet import ParquetSink, errors_path
from tests.unit.client.unprivileged import nobody

_MODEL = {"model": "ViT-B-32", "weights_sha256": "a"}


_SOURCE = "gs://album"


@contextmanager
def opened(
    out: Path, model: dict[str, str] = _MODEL, dimension: int = 2, source: str = _SOURCE, **flags: bool
) -> Iterator[tuple[ParquetSink, dict[str, StoredRow]]]:
    """A sink at `out` and the source's rows of earlier runs; it is closed whatever happens."""
    with closing(ParquetSink(out)) as sink:
        yield sink, sink.open(source, model, dimension, Existing(**flags))


def done(known: dict[str, StoredRow], item: EmbeddedObject) -> bool:
    """Whether an earlier run embedded the object as it is."""
    stored = known.get(item.name)
    return stored is not None and stored.error_code is None and bool(stored.is_current(item.info))


def rows_of(out: Path) -> list[dict[str, Any]]:
    """The rows of OUT, which all have a vector, and of its errors, which have none."""
    rows: list[dict[str, Any]] = pq.read_table(out).to_pylist()
    assert all(np.isfinite(row["embedding"]).all() for row in rows)
    if errors_path(out).exists():
        errors = pq.read_table(errors_path(out)).to_pylist()
        assert errors
        assert all("embedding" not in row and row["error_code"] for row in errors)
        rows += errors
    return rows


def row(number: int, *, failed: bool = False, generation: int = 1) -> EmbeddedObject:
    info = ObjectInfo(f"{number:03d}.jpg", 10 + number, generation, "crc")
    error = ItemError("truncated", "cut off")
    return EmbeddedObject(info, PhotoResult.of(error if failed else np.array([number, 1], np.float32)))


_FACTS = ["width", "height", "format", "decode_scale", "notices", "notice_text"]


@settings(max_examples=30)
@given(
    count=st.integers(1, 25),
    stops=st.lists(st.tuples(st.integers(0, 25), st.booleans()), max_size=4),
    failing=st.sets(st.integers(0, 24)),
)
def test_any_interruption_then_a_rerun(count: int, stops: list[tuple[int, bool]], failing: set[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.parquet"
        for stop, flushed in stops:  # a run that embeds `stop` objects, then dies, with or without a flush
            with opened(out) as (sink, known):
                todo = [n for n in range(count) if not done(known, row(n))]
                for number in todo[:stop]:
                    sink.write(row(number, failed=number in failing))
                if flushed:
                    sink.flush()
        with opened(out) as (sink, known):
            for number in range(count):
                if not done(known, row(number)):
                    sink.write(row(number, failed=number in failing))
            counts = sink.finish()
        table = rows_of(out)
        assert sorted(entry["name"] for entry in table) == [f"{n:03d}.jpg" for n in range(count)]
        failed = len(failing & set(range(count)))
        assert counts == {k: v for k, v in {"": count - failed, "truncated": failed}.items() if v}
        for entry in table:
            number = int(entry["name"][:3])
            assert entry["source"] == _SOURCE
            assert entry.get("embedding") == (None if number in failing else [number, 1])
        assert {path.name for path in Path(folder).iterdir()} <= {"out.parquet", "out.errors.parquet"}


def finished(
    out: Path,
    *rows: EmbeddedObject,
    model: dict[str, str] = _MODEL,
    source: str = _SOURCE,
    **flags: bool,
) -> dict[str, StoredRow]:
    """What a run that writes `rows` and ends well was told of earlier ones."""
    with opened(out, model, source=source, **flags) as (sink, known):
        for item in rows:
            sink.write(item)
        sink.finish()
    return known


def test_a_new_generation_replaces_the_row(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    finished(out, row(1))
    known = finished(out, row(1, generation=2), resume=True)
    assert not done(known, row(1, generation=2))
    (entry,) = pq.read_table(out).to_pylist()
    assert entry["generation"] == 2


def test_notices_and_facts_have_columns(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    notices = (Notice("stray_bytes", "3 bytes"), Notice("truncated", "half of it"))
    vector = np.array([1, 0], np.float32)
    odd = PhotoResult(vector, None, notices, width=6000, height=4000, format="JPEG", decode_scale=8)
    finished(out, EmbeddedObject(ObjectInfo("odd.jpg", 9), odd), row(1), row(2, failed=True))
    rows = [{name: row[name] for name in _FACTS} for row in rows_of(out)]
    values = [6000, 4000, "JPEG", 8, ["stray_bytes", "truncated"], "3 bytes\nhalf of it"]
    assert rows[0] == dict(zip(_FACTS, values, strict=True))
    assert rows[1] == rows[2] == dict(zip(_FACTS, [None] * 4 + [[], None], strict=True))


def test_a_file_without_these_columns_is_completed(tmp_path: Path) -> None:
    """As release 0.1 wrote it."""
    out = tmp_path / "out.parquet"
    finished(out, row(1))
    pq.write_table(pq.read_table(out).drop_columns(["source", "mtime_ns", *_FACTS]), out)
    assert done(finished(out, row(2), resume=True), row(1))
    old, new = pq.read_table(out).to_pylist()
    assert (old["name"], old["embedding"], new["name"]) == ("001.jpg", [1, 1], "002.jpg")
    assert [old[name] for name in _FACTS] == [None] * 6


def test_an_existing_file_needs_a_decision(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    finished(out, row(1))
    before = out.read_bytes()
    with pytest.raises(SinkError, match=r"--resume .* --overwrite"):
        finished(out)
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]
    assert out.read_bytes() == before


def test_the_model_is_in_the_metadata_and_another_one_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    finished(out, row(1))
    assert json.loads(pq.read_schema(out).metadata[b"clip_triton"]) == _MODEL
    with pytest.raises(SinkError, match="another model's"):
        finished(out, model={"weights_sha256": "b"}, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]


@pytest.mark.parametrize(
    ("stored", "served", "refused"),
    [
        ({"activation": "gelu"}, {"activation": "quick_gelu"}, True),
        ({"transform": "shortest"}, {"transform": "squash"}, True),
        ({"activation": "gelu", "transform": "squash"}, {"activation": "gelu", "transform": "squash"}, False),
        ({}, {"activation": "quick_gelu"}, False),  # an earlier release does not report it
        ({"activation": ""}, {"activation": "gelu"}, False),
    ],
)
def test_equal_weights_can_be_another_model(
    tmp_path: Path, stored: dict[str, str], served: dict[str, str], refused: bool
) -> None:
    out = tmp_path / "out.parquet"
    finished(out, row(1), model={**_MODEL, **stored})
    with pytest.raises(SinkError, match="another model's") if refused else nullcontext():
        finished(out, row(2), model={**_MODEL, **served}, resume=True)


@pytest.mark.parametrize(
    ("name", "then", "now", "refused"),
    [
        ("quality", "high", "exact", True),
        ("apply_exif_orientation", "true", "false", True),
        ("background", "none", "#ffffff", True),
        ("background", "#ffffff", "none", True),
        ("background", None, "none", False),
        ("encoder_precision", "fp32", "auto", True),
        ("encoder_precision", "auto", "auto", False),
        ("quality", "", "exact", False),
        ("quality", "high", "", False),
        ("quality", None, "fast", False),
        ("quality", "fast", None, False),
    ],
)
def test_embeddings_of_other_settings_are_not_mixed(
    tmp_path: Path, name: str, then: str | None, now: str | None, refused: bool
) -> None:
    """None and "" stand for a server that does not say."""
    before, after = ({**_MODEL, **({} if value is None else {name: value})} for value in (then, now))
    out = tmp_path / "out.parquet"
    finished(out, row(1), model=before)
    if refused:
        with pytest.raises(SinkError, match=f"made with {name} {then}, but the server uses {now}. Restart"):
            finished(out, row(2), model=after, resume=True)
    else:
        finished(out, row(2), model=after, resume=True)
    assert pq.read_table(out).num_rows == (1 if refused else 2)
    finished(out, row(2), model=after, overwrite=True)
    assert json.loads(pq.read_schema(out).metadata[b"clip_triton"]) == after


@pytest.mark.parametrize("older", [{}, {"background": ""}])
def test_an_older_server_had_no_background(tmp_path: Path, older: dict[str, str]) -> None:
    out = tmp_path / "out.parquet"
    finished(out, row(1), model={**_MODEL, **older})
    with pytest.raises(SinkError, match="made with background none, but the server uses #ffffff"):
        finished(out, row(2), model={**_MODEL, "background": "#ffffff"}, resume=True)
    finished(out, row(2), model={**_MODEL, "background": "#ffffff"}, overwrite=True)
    with pytest.raises(SinkError, match="made with background #ffffff, but the server uses none"):
        finished(out, row(2), model={**_MODEL, **older}, resume=True)


def test_a_stopped_overwrite_continues_beside_a_file_of_another_model(tmp_path: Path) -> None:
    """OUT stays as it was until the end; it is not what the next run goes on from."""
    out, other = tmp_path / "out.parquet", {"weights_sha256": "b"}
    finished(out)
    with opened(out, other, overwrite=True) as (sink, _):
        sink.write(row(1))
        sink.keep()
    with opened(out, other, resume=True) as (sink, known):
        assert done(known, row(1))
        sink.write(row(2))
        sink.finish()
    assert pq.read_table(out).column("name").to_pylist() == ["001.jpg", "002.jpg"]


def test_a_stopped_overwrite_goes_on_with_its_own_source_only(tmp_path: Path) -> None:
    """The rows of the other source are in OUT alone, and it would not go on from OUT."""
    out, other = tmp_path / "out.parquet", "gs://other"
    finished(out, row(1))
    finished(out, row(2), source=other, resume=True, add_source=True)
    with opened(out, source=other, overwrite=True):
        pass  # killed before the first row
    with pytest.raises(SinkError, match="holds rows of gs://other, and this run reads gs://album"):
        finished(out, row(1), resume=True)
    assert pq.read_table(out).num_rows == 2
    finished(out, row(3), source=other, resume=True)
    table = pq.read_table(out)
    assert table.column("name").to_pylist() == ["003.jpg"]
    assert b"clip_triton_source" not in table.schema.metadata


@pytest.mark.parametrize("add_source", [False, True])
def test_a_parquet_file_of_other_columns_is_left_alone(tmp_path: Path, add_source: bool) -> None:
    out = tmp_path / "out.parquet"
    pq.write_table(pa.table({"price": [1, 2]}), out)
    with pytest.raises(SinkError, match=r"out\.parquet has no embeddings of clip-embed"):
        finished(out, row(1), resume=True, add_source=add_source)
    assert pq.read_schema(out).names == ["price"]


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    parts = tmp_path / "out.parquet.parts"
    parts.mkdir()
    (parts / "shard-000001.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(SinkError, match="shard-000001"):
        finished(out)


def row_groups(out: Path) -> list[int]:
    file = pq.ParquetFile(out)
    return [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]


def test_many_small_shards_become_few_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defaults, "SHARD_ROWS", 7)
    monkeypatch.setattr(defaults, "ROW_GROUP_ROWS", 50)
    out = tmp_path / "out.parquet"
    finished(out, *map(row, range(120)))
    assert row_groups(out) == [56, 56, 8]
    # Every third row of OUT is replaced: what is left of its groups is joined.
    finished(out, *(row(number, generation=2) for number in range(0, 120, 3)), resume=True)
    assert pq.read_table(out).column("generation").to_pylist().count(2) == 40
    assert all(50 <= size < 100 for size in row_groups(out)[:-1])
    assert sum(row_groups(out)) == 120


_RESUMES = """
import sys
from pathlib import Path
import pyarrow as pa
from clip_client.sinks.parquet import ParquetSink
from clip_client import Existing
sink = ParquetSink(Path(sys.argv[1]))
known = sink.open("gs://album", {}, 512, Existing(resume=True))
before = pa.default_memory_pool().max_memory()
sink.finish()
print(len(known), max(before, pa.default_memory_pool().max_memory()))
"""


def test_resuming_needs_no_memory_for_the_whole_file(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    vectors = np.random.default_rng(1).standard_normal((40_000, 512), np.float32)
    with opened(out, {}, 512) as (sink, _):
        for number, vector in enumerate(vectors):
            sink.write(EmbeddedObject(ObjectInfo(f"{number:06d}.jpg", 1), PhotoResult.of(vector)))
        sink.finish()
    assert out.stat().st_size > vectors.nbytes
    command = [sys.executable, "-c", _RESUMES, str(out)]
    known, most = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert int(known) == len(vectors)
    assert int(most) < vectors.nbytes


def test_two_runs_on_one_file(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    with opened(out) as (first, _):
        first.write(row(1))
        first.flush()
        for resume, overwrite in ((False, False), (True, False), (False, True)):
            with pytest.raises(SinkError, match=r"another run is writing .*out\.parquet. Wait until it ends"):
                finished(out, row(2), resume=resume, overwrite=overwrite)
        finished(tmp_path / "other.parquet", row(2))
        first.write(row(3))
        first.finish()
    assert [entry["name"] for entry in pq.read_table(out).to_pylist()] == ["001.jpg", "003.jpg"]
    assert done(finished(out, row(2), resume=True), row(3))
    assert pq.read_table(out).num_rows == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.parquet", "out.parquet"]


_DIES = """
import os, sys
from pathlib import Path
from clip_client import Existing
from clip_client.sinks.parquet import ParquetSink
ParquetSink(Path(sys.argv[1])).open("gs://album", {}, 2, Existing())
print("open", flush=True)
os.kill(os.getpid(), 9)
"""


def test_a_killed_run_does_not_block_others(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    killed = subprocess.run([sys.executable, "-c", _DIES, out], capture_output=True, text=True, check=False)
    assert (killed.returncode, killed.stdout) == (-9, "open\n"), killed.stderr
    assert (tmp_path / ".out.parquet.lock").exists()
    finished(out, row(1))
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]


@pytest.mark.parametrize("place", ["folder", "file", "parent is a file"])
def test_a_place_that_cannot_be_written_is_refused_before_the_run(place: str) -> None:
    """In a folder of its own, because pytest's are closed to other users."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        out = folder / "out.parquet"
        if place == "folder":
            folder.chmod(0o555)
        else:
            out.write_bytes(b"")
            out.chmod(0o444)
        if place == "parent is a file":
            out = out / "deep" / "out.parquet"
        with nobody(), pytest.raises(SinkError, match=r"cannot write to .*(permission|is not a folder)"):
            ParquetSink(out).check(_SOURCE, Existing(overwrite=True))


def test_a_check_leaves_nothing_behind(tmp_path: Path) -> None:
    out = tmp_path / "new" / "deeper" / "out.parquet"
    with closing(ParquetSink(out)) as sink:
        sink.check(_SOURCE, Existing())
    with closing(ParquetSink(tmp_path / "out.parquet")) as sink:
        sink.check(_SOURCE, Existing())
    assert list(tmp_path.iterdir()) == []
