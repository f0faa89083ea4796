"""The Storage of clip-batch in a bucket of the real fake-gcs-server; test_bucket_output.py has its limits."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from clip_batch import StorageError, open_storage
from testing.fake_gcs import FakeGcs
from tests.unit.batch import jobs
from tests.unit.batch.storages import CHECKS, Check


@pytest.mark.parametrize("check", CHECKS)
def test_a_bucket_does_what_every_storage_does(check: Check, fake_gcs: FakeGcs, tmp_path: Path) -> None:
    name = f"batch-{uuid.uuid4().hex[:12]}"
    fake_gcs.client.create_bucket(name)
    fake_gcs.upload(name, "other/a/b", b"outside of the storage")
    check(open_storage(f"gs://{name}/job/"), tmp_path)


def test_an_output_in_the_bucket_of_the_photos_is_not_planned(fake_gcs: FakeGcs) -> None:
    name = f"batch-{uuid.uuid4().hex[:12]}"
    for photo in ("a.jpg", "jobs.jpg"):
        fake_gcs.upload(name, photo, photo.encode())
    storage = open_storage(f"gs://{name}/job/")
    assert jobs.plan(storage, f"gs://{name}").objects == 2
    jobs.run(storage)
    again = jobs.plan(storage, f"gs://{name}")
    assert (again.objects, again.skipped) == (0, 2)


def test_a_bucket_that_does_not_exist_and_a_uri_without_one_are_refused(fake_gcs: FakeGcs) -> None:
    del fake_gcs
    with pytest.raises(StorageError, match="no-such-bucket does not exist"):
        open_storage("gs://no-such-bucket/x").check()
    with pytest.raises(StorageError, match="has no bucket name"):
        open_storage("gs:///x")
    with pytest.raises(StorageError, match="s3:// is not supported"):
        open_storage("s3://bucket/x")
