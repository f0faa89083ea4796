"""Google's libraries, imported without their warnings about Python, grpcio and optional packages.

The warnings are for the maintainers of this package, not for every run of a command.
"""

import warnings

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
    "AnonymousCredentials",
    "DataCorruption",
    "GoogleAuthError",
    "api_exceptions",
    "storage",
]
