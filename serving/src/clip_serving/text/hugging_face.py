"""Text to token ids by a tokenizer.json, as open_clip's HFTokenizer; without transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from clip_serving.defaults import Clean
from clip_serving.errors import ConfigurationError
from clip_serving.text.tokenizer import CLEANERS, BadText, Tokens


class HuggingFaceTokenizer:
    """A tokenizer of the package `tokenizers`. Safe to use from several threads."""

    def __init__(
        self, path: Path, context_length: int, clean: Clean, zeroed_token: int | None = None
    ) -> None:
        """`path` is a tokenizer.json that pads and truncates to `context_length`.

        `zeroed_token` is an id that becomes 0. Raises ConfigurationError if `path` cannot be read or has
        another length, or if `tokenizers` is not installed.
        """
        try:
            from tokenizers import Tokenizer as Backend
        except ImportError as error:
            raise ConfigurationError(
                "this model's tokenizer needs the package tokenizers, which is not installed. In a clone of "
                "clip-triton: pip install './serving[tokenizers]'"
            ) from error
        try:
            self._backend = Backend.from_file(str(path))
        except Exception as error:  # tokenizers has no error class of its own
            raise ConfigurationError(f"cannot read the tokenizer {path}: {error}") from error
        lengths = (
            (self._backend.truncation or {}).get("max_length"),
            (self._backend.padding or {}).get("length"),
        )
        if lengths != (context_length, context_length):
            raise ConfigurationError(
                f"{path} truncates and pads to {lengths} tokens instead of {context_length}. "
                "Export the model again"
            )
        self._clean = CLEANERS[clean]
        self._zeroed = zeroed_token

    def __call__(self, text: str) -> Tokens:
        """The padded ids of `text`; cuts off what does not fit. Raises BadText if it has no ids."""
        try:
            encoding = self._backend.encode(self._clean(text))
        except Exception as error:  # as above; some vocabularies have no id for an unknown word
            raise BadText(f"invalid_text: the model's tokenizer cannot encode the text: {error}") from error
        ids = np.array(encoding.ids, np.int32)
        if self._zeroed is not None:
            ids[ids == self._zeroed] = 0
        return Tokens(ids, bool(encoding.overflowing))
