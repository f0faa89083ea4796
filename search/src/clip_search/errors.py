"""The errors of clip-search.

SearchError            a query, option or missing package
├── DatasetError       a Parquet file or folder that cannot be read, or that mixes models
├── UnusableIndexError      an index that is missing, damaged or out of date, or FAISS is not installed
└── LoadError          a database that cannot be written, or holds other vectors

clip_client.errors has the errors of the server and of the photos' buckets.
"""

from __future__ import annotations


class SearchError(Exception):
    """Base of all errors that clip-search raises on purpose; the text says what to do."""


class DatasetError(SearchError):
    """A Parquet file or folder that cannot be read, or whose files hold embeddings of several models."""


class UnusableIndexError(SearchError):
    """An index is missing, damaged or out of date, or FAISS is not installed. An exact search still works."""


class LoadError(SearchError):
    """A database cannot be reached or written, holds another model's vectors, or reads back other vectors."""
