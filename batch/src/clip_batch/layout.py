"""The names of the files in OUT.

    _plans/000001.json                 what plan 1 covers; written last, so a plan is whole or absent
    _plans/000001-<id>-0000.parquet    its manifest: a row group per partition
    _plans/000001-<id>-gone.parquet    objects that earlier plans had and the source no longer has
    _models/000001.json                the model and settings behind the vectors, one file per epoch
    _poison/<size>-<crc32c>.json       a photo that crashes servers
    _compact/000001.json               a compaction: which files it adds and which it replaces
    embeddings/000001-0000000.parquet  plan 1, partition 0: the rows that have a vector
    errors/000001-0000000-<id>.parquet its failed rows, if any

Readers of Parquet datasets ignore names that begin with "_". Shards sort by plan, so that the last row of an
object is its newest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

PLANS = "_plans"
MODELS = "_models"
POISON = "_poison"
COMPACTIONS = "_compact"
EMBEDDINGS = "embeddings"
ERRORS = "errors"

_SHARD = re.compile(r"(?P<plan>\d{6})-(?P<partition>\d{7})(-(?P<attempt>[0-9a-f]+))?\.parquet")
_COMPACTED = re.compile(r"(?P<plan>\d{6})-c(?P<compaction>\d{6})-(?P<part>\d{5})\.parquet")
_OUTPUT = re.compile(
    rf"(?:^|/)(?:{PLANS}|{MODELS}|{POISON}|{COMPACTIONS}|{EMBEDDINGS}|{ERRORS})/\d[^/]*\.(?:json|parquet)$"
)


def is_output(name: str) -> bool:
    """Whether a file is named like one of an OUT: no photo, wherever it is."""
    return _OUTPUT.search(name) is not None


@dataclass(frozen=True, order=True)
class Partition:
    """Partition `number`, from 0, of plan `plan`, from 1."""

    plan: int
    number: int

    @property
    def shard(self) -> str:
        """The name of the partition's shard. It exists once the partition is done."""
        return f"{EMBEDDINGS}/{self.plan:06d}-{self.number:07d}.parquet"

    def errors(self, attempt: str) -> str:
        """The name for the failed rows of one attempt. The shard names the attempt that counts."""
        return f"{ERRORS}/{self.plan:06d}-{self.number:07d}-{attempt}.parquet"


@dataclass(frozen=True)
class ShardName:
    """A file of rows: of one partition, or of a compaction of all plans up to `plan`."""

    name: str
    plan: int
    partition: Partition | None

    @classmethod
    def parse(cls, name: str) -> ShardName | None:
        """None for a file that clip-batch did not write."""
        folder, _, last = name.rpartition("/")
        if "/" in folder:  # another job's OUT, inside this one
            return None
        if match := _SHARD.fullmatch(last):
            partition = Partition(int(match["plan"]), int(match["partition"]))
            return cls(name, partition.plan, partition)
        if match := _COMPACTED.fullmatch(last):
            return cls(name, int(match["plan"]), None)
        return None


def compacted(folder: str, plan: int, compaction: int, part: int) -> str:
    """The name of a compaction's file. It sorts after the shards that it replaces."""
    return f"{folder}/{plan:06d}-c{compaction:06d}-{part:05d}.parquet"
