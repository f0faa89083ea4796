"""The errors of the server and its repository; clip_preprocess.errors.ItemError is the error of one photo.

ClipServingError
├── ConfigurationError   an invalid spec, setting or model repository
└── ServerError          the embedded tritonserver did not start, or exited
"""

from __future__ import annotations


class ClipServingError(Exception):
    """Base of all errors that this distribution raises on purpose."""


class ConfigurationError(ClipServingError):
    """An invalid spec, setting or model repository; the text says what to do."""


class ServerError(ClipServingError):
    """The embedded tritonserver did not start, or exited; the text says why."""
