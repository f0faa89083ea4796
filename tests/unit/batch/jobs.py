"""Jobs without a server: the client's transport is a function, and photos are short texts."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from tritonclient.grpc import service_pb2

from clip_batch import (
    ClientOptions,
    Dataset,
    Job,
    LocalStorage,
    PlanOptions,
    ShardCounts,
    Storage,
    embed_partition,
    make_plan,
    open_listing,
)
from clip_batch.manifest import Plan
from clip_batch.partition import open_planned
from clip_client import ClipClient
from tests.unit.client.servers import FakeTransport, Outcome, photos_of

BAD = b"bad"
"""How a photo begins that the server cannot decode."""


def vector_of(photo: bytes) -> np.ndarray[Any, Any]:
    """float32 [2] of length 1, another one for each photo."""
    angle = zlib.crc32(photo) / 2**32 * 6
    return np.array([np.cos(angle), np.sin(angle)], np.float32)


class EmbedderTransport(FakeTransport):
    """Answers with vector_of() each photo, or an error if it begins with BAD or `is_broken` says so."""

    def __init__(
        self,
        outcome: Outcome = lambda _: None,
        weights: str = "0" * 64,
        is_broken: Callable[[bytes], bool] = lambda _: False,
    ) -> None:
        super().__init__(outcome)
        self._weights, self._is_broken = weights, is_broken
        self.sent: list[bytes] = []

    def result(self, request: bytes) -> Any:
        super().result(request)
        photos = photos_of(request)
        self.sent += photos
        return _answer([b"" if self._is_broken(photo) else photo for photo in photos])

    def config(self, model: str, timeout_s: float) -> Any:
        answer = super().config(model, timeout_s)
        answer.config.parameters["weights_sha256"].string_value = self._weights
        return answer


def _answer(photos: Sequence[bytes]) -> service_pb2.ModelInferResponse:
    errors = [
        b"corrupt: not a photo" if photo.startswith(BAD) else b"" if photo else b"internal: broken"
        for photo in photos
    ]
    vectors = [np.full(2, np.nan, np.float32) if error else vector_of(photo)
               for photo, error in zip(photos, errors, strict=True)]  # fmt: skip
    return service_pb2.ModelInferResponse(
        outputs=[
            {"name": "embedding", "datatype": "FP32", "shape": [len(photos), 2]},
            {"name": "error", "datatype": "BYTES", "shape": [len(photos), 1]},
        ],
        raw_output_contents=[
            np.stack(vectors).tobytes(),
            b"".join(len(error).to_bytes(4, "little") + error for error in errors),
        ],
    )


@dataclass(frozen=True)
class FakeServer(ClientOptions):
    """ClientOptions of a client with an EmbedderTransport."""

    transport: EmbedderTransport = field(default_factory=EmbedderTransport)

    def open(self) -> ClipClient:
        return ClipClient(transport=self.transport, concurrency=4, deadline_s=self.deadline_s)


def folder_of(root: Path, photos: dict[str, bytes]) -> Path:
    for name, data in photos.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def plan(storage: Storage, *sources: Path | str, size: int = 4, **options: Any) -> Plan:
    listings = [open_listing(str(source), out=storage.uri) for source in sources]
    return make_plan(storage, listings, PlanOptions(partition_size=size, **options))


def run(storage: Storage, transport: EmbedderTransport | None = None) -> list[ShardCounts]:
    """Embeds what is not done, one partition after another."""
    partitions = Dataset.read(storage).undone()
    with FakeServer(transport=transport or EmbedderTransport()).open() as client:
        return [embed_partition(each, lambda: client, open_planned, storage) for each in partitions]


def job_of(storage: LocalStorage, transport: EmbedderTransport | None = None, **options: Any) -> Job:
    return Job(storage.uri, FakeServer(transport=transport or EmbedderTransport()), **options)


def rows(storage: Storage) -> list[dict[str, Any]]:
    """All rows in files that count, oldest plan first."""
    dataset = Dataset.read(storage)
    found = []
    for name in (*dataset.shards(), *dataset.error_files(list(dataset.infos()))):
        with storage.open(name.name) as file:
            found += [{**row, "plan": name.plan} for row in pq.read_table(file).to_pylist()]
    return sorted(found, key=lambda row: row["plan"])


def newest(storage: Storage) -> dict[str, dict[str, Any]]:
    """The newest row of each object, by name."""
    return {row["name"]: row for row in rows(storage)}
