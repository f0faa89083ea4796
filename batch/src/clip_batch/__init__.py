"""CLIP embeddings of millions of objects: a plan of partitions, and one idempotent function for each."""

from clip_batch.budget import Budget, Meter
from clip_batch.compact import Compaction, compact
from clip_batch.dataset import Dataset, ShardCounts
from clip_batch.engines.base import ClientOptions, Engine, Job, Worker
from clip_batch.errors import BatchError, BudgetExceeded, DamagedFile, ModelMismatch, StorageError
from clip_batch.layout import Partition
from clip_batch.lists import Listing, open_listing
from clip_batch.manifest import Plan, PlannedObject
from clip_batch.partition import embed_partition
from clip_batch.plan import PlanOptions, make_plan
from clip_batch.retry import retry
from clip_batch.stale import Stale, find_stale
from clip_batch.status import Status, read_status
from clip_batch.storage import LocalStorage, Storage, StoredFile, open_storage
from clip_batch.verify import Report, verify

__all__ = [
    "BatchError",
    "Budget",
    "BudgetExceeded",
    "ClientOptions",
    "Compaction",
    "DamagedFile",
    "Dataset",
    "Engine",
    "Job",
    "Listing",
    "LocalStorage",
    "Meter",
    "ModelMismatch",
    "Partition",
    "Plan",
    "PlanOptions",
    "PlannedObject",
    "Report",
    "ShardCounts",
    "Stale",
    "Status",
    "Storage",
    "StorageError",
    "StoredFile",
    "Worker",
    "compact",
    "embed_partition",
    "find_stale",
    "make_plan",
    "open_listing",
    "open_storage",
    "read_status",
    "retry",
    "verify",
]
