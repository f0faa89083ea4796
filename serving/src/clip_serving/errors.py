"""The errors of the server as a whole. Those of one photo are clip_preprocess.errors.ItemError.

ClipServingError
├── ConfigurationError   a spec, a setting or a repository that cannot work
└── ServerError          the embedded tritonserver did not start, or died
"""

from __future__ import annotations


class ClipServingError(Exception):
    """Base of all errors that this distribution raises on purpose."""


class ConfigurationError(ClipServingError):
    """A spec, a setting or a model repository that cannot work; the text says the way out."""


class ServerError(ClipServingError):
    """The embedded tritonserver did not start, or ended; the text holds the cause."""
