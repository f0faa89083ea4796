"""The errors of clip-batch.

BatchError              a plan, partition or option that cannot be used
├── StorageError        the folder of the output cannot be read or written
│   └── DamagedFile     one of its files is not what clip-batch wrote
│       └── MissingFile one of its files is not there
├── ModelMismatch       the server's model or settings differ from those of the output
└── BudgetExceeded      more objects failed than --max-failed or --max-failed-share allows

clip_client.errors has the errors of the server and of the photos' buckets.
"""

from __future__ import annotations


class BatchError(Exception):
    """Base of all errors that clip-batch raises on purpose; the text says what to do."""


class StorageError(BatchError):
    """The folder or bucket of the output cannot be read or written; this affects all partitions."""


class DamagedFile(StorageError):  # noqa: N818 - reads as the state that it names
    """A file of the output was cut off or changed; the text names it."""


class MissingFile(DamagedFile):
    """A file of the output is not there, although another one names it."""


class ModelMismatch(BatchError):  # noqa: N818 - reads as the state that it names
    """The output holds another model's vectors, or vectors made with other settings."""


class BudgetExceeded(BatchError):  # noqa: N818 - reads as the state that it names
    """Too many objects failed. Finished partitions are kept, and the job can be resumed."""
