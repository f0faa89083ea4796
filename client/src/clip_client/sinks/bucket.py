"""Embeddings in a Parquet file in a Google Cloud Storage bucket, and the errors of failed photos in another.

A run writes its shards to a local folder, as for a local file. finish() merges them there, uploads the
result, and then removes them. The file in the bucket is replaced only if it is the one that this run has
continued, so that two machines cannot lose each other's rows.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from clip_client.bucket import Bucket
from clip_client.errors import SinkError
from clip_client.sinks.base import Existing, StoredRow, how_to_continue
from clip_client.sinks.parquet import ParquetSink, errors_path
from clip_client.sinks.shards import is_overwriting


class BucketParquetSink(ParquetSink):
    """A Sink that writes `gs://bucket/name`. Works in the folder `work`, by default in the user's cache."""

    def __init__(self, bucket: str, name: str, work: Path | None = None) -> None:
        uri = f"gs://{bucket}/{name}"
        file = name.rpartition("/")[2]
        super().__init__((work or _cache(uri)) / file)
        errors = name.removesuffix(file) + errors_path(Path(file)).name
        self.uri, self.errors_uri = uri, f"gs://{bucket}/{errors}"
        self._bucket_name, self._names = bucket, (name, errors)
        self._generations = (0, 0)
        self._is_downloaded = False

    @property
    def _files(self) -> tuple[Path, Path]:
        return self._out, self._errors

    def check(self, source: str, existing: Existing) -> None:
        if not self._is_downloaded:
            self._make_folder()
            self._take_lock()
            bucket = Bucket(self._bucket_name, SinkError)
            self._generations = (bucket.generation(self._names[0]), bucket.generation(self._names[1]))
            if self._generations[0] and not (existing.overwrite or existing.resume):
                raise SinkError(f"{self.uri} exists. Give --resume to complete it, or --overwrite")
            for path in self._files:  # left by a run that was killed while it uploaded: the shards have all
                path.unlink(missing_ok=True)
        super().check(source, existing)

    def open(
        self, source: str, model: Mapping[str, str], dimension: int, existing: Existing
    ) -> dict[str, StoredRow]:
        self.check(source, existing)
        if existing.resume and self._generations[0] and not is_overwriting(self._shards.first):
            self._download()
        return super().open(source, model, dimension, existing)

    def _make_folder(self) -> None:
        try:
            self._out.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SinkError(f"cannot write to {self._out.parent}: {error.strerror}. Give --work") from error

    def _download(self) -> None:
        """Continues the file as it is now, also if an earlier run has begun with an older one."""
        bucket = Bucket(self._bucket_name, SinkError)
        for name, generation, path in zip(self._names, self._generations, self._files, strict=True):
            try:
                if generation:
                    bucket.download(name, generation, path)
            except FileNotFoundError:
                raise SinkError(f"gs://{self._bucket_name}/{name} was replaced. Run again") from None
            except OSError as error:
                raise SinkError(f"cannot write {path}: {error.strerror}") from error
        self._shards.first.unlink(missing_ok=True)
        self._is_downloaded = True

    def _publish(self) -> None:
        """OUT first: if another run has replaced it, nothing is changed."""
        try:
            bucket = Bucket(self._bucket_name, SinkError)
            for name, generation, path in zip(self._names, self._generations, self._files, strict=True):
                _store(bucket, name, generation, path)
        except SinkError as error:
            way = how_to_continue(overwrite=self._existing.overwrite)
            raise SinkError(
                f"{error}. Finished rows are kept in {self._shards.folder}: {way}; --resume adds them to a "
                "file that is there by then"
            ) from error
        for path in self._files:
            path.unlink(missing_ok=True)


def _store(bucket: Bucket, name: str, generation: int, path: Path) -> None:
    if not path.exists():
        bucket.delete(name, generation)
        return
    with path.open("rb") as file:
        if not bucket.upload(file, name, generation):
            raise SinkError(f"{name} was written by another run since this one began")


def _cache(uri: str) -> Path:
    """A folder for this output alone, in the user's cache."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "clip-triton" / "embed" / hashlib.sha256(uri.encode()).hexdigest()[:16]
