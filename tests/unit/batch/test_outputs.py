"""What follows a run: compaction, retries, status, and rows of another model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from clip_batch import (
    Dataset,
    LocalStorage,
    Report,
    Stale,
    Status,
    Storage,
    StoredFile,
    compact,
    find_stale,
    read_status,
    retry,
    verify,
)
from clip_batch.dataset import read_snapshot
from clip_client.errors import CLIENT_CODES, SERVER_CODES
from tests.unit.batch.jobs import EmbedderTransport, folder_of, newest, plan, rows, run, vector_of
from tests.unit.client.servers import stub

ALL = SERVER_CODES | CLIENT_CODES
PHOTOS = {f"{number:02}.jpg": f"photo {number}".encode() for number in range(10)}


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "out")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "photos", PHOTOS)


def names_in(storage: LocalStorage, folder: str) -> list[str]:
    """As a reader sees them that knows nothing of clip-batch."""
    assert storage.local_path is not None
    names: list[str] = pq.read_table(storage.local_path / folder).column("name").to_pylist()
    return sorted(names)


class Compacting(LocalStorage):
    """Another process compacts it when the first row file is opened, or when row files were first listed."""

    def __init__(self, root: Path, moment: str) -> None:
        super().__init__(root)
        self._moment, self._lock = moment, threading.Lock()

    def _compact(self, moment: str) -> None:
        with self._lock:
            if moment == self._moment and self.local_path is not None:
                self._moment = ""
                compact(LocalStorage(self.local_path))

    def open(self, name: str) -> Any:
        if name.startswith(("embeddings", "errors")):
            self._compact("open")
        return super().open(name)

    def list(self, folder: str) -> Iterator[StoredFile]:
        yield from list(super().list(folder))
        if folder == "embeddings":
            self._compact("list")


@pytest.mark.parametrize("moment", ["list", "open"])
@pytest.mark.parametrize("command", [read_status, verify, retry, lambda storage: find_stale(storage, {})])
def test_a_compaction_in_another_process_disturbs_nothing(
    storage: LocalStorage, photos: Path, moment: str, command: Callable[[Storage], Any]
) -> None:
    plan(storage, folder_of(photos, {"bad.jpg": b"bad"}))
    run(storage)
    assert storage.local_path is not None
    found = command(Compacting(storage.local_path, moment))
    assert read_snapshot(storage).number == 1
    if isinstance(found, Report):
        assert found.ok
    if isinstance(found, Status):
        assert (found.done, found.finished_objects, found.failed) == (3, 11, {"corrupt": 1})
    if isinstance(found, Stale):
        assert found.photos == 10


def test_an_output_inside_another_has_no_rows_of_it(storage: LocalStorage, photos: Path) -> None:
    plan(storage, photos)
    run(storage)
    assert storage.local_path is not None
    inner = LocalStorage(storage.local_path / "embeddings")
    plan(inner, photos, size=100)
    run(inner)
    for each in (storage, inner):
        assert verify(each).ok
        assert verify(each).embedded == 10
    assert compact(storage).rows == 10
    assert verify(inner).ok


def test_progress_ends_at_all_rows(storage: LocalStorage, photos: Path) -> None:
    plan(storage, photos)
    run(storage)
    seen: list[tuple[int, int]] = []
    verify(storage, lambda *rows: seen.append(rows))
    assert seen == [(4, 10), (8, 10), (10, 10)]
    seen.clear()
    compact(storage, on_progress=lambda *rows: seen.append(rows))
    assert seen[-1] == (10, 10)


def test_compaction_leaves_each_object_once(storage: LocalStorage, photos: Path) -> None:
    folder_of(photos, {"bad.jpg": b"bad"})
    plan(storage, photos)
    run(storage)
    folder_of(photos, {"03.jpg": b"another photo"})
    (photos / "04.jpg").unlink()
    plan(storage, photos, prune=True)
    run(storage)
    done = compact(storage, rows_per_file=6)
    assert (done.through, done.rows, done.superseded, done.pruned, done.waiting) == (2, 10, 1, 1, 0)
    assert names_in(storage, "embeddings") == sorted(PHOTOS.keys() - {"04.jpg"})
    assert names_in(storage, "errors") == ["bad.jpg"]
    assert [file.name for file in storage.list("embeddings")] == [
        "embeddings/000002-c000001-00000.parquet",
        "embeddings/000002-c000001-00001.parquet",
    ]
    np.testing.assert_array_equal(newest(storage)["03.jpg"]["embedding"], vector_of(b"another photo"))
    assert verify(storage).ok
    assert compact(storage, rows_per_file=6).files == 3, "a second one has nothing to do"
    assert read_status(storage).failed == {"corrupt": 1}


def test_a_plan_that_is_not_finished_is_not_compacted(storage: LocalStorage, photos: Path) -> None:
    plan(storage, photos)
    run(storage)
    folder_of(photos, {"03.jpg": b"another photo"})
    plan(storage, photos)
    done = compact(storage)
    assert (done.through, done.waiting, done.superseded) == (1, 1, 0)
    run(storage)
    assert compact(storage).superseded == 1
    assert verify(storage).ok


def test_large_files_stay_as_they_are(storage: LocalStorage, photos: Path) -> None:
    plan(storage, photos, size=5)
    run(storage)
    before = [file.name for file in storage.list("embeddings")]
    assert compact(storage, rows_per_file=10).files == 2
    assert [file.name for file in storage.list("embeddings")] == before
    assert Dataset.read(storage).undone() == []
    assert verify(storage).ok


def test_a_late_workers_shard_counts_for_nothing(storage: LocalStorage, photos: Path) -> None:
    """It began before the compaction and ends after it."""
    plan(storage, photos)
    run(storage)
    assert storage.local_path is not None
    late = (storage.local_path / "embeddings/000001-0000000.parquet").read_bytes()
    compact(storage)
    (storage.local_path / "embeddings/000001-0000000.parquet").write_bytes(late)
    assert len(rows(storage)) == 10
    report = verify(storage)
    assert report.ok
    assert report.unused == 1
    folder_of(photos, {"11.jpg": b"new"})
    plan(storage, photos)
    run(storage)
    compact(storage)
    assert verify(storage).unused == 0


def test_failures_that_may_pass_are_planned_again(storage: LocalStorage, photos: Path) -> None:
    folder_of(photos, {"bad.jpg": b"bad"})
    plan(storage, photos)
    run(storage, EmbedderTransport(is_broken=lambda photo: photo in (b"photo 2", b"photo 7")))
    again = retry(storage)
    assert (again.kind, again.objects) == ("retry", 2)
    assert retry(storage).objects == 0, "they wait in the last plan"
    run(storage)
    assert retry(storage).objects == 0
    np.testing.assert_array_equal(newest(storage)["02.jpg"]["embedding"], vector_of(b"photo 2"))
    assert retry(storage, {"corrupt"}).objects == 1
    run(storage)
    compact(storage)
    assert names_in(storage, "errors") == ["bad.jpg"]
    assert retry(storage, ALL).objects == 1, "from the compacted errors"


def test_a_photo_that_crashed_servers_is_retried_if_that_is_asked_for(
    storage: LocalStorage, photos: Path
) -> None:
    plan(storage, photos)
    crashes = iter(range(100))
    run(storage, EmbedderTransport(lambda photos: stub(next(crashes)) if b"photo 3" in photos else None))
    assert retry(storage).objects == 1
    (counts,) = run(storage)
    assert counts.failed == {"request_failed": 1}, "it is still on the list"
    assert retry(storage, {"request_failed"}).objects == 1
    (counts,) = run(storage)
    assert counts.embedded == 1


def test_objects_that_are_gone_are_not_retried(storage: LocalStorage, photos: Path) -> None:
    plan(storage, photos)
    run(storage, EmbedderTransport(is_broken=lambda photo: photo == b"photo 2"))
    (photos / "02.jpg").unlink()
    assert plan(storage, photos, prune=True).gone == 1
    assert retry(storage).objects == 0


def test_a_replaced_models_rows_are_removed(storage: LocalStorage, photos: Path) -> None:
    plan(storage, photos)
    run(storage)
    other = {"weights_sha256": "1" * 64}
    assert find_stale(storage, {"weights_sha256": "0" * 64}).photos == 0
    stale = find_stale(storage, other)
    assert (stale.photos, len(stale.shards), stale.current) == (10, 3, 0)
    assert stale.hours(rate=10) == pytest.approx(10 / 10 / 3600)
    plan(storage, photos, replace_model=True, model=other)
    run(storage, EmbedderTransport(weights="1" * 64))
    done = compact(storage)
    assert (done.rows, done.other_model) == (10, 10)
    assert find_stale(storage, other).current == 10
    assert verify(storage).ok


def test_status(storage: LocalStorage, photos: Path) -> None:
    plan(storage, photos)
    before = read_status(storage)
    assert (before.done, before.partitions, before.objects, before.rate) == (0, 3, 10, None)
    assert before.seconds_left is None
    run(storage)
    status = read_status(storage)
    assert (status.done, status.finished_objects, status.seconds_left) == (3, 10, 0)
    assert status.rate is not None
    assert status.cost(36.0)["per_million"] == pytest.approx(36.0 * 1e6 / status.rate / 3600)


def test_a_model_that_was_never_finished_is_skipped_by_compaction(
    storage: LocalStorage, photos: Path
) -> None:
    plan(storage, photos)
    run(storage)
    for weights in ("1", "2"):
        plan(storage, photos, replace_model=True, model={"weights_sha256": weights})
    assert compact(storage).through == 1
    assert verify(storage).problems == []
    assert len(names_in(storage, "embeddings")) == 10, "the first model's rows stay until others are there"
    run(storage, EmbedderTransport(weights="2"))
    assert read_status(storage).other_model == 10
    done = compact(storage)
    assert (done.through, done.rows, done.other_model) == (3, 10, 10)
    assert verify(storage).ok
