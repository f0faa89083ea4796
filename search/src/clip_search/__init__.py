"""Search over CLIP embeddings: queries by photo, text or row.

from clip_search import read_dataset, top_k

dataset = read_dataset("embeddings.parquet")
rows, scores = top_k(dataset.vectors, dataset.vectors[:1], 10)
"""

from clip_search.dataset import Dataset, Row, read_dataset
from clip_search.errors import DatasetError, SearchError, UnusableIndexError
from clip_search.exact import top_k
from clip_search.index import Index, build_index, open_index
from clip_search.query import Match, find

__all__ = [
    "Dataset",
    "DatasetError",
    "Index",
    "Match",
    "Row",
    "SearchError",
    "UnusableIndexError",
    "build_index",
    "find",
    "open_index",
    "read_dataset",
    "top_k",
]
