"""What a run embeds again, skips, refuses or removes, given a folder and the rows of earlier runs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clip_client import (
    ClipClient,
    ItemError,
    ObjectInfo,
    RunOptions,
    SinkError,
    SourceError,
    embed_all,
    open_sink,
)
from clip_client.pipeline import Summary
from clip_client.sinks.parquet import errors_path
from clip_client.sources.base import crc32c
from clip_client.sources.folder import FolderSource
from testing.waiting import wait_until
from tests.unit.client.servers import FakeTransport


class Folder(FolderSource):
    """A folder of files; one that holds "error: CODE" fails so. `loads` has the names of loaded files."""

    def __init__(self, root: Path, excluded: tuple[Path, ...] = ()) -> None:
        super().__init__(root, excluded)
        self.loads: list[str] = []

    def excluding(self, *paths: Path) -> Folder:
        del paths
        return self

    def load(self, item: ObjectInfo) -> bytes:
        self.loads.append(item.name)
        data = super().load(item)
        if data.startswith(b"error: "):
            raise ItemError(data.decode().removeprefix("error: "), "as the file says")
        return data


class Album:
    """A folder, its output, and how often the server was asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "photos"
        self.folder.mkdir()
        self.out = folder / "out.parquet"
        self.requests = 0
        self.totals: list[tuple[int, bool]] = []

    def total(self, count: int, is_all: bool) -> None:
        self.totals.append((count, is_all))

    def put(self, **files: str) -> None:
        for name, text in files.items():
            (self.folder / name).write_text(text)

    def run(self, folder: Path | None = None, **options: Any) -> tuple[Summary, list[str]]:
        """The summary, and the names of the files that were loaded."""
        source = Folder(folder or self.folder)
        with ClipClient(transport=FakeTransport(self._answer), concurrency=2) as client:
            summary = embed_all(
                client,
                source,
                open_sink(str(self.out)),
                RunOptions(resume=True, **options),
                on_total=self.total,
            )
        return summary, sorted(source.loads)

    def _answer(self, photos: list[bytes]) -> None:
        self.requests += len(photos)

    def rows(self) -> dict[str, dict[str, Any]]:
        rows = pq.read_table(self.out).to_pylist()
        errors = errors_path(self.out)
        rows += pq.read_table(errors).to_pylist() if errors.exists() else []
        return {f"{Path(row['source']).name}/{row['name']}": row for row in rows}


@pytest.fixture
def album(tmp_path: Path) -> Album:
    album = Album(tmp_path)
    album.put(a="photo a", b="photo b", c="error: corrupt")
    summary, _ = album.run()
    assert (summary.embedded, summary.failed, album.requests) == (2, {"corrupt": 1}, 2)
    return album


def test_a_file_replaced_by_another_of_equal_size_is_embedded_again(album: Album) -> None:
    album.put(a="PHOTO A")
    summary, loaded = album.run()
    assert (summary.photos, summary.skipped, loaded) == (1, 2, ["a"])
    row = album.rows()["photos/a"]
    assert row["crc32c"] == crc32c(b"PHOTO A")
    assert row["mtime_ns"] == (album.folder / "a").stat().st_mtime_ns


def test_a_file_that_was_only_touched_is_read_once_and_not_embedded(album: Album) -> None:
    os.utime(album.folder / "a", ns=(1, 1))
    before = album.rows()["photos/a"]
    summary, loaded = album.run()
    assert (summary.photos, summary.skipped, loaded, album.requests) == (0, 3, ["a"], 2)
    assert album.rows()["photos/a"] == {**before, "mtime_ns": 1}
    assert album.run()[1] == []


def test_another_source_is_refused_unless_it_is_added(album: Album, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "a").write_text("photo a")
    with pytest.raises(SinkError, match=rf"holds rows of {album.folder}, and this run reads {other}"):
        album.run(other)
    assert album.run(other, add_source=True)[0].embedded == 3
    assert sorted(album.rows()) == ["other/a", "photos/a", "photos/b", "photos/c"]
    summary, loaded = album.run(other)
    assert (summary.skipped, loaded, summary.gone) == (1, [], 0), "it is in the file now"
    assert album.run()[0].skipped == 3


def test_a_folder_that_has_moved_goes_on_under_its_name(album: Album) -> None:
    moved = album.folder.rename(album.folder.with_name("moved"))
    with pytest.raises(SinkError, match="give its old path as --source-name"):
        album.run(moved)
    summary, loaded = album.run(moved, source_name=str(album.folder))
    assert (summary.skipped, loaded) == (3, [])


def test_rows_of_deleted_files_are_counted_and_removed_when_asked(album: Album) -> None:
    for name in ("a", "c"):
        (album.folder / name).unlink()
    summary, _ = album.run()
    assert (summary.gone, summary.pruned) == (2, False)
    assert sorted(album.rows()) == ["photos/a", "photos/b", "photos/c"]
    summary, _ = album.run(prune=True)
    assert (summary.gone, summary.pruned, summary.embedded, summary.failed) == (2, True, 1, {})
    assert sorted(album.rows()) == ["photos/b"]
    assert not errors_path(album.out).exists()


def test_pruning_leaves_other_sources_alone(album: Album, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "z").write_text("photo z")
    album.run(other, add_source=True, prune=True)
    assert len(album.rows()) == 4


