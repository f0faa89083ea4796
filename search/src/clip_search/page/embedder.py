"""The vectors of the page's queries, from a server that may start later or go away."""

from __future__ import annotations

import threading

from clip_client import ClipClient
from clip_client.errors import ServerMismatch, ServerUnavailable
from clip_search.errors import SearchError
from clip_search.query import Searchable, photo_vector, text_vector
from clip_search.vectors import Vectors


class Embedder:
    """Embeds one query at a time. The page's requests share it."""

    def __init__(self, client: ClipClient, dataset: Searchable) -> None:
        self._client = client
        self._dataset = dataset
        self._lock = threading.Lock()

    def no_text(self) -> str:
        """Why texts cannot be searched; "" if they can."""
        with self._lock:
            try:
                self._client.text_info  # noqa: B018 - raises
            except ServerUnavailable as error:
                return str(error)
            except ServerMismatch:
                return "The server's model has no text tower: search by photo."
        return ""

    def text(self, text: str) -> Vectors:
        """float32 [D]. Raises SearchError or ClipClientError."""
        with self._lock:
            return text_vector(self._client, self._dataset, text)

    def photo(self, photo: bytes) -> Vectors:
        """float32 [D]. Raises SearchError or ClipClientError."""
        if not photo:
            raise SearchError("choose a photo first")
        with self._lock:
            return photo_vector(self._client, self._dataset, photo)
