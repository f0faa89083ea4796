"""Google's libraries, imported without their warnings about Python, grpcio and optional packages.

The warnings are for the maintainers of this package, not for every run of a command.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

from clip_client.sources.base import SourceOptions
from clip_client.sources.deadline import limit_reads

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from google.api_core import exceptions as api_exceptions
    from google.auth.credentials import AnonymousCredentials
    from google.auth.exceptions import GoogleAuthError
    from google.cloud import storage
    from google.cloud.storage.retry import DEFAULT_RETRY
    from google.resumable_media import DataCorruption

__all__ = [
    "DEFAULT_RETRY",
    "LOG_IN",
    "AnonymousCredentials",
    "DataCorruption",
    "GoogleAuthError",
    "api_exceptions",
    "open_client",
    "storage",
]

LOG_IN = "Run `gcloud auth application-default login`"


def open_client(options: SourceOptions) -> Any:
    """A storage.Client with connections of its own. Raises GoogleAuthError without credentials."""
    # Reading objects needs no project, and a user's own login has none.
    is_anonymous = options.anonymous or os.environ.get("STORAGE_EMULATOR_HOST")
    client = storage.Client(project=None, credentials=AnonymousCredentials() if is_anonymous else None)
    limit_reads(client._http, options.connections)
    return client