def test_permanent_errors_are_retried_only_when_asked(album: Album) -> None:
    album.put(d="error: load_failed")
    album.run()
    summary, loaded = album.run()
    assert (loaded, summary.not_retried) == (["d"], 1)
    album.put(c="error: truncated")
    assert album.run()[1] == ["c", "d"], "another content is another photo"
    assert album.run(retry_errors={"corrupt"})[1] == ["d"]
    assert album.run(retry_errors={"truncated"})[1] == ["c", "d"]
    assert album.rows()["photos/c"]["error_code"] == "truncated"


def write_version_0_1(album: Album, *, generation: int | None = None) -> None:
    """The output of version 0.1 for the files a and c: no source, no times, NaN for the failed photo."""
    names = ["a", "c"]
    data = [(album.folder / name).read_bytes() for name in names]
    vectors = np.array([[1, 0], [np.nan, np.nan]], np.float32)
    table = pa.table(
        {
            "name": names,
            "generation": pa.array([generation] * 2, pa.int64()),
            "size": pa.array(map(len, data), pa.int64()),
            "crc32c": [crc32c(each) for each in data],
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), 2),
            "error_code": [None, "corrupt"],
            "error_text": [None, "as the file says"],
        }
    )
    errors_path(album.out).unlink()
    pq.write_table(
        table.replace_schema_metadata({"clip_triton": json.dumps({"weights_sha256": ""})}), album.out
    )


def test_a_file_of_version_0_1_is_completed(album: Album) -> None:
    write_version_0_1(album)
    summary, loaded = album.run()
    assert (summary.photos, summary.skipped, summary.assumed) == (2, 1, 2)
    assert loaded == ["a", "b", "c"], "without times, content decides; a failed file has none to compare"
    rows = album.rows()
    assert rows["photos/a"]["embedding"] == [1, 0]
    assert sorted(rows) == ["photos/a", "photos/b", "photos/c"]
    assert "embedding" not in rows["photos/c"]
    assert album.run()[1] == [], "the file has times now"


def test_a_vector_beside_an_error_becomes_a_notice(album: Album) -> None:
    """A truncated photo of a server of version 0.1 that embedded what was there."""
    write_version_0_1(album)
    table = pq.read_table(album.out)
    codes = pa.array(["truncated", "corrupt"])
    pq.write_table(table.set_column(5, "error_code", codes).set_column(6, "error_text", codes), album.out)
    summary, _ = album.run()
    assert (summary.embedded, summary.failed) == (2, {"corrupt": 1})
    row = album.rows()["photos/a"]
    assert row["embedding"] == [1, 0]
    assert (row["error_code"], row["error_text"]) == (None, None)
    assert (row["notices"], row["notice_text"]) == (["truncated"], "truncated")


def test_a_file_of_version_0_1_beside_another_source(album: Album) -> None:
    write_version_0_1(album)
    summary, _ = album.run(add_source=True)
    assert (summary.photos, summary.embedded, summary.failed) == (3, 3, {"corrupt": 2})
    assert summary.assumed == 0
    assert pq.read_table(album.out)["source"].to_pylist().count(None) == 1


def test_a_buckets_file_of_version_0_1_is_not_taken_for_a_folders(album: Album) -> None:
    write_version_0_1(album, generation=1)
    with pytest.raises(SinkError, match="holds rows of a bucket, and this run reads"):
        album.run()


def test_the_objects_to_embed_are_counted(album: Album) -> None:
    wait_until(lambda: album.totals, "the files of the first run are counted")
    assert album.totals.pop() == (3, True)
    album.put(d="photo d", e="photo e", f="notes")
    album.run(exclude=["f"])
    wait_until(lambda: album.totals, "the new files are counted")
    assert album.totals == [(2, True)]


def test_patterns_select_objects(album: Album) -> None:
    (album.folder / "deep").mkdir()
    album.put(**{"x.jpg": "photo x", "notes.txt": "text", "deep/y.jpg": "photo y", "deep/z.JPG": "photo z"})
    summary, loaded = album.run(include=["*.jpg"])
    assert (loaded, summary.excluded, summary.gone) == (["deep/y.jpg", "x.jpg"], 5, 0)
    assert len(album.rows()) == 5, "rows of objects that are left out stay"
    assert album.run(exclude=["*.txt", "deep/*"])[1] == []
    assert album.run(include=["deep/*"])[1] == ["deep/z.JPG"]


def test_nothing_is_left_by_the_patterns(album: Album) -> None:
    album.out.unlink()
    errors_path(album.out).unlink()
    with pytest.raises(SourceError, match="--include and --exclude leave out all 3"):
        album.run(include=["*.png"])


def test_an_output_that_is_a_link_stays_one(album: Album, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target = album.out.rename(tmp_path / "elsewhere" / "real.parquet")
    errors_path(album.out).rename(errors_path(target))
    target.chmod(0o640)
    album.out.symlink_to(target)
    album.put(d="photo d")
    assert album.run()[0].embedded == 3
    assert album.out.is_symlink()
    assert pq.read_table(target).num_rows == 3
    assert target.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in target.parent.iterdir()) == ["real.errors.parquet", "real.parquet"]


def test_a_folder_that_is_empty_by_mistake_does_not_lose_its_rows(album: Album) -> None:
    album.folder.rename(album.folder.with_name("elsewhere"))
    album.folder.mkdir()
    with pytest.raises(
        SourceError, match=r"--prune would remove all of its rows \(3\). Is the folder mounted"
    ):
        album.run(prune=True)
    assert album.run()[0].gone == 3
    assert len(album.rows()) == 3
