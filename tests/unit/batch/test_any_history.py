"""Each object ends as one row, whatever happens: kills at any step, changes, other models, compactions."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from clip_batch import Dataset, LocalStorage, ModelMismatch, embed_partition, verify
from clip_batch.compact import compact
from clip_batch.dataset import recover
from clip_batch.partition import open_planned
from clip_batch.retry import retry
from clip_batch.storage import Write
from clip_client.errors import CLIENT_CODES, SERVER_CODES
from tests.unit.batch.jobs import BAD, EmbedderTransport, FakeServer, newest, plan, vector_of

NAMES = [f"{number}.jpg" for number in range(7)]
CONTENTS = [b"one", b"two", b"three", BAD, b"flaky"]
"""Photos, one that is none, and one that a broken server cannot embed."""


class Killed(BaseException):
    """Ends a command as SIGKILL does: nothing after it runs."""


class DyingStorage(LocalStorage):
    """Dies at a change of its files, right before or right after it; at none if `step` is None."""

    def __init__(self, root: Path, step: int | None, *, is_after: bool) -> None:
        super().__init__(root)
        self._left, self._is_after = step, is_after

    def write_if_absent(self, name: str, write: Write) -> bool:
        return bool(self._step(lambda: super(DyingStorage, self).write_if_absent(name, write)))

    def move(self, source: str, target: str) -> None:
        self._step(lambda: super(DyingStorage, self).move(source, target))

    def delete(self, name: str) -> None:
        self._step(lambda: super(DyingStorage, self).delete(name))

    def _step(self, change: Callable[[], Any]) -> Any:
        if self._left is None:
            return change()
        self._left -= 1
        if self._left >= 0:
            return change()
        if self._is_after:
            change()
        raise Killed


death = st.none() | st.integers(0, 6)


class Histories(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.photos, self.out = self.root / "photos", self.root / "out"
        self.photos.mkdir()
        self.content: dict[str, bytes] = {}
        self.clock = 0
        self.is_broken = False
        self.weights = "0"
        self.storage = LocalStorage(self.out)

    def teardown(self) -> None:
        if self.content:
            self.settle()
        shutil.rmtree(self.root)

    @initialize(names=st.sets(st.sampled_from(NAMES), min_size=1))
    def begin(self, names: set[str]) -> None:
        for name in sorted(names):
            self.put(name, b"one")

    @rule(name=st.sampled_from(NAMES), content=st.sampled_from(CONTENTS))
    def put(self, name: str, content: bytes) -> None:
        self.clock += 1
        self.content[name] = content + b" " + name.encode()
        (self.photos / name).write_bytes(self.content[name])
        os.utime(self.photos / name, ns=(self.clock, self.clock))

    @rule(name=st.sampled_from(NAMES))
    def remove(self, name: str) -> None:
        if name in self.content and len(self.content) > 1:
            del self.content[name]
            (self.photos / name).unlink()

    @rule(is_broken=st.booleans())
    def change_server(self, is_broken: bool) -> None:
        self.is_broken = is_broken

    @rule(prune=st.booleans(), step=death, is_after=st.booleans())
    def plan(self, prune: bool, step: int | None, is_after: bool) -> None:
        with self.dying(step, is_after) as storage:
            plan(storage, self.photos, size=2, prune=prune)

    @rule(weights=st.sampled_from("01"), step=death, is_after=st.booleans())
    def replace_model(self, weights: str, step: int | None, is_after: bool) -> None:
        self.weights = weights
        with self.dying(step, is_after) as storage:
            self.plan_for_the_model(storage)

    @rule(step=death, is_after=st.booleans(), backwards=st.booleans())
    def run(self, step: int | None, is_after: bool, backwards: bool) -> None:
        with self.dying(step, is_after) as storage:
            undone = Dataset.read(storage).undone()
            with suppress(ModelMismatch):  # the plan for the server's model was killed
                self.embed(storage, undone[::-1] if backwards else undone)

    @rule(step=death, is_after=st.booleans())
    def retry(self, step: int | None, is_after: bool) -> None:
        with self.dying(step, is_after) as storage:
            retry(storage, SERVER_CODES | CLIENT_CODES, partition_size=2)

    @rule(step=death, is_after=st.booleans(), rows=st.integers(1, 4))
    def compact(self, step: int | None, is_after: bool, rows: int) -> None:
        with self.dying(step, is_after) as storage:
            compact(storage, rows)

    @invariant()
    def nothing_is_lost_or_twice(self) -> None:
        report = verify(self.storage)
        assert report.problems == []

    def settle(self) -> None:
        """Finishes the job, and compares OUT as any reader sees it with the folder."""
        self.is_broken = False
        recover(self.storage)
        self.plan_for_the_model(self.storage)
        self.embed(self.storage, Dataset.read(self.storage).undone())
        retry(self.storage, SERVER_CODES | CLIENT_CODES)
        self.embed(self.storage, Dataset.read(self.storage).undone())
        self.check_newest()
        compact(self.storage, 3)
        report = verify(self.storage)
        assert report.ok, report.problems
        assert (report.superseded, report.other_model, report.unused) == (0, 0, 0)
        assert report.objects == len(self.content)
        self.check_newest()
        names = []
        for folder in ("embeddings", "errors"):
            for path in sorted((self.out / folder).glob("*.parquet")):
                names += pq.read_table(path).column("name").to_pylist()
        assert sorted(names) == sorted(self.content)

    def check_newest(self) -> None:
        found = newest(self.storage)
        for name, content in self.content.items():
            row = found[name]
            if content.startswith(BAD):
                assert row["error_code"] == "corrupt"
            else:
                np.testing.assert_array_equal(row["embedding"], vector_of(content))

    def plan_for_the_model(self, storage: LocalStorage) -> None:
        model = {"weights_sha256": self.weights}
        plan(storage, self.photos, size=2, prune=True, replace_model=True, model=model)

    def embed(self, storage: LocalStorage, partitions: list[Any]) -> None:
        transport = EmbedderTransport(
            weights=self.weights,
            is_broken=lambda photo: self.is_broken and photo.startswith(b"flaky"),
        )
        with FakeServer(transport=transport).open() as client:
            for partition in partitions:
                embed_partition(partition, lambda: client, open_planned, storage)

    def dying(self, step: int | None, is_after: bool) -> _Dying:
        return _Dying(DyingStorage(self.out, step, is_after=is_after))


class _Dying:
    """A command that may be killed."""

    def __init__(self, storage: DyingStorage) -> None:
        self._storage = storage

    def __enter__(self) -> DyingStorage:
        return self._storage

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is Killed


def histories(examples: int, steps: int) -> None:
    """The same ones in each run, however busy the machine is."""
    run_state_machine_as_test(
        Histories,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            derandomize=True,
        ),
    )


def test_any_history() -> None:
    histories(10, 12)


@pytest.mark.slow
def test_many_histories() -> None:
    histories(60, 30)
