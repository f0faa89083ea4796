"""Plans, and the function that embeds a partition."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from clip_batch import (
    BatchError,
    Budget,
    BudgetExceeded,
    Dataset,
    LocalStorage,
    Meter,
    ModelMismatch,
    Partition,
    StorageError,
    embed_partition,
    verify,
)
from clip_batch.engines.local import LocalEngine
from clip_batch.manifest import read_partition
from clip_batch.partition import open_planned
from clip_client import ServerUnavailable
from clip_client.sinks.parquet import METADATA_KEY
from tests.unit.batch.jobs import (
    EmbedderTransport,
    FakeServer,
    folder_of,
    job_of,
    newest,
    plan,
    run,
    vector_of,
)
from tests.unit.client.servers import REFUSED, stub

PHOTOS = {f"a/{number:02}.jpg": f"photo {number}".encode() for number in range(9)} | {"b.jpg": b"bad one"}


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "out")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "photos", PHOTOS)


def test_every_object_is_a_row_or_a_typed_error(storage: LocalStorage, photos: Path) -> None:
    planned = plan(storage, photos)
    assert (planned.partitions, planned.objects) == (3, 10)
    assert [each.info.name for each in read_partition(storage, Partition(1, 2))] == ["a/08.jpg", "b.jpg"]
    done = run(storage)
    assert [(each.embedded, dict(each.failed)) for each in done] == [
        (4, {}),
        (4, {}),
        (1, {"corrupt": 1}),
    ]
    found = newest(storage)
    assert found.keys() == PHOTOS.keys()
    for name, data in PHOTOS.items():
        row = found[name]
        assert (row["source"], row["size"]) == (str(photos), len(data))
        if name == "b.jpg":
            assert (row["error_code"], row["error_text"]) == ("corrupt", "not a photo")
        else:
            np.testing.assert_array_equal(row["embedding"], vector_of(data))
    report = verify(storage)
    assert report.ok
    assert (report.objects, report.embedded, report.failed) == (10, 9, 1)


def test_a_done_partition_is_not_embedded_again(storage: LocalStorage, photos: Path) -> None:
    plan(storage, photos)
    first = run(storage)
    assert Dataset.read(storage).undone() == []

    def never() -> object:
        raise AssertionError("no server is needed")

    again = embed_partition(Partition(1, 2), never, open_planned, storage)  # type: ignore[arg-type]
    assert not again.is_new
    assert (again.embedded, again.failed, again.errors) == (1, {"corrupt": 1}, first[2].errors)


def test_two_workers_on_one_partition_end_in_one_shard(storage: LocalStorage, photos: Path) -> None:
    """With another outcome for one photo, so that rows of both cannot be told to belong together."""
    plan(storage, photos, size=20)
    both = threading.Barrier(2)
    results = []

    def work(fails: bool) -> None:
        transport = EmbedderTransport()
        original = transport.result

        def result(request: bytes) -> object:
            answer = original(request)
            if b"photo 3" in request:
                both.wait()
                if fails:
                    answer.raw_output_contents[1] = (13).to_bytes(4, "little") + b"internal: why"
            return answer

        transport.result = result  # type: ignore[method-assign]
        with FakeServer(transport=transport).open() as client:
            results.append(embed_partition(Partition(1, 0), lambda: client, open_planned, storage))

    threads = [threading.Thread(target=work, args=(fails,)) for fails in (False, True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(counts.is_new for counts in results) == [False, True]
    assert results[0].failed == results[1].failed
    report = verify(storage)
    assert report.ok, report.problems
    assert (report.objects, report.unused) == (10, 0)


def test_a_lost_server_leaves_the_partition_undone(storage: LocalStorage, photos: Path) -> None:
    plan(storage, photos)
    dead = EmbedderTransport(lambda photos: REFUSED if b"photo 5" in photos else None)
    with FakeServer(transport=dead, deadline_s=0.3).open() as client:
        embed_partition(Partition(1, 0), lambda: client, open_planned, storage)
        with pytest.raises(ServerUnavailable):
            embed_partition(Partition(1, 1), lambda: client, open_planned, storage)
    assert Dataset.read(storage).undone() == [Partition(1, 1), Partition(1, 2)]
    run(storage)
    assert verify(storage).ok


def test_a_second_plan_has_what_is_new_or_changed(storage: LocalStorage, photos: Path) -> None:
    plan(storage, photos)
    run(storage)
    assert plan(storage, photos).objects == 0
    assert len(Dataset.read(storage).plans) == 1
    folder_of(photos, {"a/03.jpg": b"longer photo 3", "c.jpg": b"new"})
    (photos / "a/04.jpg").unlink()
    second = plan(storage, photos)
    assert (second.objects, second.skipped, second.gone) == (2, 8, 1)
    run(storage)
    found = newest(storage)
    np.testing.assert_array_equal(found["a/03.jpg"]["embedding"], vector_of(b"longer photo 3"))
    assert found["c.jpg"]["plan"] == 2
    report = verify(storage)
    assert report.ok
    assert report.superseded == 1


def test_what_waits_in_an_earlier_plan_is_not_planned_twice(storage: LocalStorage, photos: Path) -> None:
    plan(storage, photos)
    assert plan(storage, photos).objects == 0


def test_of_two_plans_at_once_one_counts_and_the_other_leaves_nothing(
    storage: LocalStorage, photos: Path
) -> None:
    def plan_meanwhile(_: int) -> None:
        plan(storage, photos)

    with pytest.raises(BatchError, match="another process has written plan 1"):
        plan(storage, photos, on_listed=plan_meanwhile)
    (made,) = Dataset.read(storage).plans
    names = {file.name for file in storage.list("_plans")}
    assert names == {made.name, made.part_name(0)}


def test_patterns_and_repetitions(storage: LocalStorage, photos: Path) -> None:
    chosen = plan(storage, photos, str(photos), include=["*.jpg"], exclude=["a/0[0-4]*"])
    assert (chosen.objects, chosen.excluded, chosen.repeated) == (5, 10, 5)


def test_a_server_of_another_model_is_refused(storage: LocalStorage, photos: Path) -> None:
    plan(storage, photos)
    with FakeServer().open() as client:
        embed_partition(Partition(1, 0), lambda: client, open_planned, storage)
    with pytest.raises(ModelMismatch, match="holds another model's embeddings"):
        run(storage, EmbedderTransport(weights="1" * 64))
    with pytest.raises(ModelMismatch, match="--replace-model"):
        plan(storage, photos, model={"weights_sha256": "1" * 64})


def test_another_model_replaces_the_first_when_that_is_asked_for(storage: LocalStorage, photos: Path) -> None:
    plan(storage, photos)
    run(storage)
    with pytest.raises(BatchError, match="needs the --url"):
        plan(storage, photos, replace_model=True)
    again = plan(storage, photos, replace_model=True, model={"weights_sha256": "1" * 64})
    assert (again.epoch, again.objects) == (2, 10)
    run(storage, EmbedderTransport(weights="1" * 64))
    assert verify(storage).ok


def test_a_shard_is_plain_parquet_with_the_model_in_its_metadata(storage: LocalStorage, photos: Path) -> None:
    plan(storage, photos)
    run(storage)
    assert storage.local_path is not None
    table = pq.read_table(storage.local_path / "embeddings")
    assert table.num_rows == 9
    assert b"weights_sha256" in table.schema.metadata[METADATA_KEY]
    assert pq.read_table(storage.local_path / "errors").column("error_code").to_pylist() == ["corrupt"]


def test_too_many_failures_end_a_run_that_can_go_on(storage: LocalStorage, photos: Path) -> None:
    folder_of(photos, {f"x{number}.jpg": b"bad" for number in range(5)})
    plan(storage, photos)
    budget = Budget(max_failed=2)
    job = job_of(storage, budget=budget)
    engine = LocalEngine(1)
    with pytest.raises(BudgetExceeded, match=r"3 of \d+ objects failed \(3 corrupt\).*--max-failed 2"):
        list(engine.run(job, Dataset.read(storage).undone(), Meter(budget)))
    assert Dataset.read(storage).undone()
    list(engine.run(job, Dataset.read(storage).undone(), Meter(Budget())))
    assert verify(storage).ok


def test_a_share_of_failures_counts_after_some_objects() -> None:
    meter = Meter(Budget(max_failed_share=0.1))
    meter.add(50, {"corrupt": 50})
    with pytest.raises(BudgetExceeded, match=r"50 of 100 objects failed.*--max-failed-share 0.1"):
        meter.add(50, {})


def test_a_photo_that_crashes_servers_is_found_out_once(storage: LocalStorage, photos: Path) -> None:
    folder_of(photos, {"a/01.jpg": b"poison", "z.jpg": b"poison"})
    plan(storage, photos)
    crashes = iter(range(100))
    transport = EmbedderTransport(lambda photos: stub(next(crashes)) if b"poison" in photos else None)
    first, *_, last = run(storage, transport)
    assert first.failed == {"request_failed": 1}
    assert last.failed == {"corrupt": 1, "request_failed": 1}
    found = newest(storage)
    assert "crashed the server 2 times" in found["a/01.jpg"]["error_text"]
    assert "not sent again" in found["z.jpg"]["error_text"]
    assert next(crashes) == 3, "one try among others, and two alone; the copy was not sent"
    assert verify(storage).ok


def test_verify_finds_what_is_wrong(storage: LocalStorage, photos: Path) -> None:
    plan(storage, photos)
    run(storage)
    assert storage.local_path is not None
    shard = storage.local_path / Partition(1, 0).shard
    table = pq.read_table(shard)
    storage.delete(Partition(1, 1).shard)
    shard.unlink()
    pq.write_table(table.slice(0, 3), shard)
    (errors,) = storage.list("errors")
    storage.delete(errors.name)
    report = verify(storage)
    assert not report.ok
    assert report.undone == 1
    assert any("missing objects of the plan: 1" in problem for problem in report.problems)
    assert any(f"{errors.name} is missing" in problem for problem in report.problems)


def test_what_does_not_exist_is_named(storage: LocalStorage, photos: Path) -> None:
    with pytest.raises(BatchError, match="has no plan 1"):
        run_one(storage, Partition(1, 0))
    plan(storage, photos)
    with pytest.raises(BatchError, match="has no partition 3"):
        run_one(storage, Partition(1, 3))


def run_one(storage: LocalStorage, partition: Partition) -> None:
    with FakeServer().open() as client:
        embed_partition(partition, lambda: client, open_planned, storage)


def fill_the_disk(*_: object, **__: object) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        full.write(b"x")


def test_a_full_disk_leaves_the_partition_undone(
    storage: LocalStorage, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan(storage, photos)
    with monkeypatch.context() as patched:
        patched.setattr(pq, "write_table", fill_the_disk)
        with pytest.raises(StorageError, match="No space left on device"):
            run(storage)
    assert len(Dataset.read(storage).undone()) == 3
    run(storage)
    assert verify(storage).ok
