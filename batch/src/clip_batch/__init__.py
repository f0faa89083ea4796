"""CLIP embeddings of millions of objects: a plan of partitions, and one idempotent function for each."""

from clip_batch.errors import BatchError, BudgetExceeded, ModelMismatch, StorageError
from clip_batch.layout import Partition
from clip_batch.storage import LocalStorage, Storage, StoredFile, open_storage

__all__ = [
    "BatchError",
    "BudgetExceeded",
    "LocalStorage",
    "ModelMismatch",
    "Partition",
    "Storage",
    "StorageError",
    "StoredFile",
    "open_storage",
]
